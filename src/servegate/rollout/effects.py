"""Effects that a state wants: asked for again at every tick until they are seen to have happened."""

from __future__ import annotations

from servegate.rollout.absorb import serves
from servegate.rollout.model import EnsureSlot, Phase, RunSmoke, ScaleSlot, SetWeights, Warm
from servegate.rollout.turn import Turn


def repeat(turn: Turn) -> None:
    """Effects that the state wants and that were not yet seen to have happened."""
    state, seen, plan = turn.state, turn.seen, turn.plan
    carries = [slot for slot, weight in state.weights.items() if weight > 0]
    if not serves(seen.route, state.weights) and all(state.ready.get(slot, 1) > 0 for slot in carries):
        turn.effects.append(SetWeights(weights=dict(state.weights)))
    if state.phase is Phase.PREPARING:
        release = state.slots[state.candidate].release
        if state.ready.get(state.candidate, 0) < plan.replicas:
            turn.effects.append(EnsureSlot(slot=state.candidate, release=release, replicas=plan.replicas))
        elif not state.smoke_ok:
            turn.effects.append(RunSmoke(slot=state.candidate, release=release))
        elif not state.warm_ok:
            turn.effects.append(Warm(slot=state.candidate, release=release))
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
    if state.phase is Phase.ROLLED_BACK and state.ensured:
        turn.effects.append(ScaleSlot(slot=state.candidate, replicas=0))
