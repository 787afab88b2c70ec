"""Rollouts that are not to end with a promotion: an experiment on users, and a shadow beside them."""

from __future__ import annotations

from servegate.rollout import reasons, shadow
from servegate.rollout.shadow import ShadowSums, Side
from servegate.rollout.turn import Turn


def look(turn: Turn) -> None:
    """Take in what this tick shows; an experiment that does harm ends here."""
    state, seen = turn.state, turn.seen
    if turn.plan.strategy == "shadow":
        turn.change(
            shadow=shadow.gather(state.shadow or ShadowSums(), seen.slots, state.candidate),
            outputs=seen.outputs or state.outputs,
        )
    elif seen.experiment is not None:
        turn.change(experiment=seen.experiment)
        if seen.experiment.harm:
            turn.roll_back(seen.experiment.harm_by, seen.experiment.harm)


def missing(turn: Turn) -> tuple[str, str] | None:
    """What it still waits for once its time has passed, its kind and in words; None when nothing."""
    state, plan = turn.state, turn.plan
    if plan.strategy == "ab":
        if state.experiment is None:
            return "evidence", "events of the experiment"
        if state.experiment.outcome == "running":
            return "evidence", f"the experiment: {state.experiment.text}"
        return None
    side = (state.shadow or ShadowSums()).sides.get(state.candidate, Side())
    wanted = plan.steps[state.step].min_requests
    if side.requests < wanted:
        return (
            "evidence",
            f"{wanted - side.requests:.0f} more copies answered by {reasons.name(state, state.candidate)}",
        )
    if plan.shadow is not None and plan.shadow.outputs is not None and state.outputs is None:
        return "evidence", "answers of both slots to the same prompts"
    return None


def result(turn: Turn) -> str:
    """What was found out, in one sentence."""
    state, plan = turn.state, turn.plan
    if plan.strategy == "ab":
        assert state.experiment is not None
        return f"experiment over: {state.experiment.text}"
    assert plan.shadow is not None
    found = shadow.sentence(state.shadow or ShadowSums(), state.stable, state.candidate, state.outputs)
    return f"shadow over, {plan.shadow.mirror:g} % copied: {found}"
