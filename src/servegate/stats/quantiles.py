"""Exact quantiles of raw values, with intervals that assume no distribution.

Latencies are skewed and often have two humps, so a normal approximation of a tail quantile is wrong in the direction
that hides a slow tail. Order statistics need no shape; and where values come in groups (the gaps between the chunks of
one answer) the groups, not the values, are what is independent.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binom, t

Bounds = tuple[float, float]


def quantile(values: ArrayLike, p: float) -> float | None:
    """The p-quantile with linear interpolation between order statistics (Hyndman & Fan 1996, type 7).

    This is what numpy, vLLM's benchmark and most load tools report.

    Args:
        values: shape (n,), any order.
        p: in [0, 1].

    Returns:
        None when there are no values.
    """
    array = _clean(values)
    _check(p)
    return float(np.quantile(array, p)) if array.size else None


def order_statistic_interval(values: ArrayLike, p: float, level: float = 0.95) -> Bounds | None:
    """Distribution-free interval for the p-quantile of independent values.

    The number of values below the true quantile is Binomial(n, p), so [x(l), x(u)] covers it with probability
    P(l <= B < u) >= level, with equal tails (David & Nagaraja, Order Statistics, 3rd ed., §7.1).

    Args:
        values: shape (n,), any order.
        p: in (0, 1).
        level: coverage wanted, in (0, 1).

    Returns:
        (low, high), or None when n values cannot bound this quantile on both sides at this level.
    """
    array = np.sort(_clean(values))
    ranks = order_statistic_ranks(array.size, p, level)
    return None if ranks is None else (float(array[ranks[0] - 1]), float(array[ranks[1] - 1]))


def order_statistic_ranks(n: int, p: float, level: float = 0.95) -> tuple[int, int] | None:
    """Ranks (l, u), counted from 1, of the interval above; None when n is too small."""
    _check(p, level)
    tail = (1 - level) / 2
    # l: largest rank with P(B < l) <= tail.  u: smallest rank with P(B >= u) <= tail.
    low = int(binom.ppf(tail, n, p)) if n else 0
    high = int(binom.isf(tail, n, p)) + 1 if n else 1
    return (low, high) if low >= 1 and high <= n else None


def clustered_interval(groups: Sequence[ArrayLike], p: float, level: float = 0.95) -> Bounds | None:
    """Interval for the p-quantile of pooled values that come in independent groups.

    Woodruff (1952): the share of values at or below the estimated quantile is a ratio of group totals; its linearised
    standard error over groups gives a range of shares, which the pooled quantile function maps back to values.

    Args:
        groups: one array per group (such as the chunk gaps of one answer), shapes (n_i,); empty ones are ignored.
        p: in (0, 1).
        level: coverage wanted.

    Returns:
        (low, high), or None with fewer than two groups or when the range of shares leaves (0, 1).
    """
    _check(p, level)
    arrays = [array for array in (_clean(group) for group in groups) if array.size]
    m = len(arrays)
    if m < 2:
        return None
    pooled = np.concatenate(arrays)
    estimate = np.quantile(pooled, p)
    residuals = np.array([np.count_nonzero(array <= estimate) - p * array.size for array in arrays])
    error = float(np.sqrt(m / (m - 1) * np.sum((residuals - residuals.mean()) ** 2))) / pooled.size
    margin = float(t.ppf((1 + level) / 2, m - 1)) * error
    low, high = p - margin, p + margin
    if low <= 0 or high >= 1:
        return None
    return float(np.quantile(pooled, low)), float(np.quantile(pooled, high))


def _clean(values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"expected one dimension, found shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("values must be finite: what was not measured must be left out and counted")
    return array


def _check(p: float, level: float = 0.5) -> None:
    if not 0 <= p <= 1 or not 0 < level < 1:
        raise ValueError(f"p {p} and level {level} must be fractions")
