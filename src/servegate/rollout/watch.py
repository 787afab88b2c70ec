"""What sends a candidate back, or makes the rollout stand still: watchdogs and checks that fired."""

from __future__ import annotations

import math
from dataclasses import dataclass

from servegate.rollout import bets, evidence, reasons, served
from servegate.rollout.checks import Objective
from servegate.rollout.model import CheckState, HeldCause, Observation, Phase, SlotDelta, State
from servegate.rollout.plan import ErrorsSlo, LatencySlo, Plan

SILENCE = 12.0
"""A silence means something where its chance is at most e^-12."""
ACTIVE_AT_LEAST = 4.0
"""Requests under way in a silent slot that has no control to compare with."""


@dataclass(frozen=True)
class Danger:
    """Something is wrong.

    Args:
        hold: stand still for this cause; None means roll back.
        cause: name of the check or watchdog.
    """

    hold: HeldCause | None
    cause: str
    reason: str


def find(plan: Plan, state: State, seen: Observation, now: float) -> Danger | None:
    """The gravest danger: what rolls back comes before what holds."""
    if state.phase not in (Phase.PREPARING, Phase.STEP, Phase.BAKING, Phase.HELD):
        return None
    if state.held is not None and state.held.back_to is Phase.GUARDED:
        return None  # the promoted release is judged by the guard
    dangers = [danger for danger in (_candidate(plan, state, seen, now), *_checks(plan, state)) if danger]
    dangers += [
        danger
        for danger in (_stable(plan, state, seen, now), _route(plan, state, seen, now), _ratio(plan, state))
        if danger
    ]
    return next((danger for danger in dangers if danger.hold is None), dangers[0] if dangers else None)


@dataclass(frozen=True)
class Lost:
    """A slot that could not be read for longer than it may.

    Args:
        cause: no-data, stale or target-down.
        then: what the plan says for the candidate alone.
        why: in words that go on a sentence about the slot.
        told: what the first pod that was not read says, as the end of a sentence.
    """

    cause: str
    then: str
    lasts: float
    why: str
    told: str = ""


def unread(plan: Plan, state: State, seen: Observation, slot: str, now: float) -> Lost | None:
    """What is wrong with the readings of a slot, when it has lasted too long."""
    dogs, delta = plan.watchdogs, seen.slots.get(slot) or SlotDelta()
    since = state.unread_since.get(slot)
    if since is None:
        since = state.unchanged_since.get(slot)
        if since is None or now - since < dogs.stale.after:
            return None
        lasts = now - since
        why = f"its counters have not changed for {reasons.seconds(lasts)}, while the gateway gets good answers of it"
        return Lost("stale", dogs.stale.then, lasts, why)
    cause, lasts = delta.unread_because, now - since
    dog = {"no-data": dogs.no_data, "stale": dogs.stale, "target-down": dogs.target_down}[cause]
    if lasts < dog.after:
        return None
    what = {
        "no-data": "nothing could be read of it for",
        "stale": "nothing new could be read of it for",
        "target-down": "its metrics could not be asked for, for",
    }[cause]
    told = f": {next(iter(delta.missing.values()))}" if delta.missing else ""
    if slot not in seen.slots:
        told = ": none of its pods was seen at all"
    return Lost(cause, dog.then, lasts, f"{what} {reasons.seconds(lasts)}{told}", told)


def unwatched(plan: Plan, state: State, gap: float) -> Danger | None:
    """The dead-man's rule: nobody has looked for `gap` seconds while the candidate carried traffic."""
    if not state.phase.weighted or state.weights[state.candidate] <= 0 or gap <= plan.unwatched_after:
        return None
    if plan.on_unwatched == "continue":
        return None
    reason = (
        f"no controller has looked for {reasons.seconds(gap)} while {reasons.name(state, state.candidate)} carried "
        f"{state.weights[state.candidate]:g} % of the traffic (limit {reasons.seconds(plan.unwatched_after)})"
    )
    return Danger("unwatched" if plan.on_unwatched == "hold" else None, "unwatched", reason)


def suspicion(plan: Plan, state: State, now: float) -> str | None:
    """Why the candidate should not get more traffic just now."""
    for check in plan.checks:
        gathered = state.checks.get(check.name)
        if gathered is None or gathered.grew is None or now - gathered.grew > bets.FORGIVEN_AFTER * check.interval:
            continue
        if evidence.log_e(plan, check, gathered) >= plan.log_limit(check) * bets.SUSPICION:
            return f"check {check.name} to clear up ({reasons.e_value(plan, check, gathered)})"
    if (doubt := served.doubtful(plan, state)) is not None:
        return doubt
    if state.unready_since.get(state.candidate) is not None:
        return f"{state.candidate} to be ready again"
    if state.weights[state.stable] > 0 and state.unready_since.get(state.stable) is not None:
        return f"{state.stable} to be ready again"
    if state.candidate in state.unread_since or state.candidate in state.unchanged_since:
        return f"data of {state.candidate}"
    return None


def cleared(state: State, cause: str) -> bool:
    """What made the rollout stand still is gone."""
    if cause == "route":
        return state.refused_since is None
    if cause == "stable":
        return state.stable not in state.unready_since
    if cause == "data":
        return not state.unread_since and not state.unchanged_since
    return False


def _candidate(plan: Plan, state: State, seen: Observation, now: float) -> Danger | None:
    slot, dogs = state.candidate, plan.watchdogs
    status = seen.status.get(slot)
    if status is not None and status.failed and status.release == state.slots[slot].release:
        return Danger(None, "failed", f"{reasons.name(state, slot)} has failed: {status.failed}")
    if not state.phase.weighted or state.weights[slot] <= 0:
        return None
    unready = state.unready_since.get(slot)
    if unready is not None and now - unready >= dogs.unready:
        return Danger(
            None,
            "unready",
            f"{reasons.name(state, slot)} has had no ready replica for {reasons.seconds(now - unready)}"
            f"{reasons.taken_away(state, slot)}",
        )
    lost = unread(plan, state, seen, slot, now)
    if lost is None:
        return _silent(plan, state, seen, now)
    if state.unread_since.get(state.stable) is not None and slot in state.unread_since:
        return Danger(
            "data", lost.cause, f"nothing could be read of either slot for {reasons.seconds(lost.lasts)}{lost.told}"
        )
    carries = f"{reasons.name(state, slot)} carries {state.weights[slot]:g} % of the traffic and {lost.why}"
    return Danger("data" if lost.then == "hold" else None, lost.cause, carries)


def _silent(plan: Plan, state: State, seen: Observation, now: float) -> Danger | None:
    slot, since = state.candidate, state.silent_since
    if since is None or now - since < plan.watchdogs.no_data.after:
        return None
    silence = f"{reasons.name(state, slot)} has completed no request for {reasons.seconds(now - since)}"
    if state.silent_against >= SILENCE:
        share = state.weights[slot] / 100
        paced = state.silent_against / -math.log1p(-share) if share < 1 else 0.0
        due = f"where about {paced * share / (1 - share):.0f} were due by the pace of {state.stable}" if paced else ""
        return Danger(None, "silent", f"{silence}, {due or 'though it was due'}")
    delta = seen.slots.get(slot)
    active = delta.gauges.get("gateway_active", delta.gauges.get("running", 0.0)) if delta else 0.0
    if state.weights[state.stable] <= 0 and active >= ACTIVE_AT_LEAST:
        return Danger(None, "silent", f"{silence}, with {active:.0f} under way")
    return None


def _checks(plan: Plan, state: State) -> list[Danger]:
    if not state.phase.weighted:
        return []
    found = []
    for check in plan.checks:
        gathered = state.checks.get(check.name)
        if gathered is None or evidence.log_e(plan, check, gathered) < plan.log_limit(check):
            continue
        if isinstance(check, Objective):
            if _stable_breaches(plan, check, gathered, state):
                found.append(Danger("slo", check.name, reasons.both_breach(check, state)))
                continue
            recent = evidence.recent_fraction(gathered, state.candidate)
            frozen = state.held is not None and state.held.cause == "slo"
            if frozen and recent is not None and recent <= check.at_most:
                continue  # both breached, and both have recovered: a person decides
        found.append(Danger(None, check.name, reasons.against(plan, check, state)))
    return found


def _stable_breaches(plan: Plan, check: ErrorsSlo | LatencySlo, gathered: CheckState, state: State) -> bool:
    if evidence.stable_log_e(plan, check, gathered) >= plan.log_limit(check) * bets.SUSPICION:
        return True
    recent = evidence.recent_fraction(gathered, state.stable)
    # One bad request of a slot that has little traffic is no breach.
    return recent is not None and recent > check.at_most and gathered.bad.get(state.stable, 0.0) >= 2


def _stable(plan: Plan, state: State, seen: Observation, now: float) -> Danger | None:
    slot, dogs = state.stable, plan.watchdogs
    if not state.phase.weighted or state.weights[slot] <= 0:
        return None
    unready = state.unready_since.get(slot)
    if unready is not None and now - unready >= dogs.unready:
        return Danger(
            "stable",
            "stable-unready",
            f"{reasons.name(state, slot)}, which carries {state.weights[slot]:g} % of the traffic, has had no ready "
            f"replica for {reasons.seconds(now - unready)}: weights stay as they are",
        )
    lost = unread(plan, state, seen, slot, now)
    if lost is not None:
        without = f"there is no control to compare with: of {reasons.name(state, slot)} {lost.why}"
        return Danger("data", f"stable-{lost.cause}", without)
    return None


def _route(plan: Plan, state: State, seen: Observation, now: float) -> Danger | None:
    since = state.refused_since
    if not state.phase.weighted or since is None or now - since < plan.watchdogs.route:
        return None
    said = f": {seen.route.message}" if seen.route and seen.route.message else ""
    what = "cannot be asked for" if seen.route is None else "does not serve"
    return Danger("route", "route", f"the router {what} the wanted weights for {reasons.seconds(now - since)}{said}")


def _ratio(plan: Plan, state: State) -> Danger | None:
    why = served.wrong(plan, state) if state.phase.weighted else None
    if why is None:
        return None
    return Danger("ratio" if plan.watchdogs.sample_ratio.then == "hold" else None, "sample-ratio", why)
