"""Failures that a pod's eviction explains: a node is drained, a spot instance taken back, a more important pod comes.

The platform breaks the requests of a pod that it takes away, and they fail by no fault of the release. How many can
that be? Those the pod had in work, and those still sent to it until the gateway has noticed. So many failures of its
slot are set apart, from the moment the platform says so until a little after the pod is gone; what fails beyond counts
as always. The same holds for both slots, so a control that loses a pod does not cover for the candidate. A crash is
nobody's doing but the release's, and explains nothing.
"""

from __future__ import annotations

from servegate.rollout import bets
from servegate.rollout.model import Observation, Reclaim, SlotDelta, State, Totals
from servegate.rollout.ports import Reclaimed


def set_apart(state: State, seen: Observation, now: float) -> tuple[State, Observation, list[str]]:
    """What is known of pods taken away, the observation without the failures they explain, and what is news."""
    if state.first_traffic is None or state.phase.finished:
        return state, seen, []
    open_ones = {(item.slot, item.pod): item for item in state.reclaims if now <= item.until}
    totals, news = dict(state.totals), []
    at_stake = {**state.at_stake, **_at_stake(state, seen, now)}
    for slot, status in seen.status.items():
        for pod in status.reclaimed:
            sums = totals.get(slot) or Totals()
            until = max(pod.at, pod.gone or pod.at) + bets.RECLAIM_LASTS
            if (slot, pod.pod) in open_ones or now > until or len(sums.reclaimed) >= bets.RECLAIMS:
                continue
            left = max(at_stake.get(slot, 0.0), state.at_stake.get(slot, 0.0))
            open_ones[slot, pod.pod] = Reclaim(slot=slot, pod=pod.pod, why=pod.why, until=until, left=left)
            named = _named(pod)
            totals[slot] = sums.model_copy(update={"reclaimed": (*sums.reclaimed, named)})
            news.append(f"the platform takes {named} of {slot} away: up to {left:.0f} failures are set apart for it")
    slots = dict(seen.slots)
    for slot, delta in seen.slots.items():
        ours = [item for item in open_ones.values() if item.slot == slot]
        if not ours:
            continue
        failures = delta.failures or 0.0
        left = failures
        for item in ours:
            explained = min(left, item.left)
            left -= explained
            open_ones[slot, item.pod] = item.model_copy(update={"left": item.left - explained})
        slots[slot] = delta.model_copy(
            update={"reclaimed": {item.pod: item.why for item in ours}, "set_apart": failures - left}
        )
    state = state.model_copy(update={"at_stake": at_stake, "reclaims": tuple(open_ones.values()), "totals": totals})
    return state, seen.model_copy(update={"slots": slots}), news


def _at_stake(state: State, seen: Observation, now: float) -> dict[str, float]:
    """Requests that a replica of each slot has in work, and those that come to it until its end is noticed."""
    found = {}
    for slot, delta in seen.slots.items():
        if delta.requests is None or now <= state.updated:
            continue
        replicas = max(1, state.ready.get(slot, 0))
        arriving = delta.requests / (now - state.updated) * bets.RECLAIM_NOTICED
        # A pod that has just gone took its gauge along: the past fades and is not forgotten.
        fading = bets.FADE * state.at_stake.get(slot, 0.0)
        found[slot] = max(fading, (under_way(delta) or 0.0) / replicas + arriving / replicas)
    return found


def under_way(delta: SlotDelta) -> float | None:
    """Requests in work in a slot; None when nobody says."""
    gauges = delta.gauges
    if "gateway_active" in gauges:
        return gauges["gateway_active"]
    return gauges["running"] + gauges.get("waiting", 0.0) if "running" in gauges else None


def _named(pod: Reclaimed) -> str:
    return f"{pod.pod} ({pod.why})"
