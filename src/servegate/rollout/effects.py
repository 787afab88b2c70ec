"""Effects that a state wants: asked for again at every tick until they are seen to have happened."""

from __future__ import annotations

from servegate.rollout import capacity, scaling
from servegate.rollout.absorb import serves
from servegate.rollout.model import Arrange, CompareOutputs, EnsureSlot, Phase, RunSmoke, ScaleSlot, SetWeights, Warm
from servegate.rollout.ports import Arrangement, Sticky
from servegate.rollout.turn import Turn


def repeat(turn: Turn) -> None:
    """Effects that the state wants and that were not yet seen to have happened."""
    state, seen, plan = turn.state, turn.seen, turn.plan
    carries = [slot for slot, weight in state.weights.items() if weight > 0]
    can_carry = state.stable_cold is None and all(turn.ready(slot) > 0 for slot in carries)
    if can_carry and not serves(seen.route, state.weights):
        turn.effects.append(SetWeights(weights=dict(state.weights)))
    if state.phase is Phase.PREPARING:
        release = state.slots[state.candidate].release
        wanted = capacity.candidate(plan, 0)
        if state.ready.get(state.candidate, 0) < wanted:
            turn.effects.append(EnsureSlot(slot=state.candidate, release=release, replicas=wanted))
        elif not state.smoke_ok:
            turn.effects.append(RunSmoke(slot=state.candidate, release=release))
        elif not state.warm_ok:
            turn.effects.append(Warm(slot=state.candidate, release=release))
    turn.effects += scaling.effects(plan, state, seen)
    if state.phase is Phase.ROLLING_BACK:
        _bring_back(turn)
    needs_stable = state.phase.weighted or state.phase is Phase.ROLLING_BACK
    if needs_stable and state.ready.get(state.stable, 1) < 1 and state.stable in state.slots:
        status = seen.status.get(state.stable)
        turn.effects.append(
            EnsureSlot(
                slot=state.stable,
                release=state.slots[state.stable].release,
                replicas=max(1, status.replicas if status else plan.replicas),
            )
        )
    _arrange(turn)
    given_up = state.phase in (Phase.ROLLED_BACK, Phase.ENDED) and state.ensured
    if given_up or (state.phase is Phase.PROMOTED and state.guard is not None and state.guard.ended):
        turn.effects.append(ScaleSlot(slot=state.candidate, replicas=0))


def _arrange(turn: Turn) -> None:
    """Copies while a shadow runs, users who keep their slot while an experiment does; else neither."""
    state, seen, plan = turn.state, turn.seen, turn.plan
    here = state.held.back_to if state.held is not None else state.phase
    mirror, sticky = {}, None
    if plan.shadow is not None and here in (Phase.STEP, Phase.BAKING) and state.ready.get(state.candidate, 0) > 0:
        mirror = {state.candidate: plan.shadow.mirror}
    if plan.sticky is not None and state.weights[state.candidate] > 0 and not state.phase.finished:
        sticky = Sticky(plan.sticky.by, plan.sticky.name, state.rollout[-12:])
    wanted = Arrangement(mirror, sticky)
    found = seen.route.arrangement if seen.route is not None else None
    if found is not None and found != wanted:
        turn.effects.append(Arrange(arrangement=wanted))
    outputs = plan.shadow.outputs if plan.shadow is not None else None
    if outputs is not None and here in (Phase.STEP, Phase.BAKING) and state.outputs is None:
        turn.effects.append(CompareOutputs(stable=state.stable, candidate=state.candidate))


def _bring_back(turn: Turn) -> None:
    """What the way back needs beyond the weights: a release in its slot, and a smoke test of it."""
    state, seen, plan = turn.state, turn.seen, turn.plan
    restore = state.restore
    if restore is not None and not restore.swapped:
        slot, target = state.candidate, restore.target.release
        if state.weights[slot] > 0 or state.slots[slot].release != target:
            return
        # A slot that still carries traffic must not lose what runs in it.
        running = seen.status[slot].release if slot in seen.status else None
        emptied = seen.route is not None and seen.route.weights.get(slot, 0.0) <= 0
        if state.ready.get(slot, 0) < (plan.replicas if restore.cold else 1):
            if running == target or emptied:
                turn.effects.append(EnsureSlot(slot=slot, release=target, replicas=plan.replicas))
        elif restore.cold and not state.smoke_ok:
            turn.effects.append(RunSmoke(slot=slot, release=target, since=state.phase_since))
    elif state.stable_cold is not None:
        if turn.ready(state.stable) > 0:
            release = state.slots[state.stable].release
            turn.effects.append(RunSmoke(slot=state.stable, release=release, since=state.stable_cold))
    elif state.proof is not None and turn.now - state.proof.since >= plan.rollback.prove - plan.tick / 2:
        release = state.slots[state.stable].release
        turn.effects.append(RunSmoke(slot=state.stable, release=release, since=state.proof.since))
