"""How a rollout moves on when nothing is wrong: from the verdict to the promotion, and all the way back."""

from __future__ import annotations

from servegate.rollout import capacity, evidence, feasibility, guard, reasons, trials, watch
from servegate.rollout.model import Held, Phase, State, Totals
from servegate.rollout.rollback import rolling_back
from servegate.rollout.turn import Turn

PEOPLE = ("person", "ratio", "slo", "inconclusive", "alert", "unwatched", "approval")
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
    if (frozen := turn.plan.frozen(turn.now)) is not None:
        turn.hold("freeze", "freeze", frozen)
    elif preparation.verdict == "pass":
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
    state, preparation, wanted = turn.state, turn.seen.preparation, capacity.candidate(turn.plan, 0)
    ready = state.ready.get(state.candidate, 0)
    if ready >= wanted:
        # Results of a slot that is not up (any more) say nothing about the one that will be.
        took = turn.now - state.phase_since if state.start_took is None else state.start_took
        turn.change(
            start_took=took,
            smoke_ok=state.smoke_ok or preparation.smoke == "ok",
            warm_ok=state.warm_ok or (state.smoke_ok and preparation.warm == "ok"),
        )
    state = turn.state
    if ready >= wanted and not state.smoke_ok and preparation.smoke == "failed":
        turn.roll_back("smoke", f"the smoke test of {_candidate(state)} failed: {preparation.smoke_message}")
    elif ready >= wanted and state.smoke_ok and not state.warm_ok and preparation.warm == "failed":
        turn.roll_back("warm-up", f"{_candidate(state)} could not be warmed up: {preparation.warm_message}")
    elif state.smoke_ok and state.warm_ok and ready >= wanted:
        problem = _not_weightable(turn, turn.plan.steps[0].weight)
        if problem is None and _may_step(turn, 0):
            turn.change(warmup_left=float(turn.plan.warmup_requests), first_traffic=turn.now)
            turn.enter_step(0, f"{_candidate(state)} is ready, passed the smoke test and is warm")
        elif problem is not None:
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
    wanted = capacity.candidate(turn.plan, 0)
    if ready < wanted:
        said = f" ({status.message})" if status and status.message else ""
        return f"{ready} of {wanted} replicas of {state.candidate} ready{said}"
    return f"the warm-up of {state.candidate}" if state.smoke_ok else f"the smoke test of {state.candidate}"


def _step(turn: Turn) -> None:
    if turn.plan.strategy in ("ab", "shadow"):
        trials.look(turn)
        if turn.state.phase is Phase.ROLLING_BACK:
            return
    state, plan, now = turn.state, turn.plan, turn.now
    missing = _missing(turn)
    step = plan.steps[state.step]
    if missing is None:
        lasted = now - (state.step_effective if state.step_effective is not None else now)
        _advance(
            turn, f"no alarm in {reasons.seconds(lasted)} and {state.step_requests:.0f} requests at {step.weight:g} %"
        )
        return
    kind, what = missing
    if state.step_since is None or now - state.step_since <= plan.limits.step:
        turn.wait_for(what)
        return
    why = f"{step.weight:g} % for {reasons.seconds(now - state.step_since)}, and still waits for {what}"
    if plan.on_inconclusive == "rollback":
        turn.roll_back("inconclusive", why)
    elif plan.on_inconclusive == "promote-with-warning" and kind == "evidence" and _ready_for_next(turn) is None:
        if _may_step(turn, state.step + 1):
            turn.change(warnings=(*state.warnings, why))
            turn.notify("warning", f"goes on by on_inconclusive, without what it waited for: {why}")
            _advance(turn, f"WITH A WARNING: {why}")
    else:
        turn.hold("inconclusive", "inconclusive", why)


def _advance(turn: Turn, why: str) -> None:
    """The next step, when everything allows it; after the last the promotion."""
    state = turn.state
    if state.step == len(turn.plan.steps) - 1:
        if turn.plan.strategy in ("ab", "shadow"):
            turn.conclude(trials.result(turn))
        else:
            turn.promote()
    elif _may_step(turn, state.step + 1):
        turn.enter_step(state.step + 1, why)


def _may_step(turn: Turn, index: int) -> bool:
    """Whether the weight of a step may be given now; if not, it stands still or says what it waits for."""
    state, plan = turn.state, turn.plan
    if index >= len(plan.steps):
        return True
    frozen = plan.frozen(turn.now)
    if frozen is not None:
        turn.hold("freeze", "freeze", frozen)
        return False
    step = plan.steps[index]
    if step.approval and index not in state.approved:
        turn.hold("approval", "approval", f"{step.weight:g} % needs a person's approval (`servegate rollout approve`)")
        return False
    lacking = replicas_missing(turn, index)
    if lacking is not None:
        turn.change(scaled_for=max(index, state.scaled_for))
        turn.wait_for(lacking)
        return False
    return True


def replicas_missing(turn: Turn, index: int) -> str | None:
    """Replicas of the candidate that a step needs and that are not ready; None when they are."""
    ready, wanted = turn.ready(turn.state.candidate), capacity.candidate(turn.plan, index)
    if ready >= wanted:
        return None
    weight = turn.plan.steps[index].weight
    return f"{wanted} ready replicas of {_candidate(turn.state)} for {weight:g} % (there are {ready})"


def _missing(turn: Turn) -> tuple[str, str] | None:
    """What the step still needs before the next one, its kind and in words; None when nothing.

    Of the kind `evidence` is what on_inconclusive may pass over: requests and evidence that did not come in time.
    """
    state, plan = turn.state, turn.plan
    step = plan.steps[state.step]
    if state.step_effective is None or state.refused_since is not None:
        return "router", "the router to serve the new weights"
    left = step.min_time - (turn.now - state.step_effective)
    if left > plan.tick / 2 and not (state.expedited and state.step < len(plan.steps) - 1):
        return "time", f"{reasons.seconds(left)} more at {step.weight:g} %"
    suspect = watch.suspicion(plan, state, turn.now)
    if suspect is not None:
        return "suspicion", suspect
    if state.expedited:
        return None
    if turn.plan.strategy in ("ab", "shadow"):
        return trials.missing(turn)
    if state.step_requests < step.min_requests:
        return "evidence", f"{step.min_requests - state.step_requests:.0f} more requests at {step.weight:g} %"
    if state.step == len(plan.steps) - 1 and (state.totals.get(state.candidate) or Totals()).requests < 1:
        return "evidence", f"a first request to {_candidate(state)}: nothing has been measured yet"
    if state.step < len(plan.steps) - 1 and (lacking := evidence_missing(turn, before=state.step)) is not None:
        return "evidence", lacking
    lacking = _ready_for_next(turn)
    return None if lacking is None else ("ready", lacking)


def _ready_for_next(turn: Turn) -> str | None:
    state, steps = turn.state, turn.plan.steps
    return None if state.step == len(steps) - 1 else _not_weightable(turn, steps[state.step + 1].weight)


def evidence_missing(turn: Turn, before: int | None = None) -> str | None:
    """Evidence that the promotion needs and that is not there; None when it is.

    Args:
        before: index of a step: only what is waited for in it or an earlier one.
    """
    for check in turn.plan.checks:
        gathered = turn.state.checks.get(check.name)
        if before is not None and before < feasibility.waits_in(turn.plan, check):
            continue
        if evidence.wants_promotion(check) and (gathered is None or not gathered.promote_reached):
            return reasons.promotion_missing(turn.plan, check, gathered)
    return None


def _not_weightable(turn: Turn, weight: float) -> str | None:
    """Why the traffic cannot be split that way; None when it can."""
    for slot, share in ((turn.state.candidate, weight), (turn.state.stable, 100 - weight)):
        if share > 0 and turn.ready(slot) < 1:
            return turn.ready_replica(slot)
    return None


def _held(turn: Turn) -> None:
    state = turn.state
    held = state.held
    assert held is not None
    if held.back_to is Phase.GUARDED:
        if not guard.danger(turn):
            turn.wait_for(_held_for(held.cause))
    elif _over(turn, held):
        _go_on(turn, held)
    elif (limit := _hold_limit(turn, held.cause)) is not None and turn.now - held.since > limit:
        turn.roll_back("held", f"stood still for {reasons.seconds(turn.now - held.since)}: {state.reason}")
    else:
        turn.wait_for(_held_for(held.cause))


def _hold_limit(turn: Turn, cause: str) -> float | None:
    """Seconds it may stand still; a freeze ends by itself."""
    limits = turn.plan.limits
    return {"freeze": None, "approval": limits.approval}.get(cause, limits.held)


def _over(turn: Turn, held: Held) -> bool:
    """What it stood still for is over."""
    state = turn.state
    if held.cause == "freeze":
        return turn.plan.frozen(turn.now) is None
    if held.cause == "approval":
        return (0 if held.back_to is Phase.PREPARING else state.step + 1) in state.approved
    return watch.cleared(state, held.cause)


def _go_on(turn: Turn, held: Held) -> None:
    state = turn.state
    if held.cause != "approval":
        turn.resume(f"goes on: what it was held for is over ({held.cause})")
        return
    # What the step has gathered stays: only the approval was missing. The wait is not the step's time.
    waited = turn.now - held.since
    since = None if state.step_since is None else state.step_since + waited
    turn.enter(held.back_to, f"{state.reason}", held=None, cause="", step_since=since)


def _candidate(state: State) -> str:
    return reasons.name(state, state.candidate)


def _held_for(cause: str) -> str:
    if cause == "alert":
        return "the alert to be resolved, or a person"
    if cause == "freeze":
        return "the end of the freeze"
    return "a person" if cause in PEOPLE else f"{cause} to recover"
