"""Changes of replicas while traffic moves (numbers: capacity.py), and what they mean for the way back."""

from __future__ import annotations

from servegate.rollout import reasons
from servegate.rollout.actions import EnsureSlot, ScaleSlot
from servegate.rollout.capacity import candidate, needed, stable
from servegate.rollout.model import Phase, State
from servegate.rollout.plan import Plan
from servegate.rollout.seen import Observation


def way_back(plan: Plan, state: State | None, has: int) -> str:
    """How long it takes until stable, with `has` replicas, carries everything again; in words."""
    needs = needed(plan, 100)
    if has >= needs:
        return "at once"
    known = None if state is None else state.start_took
    took = f"about {reasons.seconds(known)}" if known is not None else "as long as a start takes"
    return f"{took}: {needs - has} of {needs} replicas of stable would have to start first" + (
        "" if has == 0 else f", until then {has} carry it all"
    )


Scaling = list[EnsureSlot | ScaleSlot]


def effects(plan: Plan, state: State, seen: Observation) -> Scaling:
    """Changes of replicas that the state wants and that were not yet seen."""
    out: Scaling = []
    if plan.capacity == "surge" and all(step.replicas is None for step in plan.steps):
        return out
    if state.phase is Phase.PREPARING or state.phase.weighted:
        index = max(state.scaled_for, state.step)
        if plan.capacity == "shift" and (state.ensured or state.phase.weighted):
            out += _scale(
                state, seen, state.stable, max(stable(plan, index), _carrying(plan, state, seen, state.stable))
            )
        if state.phase.weighted and state.weights[state.candidate] > 0:
            wanted = max(candidate(plan, index), _carrying(plan, state, seen, state.candidate))
            out += _scale(state, seen, state.candidate, wanted)
    elif plan.capacity == "shift" and state.phase is Phase.ROLLING_BACK and state.restore is None and state.ensured:
        if state.weights[state.candidate] <= 0 and _carrying(plan, state, seen, state.candidate) == 0:
            out.append(ScaleSlot(slot=state.candidate, replicas=0))
        out += _scale(state, seen, state.stable, plan.replicas)
    elif plan.capacity == "shift" and state.phase in (Phase.PROMOTED, Phase.GUARDED):
        if _carrying(plan, state, seen, state.candidate) == 0:
            out += _scale(state, seen, state.candidate, min(plan.spare, plan.replicas))
        out += _scale(state, seen, state.stable, plan.replicas)
    elif plan.capacity == "shift" and state.phase is Phase.ROLLED_BACK:
        out += _scale(state, seen, state.stable, plan.replicas)
    return out


def _carrying(plan: Plan, state: State, seen: Observation, slot: str) -> int:
    """Replicas that the traffic needs which a slot may be carrying now: the wanted weight or the one still served."""
    served = seen.route.weights.get(slot, 0.0) if seen.route is not None else 100.0
    return needed(plan, max(state.weights[slot], served))


def _scale(state: State, seen: Observation, slot: str, replicas: int) -> Scaling:
    status, release = seen.status.get(slot), state.slots[slot].release
    if status is None or status.replicas == replicas or status.release not in (None, release):
        return []
    if status.release is None:
        wanted = replicas > 0 and slot == state.stable
        return [EnsureSlot(slot=slot, release=release, replicas=replicas)] if wanted else []
    return [ScaleSlot(slot=slot, replicas=replicas)]
