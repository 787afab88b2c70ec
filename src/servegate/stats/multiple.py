"""Many checks at once: twenty checks at 5 % alarm on every other healthy release unless that is corrected."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def holm(p: ArrayLike) -> Floats:
    """Adjusted p-values (Holm, Scand. J. Stat. 6:65, 1979): the chance of any false alarm stays at most α.

    Holds under any dependence. Reject where the result is ≤ α.

    Args:
        p: shape (k,), p-values.

    Returns:
        Shape (k,), in the order given.

    Raises:
        ValueError: a value outside [0, 1].
    """
    values, order = _ordered(p)
    k = values.size
    adjusted = np.maximum.accumulate((k - np.arange(k)) * values[order])
    return _restored(adjusted, order)


def benjamini_hochberg(p: ArrayLike) -> Floats:
    """Adjusted p-values (Benjamini and Hochberg, JRSS B 57:289, 1995): of all alarms at most a share α is false.

    Holds for independent and for positively dependent checks; it alarms more readily than `holm`.

    Args:
        p: shape (k,), p-values.

    Returns:
        Shape (k,), in the order given.

    Raises:
        ValueError: a value outside [0, 1].
    """
    values, order = _ordered(p)
    k = values.size
    scaled = values[order] * k / np.arange(1, k + 1)
    return _restored(np.minimum.accumulate(scaled[::-1])[::-1], order)


def _ordered(p: ArrayLike) -> tuple[Floats, NDArray[np.intp]]:
    values = np.asarray(p, dtype=float).ravel()
    if not ((values >= 0) & (values <= 1)).all():  # NaN as well
        raise ValueError("p-values lie in [0, 1]")
    return values, np.argsort(values, kind="stable")


def _restored(adjusted: Floats, order: NDArray[np.intp]) -> Floats:
    result = np.empty_like(adjusted)
    result[order] = np.minimum(adjusted, 1.0)
    return result
