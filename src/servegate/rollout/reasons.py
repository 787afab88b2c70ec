"""Why, in one sentence with the numbers. An engineer woken at night reads this line first."""

from __future__ import annotations

import math

from servegate.rollout import evidence
from servegate.rollout.checks import (
    Check,
    ErrorsSlo,
    ErrorsVsStable,
    EventsVsStable,
    LatencySlo,
    LatencyVsStable,
    Quality,
)
from servegate.rollout.evidence_quality import drop_of_mean
from servegate.rollout.model import CheckState, State
from servegate.rollout.plan import Plan

_LATENCIES = {
    "ttft": "time to first token",
    "itl": "time between tokens",
    "tpot": "time per output token",
    "e2e_latency": "latency end to end",
    "queue_time": "time in the queue",
}
_EVENTS = {
    "aborts": "aborts",
    "unanswered": "unanswered requests",
    "truncation": "truncated answers",
    "rejections": "rejected requests",
    "preemptions": "preemptions",
    "tokens": "generated tokens",
}


def against(plan: Plan, check: Check, state: State) -> str:
    """A check has fired against the candidate."""
    gathered = state.checks[check.name]
    candidate, stable = state.candidate, state.stable
    latency = isinstance(check, LatencyVsStable)
    n = gathered.compared if latency else gathered.against.n
    mean, bound = (gathered.observed / n, gathered.bound / n) if n else (0.0, 0.0)
    over = f"over {n} interval{'s' if n != 1 else ''}"
    told = e_value(plan, check, gathered)
    if isinstance(check, ErrorsVsStable):
        single = "; every request counted by itself" if check.per_request else ""
        return (
            f"{candidate} fails more often than {stable}: {_percent(mean)} of failures fell on it against a limit of "
            f"{_percent(bound)} {over} with failures ({told}{single})"
        )
    if isinstance(check, EventsVsStable):
        whose = candidate if check.direction == "more" else stable
        return (
            f"{_EVENTS[check.event]} of {candidate} differ from those of {stable}: {_percent(mean)} of them were "
            f"{whose}'s against a limit of {_percent(bound)} {over} ({told})"
        )
    if isinstance(check, LatencyVsStable):
        return (
            f"{_LATENCIES[check.metric]} of {candidate} is longer than that of {stable}: by "
            f"{_percent(math.expm1(mean))} against a margin of {_percent(check.margin)} {over} ({told})"
        )
    if isinstance(check, Quality):
        items = f"{gathered.judged} item{'s' if gathered.judged != 1 else ''} asked of both"
        about = f"{check.items} in the suite" if check.of == "suite" else "drawn from a population"
        named = f", lately {', '.join(gathered.worse_items)}" if gathered.worse_items else ""
        return (
            f"{candidate} answers worse than {stable}: {_points(drop_of_mean(gathered))} lower over {items} "
            f"({about}{named}) against a margin of {_points(check.margin)} ({told})"
        )
    return (
        f"{candidate} breaks its objective: {_percent(mean)} of requests {_slo_words(check)} against a limit of "
        f"{_percent(check.at_most)} {over} ({told})"
    )


def both_breach(check: Check, state: State) -> str:
    """An SLO is broken by stable as well."""
    assert isinstance(check, ErrorsSlo | LatencySlo)
    gathered = state.checks[check.name]
    shares = [
        f"{_percent(fraction)} on {slot}"
        for slot in (state.candidate, state.stable)
        if (fraction := evidence.recent_fraction(gathered, slot)) is not None
    ]
    return (
        f"both slots break the objective of check {check.name}, so {state.candidate} is not to blame: of late "
        f"{' and '.join(shares)} of requests {_slo_words(check)} against a limit of {_percent(check.at_most)}"
    )


def e_value(plan: Plan, check: Check, gathered: CheckState) -> str:
    """The evidence and its limit."""
    value, limit = evidence.log_e(plan, check, gathered), plan.log_limit(check)
    return f"e-value {_number(value)} {'≥' if value >= limit else '<'} limit {_number(limit)}"


def promotion_missing(plan: Plan, check: Check, gathered: CheckState | None) -> str:
    """A check has not yet shown what promotion needs."""
    gathered = gathered or CheckState()
    value = evidence.promote_log_e(plan, check, gathered)
    assert value is not None
    why = f"; of late: {gathered.skipped_because}" if gathered.skipped_because else ""
    return (
        f"evidence of check {check.name} that the candidate is not worse "
        f"(e-value {_number(value)} of {_number(plan.promote_log_limit)}){why}"
    )


def totals(state: State, slot: str) -> str:
    """What a slot has done."""
    sums = state.totals.get(slot)
    if sums is None:
        return "no request"
    failed = sums.failures + sums.rejected
    text = f"{sums.requests:.0f} requests, {failed:.0f} failed"
    if sums.set_apart:
        text += f", {sums.set_apart:.0f} set apart, because the platform took away {', '.join(sums.reclaimed)}"
    return text


def taken_away(state: State, slot: str) -> str:
    """What the platform has just taken from a slot, as the end of a sentence; empty when nothing."""
    pods = [f"{item.pod} ({item.why})" for item in state.reclaims if item.slot == slot]
    return f"; the platform took away {', '.join(pods)}" if pods else ""


def seconds(value: float) -> str:
    """A time for people."""
    if value < 120:
        return f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"


def name(state: State, slot: str) -> str:
    """A slot with its release."""
    return f"{slot} ({state.slots[slot].name})" if slot in state.slots else slot


def _slo_words(check: Check) -> str:
    assert isinstance(check, ErrorsSlo | LatencySlo)
    if isinstance(check, ErrorsSlo):
        return "failed"
    if check.metric == "ttft":
        return f"waited over {check.over:g} s for their first token"
    return f"had a {_LATENCIES[check.metric]} over {check.over:g} s"


def _percent(fraction: float) -> str:
    percent = 100 * fraction
    return f"{percent:.0f} %" if percent >= 9.95 or percent == round(percent) else f"{percent:.1f} %"


def _points(fraction: float) -> str:
    return f"{100 * fraction:.1f} points"


def _number(log_value: float) -> str:
    if log_value > math.log(1e6):
        return f"10^{log_value / math.log(10):.0f}"
    value = math.exp(log_value)
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
