"""Checks: from what the slots did to evidence against the candidate, and for its promotion.

The unit of evidence is the interval, not the request. Requests of one pod fail together and wait together; a test that
takes each as a witness of its own condemns a healthy release for one pod's five bad seconds. So all requests of an
interval make one number, and what it may add to the evidence is bounded before it is seen.

* `errors-vs-stable`, `events-vs-stable`, objectives: one bounded bet per interval (stats/eprocess.py). What happens
  inside the interval needs no assumption; that the null hypothesis holds for every interval given the ones before does.
  A single burst that reaches over two intervals breaks that, which is why one interval's weight is capped, and the
  second interval of an outage counts for less (`bets.OUTAGE`); counting less never harms the bound. An outage calls
  the reserve of the wealth in. See evidence_counts.py.
* `latency-vs-stable`: a Kalman filter that sees through passing weather (stats/shift.py). See evidence_latency.py.
* `quality`: bets on the differences of items that both slots were asked, without replacement. See evidence_quality.py.

Evidence for promotion tests the opposite null, "the candidate is worse by the margin", with the same means from the
other side. Common trouble falls on both slots and says nothing in a comparison; an objective that stable breaks as well
does not blame the candidate (watch.py). Failures of pods that the platform took away are set apart before they get here
(reclaims.py).
"""

from __future__ import annotations

from servegate.rollout import bets, evidence_counts, evidence_latency, evidence_quality
from servegate.rollout.checks import (
    Check,
    ErrorsSlo,
    ErrorsVsStable,
    LatencyVsStable,
    Objective,
    Quality,
    Relative,
)
from servegate.rollout.interval import Opened, View, is_latency, size, take_in
from servegate.rollout.model import CheckState, Wealth
from servegate.rollout.plan import Plan
from servegate.stats import eprocess


def advance(plan: Plan, check: Check, state: CheckState, view: View) -> CheckState:
    """Add a tick to the check's open interval, and bet when the interval is complete."""
    if isinstance(check, Quality):
        return _settled(plan, check, state, evidence_quality.advance(plan, check, state, view), view)
    relative = isinstance(check, Relative)
    if (relative and view.weight >= 100) or (view.cold and is_latency(check)):
        return drop(state)
    opened = take_in(check, state, view, need_both=relative)
    if opened is None:
        return state
    since = view.previous if state.since is None else state.since
    full = size(check, opened.get(view.candidate)) >= check.min_requests
    full = full and (not relative or size(check, opened.get(view.stable)) >= check.min_requests)
    long = view.at - since >= check.interval - plan.tick / 2
    if long and full:
        return _settled(plan, check, state, _judge(plan, check, state, opened, view), view)
    added = state.model_copy(update={"since": since, "open": opened})
    return evidence_latency.told_why(check, added, view) if long else added


def drop(state: CheckState) -> CheckState:
    """Forget the open interval: what is in it belongs to other weights, or to a slot that was still cold."""
    if state.since is None and not state.open and not state.served:
        return state
    return state.model_copy(update={"since": None, "open": {}, "served": {}})


def log_e(plan: Plan, check: Check, state: CheckState) -> float:
    """Evidence against the candidate as a natural logarithm."""
    if isinstance(check, LatencyVsStable):
        return state.shift.log_e if state.shift else 0.0
    if isinstance(check, ErrorsVsStable) and check.per_request:
        return bets.log_e_per_request(state.against.log_wealth)
    how = bets.bets_on_items if isinstance(check, Quality) else bets.bets_against
    return _log(how(plan.horizon(check)), state.against)


def stable_log_e(plan: Plan, check: Check, state: CheckState) -> float:
    """Evidence that stable breaches the same SLO; 0 for a check that compares the two."""
    return _log(bets.bets_against(plan.horizon(check)), state.stable) if state.stable else 0.0


def promote_log_e(plan: Plan, check: Check, state: CheckState) -> float | None:
    """Evidence for promotion; None when the check asks for none."""
    if not wants_promotion(check):
        return None
    if isinstance(check, LatencyVsStable):
        return state.shift_for.log_e if state.shift_for else 0.0
    return _log(bets.bets_for(plan.horizon(check)), state.promote) if state.promote else 0.0


def wants_promotion(check: Check) -> bool:
    """The check must be shown to hold before the last step."""
    if isinstance(check, ErrorsSlo):
        return check.promote_at_most is not None
    return isinstance(check, LatencyVsStable | Quality) and check.promote_margin is not None


def recent_fraction(state: CheckState, slot: str) -> float | None:
    """Fraction of bad requests of a slot over about the last five intervals of an SLO check."""
    seen = state.seen.get(slot, 0.0)
    return state.bad.get(slot, 0.0) / seen if seen > 0 else None


def _log(how: eprocess.Bets, wealth: Wealth) -> float:
    return eprocess.log_e(how, wealth.n, wealth.log_wealth, wealth.calls)


def _settled(plan: Plan, check: Check, before: CheckState, judged: CheckState, view: View) -> CheckState:
    """After a bet: when the evidence grew, whether that for promotion has reached its limit."""
    if judged is before:
        return before
    update: dict[str, object] = {}
    more = judged.against is not before.against or judged.shift is not before.shift
    if more and log_e(plan, check, judged) > log_e(plan, check, before):
        update["grew"] = view.at
    if not judged.promote_reached and wants_promotion(check):
        promotion = promote_log_e(plan, check, judged)
        if promotion is not None and promotion >= plan.promote_log_limit:
            update["promote_reached"] = True
    return judged.model_copy(update=update) if update else judged


def _judge(plan: Plan, check: Check, state: CheckState, opened: Opened, view: View) -> CheckState:
    if isinstance(check, LatencyVsStable):
        return evidence_latency.judge(plan, check, state, opened, view)
    assert not isinstance(check, Quality)
    if isinstance(check, Objective):
        return evidence_counts.objective(plan.horizon(check), check, state, opened, view)
    return evidence_counts.against_stable(plan.horizon(check), check, state, opened, view)
