"""Quantiles of the Poisson distribution without `scipy.stats`, whose import costs a controller 70 MB."""

from __future__ import annotations

import math

from scipy.special import pdtr, pdtrik


def quantile(p: float, mean: float) -> int:
    """The smallest count whose probability of not being exceeded is at least p; 0 < p < 1, mean > 0."""
    count = math.ceil(float(pdtrik(p, mean)))
    return count - 1 if count > 0 and pdtr(count - 1, mean) >= p else max(count, 0)
