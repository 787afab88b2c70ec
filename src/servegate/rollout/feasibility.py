"""Could this plan decide at all with the traffic it is made for?

Two questions are asked of every check, both without chance. Against the candidate: if every interval that fits into the
steps spoke against it as loudly as it can, would the limit be reached before the promotion? For it: if every interval
looked like an unchanged release, would the evidence that promotion needs arrive before the time limit? A plan that
fails either is refused with numbers that would do. Passing says that deciding is possible, not that it is likely; how
often and how soon is what `simulate` tells.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from servegate.rollout import bets
from servegate.stats import eprocess, poisson, quality, shift

if TYPE_CHECKING:
    from servegate.rollout.checks import Check, LatencyVsStable, Quality
    from servegate.rollout.plan import Plan

SURE = 0.995
"""Probability with which what is waited for comes within its time limit; there may be several such waits."""
_SCALES = tuple(1.25**power for power in range(1, 50))
TYPICAL_SIGMA = 0.6
"""Standard deviation of the logarithm of a request's latency that is assumed: half to twice the median is common."""
_FILTERED = 500
"""The same for intervals of a latency filter, in which weather sets the pace."""
_ENOUGH = 2_000
"""Intervals of one step after which a check that has not decided never will, in practice."""


def problem(plan: Plan) -> str | None:
    """Why the plan could not decide, with the numbers that would do; None when it could."""
    for step in plan.steps:
        pace = plan.expect.requests_per_second * step.weight / 100
        fit = _surely(pace * plan.limits.step)
        if step.min_requests > fit:
            return (
                f"step {step.weight:g}%: min_requests {step.min_requests} would take {step.min_requests / pace:.0f}s "
                f"at {plan.expect.requests_per_second:g} requests/s, and often enough more than limits.step "
                f"{plan.limits.step:g}s; {fit:.0f} would fit"
            )
    for check in plan.checks:
        if check.kind == "quality":
            if (said := _quality_problem(plan, check)) is not None:
                return said
            continue
        if not _can_fire(plan, check, 1, 1):
            needs = _remedy(partial(_can_fire, plan, check), plan)
            return (
                f"check {check.name} could not reach its limit (e-value {math.exp(plan.log_limit(check)):.0f}) before "
                f"the promotion even if every interval spoke against the candidate: at "
                f"{plan.expect.requests_per_second:g} requests/s {_fitting(plan, check)} intervals fit into the "
                f"steps; {needs}"
            )
        if not _can_promote(plan, check, 1, 1):
            needs = _remedy(partial(_can_promote, plan, check), plan)
            return (
                f"check {check.name} could not show within the time limits that an unchanged release is not worse "
                f"(e-value {math.exp(plan.promote_log_limit):.0f}) at {plan.expect.requests_per_second:g} requests/s: "
                f"{needs}, or a wider margin"
            )
    return None


def _surely(mean: float) -> float:
    """Requests that come in all but one of 200 times where `mean` are expected: they arrive by chance."""
    return float(poisson.quantile(1 - SURE, mean))


def _sparse(plan: Plan, check: Check, time: float, traffic: float) -> float:
    """The factor on traffic when as few requests come as may well be, in the step where evidence is waited for."""
    weight = plan.steps[waits_in(plan, check)].weight / 100 if len(plan.steps) > 1 else 1.0
    mean = plan.expect.requests_per_second * traffic * weight * plan.limits.step * time
    return traffic * max(_surely(mean) / mean, 1e-6)


def _remedy(works: Callable[[float, float], bool], plan: Plan) -> str:
    time = _least(lambda scale: works(scale, 1))
    traffic = _least(lambda scale: works(1, scale))
    total = sum(step.min_time for step in plan.steps)
    ways = []
    if time:
        ways.append(f"steps {math.ceil(time * 10) / 10:g} times as long ({math.ceil(total * time)}s in all)")
    if traffic:
        ways.append(f"{math.ceil(traffic * plan.expect.requests_per_second * 10) / 10:g} requests/s")
    if not ways:
        return "no traffic and no time would do with these weights; it needs a step with 40% to 60%"
    return "it would take " + " or ".join(ways)


def _least(works: Callable[[float], bool]) -> float | None:
    """The least scale that works; more time or traffic never decides less."""
    at = bisect.bisect_left(_SCALES, True, key=works)
    return _SCALES[at] if at < len(_SCALES) else None


def _intervals(
    plan: Plan, check: Check, time: float, traffic: float, *, against: bool
) -> Iterator[tuple[float, float, int]]:
    """Per step before the promotion: the candidate's weight as a fraction, its requests per interval, and how many
    intervals in which the check compares fit into it.

    Args:
        time, traffic: factors on the steps' times and on the expected traffic.
        against: evidence against the candidate must come by itself; for evidence that promotion waits for, the step
            before the last may last until its time limit.
    """
    rate = plan.expect.requests_per_second * traffic
    relative = check.kind in ("errors-vs-stable", "events-vs-stable", "latency-vs-stable")
    for index, step in enumerate(plan.steps):
        weight = step.weight / 100
        is_last = index == len(plan.steps) - 1
        if (relative and weight >= 1) or (is_last and not against) or not _compared(check, weight, against=against):
            continue
        slowest = min(weight, 1 - weight) if relative else weight
        length = max(check.interval, check.min_requests / (rate * slowest))
        lasts = max(step.min_time, step.min_requests / (rate * weight)) * time
        if not against and index == waits_in(plan, check):
            lasts = max(lasts, plan.limits.step * time)
        yield weight, rate * weight * length, int(lasts / length + 1e-9)


def waits_in(plan: Plan, check: Check) -> int:
    """Index of the step in which a check's evidence for promotion is waited for.

    It is the one before the last, unless the slots' loads cannot be compared there: at 95 % a replica of stable is sent
    too little to say how fast it would be. Then it is the last one in which they can.
    """
    fitting = [
        index
        for index, step in enumerate(plan.steps[:-1])
        if _compared(check, step.weight / 100, against=False) and _compared(check, step.weight / 100, against=True)
    ]
    return fitting[-1] if fitting else len(plan.steps) - 2


def _fitting(plan: Plan, check: Check) -> int:
    return sum(fit for _, _, fit in _intervals(plan, check, 1, 1, against=True))


def _compared(check: Check, weight: float, *, against: bool) -> bool:
    """Latency is compared at this weight, with as many replicas in both slots."""
    if check.kind != "latency-vs-stable":
        return True
    more, less = (weight, 1 - weight) if against else (1 - weight, weight)
    return more <= check.load_ratio * less


def _can_fire(plan: Plan, check: Check, time: float, traffic: float) -> bool:
    if check.kind == "latency-vs-stable":
        # As loud as it can be: ten times as slow.
        return _filtered(plan, check, time, traffic, lambda _: math.log(10), against=True) >= plan.log_limit(check)
    if check.kind == "errors-vs-stable" and check.per_request:
        return True
    how, limit = bets.bets_against(plan.horizon(check)), plan.log_limit(check)
    n, wealth = 0, tuple[float, ...]()
    for weight, _, fit in _intervals(plan, check, time, traffic, against=True):
        if check.kind in ("errors-vs-stable", "events-vs-stable"):
            exposed = 1 - weight if check.kind == "events-vs-stable" and check.direction == "fewer" else weight
            loudest = 1 / bets.failure_share_bound(exposed, check.odds_ratio)
            ratio = min(loudest, bets.RELATIVE_CAP)
        else:
            assert check.kind in ("errors-slo", "latency-slo")
            ratio = min(1 / check.at_most, bets.SLO_CAP)
        for _ in range(min(fit, _ENOUGH)):
            wealth = eprocess.advance(how, n, wealth, [(ratio, 1)])
            n += 1
            if eprocess.log_e(how, n, wealth) >= limit:
                return True
    return False


def _can_promote(plan: Plan, check: Check, time: float, traffic: float) -> bool:
    traffic = _sparse(plan, check, time, traffic)
    if check.kind == "latency-vs-stable" and check.promote_margin is not None:
        margin = math.log1p(check.promote_margin)
        # An unchanged release scatters around no difference by the noise of its counts.
        reached = _filtered(plan, check, time, traffic, lambda noise: margin + noise, against=False)
        return reached >= plan.promote_log_limit
    if check.kind != "errors-slo" or check.promote_at_most is None:
        return True
    ratio = 1 / (1 - check.promote_at_most)
    how, limit = bets.bets_for(plan.horizon(check)), plan.promote_log_limit
    n, wealth = 0, tuple[float, ...]()
    for _, requests, fit in _intervals(plan, check, time, traffic, against=False):
        for _ in range(min(fit, _ENOUGH)):
            wealth = eprocess.advance(how, n, wealth, [(ratio, requests)])
            n += 1
            if eprocess.log_e(how, n, wealth) >= limit:
                return True
    return False


def _filtered(
    plan: Plan, check: LatencyVsStable, time: float, traffic: float, shifted: Callable[[float], float], *, against: bool
) -> float:
    """Largest logarithm of the e-value about latency; `shifted` says what is measured, given the noise's scatter."""
    how = shift.weather(check.weather.sd, check.weather.lasts, 1.0, plan.horizon(check))
    state, best, sign = shift.start(how), 0.0, 1.0
    for weight, requests, fit in _intervals(plan, check, time, traffic, against=against):
        stable = requests * (1 - weight) / weight
        noise = TYPICAL_SIGMA**2 * math.pi / 3 * (1 / requests + 1 / stable)
        length = max(check.interval, requests / (plan.expect.requests_per_second * traffic * weight))
        for _ in range(min(fit, _FILTERED)):
            y, sign = shifted(sign * math.sqrt(noise)), -sign
            state = shift.advance(how, state, length, y, noise)
            best = max(best, shift.log_e(how, state))
            if best >= max(plan.log_limit(check), plan.promote_log_limit):
                return best
    return best


def _quality_problem(plan: Plan, check: Quality) -> str | None:
    """Why a check on quality could not decide: too few items in the suite, or too few asked in the time there is."""
    with_control = [step for step in plan.steps[:-1] if step.weight < 100]
    lasts = math.fsum(step.min_time for step in with_control)
    asks = min(check.items, int(lasts * check.rate + 1e-9))
    how, log_limit = bets.bets_on_items(plan.horizon(check)), plan.log_limit(check)
    needed = _items(check, 1.0, check.margin, how, log_limit, against=True)
    if needed is None or needed > asks:
        return (
            f"check {check.name} could not reach its limit (e-value {math.exp(log_limit):.0f}) before the promotion "
            f"even if the candidate failed every item: {_short(check, asks, needed, lasts)}"
        )
    if check.promote_margin is None:
        return None
    lasts += max(0.0, plan.limits.step - with_control[-1].min_time)
    asks = min(check.items, int(lasts * check.rate + 1e-9))
    how, log_limit = bets.bets_for(plan.horizon(check)), plan.promote_log_limit
    needed = _items(check, 0.5, check.promote_margin, how, log_limit, against=False)
    if needed is None or needed > asks:
        return (
            f"check {check.name} could not show within the time limits that a release with the same answers is not "
            f"worse (e-value {math.exp(log_limit):.0f}): {_short(check, asks, needed, lasts)}, or a wider margin"
        )
    return None


def _short(check: Quality, asks: int, needed: int | None, lasts: float) -> str:
    has = f"{asks} items are asked ({check.items} in the suite, {check.rate:g} items/s for {lasts:.0f}s)"
    if needed is None:
        return f"{has}, and the whole suite would not do; it needs a larger suite"
    rate = math.ceil(1000 * needed / lasts) / 1000 if lasts > 0 else math.inf
    return f"{has} and {needed} are needed: a rate of {rate:g} or longer steps"


def _items(
    check: Quality, harm: float, margin: float, how: eprocess.Bets, limit: float, *, against: bool
) -> int | None:
    """Items until the limit when every one does the same harm; None when the suite has not so many."""
    wealth, ratio = tuple[float, ...](), quality.ratio_against if against else quality.ratio_for
    size = check.items if check.of == "suite" else None
    for n in range(check.items):
        said = ratio(harm, margin, size, quality.Sums(asked=n, scored=n, harm=n * harm))
        wealth = eprocess.advance(how, n, wealth, [(said, 1)])
        if eprocess.log_e(how, n + 1, wealth) >= limit:
            return n + 1
    return None
