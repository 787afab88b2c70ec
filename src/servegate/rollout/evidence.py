"""Checks: from what the slots did to evidence against the candidate, and for its promotion.

The unit of evidence is the interval, not the request. Requests of one pod fail together and wait together; a test that
takes each as a witness of its own condemns a healthy release for one pod's five bad seconds. So all requests of an
interval make one bounded number, whose largest mean under the null hypothesis is known before it is seen, and one bet
is made on it (stats/eprocess.py). What happens inside the interval needs no assumption. What is assumed is that the
bound holds for every interval given the ones before. A single burst that reaches over two intervals breaks that, which
is why one interval's weight is capped, and the second interval of an outage counts for less (`bets.OUTAGE`); counting
less never harms the bound.

* `errors-vs-stable`: the candidate's share of the failures of both slots, against its share of their requests
  (`bets.failure_share_bound`). Common trouble falls on both by their shares and says nothing; an interval without
  failures is no bet. An interval lies within one step, so weights may change between intervals.
* `ttft-vs-stable`: the Mann-Whitney statistic of the two bucket vectors. Its mean does not depend on the counts.
* `errors-slo`, `ttft-slo`: the fraction of bad requests, cut off at a multiple of its bound (a smaller number has no
  larger mean). The same is kept about stable: where stable breaches as well, the candidate is not to blame.

Evidence for promotion tests the opposite null, "the candidate is worse by the margin": for TTFT by the same statistic
from the other side; for errors request by request, under the null that every request fails with probability at least
`promote_at_most` given all before it. A defect that pauses is therefore not what it excludes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from servegate.rollout import bets
from servegate.rollout.deltas import BucketError, add
from servegate.rollout.model import CheckState, SlotDelta, SlotInterval, Wealth
from servegate.rollout.plan import Check, ErrorsSlo, ErrorsVsStable, Plan, TtftSlo, TtftVsStable
from servegate.stats import eprocess, histogram

Ratios = list[tuple[float, float]]


@dataclass(frozen=True)
class View:
    """What a tick shows to the checks.

    Args:
        at: time of the observation.
        previous: time of the one before; the deltas cover the time in between.
        weight: percent of the traffic that the candidate is given.
        cold: the candidate is still warming up; its latency does not count.
        deltas, ready: per slot.
    """

    at: float
    previous: float
    stable: str
    candidate: str
    weight: float
    cold: bool
    deltas: Mapping[str, SlotDelta]
    ready: Mapping[str, int]


def advance(plan: Plan, check: Check, state: CheckState, view: View) -> CheckState:
    """Add a tick to the check's open interval, and bet when the interval is complete."""
    relative = isinstance(check, ErrorsVsStable | TtftVsStable)
    latency = isinstance(check, TtftVsStable | TtftSlo)
    if relative and view.weight >= 100:
        return drop(state)
    if latency and view.cold:
        return drop(state)
    added = _add(state, view, need_both=relative, latency=latency)
    if added is None:
        return state
    if added.since is None or view.at - added.since < check.interval - plan.tick / 2:
        return added
    needed = (view.candidate, view.stable) if relative else (view.candidate,)
    if any(_size(check, added.open.get(slot)) < check.min_requests for slot in needed):
        return added
    judged = _judge(plan, check, added, view)
    promotion = promote_log_e(plan, check, judged)
    return judged.model_copy(
        update={
            "since": view.at,
            "open": {},
            "grew": view.at if log_e(plan, check, judged) > log_e(plan, check, state) else state.grew,
            "promote_reached": judged.promote_reached
            or (promotion is not None and promotion >= plan.promote_log_limit),
        }
    )


def drop(state: CheckState) -> CheckState:
    """Forget the open interval: what is in it belongs to other weights, or to a slot that was still cold."""
    if state.since is None and not state.open and not state.served:
        return state
    return state.model_copy(update={"since": None, "open": {}, "served": {}})


def log_e(plan: Plan, check: Check, state: CheckState) -> float:
    """Evidence against the candidate as a natural logarithm."""
    return _log(bets.bets_against(plan.horizon(check)), state.against)


def stable_log_e(plan: Plan, check: Check, state: CheckState) -> float:
    """Evidence that stable breaches the same SLO; 0 for a check that compares the two."""
    return _log(bets.bets_against(plan.horizon(check)), state.stable) if state.stable else 0.0


def promote_log_e(plan: Plan, check: Check, state: CheckState) -> float | None:
    """Evidence for promotion; None when the check asks for none."""
    return _log(bets.bets_for(plan.horizon(check)), state.promote or Wealth()) if wants_promotion(check) else None


def wants_promotion(check: Check) -> bool:
    """The check must be shown to hold before the last step."""
    if isinstance(check, TtftVsStable):
        return check.promote_slower is not None
    return isinstance(check, ErrorsSlo) and check.promote_at_most is not None


def recent_fraction(state: CheckState, slot: str) -> float | None:
    """Fraction of bad requests of a slot over about the last five intervals of an SLO check."""
    seen = state.seen.get(slot, 0.0)
    return state.bad.get(slot, 0.0) / seen if seen > 0 else None


def _log(how: eprocess.Bets, wealth: Wealth) -> float:
    return eprocess.log_e(how, wealth.n, wealth.log_wealth)


def _bet(how: eprocess.Bets, wealth: Wealth | None, ratios: Ratios) -> Wealth:
    wealth = wealth or Wealth()
    return Wealth.model_construct(n=wealth.n + 1, log_wealth=eprocess.advance(how, wealth.n, wealth.log_wealth, ratios))


def _add(state: CheckState, view: View, *, need_both: bool, latency: bool) -> CheckState | None:
    """The open interval with this tick in it; None when a slot that is needed could not be read."""
    opened = dict(state.open)
    for slot in (view.candidate, view.stable):
        delta = view.deltas.get(slot)
        if delta is None or delta.requests is None:
            if slot == view.candidate or need_both:
                return None
            continue
        opened[slot] = _plus(opened.get(slot) or SlotInterval(), delta, view.ready.get(slot, 0), latency)
    since = view.previous if state.since is None else state.since
    return state.model_copy(update={"since": since, "open": opened})


def _plus(sums: SlotInterval, delta: SlotDelta, ready: int, latency: bool) -> SlotInterval:
    update: dict[str, object] = {}
    ttft = delta.histograms.get("ttft")
    if not latency:
        update["requests"] = sums.requests + (delta.requests or 0.0)
        update["failures"] = sums.failures + (delta.failures or 0.0)
        update["rejected"] = sums.rejected + (delta.rejected or 0.0)
    elif ttft is not None:
        try:
            update["ttft"] = ttft if sums.ttft is None else add("ttft", sums.ttft, ttft)
        except BucketError:
            update["ttft"] = ttft
    running, waiting = delta.gauges.get("running"), delta.gauges.get("waiting")
    if running is not None and waiting is not None and ready > 0:
        update["load"] = sums.load + (running + waiting) / ready
        update["ticks"] = sums.ticks + 1
    return sums.model_copy(update=update)


def _size(check: Check, sums: SlotInterval | None) -> float:
    """Requests that count for the check."""
    if sums is None:
        return 0.0
    if isinstance(check, TtftVsStable | TtftSlo):
        return sums.ttft.total if sums.ttft else 0.0
    return sums.requests


def _judge(plan: Plan, check: Check, state: CheckState, view: View) -> CheckState:
    horizon = plan.horizon(check)
    if isinstance(check, ErrorsVsStable):
        return _errors_vs_stable(horizon, check, state, view)
    if isinstance(check, TtftVsStable):
        return _ttft_vs_stable(horizon, check, state, view)
    return _slo(horizon, check, state, view)


def _errors_vs_stable(horizon: int, check: ErrorsVsStable, state: CheckState, view: View) -> CheckState:
    candidate, stable = state.open[view.candidate], state.open[view.stable]
    bad, control_bad = candidate.failures, stable.failures
    if not _loaded_more(candidate, stable, bets.LOAD_RATIO):
        # A full engine turns requests away: the release's doing only where it was not given more to do.
        bad, control_bad = bad + candidate.rejected, control_bad + stable.rejected
    failures = bad + control_bad
    served = {
        slot: state.served.get(slot, 0.0) + sums.requests
        for slot, sums in ((view.candidate, candidate), (view.stable, stable))
    }
    fraction = min(1.0, bad / candidate.requests)
    judged: dict[str, Any] = {"intervals": state.intervals + 1, "served": served, "last_bad": fraction}
    if failures <= 0:
        return state.model_copy(update=judged)
    share = bad / failures
    bound = bets.failure_share_bound(_exposed(served, view), check.odds_ratio)
    same_outage = min(fraction, state.last_bad) > 0 and max(fraction, state.last_bad) >= bets.OUTAGE
    cap = bets.OUTAGE_CAP if same_outage else bets.RELATIVE_CAP
    return state.model_copy(
        update={
            **judged,
            "against": _bet(bets.bets_against(horizon), state.against, [(min(share / bound, cap), 1)]),
            "observed": state.observed + share,
            "bound": state.bound + bound,
        }
    )


def _exposed(served: Mapping[str, float], view: View) -> float:
    """Fraction of the requests that the candidate is exposed to.

    The router's weight, because each request goes to the candidate with that probability whatever becomes of it.
    Completed requests say it less well: they scatter, and as errors are answered at once and good answers late, they
    understate the traffic right after a step up. But where clearly more of them were the candidate's than the weight
    explains (two standard deviations, over all closed intervals at these weights), the router does not keep to it, and
    they count.
    """
    weight, all_requests = view.weight / 100, sum(served.values())
    share = served[view.candidate] / all_requests
    scatter = math.sqrt(weight * (1 - weight) / all_requests)
    return share if share > weight + 2 * scatter else weight


def _ttft_vs_stable(horizon: int, check: TtftVsStable, state: CheckState, view: View) -> CheckState:
    candidate, stable = state.open[view.candidate], state.open[view.stable]
    if candidate.ttft is None or stable.ttft is None or candidate.ttft.edges != stable.ttft.edges:
        return _skip(state, "the two slots' buckets of time to first token differ")
    if not candidate.ticks or not stable.ticks:
        return _skip(state, "the load of a slot is not known")
    slower = histogram.slower(candidate.ttft.counts, stable.ttft.counts)
    assert slower is not None
    update: dict[str, object] = {"intervals": state.intervals + 1}
    counts_against = not _loaded_more(candidate, stable, check.load_ratio)
    counts_for = not _loaded_more(stable, candidate, check.load_ratio)
    if counts_against:
        update["against"] = _bet(bets.bets_against(horizon), state.against, [(slower / check.slower, 1)])
        update["observed"] = state.observed + slower
        update["bound"] = state.bound + check.slower
    if counts_for and check.promote_slower is not None:
        update["promote"] = _bet(
            bets.bets_for(horizon), state.promote, [((1 - slower) / (1 - check.promote_slower), 1)]
        )
    if not counts_against:
        update["skipped"] = state.skipped + 1
        update["skipped_because"] = (
            f"a replica of {view.candidate} carries {candidate.load / candidate.ticks:.1f} requests, "
            f"one of {view.stable} {stable.load / stable.ticks:.1f}"
        )
    return state.model_copy(update=update)


def _slo(horizon: int, check: ErrorsSlo | TtftSlo, state: CheckState, view: View) -> CheckState:
    if isinstance(check, TtftSlo) and not all(
        sums.ttft is None or check.over in sums.ttft.edges for sums in state.open.values()
    ):
        return _skip(state, f"the engine has no bucket that ends at {check.over:g} s")
    update: dict[str, object] = {"intervals": state.intervals + 1}
    bad_recently, seen_recently = dict(state.bad), dict(state.seen)
    for slot, field in ((view.candidate, "against"), (view.stable, "stable")):
        sums = state.open.get(slot)
        size = _size(check, sums)
        if sums is None or size < check.min_requests:
            continue
        bad = _bad(check, sums)
        wealth = state.against if field == "against" else state.stable
        update[field] = _bet(bets.bets_against(horizon), wealth, [(min(bad / size / check.at_most, bets.SLO_CAP), 1)])
        bad_recently[slot] = bets.FADE * bad_recently.get(slot, 0.0) + bad
        seen_recently[slot] = bets.FADE * seen_recently.get(slot, 0.0) + size
        if slot == view.candidate:
            update["observed"] = state.observed + bad / size
            update["bound"] = state.bound + check.at_most
            if isinstance(check, ErrorsSlo) and check.promote_at_most is not None:
                good = 1 / (1 - check.promote_at_most)
                update["promote"] = _bet(bets.bets_for(horizon), state.promote, [(good, size - bad), (0.0, bad)])
    return state.model_copy(update={**update, "bad": bad_recently, "seen": seen_recently})


def _bad(check: ErrorsSlo | TtftSlo, sums: SlotInterval) -> float:
    if isinstance(check, ErrorsSlo):
        return sums.failures + sums.rejected
    assert sums.ttft is not None
    return (histogram.fraction_over(sums.ttft.edges, sums.ttft.counts, check.over) or 0.0) * sums.ttft.total


def _skip(state: CheckState, why: str) -> CheckState:
    return state.model_copy(update={"skipped": state.skipped + 1, "skipped_because": why})


def _loaded_more(one: SlotInterval, other: SlotInterval, ratio: float) -> bool:
    """A replica of `one` carried clearly more than a replica of `other`. Unknown loads are not more."""
    if not one.ticks or not other.ticks:
        return False
    return one.load / one.ticks > ratio * other.load / other.ticks + bets.LOAD_SLACK
