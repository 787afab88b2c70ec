"""Two independent measurements: the fall-back where there are no pairs, and the rule for latencies and rates.

Only two estimates and their intervals are needed, so it works for any measure that has an interval: accuracies (then
it is Newcombe's method), quantiles with order-statistic intervals, throughputs.
"""

from __future__ import annotations

import math

from servegate.stats import special
from servegate.stats.intervals import Interval, check_level


def difference(new: float, new_interval: Interval, old: float, old_interval: Interval) -> Interval:
    """Interval of new − old from two independent intervals of the same level.

    MOVER (Zou and Donner, Stat. Med. 27:1693, 2008): each end combines the distances that matter on its side. With
    Wilson intervals it is Newcombe's method 10 (Stat. Med. 17:873, 1998).

    Raises:
        ValueError: the intervals have different levels.
    """
    level = _same_level(new_interval, old_interval)
    gap = new - old
    down = math.hypot(new - new_interval.low, old_interval.high - old)
    up = math.hypot(new_interval.high - new, old - old_interval.low)
    return Interval(gap - down, gap + up, level, "MOVER")


def ratio(new: float, new_interval: Interval, old: float, old_interval: Interval) -> Interval:
    """Interval of new / old of two positive measures from two independent intervals of the same level.

    MOVER on the logarithms: the ratio of latencies is nearer to symmetric there, and no end leaves (0, ∞).

    Raises:
        ValueError: a value or a lower end that is not positive, or different levels.
    """
    level = _same_level(new_interval, old_interval)
    if min(new, old, new_interval.low, old_interval.low) <= 0:
        raise ValueError("a ratio needs positive values with positive lower ends")

    def logs(interval: Interval) -> Interval:
        return Interval(math.log(interval.low), math.log(interval.high), interval.level, interval.method)

    found = difference(math.log(new), logs(new_interval), math.log(old), logs(old_interval))
    return Interval(math.exp(found.low), math.exp(found.high), level, "MOVER of logarithms")


def rate_ratio(
    new_events: int, new_exposure: float, old_events: int, old_exposure: float, level: float = 0.95
) -> Interval:
    """Exact interval of the ratio of two rates of rare events, such as errors per request.

    Given the total, the new events are Binomial(total, ρ) with ρ = r·e₁/(r·e₁ + e₀) for ratio r (Przyborowski and
    Wilenski, Biometrika 31:313, 1940); ρ is bounded by Clopper and Pearson. Exact for Poisson counts, cautious for
    shares. No event at all: (0, ∞).

    Raises:
        ValueError: a negative count, an exposure that is not positive, level outside (0, 1).
    """
    if new_events < 0 or old_events < 0 or not (new_exposure > 0 and old_exposure > 0):
        raise ValueError("counts are not negative and exposures are positive")
    tail = (1 - check_level(level)) / 2
    low, high = 0.0, math.inf
    if new_events > 0:
        share = special.betaincinv(new_events, old_events + 1, tail)
        low = share / (1 - share) * old_exposure / new_exposure
    if old_events > 0:
        share = special.betaincinv(new_events + 1, old_events, 1 - tail)
        high = share / (1 - share) * old_exposure / new_exposure
    return Interval(low, high, level, "exact conditional rate ratio")


def rate_ratio_p(
    new_events: int, new_exposure: float, old_events: int, old_exposure: float, supposed: float
) -> tuple[float, float]:
    """Exact one-sided p-values of "the ratio of the rates is `supposed`", by the same conditional binomial.

    Returns:
        (against "at least", against "at most"): the first is small when the ratio is below, the second when above.

    Raises:
        ValueError: as `rate_ratio`, or a supposed ratio that is not positive.
    """
    if new_events < 0 or old_events < 0 or not (new_exposure > 0 and old_exposure > 0 and supposed > 0):
        raise ValueError("counts are not negative; exposures and the supposed ratio are positive")
    share = supposed * new_exposure / (supposed * new_exposure + old_exposure)
    at_most = 1.0 if old_events == 0 else special.betainc(old_events, new_events + 1, 1 - share)
    at_least = 1.0 if new_events == 0 else special.betainc(new_events, old_events + 1, share)
    return at_most, at_least


def _same_level(one: Interval, two: Interval) -> float:
    if one.level != two.level:
        raise ValueError(f"intervals of levels {one.level} and {two.level}")
    return one.level
