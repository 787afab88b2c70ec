"""What an observation changes in the state before anything is decided: sums, timers, evidence."""

from __future__ import annotations

import math

from servegate.rollout import evidence, served
from servegate.rollout.interval import View
from servegate.rollout.model import CheckState, Observation, Phase, SlotDelta, State, Totals
from servegate.rollout.plan import Plan
from servegate.rollout.ports import RouteStatus, Weights

_NOTHING = CheckState()
WEIGHT_TOLERANCE = 0.01
"""Percent by which served and wanted weights may differ and be the same."""


def absorb(state: State, seen: Observation, now: float) -> State:
    """The state with the observation in it; phase, step and weights stay."""
    state = state.model_copy(
        update={
            "updated": now,
            "readings": seen.readings or state.readings,
            "ready": {**state.ready, **_ready(state, seen)},
        }
    )
    return state.model_copy(
        update={
            "unready_since": _since(state.unready_since, {slot: ready > 0 for slot, ready in state.ready.items()}, now),
            "unread_since": _since(
                state.unread_since,
                {slot: readable(seen.slots.get(slot)) for slot in (state.stable, state.candidate)},
                now,
            ),
            "unchanged_since": _unchanged(state, seen, now),
            **_route(state, seen.route, now),
        }
    )


def gather(plan: Plan, state: State, seen: Observation, previous: float) -> State:
    """Sums and evidence of the tick from `previous` until `state.updated`."""
    if state.first_traffic is None:
        return state
    candidate = seen.slots.get(state.candidate)
    completed = (candidate.requests or 0.0) if candidate else 0.0
    update: dict[str, object] = {"totals": _totals(state, seen), "served": served.advance(plan, state, seen)}
    if state.phase.weighted and state.weights[state.candidate] > 0:
        update["step_requests"] = state.step_requests + completed
        update["warmup_left"] = max(0.0, state.warmup_left - completed)
        update |= _silent(state, seen, previous)
        view = View(
            at=state.updated,
            previous=previous,
            stable=state.stable,
            candidate=state.candidate,
            weight=state.weights[state.candidate],
            cold=state.warmup_left > 0,
            deltas=seen.slots,
            ready=state.ready,
            warm_for=state.updated - state.first_traffic,
            asked=seen.asked,
        )
        update["checks"] = {
            check.name: evidence.advance(plan, check, state.checks.get(check.name) or _NOTHING, view)
            for check in plan.checks
        }
    return state.model_copy(update=update)


def serves(route: RouteStatus | None, wanted: Weights) -> bool:
    """The router serves by the wanted weights, and says so."""
    return (
        route is not None
        and route.accepted
        and all(abs(route.weights.get(slot, 0.0) - weight) <= WEIGHT_TOLERANCE for slot, weight in wanted.items())
    )


def readable(delta: SlotDelta | None) -> bool:
    """Something could be measured: requests are known, and so is an engine."""
    return delta is not None and delta.requests is not None and delta.pods > 0


def _ready(state: State, seen: Observation) -> dict[str, int]:
    ready = {}
    for slot in (state.stable, state.candidate):
        status = seen.status.get(slot)
        if status is None:
            continue
        other = slot == state.candidate and status.release != state.slots[slot].release
        ready[slot] = 0 if other else max(0, status.ready)
    return ready


def _since(before: dict[str, float], good: dict[str, bool], now: float) -> dict[str, float]:
    return {slot: before.get(slot, now) for slot, is_good in good.items() if not is_good}


def _unchanged(state: State, seen: Observation, now: float) -> dict[str, float]:
    since = {}
    for slot in (state.stable, state.candidate):
        delta = seen.slots.get(slot)
        stands = delta.unchanged if readable(delta) and delta is not None else None
        if stands or (stands is None and slot in state.unchanged_since):
            since[slot] = state.unchanged_since.get(slot, now)
    return since


def _route(state: State, route: RouteStatus | None, now: float) -> dict[str, object]:
    if not serves(route, state.weights):
        return {"refused_since": now if state.refused_since is None else state.refused_since}
    update: dict[str, object] = {"refused_since": None}
    if state.phase in (Phase.STEP, Phase.BAKING) and state.step_effective is None:
        update["step_effective"] = now
    return update


def _totals(state: State, seen: Observation) -> dict[str, Totals]:
    totals = dict(state.totals)
    for slot in (state.stable, state.candidate):
        delta, sums = seen.slots.get(slot), totals.get(slot) or Totals()
        if delta is not None and delta.requests is not None:
            totals[slot] = Totals.model_construct(
                requests=sums.requests + delta.requests,
                failures=sums.failures + (delta.failures or 0.0),
                rejected=sums.rejected + (delta.rejected or 0.0),
                set_apart=sums.set_apart + delta.set_apart,
                reclaimed=sums.reclaimed,
            )
    return totals


def _silent(state: State, seen: Observation, previous: float) -> dict[str, object]:
    """Since when the candidate has completed nothing, and how unlikely that is by stable's pace.

    Each request is the candidate's with the probability of its weight: that k of stable's come and none of its own has
    the chance (1 - weight)^k. How many it should have had is no measure of that: at 95 % one request of stable stands
    for nineteen, and comes first in one of twenty times.
    """
    candidate, stable = seen.slots.get(state.candidate), seen.slots.get(state.stable)
    if candidate is None or candidate.requests is None:
        return {}
    if candidate.requests > 0 or state.step_effective is None:
        return {"silent_since": None, "silent_against": 0.0}
    control = state.weights[state.stable]
    pace = (stable.requests or 0.0) if stable else 0.0
    against = -pace * math.log(control / 100) if control > 0 else 0.0
    return {
        "silent_since": previous if state.silent_since is None else state.silent_since,
        "silent_against": state.silent_against + against,
    }
