"""One observation in, one decision out. Pure: no clock, no I/O, no randomness, nothing remembered outside the state.

The order within a tick is fixed: take in what was seen, then what people want, then what is dangerous, then progress.
Whatever the order of events, two rules hold in every state that comes out. No weight is moved to a slot that is not
known at that very tick to have a ready replica, not even to get away from a broken one. And until the promotion the
stable slot is the one that was stable before, whatever crashed. The controller persists the state before it carries
out the actions, so every action is repeated until it is seen to have worked.
"""

from __future__ import annotations

from servegate.errors import ConfigError
from servegate.rollout import reasons, reclaims, timeline, watch
from servegate.rollout.absorb import absorb, gather
from servegate.rollout.effects import repeat
from servegate.rollout.intents import carry_out
from servegate.rollout.model import Decision, Observation, Phase, State
from servegate.rollout.plan import Plan
from servegate.rollout.progress import progress
from servegate.rollout.turn import Turn


def decide(plan: Plan, state: State, observation: Observation, now: float) -> Decision:
    """What follows from `observation` in `state` under `plan`.

    Args:
        now: seconds since the epoch. A clock that went backwards counts as standing still, and is waited for by name.

    Raises:
        ConfigError: the rollout was started with another plan.
    """
    if state.plan != plan.identity():
        raise ConfigError(
            f"rollout {state.rollout} was started with plan {state.plan_name or state.plan}, and this plan is another "
            f"one: finish or abort it first"
        )
    behind = state.updated - now
    now, previous = max(now, state.updated), state.updated
    state, observation, taken = reclaims.set_apart(state, observation, now)
    turn = Turn(plan, state, observation, now)
    for said in taken:
        turn.notify("warning", said)
    if not state.phase.finished or observation.intents:
        turn.state = gather(plan, absorb(state, observation, now), observation, previous)
    turn.forget_delivered()
    carry_out(turn)
    if not turn.state.phase.finished:
        danger = watch.unwatched(plan, turn.state, now - previous) or watch.find(plan, turn.state, observation, now)
        if danger is not None and danger.hold is None:
            turn.roll_back(danger.cause, danger.reason)
        elif danger is not None and danger.hold is not None and turn.state.phase is not Phase.HELD:
            turn.hold(danger.hold, danger.cause, danger.reason)
        progress(turn)
        if behind > plan.tick and not turn.reason:
            turn.wait_for(f"the clock, which went back by {reasons.seconds(behind)}")
    repeat(turn)
    return Decision.model_construct(
        state=turn.state,
        actions=(*turn.effects, *turn.settled, *turn.notices),
        tick=timeline.tick(plan, turn.state, observation, now, turn.reason),
        reason=turn.reason,
    )
