"""Evidence from counts: failures and other events against stable, and objectives.

Against stable, the statistic of an interval is the candidate's share of both slots' events; its largest mean under the
null hypothesis is `bets.failure_share_bound` of the requests it was exposed to. An interval without events is no bet.
Against an objective it is the fraction of bad requests, cut off at a multiple of its bound (a smaller number has no
larger mean). The same is kept about stable: where stable breaches as well, the candidate is not to blame.
"""

from __future__ import annotations

from typing import Any

from servegate.rollout import bets
from servegate.rollout.checks import ErrorsSlo, ErrorsVsStable, EventsVsStable, LatencySlo
from servegate.rollout.interval import Opened, View, exposed, load_ratio, size, unmeasured, with_served
from servegate.rollout.model import CheckState, SlotInterval, Wealth
from servegate.stats import eprocess, histogram

Ratios = list[tuple[float, float]]
_NOTHING = Wealth()


def against_stable(
    horizon: int, check: ErrorsVsStable | EventsVsStable, state: CheckState, opened: Opened, view: View
) -> CheckState:
    """One interval of a comparison of counts."""
    candidate, stable = opened[view.candidate], opened[view.stable]
    served = with_served(state, opened, view)
    bad, control_bad = candidate.bad, stable.bad
    ratio = load_ratio(served, view)
    if isinstance(check, ErrorsVsStable) and (ratio is None or ratio <= bets.LOAD_RATIO):
        # A full engine turns requests away: the release's doing only where it was not given more to do.
        bad, control_bad = bad + candidate.rejected, control_bad + stable.rejected
    share_of_requests = exposed(served, view)
    if isinstance(check, EventsVsStable) and check.event == "tokens":
        # Given the answers, any of them may be the longest: their number is what the candidate is exposed to.
        share_of_requests = candidate.requests / (candidate.requests + stable.requests)
        if check.direction == "fewer":
            bad, control_bad, share_of_requests = control_bad, bad, 1 - share_of_requests
    events = bad + control_bad
    fraction = min(1.0, bad / candidate.requests)
    judged: dict[str, Any] = {
        "since": view.at,
        "open": {},
        "intervals": state.intervals + 1,
        "served": served,
        "last_bad": fraction,
        "last_end": view.at,
        "outage": 0,
    }
    if events <= 0:
        return state.model_copy(update=judged)
    share = bad / events
    bound = bets.failure_share_bound(share_of_requests, check.odds_ratio)
    judged |= {"observed": state.observed + share, "bound": state.bound + bound}
    if isinstance(check, ErrorsVsStable) and check.per_request:
        judged["against"] = Wealth.model_construct(
            n=state.against.n + 1,
            log_wealth=bets.per_request(
                state.against.log_wealth, bad, control_bad, share_of_requests, check.odds_ratio
            ),
        )
        return state.model_copy(update=judged)
    judged["outage"] = lasted = _outage(check, fraction, state, view)
    ratio = min(share / bound, _cap(bets.RELATIVE_CAP, fraction, lasted))
    judged["against"] = bet(bets.bets_against(horizon), state.against, [(ratio, 1)], call=_called(state))
    return state.model_copy(update=judged)


def objective(horizon: int, check: ErrorsSlo | LatencySlo, state: CheckState, opened: Opened, view: View) -> CheckState:
    """One interval of an objective, about the candidate and about stable."""
    if isinstance(check, LatencySlo):
        why = unmeasured(view, check.metric)
        unresolved = any(sums.buckets is not None and check.over not in sums.buckets.edges for sums in opened.values())
        if unresolved:
            return skip(state, view, f"the engine has no bucket that ends at {check.over:g} s")
        if size(check, opened.get(view.candidate)) <= 0:
            return skip(state, view, why or f"no {check.metric} was measured")
    update: dict[str, object] = {"since": view.at, "open": {}, "intervals": state.intervals + 1, "last_end": view.at}
    bad_recently, seen_recently = dict(state.bad), dict(state.seen)
    for slot, field in ((view.candidate, "against"), (view.stable, "stable")):
        sums = opened.get(slot)
        n = size(check, sums)
        if sums is None or n < check.min_requests:
            continue
        bad = _bad(check, sums, n)
        fraction = bad / n
        wealth = state.against if field == "against" else state.stable
        cap, call = bets.SLO_CAP, False
        if slot == view.candidate:
            update["outage"] = lasted = _outage(check, fraction, state, view)
            cap, call = _cap(bets.SLO_CAP, fraction, lasted), _called(state)
        update[field] = bet(bets.bets_against(horizon), wealth, [(min(fraction / check.at_most, cap), 1)], call=call)
        bad_recently[slot] = bets.FADE * bad_recently.get(slot, 0.0) + bad
        seen_recently[slot] = bets.FADE * seen_recently.get(slot, 0.0) + n
        if slot == view.candidate:
            update["last_bad"] = fraction
            update["observed"] = state.observed + fraction
            update["bound"] = state.bound + check.at_most
            if isinstance(check, ErrorsSlo) and check.promote_at_most is not None:
                # Request by request, under the null that each fails with this probability given all before it: a
                # defect that pauses is not what this excludes.
                good = 1 / (1 - check.promote_at_most)
                update["promote"] = bet(bets.bets_for(horizon), state.promote, [(good, n - bad), (0.0, bad)])
    return state.model_copy(update={**update, "bad": bad_recently, "seen": seen_recently})


def bet(how: eprocess.Bets, wealth: Wealth | None, ratios: Ratios, *, call: bool = False) -> Wealth:
    """The wealth after one more interval, before which the reserve may be called."""
    wealth = wealth or _NOTHING
    calls = wealth.calls + call
    after = eprocess.advance(how, wealth.n, wealth.log_wealth, ratios, calls if call else 0)
    return wealth.model_copy(update={"n": wealth.n + 1, "log_wealth": after, "calls": calls})


def skip(state: CheckState, view: View, why: str) -> CheckState:
    """The interval says nothing, and the next one opens."""
    update = {"since": view.at, "open": {}, "skipped": state.skipped + 1, "skipped_because": why}
    return state.model_copy(update=update)


def _outage(
    check: ErrorsVsStable | EventsVsStable | ErrorsSlo | LatencySlo, fraction: float, state: CheckState, view: View
) -> int:
    """How many neighbouring intervals, up to this one, are one outage; 0 when there is none.

    An interval with failures belongs to the same one as its neighbour in time when either is an outage.
    """
    alone = int(fraction >= bets.OUTAGE)
    if state.last_end is None or view.at - state.last_end > 1.5 * check.interval:
        return alone
    same = min(fraction, state.last_bad) > 0 and max(fraction, state.last_bad) >= bets.OUTAGE
    return max(state.outage, 1) + 1 if same else alone


def _cap(usual: float, fraction: float, lasted: int) -> float:
    """Largest multiple of its bound that an interval counts as, in an outage that has lasted so many."""
    in_full = lasted < 2 or (lasted > 2 and fraction >= bets.OUTAGE)
    return usual if in_full else bets.OUTAGE_CAP


def _called(state: CheckState) -> bool:
    """The reserve enters before this interval: the last one was an outage."""
    return state.last_bad >= bets.OUTAGE


def _bad(check: ErrorsSlo | LatencySlo, sums: SlotInterval, n: float) -> float:
    if isinstance(check, ErrorsSlo):
        return min(n, sums.bad + sums.rejected)
    assert sums.buckets is not None
    return (histogram.fraction_over(sums.buckets.edges, sums.buckets.counts, check.over) or 0.0) * n


__all__ = ["against_stable", "bet", "objective", "skip"]
