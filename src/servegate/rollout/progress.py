"""How a rollout moves on when nothing is wrong: from the verdict to the promotion, and all the way back."""

from __future__ import annotations

from servegate.rollout import evidence, guard, reasons, watch
from servegate.rollout.model import Phase, State
from servegate.rollout.rollback import rolling_back
from servegate.rollout.turn import Turn

PEOPLE = ("person", "slo", "inconclusive", "alert", "unwatched")
"""Causes of standing still that end when a person says so."""


def progress(turn: Turn) -> None:
    """Make the move that the phase is waiting for, or say what it waits for."""
    phase = turn.state.phase
    if phase is Phase.PENDING:
        _pending(turn)
    elif phase is Phase.PREPARING:
        _preparing(turn)
    elif phase in (Phase.STEP, Phase.BAKING):
        _step(turn)
    elif phase is Phase.HELD:
        _held(turn)
    elif phase is Phase.GUARDED:
        guard.watch_over(turn)
    if turn.state.phase is Phase.ROLLING_BACK:
        rolling_back(turn)


def _pending(turn: Turn) -> None:
    state, preparation = turn.state, turn.seen.preparation
    if preparation.verdict == "pass":
        turn.change(verdict=preparation.verdict_hash, ensured=True)
        turn.enter(Phase.PREPARING, f"a verdict lets {_candidate(state)} be rolled out")
    elif preparation.verdict == "fail":
        turn.roll_back("verdict", f"the verdict on {_candidate(state)} is not a pass: {preparation.verdict_message}")
    elif turn.now - state.phase_since > turn.plan.limits.prepare:
        turn.roll_back(
            "verdict", f"no verdict on {_candidate(state)} within {reasons.seconds(turn.plan.limits.prepare)}"
        )
    else:
        turn.wait_for(f"a verdict on {_candidate(state)}")


def _preparing(turn: Turn) -> None:
    state, preparation, wanted = turn.state, turn.seen.preparation, turn.plan.replicas
    ready = state.ready.get(state.candidate, 0)
    if ready >= wanted:
        # Results of a slot that is not up (any more) say nothing about the one that will be.
        turn.change(
            smoke_ok=state.smoke_ok or preparation.smoke == "ok",
            warm_ok=state.warm_ok or (state.smoke_ok and preparation.warm == "ok"),
        )
    state = turn.state
    if ready >= wanted and not state.smoke_ok and preparation.smoke == "failed":
        turn.roll_back("smoke", f"the smoke test of {_candidate(state)} failed: {preparation.smoke_message}")
    elif ready >= wanted and state.smoke_ok and not state.warm_ok and preparation.warm == "failed":
        turn.roll_back("warm-up", f"{_candidate(state)} could not be warmed up: {preparation.warm_message}")
    elif state.smoke_ok and state.warm_ok and ready >= wanted:
        problem = _not_weightable(state, turn.plan.steps[0].weight)
        if problem is None:
            turn.change(warmup_left=float(turn.plan.warmup_requests), first_traffic=turn.now)
            turn.enter_step(0, f"{_candidate(state)} is ready, passed the smoke test and is warm")
        else:
            turn.wait_for(problem)
    elif turn.now - state.phase_since > turn.plan.limits.prepare:
        turn.roll_back(
            "prepare",
            f"{_candidate(state)} was not ready for traffic within {reasons.seconds(turn.plan.limits.prepare)}: "
            f"{_preparing_at(turn, ready)}",
        )
    else:
        turn.wait_for(_preparing_at(turn, ready))


def _preparing_at(turn: Turn, ready: int) -> str:
    state, status = turn.state, turn.seen.status.get(turn.state.candidate)
    if ready < turn.plan.replicas:
        said = f" ({status.message})" if status and status.message else ""
        return f"{ready} of {turn.plan.replicas} replicas of {state.candidate} ready{said}"
    return f"the warm-up of {state.candidate}" if state.smoke_ok else f"the smoke test of {state.candidate}"


def _step(turn: Turn) -> None:
    state, plan, now = turn.state, turn.plan, turn.now
    missing = _missing(turn)
    if missing is None:
        if state.step == len(plan.steps) - 1:
            turn.promote()
        else:
            step = plan.steps[state.step]
            lasted = now - (state.step_effective if state.step_effective is not None else now)
            turn.enter_step(
                state.step + 1,
                f"no alarm in {reasons.seconds(lasted)} and {state.step_requests:.0f} requests at {step.weight:g} %",
            )
        return
    if state.step_since is not None and now - state.step_since > plan.limits.step:
        step = plan.steps[state.step]
        why = f"{step.weight:g} % for {reasons.seconds(now - state.step_since)}, and still waits for {missing}"
        if plan.on_inconclusive == "rollback":
            turn.roll_back("inconclusive", why)
        else:
            turn.hold("inconclusive", "inconclusive", why)
        return
    turn.wait_for(missing)


def _missing(turn: Turn) -> str | None:
    """What the step still needs before the next one; None when nothing."""
    state, plan = turn.state, turn.plan
    step = plan.steps[state.step]
    if state.step_effective is None or state.refused_since is not None:
        return "the router to serve the new weights"
    left = step.min_time - (turn.now - state.step_effective)
    if left > plan.tick / 2 and not (state.expedited and state.step < len(plan.steps) - 1):
        return f"{reasons.seconds(left)} more at {step.weight:g} %"
    suspect = watch.suspicion(plan, state, turn.now)
    if suspect is not None:
        return suspect
    if state.expedited:
        return None
    if state.step_requests < step.min_requests:
        return f"{step.min_requests - state.step_requests:.0f} more requests at {step.weight:g} %"
    if state.step == len(plan.steps) - 1:
        return None
    if state.step == len(plan.steps) - 2 and (lacking := evidence_missing(turn)) is not None:
        return lacking
    return _not_weightable(state, plan.steps[state.step + 1].weight)


def evidence_missing(turn: Turn) -> str | None:
    """Evidence that the promotion needs and that is not there; None when it is."""
    for check in turn.plan.checks:
        gathered = turn.state.checks.get(check.name)
        if evidence.wants_promotion(check) and (gathered is None or not gathered.promote_reached):
            return reasons.promotion_missing(turn.plan, check, gathered)
    return None


def _not_weightable(state: State, weight: float) -> str | None:
    """Why the traffic cannot be split that way; None when it can."""
    for slot, share in ((state.candidate, weight), (state.stable, 100 - weight)):
        if share > 0 and state.ready.get(slot, 0) < 1:
            return f"a ready replica of {reasons.name(state, slot)}"
    return None


def _held(turn: Turn) -> None:
    state = turn.state
    held = state.held
    assert held is not None
    if held.back_to is Phase.GUARDED:
        if not guard.danger(turn):
            turn.wait_for(_held_for(held.cause))
    elif turn.now - held.since > turn.plan.limits.held:
        turn.roll_back("held", f"stood still for {reasons.seconds(turn.now - held.since)}: {state.reason}")
    elif watch.cleared(state, held.cause):
        turn.resume(f"goes on: what it was held for is over ({held.cause})")
    else:
        turn.wait_for(_held_for(held.cause))


def _candidate(state: State) -> str:
    return reasons.name(state, state.candidate)


def _held_for(cause: str) -> str:
    if cause == "alert":
        return "the alert to be resolved, or a person"
    return "a person" if cause in PEOPLE else f"{cause} to recover"
