"""Group-sequential limits: a run that cannot tell may be extended without paying for it in false alarms.

Looking at growing data with the same limit each time multiplies the error: five looks at 5 % err in 14 %. An
α-spending function says how much of α may be spent by the time a share of the data is there (Lan and DeMets,
Biometrika 70:659, 1983); the limits follow by numerical integration over the looks before (Armitage, McPherson and
Rowe, JRSS A 132:235, 1969; Jennison and Turnbull, Group Sequential Methods, 2000, ch. 19).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from servegate.stats import special

Spending = Literal["obrien-fleming", "pocock"]
Floats = NDArray[np.float64]

_POINTS = 801
_ERFC = np.frompyfunc(math.erfc, 1, 1)


def spent(shares: Sequence[float], alpha: float, spending: Spending = "obrien-fleming") -> Floats:
    """One-sided error that may be spent by the time each share of the data is there.

    O'Brien–Fleming: 2 − 2Φ(z(1−α/2)/√t): next to nothing early, nearly all at the end.
    Pocock: α ln(1 + (e − 1)t): evenly.

    Args:
        shares: information fractions, rising, the last at most 1.
        alpha: one-sided error of all looks together.

    Raises:
        ValueError: shares that do not rise within (0, 1], or alpha outside (0, 0.5).
    """
    t = np.asarray(shares, dtype=float)
    if t.size == 0 or t[0] <= 0 or t[-1] > 1 or (np.diff(t) <= 0).any():
        raise ValueError("shares of the data rise within (0, 1]")
    if not 0 < alpha < 0.5:
        raise ValueError(f"a one-sided error lies in (0, 0.5), not {alpha}")
    if spending == "pocock":
        return np.asarray(alpha * np.log1p((np.e - 1) * t))
    return 2 * _ndtr(-special.ndtri(1 - alpha / 2) / np.sqrt(t))


def nominal_levels(shares: Sequence[float], alpha: float, spending: Spending = "obrien-fleming") -> Floats:
    """One-sided p-value that decides at each look, so that all looks together err in at most alpha.

    At an extension only the looks up to now are needed: later ones change nothing before them.

    Args:
        shares: as `spent`.
        alpha: as `spent`.

    Returns:
        Shape (looks,): at look k, decide when p ≤ level k.

    Raises:
        ValueError: as `spent`.
    """
    return _ndtr(-limits(shares, alpha, spending))


def limits(shares: Sequence[float], alpha: float, spending: Spending = "obrien-fleming") -> Floats:
    """The same as limits of z: at look k, decide when z ≥ limit k."""
    t = np.asarray(shares, dtype=float)
    step = np.diff(spent(shares, alpha, spending), prepend=0.0)
    found = np.empty(t.size)
    # The sub-density of S(t) = z√t among runs that have not been decided yet, on a grid, with its weights.
    grid, weights = np.zeros(1), np.ones(1)
    before = 0.0
    for k, now in enumerate(t):
        sd = float(np.sqrt(now - before))
        low, high = -8.0, 8.0
        while high - low > 1e-9:
            middle = (low + high) / 2
            crossing = float(weights @ _ndtr((grid - middle * np.sqrt(now)) / sd))
            low, high = (middle, high) if crossing > step[k] else (low, middle)
        found[k] = high
        new = np.linspace(-8.0 * np.sqrt(now), high * np.sqrt(now), _POINTS)
        kernel = np.exp(-((new[:, None] - grid[None, :]) ** 2) / (2 * sd * sd)) / (sd * np.sqrt(2 * np.pi))
        grid, weights, before = new, (kernel @ weights) * _simpson(new), float(now)
    return found


def _simpson(grid: Floats) -> Floats:
    weights = np.full(grid.size, 2.0)
    weights[1::2] = 4.0
    weights[0] = weights[-1] = 1.0
    step = float(grid[1] - grid[0])
    return weights * (step / 3)


def _ndtr(x: Floats) -> Floats:
    return np.asarray(0.5 * _ERFC(-x / math.sqrt(2)), dtype=np.float64)
