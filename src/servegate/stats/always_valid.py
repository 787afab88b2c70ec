"""Intervals and a sample-ratio test that hold at every look, for experiments that are watched while they run."""

from __future__ import annotations

import math

from scipy.special import betaln

from servegate.stats.special import ndtr, ndtri


def half_width(variance: float, scale: float, alpha: float) -> float:
    """Half the width of an interval for an effect that holds at all looks together.

    Normal mixture sequential probability ratio test (Robbins, Ann. Math. Stat. 41:1397, 1970; for A/B tests Johari,
    Koomen, Pekelis and Walsh, Operations Research 70:1806, 2022), with the estimated variance in place of the known:
    asymptotic, so not for a handful of users.

    Args:
        variance: of the estimate, in squared units of the effect.
        scale: effects of this size are found soonest; the minimal effect of interest.
        alpha: chance that the interval ever misses the effect.

    Raises:
        ValueError: a scale or an alpha that makes no sense.
    """
    if scale <= 0 or not 0 < alpha < 1:
        raise ValueError(f"scale {scale} must be positive and alpha {alpha} within (0, 1)")
    if variance <= 0:
        return math.inf
    total = variance + scale * scale
    return math.sqrt(variance * total / (scale * scale) * (math.log(total / variance) + 2 * math.log(1 / alpha)))


def fixed_half_width(variance: float, alpha: float) -> float:
    """Half the width of the ordinary interval, for one look at the planned end."""
    return math.inf if variance <= 0 else -ndtri(alpha / 2) * math.sqrt(variance)


def sample_ratio_log_e(first: float, second: float, share: float) -> float:
    """Logarithm of an e-value against "every user falls into the first arm with probability `share`".

    Beta(1, 1) mixture of binomial likelihood ratios (Lindon and Malek, NeurIPS 2022): at or above log(1/α) at any look
    the ratio is broken, with a chance of at most α that it is not. Counts may be divided by the number of users who go
    together, so they need not be whole.

    Raises:
        ValueError: negative counts, or a share outside (0, 1).
    """
    if first < 0 or second < 0 or not 0 < share < 1:
        raise ValueError(f"counts {first}, {second} and share {share} make no sense")
    return float(betaln(1 + first, 1 + second) - first * math.log(share) - second * math.log1p(-share))


def users_fixed(variance: float, effect: float, alpha: float, power: float, share: float) -> int:
    """Users in both arms together after which one look finds `effect` with `power`.

    Args:
        variance: of one user's value.
        effect: difference of the means.
        share: of users in the candidate's arm.
    """
    z = ndtri(power) - ndtri(alpha / 2)
    return math.ceil(variance * (1 / share + 1 / (1 - share)) * (z / effect) ** 2)


def users_sequential(variance: float, effect: float, alpha: float, power: float, share: float) -> int:
    """Users in both arms together by which an interval that holds at all looks has found `effect` with `power`.

    Counted as if it were looked at once, at the end; looks in between can only find it sooner.
    """
    per_user = variance * (1 / share + 1 / (1 - share))

    def enough(n: int) -> bool:
        at_end = per_user / n
        return ndtr((effect - half_width(at_end, effect, alpha)) / math.sqrt(at_end)) >= power

    low = high = users_fixed(variance, effect, alpha, power, share)
    while not enough(high):
        low, high = high, 2 * high
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return high
