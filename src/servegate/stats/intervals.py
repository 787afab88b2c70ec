"""Confidence intervals for what a report states: proportions, means, and means of clustered items.

A number without an interval cannot be judged three-way. All intervals are two-sided at `level`; a one-sided bound at
confidence c is the end of the two-sided interval at level 2c − 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from servegate.stats import special

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """Two-sided confidence interval.

    Attributes:
        low, high: ends, in the unit of the estimate.
        level: confidence level in (0, 1), such as 0.95.
        method: name of the method, for reports.
    """

    low: float
    high: float
    level: float
    method: str


def check_level(level: float) -> float:
    """Return `level`. Raises ValueError unless 0 < level < 1."""
    if not 0 < level < 1:
        raise ValueError(f"a confidence level lies between 0 and 1, not {level}")
    return level


def check_counts(successes: float, n: float) -> None:
    """Raise ValueError unless 0 ≤ successes ≤ n and n > 0."""
    if n <= 0:
        raise ValueError("no interval without observations")
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}")


def wilson(successes: float, n: float, level: float = 0.95) -> Interval:
    """Score interval of a proportion (Wilson, JASA 22:209, 1927), without continuity correction.

    Mean coverage is near the level even for small n, and it never leaves [0, 1].

    Raises:
        ValueError: n is 0, successes outside 0…n, level outside (0, 1).
    """
    check_counts(successes, n)
    z = float(special.ndtri((1 + check_level(level)) / 2))
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # At the ends the formula is exact in theory; rounding must not leave a 1e-18 that reads as "not zero".
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Interval(low, high, level, "wilson")


def mean(values: ArrayLike, level: float = 0.95, clusters: Sequence[object] | None = None) -> Interval:
    """Student's t interval of a mean; cluster-robust when `clusters` are given.

    Items that share a passage or a conversation are not independent: what counts is the number of clusters. Variance
    and degrees of freedom: `standard_error`.

    Args:
        values: n finite numbers.
        level: confidence level.
        clusters: n labels; equal labels share a cluster.

    Raises:
        ValueError: fewer than 2 values or clusters, a value that is not finite, level outside (0, 1).
    """
    error, freedom = standard_error(values, clusters)
    half = float(special.stdtrit(freedom, (1 + check_level(level)) / 2)) * error
    centre = float(np.mean(np.asarray(values, dtype=float)))
    return Interval(centre - half, centre + half, level, "t" if clusters is None else "cluster-t")


def standard_error(values: ArrayLike, clusters: Sequence[object] | None = None) -> tuple[float, int]:
    """Standard error of a mean and its degrees of freedom.

    Without clusters: s/√n with n − 1. With G clusters of sums S_g of residuals:
    √(G/(G−1) · ΣS_g²)/n with G − 1 (Liang and Zeger, Biometrika 73:13, 1986; Cameron and Miller, J. Human
    Resources 50:317, 2015, §II.B; for evals Miller, arXiv 2411.00640, §2.2). Clusters of one item give the first form.

    Raises:
        ValueError: fewer than 2 values or clusters, labels of another length, a value that is not finite.
    """
    data = finite(values)
    n = data.size
    if n < 2:
        raise ValueError("a standard error needs at least 2 values")
    residuals = data - data.mean()
    groups = n
    if clusters is not None:
        index = cluster_index(clusters, n)
        groups = int(index.max()) + 1
        residuals = np.bincount(index, weights=residuals)
    if groups < 2:
        raise ValueError("a standard error needs at least 2 clusters")
    return math.sqrt(groups / (groups - 1) * float(residuals @ residuals)) / n, groups - 1


def cluster_index(clusters: Sequence[object], n: int) -> NDArray[np.intp]:
    """Number labels 0…G−1 in order of appearance. Raises ValueError when there are not n of them."""
    if len(clusters) != n:
        raise ValueError(f"{len(clusters)} cluster labels for {n} values")
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(label, len(numbers)) for label in clusters], dtype=np.intp)


def finite(values: ArrayLike) -> Floats:
    """A flat float array. Raises ValueError when empty or when a value is NaN or infinite."""
    data = np.asarray(values, dtype=float).ravel()
    if data.size == 0:
        raise ValueError("no values")
    if not np.isfinite(data).all():
        raise ValueError("values must be finite")
    return data
