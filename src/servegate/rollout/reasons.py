"""Why, in one sentence with the numbers. An engineer woken at night reads this line first."""

from __future__ import annotations

import math

from servegate.rollout import evidence
from servegate.rollout.model import CheckState, State
from servegate.rollout.plan import Check, ErrorsSlo, ErrorsVsStable, Plan, TtftVsStable


def against(plan: Plan, check: Check, state: State) -> str:
    """A check has fired against the candidate."""
    gathered = state.checks[check.name]
    candidate, stable = state.candidate, state.stable
    n = gathered.against.n
    mean, bound = (gathered.observed / n, gathered.bound / n) if n else (0.0, 0.0)
    over = f"over {n} interval{'s' if n != 1 else ''}"
    if isinstance(check, ErrorsVsStable):
        return (
            f"{candidate} fails more often than {stable}: {_percent(mean)} of failures fell on it against a limit of "
            f"{_percent(bound)} {over} with failures ({e_value(plan, check, gathered)})"
        )
    if isinstance(check, TtftVsStable):
        return (
            f"time to first token of {candidate} is longer than that of {stable}: {_percent(mean)} of comparisons "
            f"against a limit of {_percent(bound)} {over} ({e_value(plan, check, gathered)})"
        )
    what = _slo_words(check)
    return (
        f"{candidate} breaks its objective: {_percent(mean)} of requests {what} against a limit of "
        f"{_percent(check.at_most)} {over} ({e_value(plan, check, gathered)})"
    )


def both_breach(check: Check, state: State) -> str:
    """An SLO is broken by stable as well."""
    assert not isinstance(check, ErrorsVsStable | TtftVsStable)
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
    return (
        f"evidence of check {check.name} that the candidate is not worse "
        f"(e-value {_number(value)} of {_number(plan.promote_log_limit)})"
    )


def totals(state: State, slot: str) -> str:
    """What a slot has done."""
    sums = state.totals.get(slot)
    if sums is None:
        return "no request"
    failed = sums.failures + sums.rejected
    return f"{sums.requests:.0f} requests, {failed:.0f} failed"


def seconds(value: float) -> str:
    """A time for people."""
    if value < 120:
        return f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"


def name(state: State, slot: str) -> str:
    """A slot with its release."""
    return f"{slot} ({state.slots[slot].name})" if slot in state.slots else slot


def _slo_words(check: Check) -> str:
    assert not isinstance(check, ErrorsVsStable | TtftVsStable)
    return "failed" if isinstance(check, ErrorsSlo) else f"waited over {check.over:g} s for their first token"


def _percent(fraction: float) -> str:
    percent = 100 * fraction
    return f"{percent:.0f} %" if percent >= 9.95 or percent == round(percent) else f"{percent:.1f} %"


def _number(log_value: float) -> str:
    if log_value > math.log(1e6):
        return f"10^{log_value / math.log(10):.0f}"
    value = math.exp(log_value)
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
