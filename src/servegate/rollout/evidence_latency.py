"""Evidence about latency against stable: from two bucket vectors per interval to a filter's state (stats/shift.py).

An interval counts only where the two can be compared: the slots' buckets have the same edges, a replica of the
candidate is *sent* no clearly larger number of requests than one of stable, stable itself does not queue (a queue says
how much traffic there is, not how fast the release is), and the candidate's prefix cache has warmed up to stable's hit
rate, for at most `cold_cache` seconds: a release that never gets there is slow. Everything else is inconclusive and
told, never a pass.

A release that is slow and therefore builds a queue of its own is no excuse for itself. The load is taken from what it
is sent, not from what it has open. Times that contain a queue are left out only while stable has a crowd as well, as
one comes to both, if not in the same second. Gaps between tokens do not contain it and are judged; they too are longer
while the candidate works off a queue that stable had as well, and are left out until then.
"""

from __future__ import annotations

import math
from functools import lru_cache
from operator import attrgetter

from servegate.rollout import bets
from servegate.rollout.checks import Check, LatencyVsStable, OfLatency
from servegate.rollout.evidence_counts import skip
from servegate.rollout.interval import Opened, View, load_ratio, size, unmeasured, with_served
from servegate.rollout.model import Buckets, CheckState, Shift, SlotInterval
from servegate.rollout.plan import Plan
from servegate.stats import shift


def weather(plan: Plan, check: LatencyVsStable) -> shift.Weather:
    """The check's weather in steps of one second."""
    return shift.weather(check.weather.sd, check.weather.lasts, 1.0, plan.horizon(check))


def judge(plan: Plan, check: LatencyVsStable, state: CheckState, opened: Opened, view: View) -> CheckState:
    """One interval."""
    candidate, stable = opened[view.candidate], opened[view.stable]
    if candidate.buckets is None or stable.buckets is None:
        return skip(state, view, unmeasured(view, check.metric) or f"no {check.metric} was measured")
    if candidate.buckets.edges != stable.buckets.edges:
        return skip(state, view, f"the two slots' buckets of {check.metric} differ")
    served, reference = with_served(state, opened, view), _reference(state.reference, stable.buckets)
    queued = view.at if stable.waiting > bets.QUEUES else state.stable_queued
    update: dict[str, object] = {"since": view.at, "open": {}}
    update |= {"served": served, "reference": reference, "stable_queued": queued}
    why = _incomparable(check, candidate, stable, queued, view)
    ratio = load_ratio(served, view)
    if why is None and ratio is None:
        why = "the load of a slot is not known"
    if why is not None:
        return skip(state.model_copy(update=update), view, why)
    assert ratio is not None
    y, v = shift.measure(
        _log_edges(candidate.buckets.edges),
        reference.counts,
        candidate.buckets.counts,
        stable.buckets.counts,
        size(check, candidate),
        size(check, stable),
    )
    how = weather(plan, check)
    update["intervals"] = state.intervals + 1
    if ratio <= check.load_ratio:
        update["shift"] = _advance(how, state.shift, y - math.log1p(check.margin), v, view.at)
        update["observed"] = state.observed + y
        update["bound"] = state.bound + math.log1p(check.margin)
        update["compared"] = state.compared + 1
    else:
        update["skipped"] = state.skipped + 1
        update["skipped_because"] = (
            f"a replica of {view.candidate} is sent {ratio:.1f} times the requests of one of {view.stable}"
        )
    if check.promote_margin is not None and 1 / ratio <= check.load_ratio:
        update["shift_for"] = _advance(how, state.shift_for, math.log1p(check.promote_margin) - y, v, view.at)
    return state.model_copy(update=update)


def told_why(check: Check, state: CheckState, view: View) -> CheckState:
    """An interval that waits for requests that cannot come says so: the engine does not measure them."""
    why = unmeasured(view, check.metric) if isinstance(check, OfLatency) else None
    return state if why is None or why == state.skipped_because else state.model_copy(update={"skipped_because": why})


def _advance(how: shift.Weather, state: Shift | None, y: float, v: float, at: float) -> Shift:
    if state is None:
        before, since = shift.start(how), 1.0
    else:
        before, since = shift.Filter(*_kept(state)), at - state.at
    after = shift.advance(how, before, since, y, v)
    update = {"at": at, **after._asdict(), "log_e": shift.log_e(how, after)}
    return Shift.model_construct(**update) if state is None else state.model_copy(update=update)


_kept = attrgetter(*shift.Filter._fields)


def _incomparable(
    check: LatencyVsStable, candidate: SlotInterval, stable: SlotInterval, queued: float | None, view: View
) -> str | None:
    if stable.waiting > bets.QUEUES:
        return f"{view.stable} itself queues ({stable.waiting:.1f} requests per replica wait)"
    if candidate.waiting > 0:
        if queued is not None and view.at - queued < bets.DRAINS:
            return f"{view.candidate} still has the queue that {view.stable} had as well"
        if check.metric not in ("itl", "tpot") and stable.running >= bets.AS_FULL * candidate.running > 0:
            return f"{view.candidate} queues and {view.stable} has a crowd as well"
    if view.warm_for < check.cold_cache and candidate.cache_queries > 0 and stable.cache_queries > 0:
        ours, theirs = candidate.cache_hits / candidate.cache_queries, stable.cache_hits / stable.cache_queries
        if ours < theirs - bets.COLDER:
            return f"the prefix cache of {view.candidate} is still cold ({ours:.0%} of tokens found, {theirs:.0%})"
    return None


def _reference(before: Buckets | None, stable: Buckets) -> Buckets:
    if before is None or before.edges != stable.edges:
        return stable
    counts = tuple([shift.FADE * old + new for old, new in zip(before.counts, stable.counts, strict=True)])
    return stable.model_copy(update={"counts": counts, "sum": 0.0})


@lru_cache(maxsize=32)
def _log_edges(edges: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(math.log(max(edge, 1e-9)) for edge in edges)
