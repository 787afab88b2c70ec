"""Did something change in a row of runs, and when: a level that moved, or a drift.

Rows of a matrix are units that were measured in every run (the items of a suite, or one row with a number per run), its
columns the runs in the order of time. Without a change the values of a row are exchangeable, so each row is shuffled by
itself and the largest statistic counted again: a permutation test, which assumes no distribution, and whose one p-value
covers all moments at which a level could have moved, and the drift.

The statistic for a move after run k is the difference of the means after and before, for a drift Mann's sum of slopes
with the run's number as time; each divided by its standard deviation under shuffling (a permutation of n values with
variance s² has covariance −s²/(n−1); Lehmann, Nonparametrics, 1975, appendix 4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

FEWEST = 4
"""Runs below which nothing is judged: one row of four values cannot be told from chance, many rows can."""


@dataclass(frozen=True)
class Scan:
    """What was found.

    Attributes:
        kind: `step` when a move of the level explains more than a drift, else `drift`.
        after: for a step, the number of runs before it.
        change: mean after minus mean before; for a drift, from the first to the last run along the line.
        p: of the whole search.
    """

    kind: Literal["step", "drift"]
    after: int
    change: float
    p: float


def scan(values: ArrayLike, *, replicates: int = 1999, seed: int = 0) -> Scan | None:
    """Search a matrix of shape (units, runs) for a change over the runs.

    Args:
        replicates: shuffles; the least p-value is 1 / (replicates + 1).

    Returns:
        None where there is nothing to judge: fewer than `FEWEST` runs, no unit, or no value that differs.

    Raises:
        ValueError: the values are no finite matrix.
    """
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2 or not np.isfinite(matrix).all():
        raise ValueError("values must be a finite matrix of units and runs")
    matrix = matrix[np.ptp(matrix, axis=1) > 0] if matrix.size else matrix
    units, runs = matrix.shape
    if runs < FEWEST or units == 0:
        return None
    total = np.asarray(values, dtype=np.float64).shape[0]
    weights = _weights(runs)
    # Σ s² over the rows, s² with divisor n − 1, is what shuffling keeps.
    scale = math.sqrt(float(matrix.var(axis=1, ddof=1).sum()))
    deviations = np.sqrt((weights**2).sum(axis=1)) * scale
    observed = weights @ matrix.sum(axis=0)
    strength = np.abs(observed) / deviations
    best = int(strength.argmax())
    generator = np.random.default_rng(seed)
    hits = 0
    for _ in range(replicates):
        shuffled = generator.permuted(matrix, axis=1).sum(axis=0)
        hits += bool((np.abs(weights @ shuffled) / deviations).max() >= strength[best] - 1e-9)
    p = (hits + 1) / (replicates + 1)
    change = float(observed[best]) / total
    if best == runs - 1:  # the last row of weights is the drift's: slope times the number of steps
        times = np.arange(runs) - (runs - 1) / 2
        return Scan("drift", 0, change / float((times**2).sum()) * (runs - 1), p)
    return Scan("step", best + 1, change, p)


def _weights(runs: int) -> Floats:
    """Shape (runs, runs): a contrast for a step after each run but the last, then the drift's."""
    found = np.zeros((runs, runs))
    for before in range(1, runs):
        found[before - 1, :before] = -1 / before
        found[before - 1, before:] = 1 / (runs - before)
    found[runs - 1] = np.arange(runs) - (runs - 1) / 2
    return found
