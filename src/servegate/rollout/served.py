"""The served share: do the requests that arrive at each slot match the weights?

The router says by which weights it serves; this counts. A gateway with an old configuration on one of its replicas, a
second route past the router, or clients that keep connections to one slot divide the traffic otherwise, and then more
users meet the candidate than the plan wants, or nobody does and nothing is learned. A request has arrived when it ended
or is under way, so a slot that is slow, or hangs, is no smaller share.

The null hypothesis is composite: the odds of the candidate are those of the weight, but for a factor of the plan's
tolerance. The e-value is the smallest over it (universal inference: Wasserman, Ramdas and Balakrishnan, PNAS 117:16880,
2020) of a mixture of binomial likelihood ratios (stats/always_valid.py). Requests of one user or connection go
together, so so many of them count as one. Counting starts anew with every step; each has its part of the watchdog's
own chance of a false alarm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from servegate.rollout import bets, reasons
from servegate.rollout.checks import Quality
from servegate.rollout.deltas import GATEWAY
from servegate.rollout.model import Observation, ServedShare, State
from servegate.rollout.plan import Plan
from servegate.rollout.reclaims import under_way
from servegate.rollout.seen import SlotDelta
from servegate.stats.always_valid import sample_ratio_log_e


def advance(plan: Plan, state: State, seen: Observation) -> ServedShare | None:
    """The count with this tick in it; None while nothing can be counted at these weights."""
    dog, weight = plan.watchdogs.sample_ratio, state.weights[state.candidate]
    effective = state.step_effective
    if plan.strategy in ("ab", "shadow") or not 0 < weight < 100:
        return None  # an experiment counts users; a shadow moves none
    if effective is None or state.refused_since is not None or state.updated - effective < dog.settle:
        return None
    slots = (state.candidate, state.stable)
    deltas = {slot: seen.slots.get(slot) or SlotDelta() for slot in slots}
    before = state.served
    if before is not None and (before.weight != weight or effective > before.since):
        before = None
    if before is not None and all(delta.requests is None for delta in deltas.values()):
        return before  # nothing new of either slot: the next reading covers this time as well
    active = _active(plan, deltas)
    if before is None:
        return ServedShare(weight=weight, since=state.updated, arrived=dict.fromkeys(slots, 0.0), active=active)
    if active is None or before.active is None:
        # A part was read, and the rest comes with the next reading: neither is counted.
        return before.model_copy(update={"active": active})
    arrived = {
        slot: before.arrived[slot] + _ended(deltas[slot]) + active[slot] - before.active[slot] for slot in active
    }
    ours, theirs = (max(0.0, arrived[slot]) / dog.together for slot in slots)
    log_e = 0.0
    if ours + theirs > 0:
        odds = weight / (100 - weight)
        least, most = (_share(odds * factor) for factor in (1 / (1 + dog.tolerance), 1 + dog.tolerance))
        log_e = sample_ratio_log_e(ours, theirs, min(max(ours / (ours + theirs), least), most))
    return before.model_copy(update={"arrived": arrived, "active": active, "log_e": log_e})


def limit(plan: Plan) -> float:
    """Natural logarithm of the e-value at which the shares are wrong."""
    return math.log(max(1, sum(step.weight < 100 for step in plan.steps)) / plan.watchdogs.sample_ratio.alpha)


def wrong(plan: Plan, state: State) -> str | None:
    """Why the traffic is not divided as it should be; None when it is, or nothing is known."""
    if state.served is None or state.served.log_e < limit(plan):
        return None
    return f"{told(state)}: the traffic is not divided as the router says ({_evidence(plan, state.served)})"


def doubtful(plan: Plan, state: State) -> str | None:
    """What a next step waits for; None when nothing speaks against the shares."""
    if state.served is None or state.served.log_e < bets.SUSPICION * limit(plan):
        return None
    return f"the served share to fit the weight ({_evidence(plan, state.served)})"


def told(state: State) -> str:
    """How the traffic was divided, for people."""
    assert state.served is not None
    arrived = {slot: max(0.0, count) for slot, count in state.served.arrived.items()}
    everything = sum(arrived.values())
    share = f"{100 * arrived[state.candidate] / everything:.3g} %" if everything else "none"
    return (
        f"{reasons.name(state, state.candidate)} got {share} of the requests ({arrived[state.candidate]:,.0f} of "
        f"{everything:,.0f}) where its weight is {state.served.weight:g} %"
    )


def _evidence(plan: Plan, counted: ServedShare) -> str:
    value, least = (f"{math.exp(min(number, 50.0)):.3g}" for number in (counted.log_e, limit(plan)))
    return f"e-value {value} against a limit of {least}, tolerance {100 * plan.watchdogs.sample_ratio.tolerance:g} %"


def _active(plan: Plan, deltas: Mapping[str, SlotDelta]) -> dict[str, float] | None:
    """Requests under way in each slot; None unless both could be read whole."""
    found = {}
    for slot, delta in deltas.items():
        active = under_way(delta)
        lacking = [pod for pod in (*delta.missing, *delta.faults) if " " not in pod]  # with a blank: a histogram
        if delta.requests is None or active is None:
            return None
        if any(pod.startswith(GATEWAY) for pod in lacking) if delta.gateway else lacking:
            return None
        if not delta.gateway and any(isinstance(check, Quality) for check in plan.checks):
            return None  # its items reach both slots past the router, and the engines count them
        found[slot] = active
    return found


def _ended(delta: SlotDelta) -> float:
    return (delta.requests or 0.0) + (delta.counters.get("gateway_cancelled", 0.0) if delta.gateway else 0.0)


def _share(odds: float) -> float:
    return odds / (1 + odds)
