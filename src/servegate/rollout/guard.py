"""The watch over a promoted release, while the old one is still warm.

There is no control any more: what is judged is the objectives (absolute checks, with an alpha of the guard's own),
whether the release lives, and the alerts the plan names. Relative checks say nothing here and are not asked.
"""

from __future__ import annotations

from servegate.rollout import evidence, reasons, watch
from servegate.rollout.absorb import readable
from servegate.rollout.interval import View
from servegate.rollout.model import CheckState, Guard, Phase
from servegate.rollout.turn import Turn


def begin(turn: Turn) -> str:
    """Start to watch; what came of it, for the intent's outcome."""
    state, plan = turn.state, turn.plan
    if plan.guard is None:
        return "refused: the plan has no guard"
    promoted = state.finished if state.finished is not None else turn.now
    until = promoted + plan.guard.window
    if state.guard is not None and state.guard.ended:
        return "nothing to do: its guard has ended"
    if turn.now >= until:
        return f"refused: the guard's window ended {reasons.seconds(turn.now - until)} ago"
    turn.enter(
        Phase.GUARDED,
        f"{reasons.name(state, state.stable)} is watched for {reasons.seconds(until - turn.now)}",
        guard=Guard(since=turn.now, until=until),
        unready_since={},
        unread_since={},
    )
    return f"watched for {reasons.seconds(until - turn.now)}"


def watch_over(turn: Turn) -> None:
    """One tick of the watch."""
    if danger(turn):
        return
    state = turn.state
    assert state.guard is not None
    if turn.now >= state.guard.until:
        old = reasons.name(state, state.candidate)
        turn.change(guard=state.guard.model_copy(update={"ended": True}))
        turn.finish(Phase.PROMOTED, f"nothing spoke against it in the guard's window; {old} is given up")
        return
    turn.wait_for(f"{reasons.seconds(state.guard.until - turn.now)} more of the guard")


def danger(turn: Turn) -> bool:
    """Judge the promoted release; when it must go, begin the way back and return True."""
    state, plan, now = turn.state, turn.plan, turn.now
    guard, slot = state.guard, state.stable
    assert guard is not None
    status = turn.seen.status.get(slot)
    previous = state.slots[state.candidate]
    if status is not None and status.failed and status.release == state.slots[slot].release:
        turn.restore(previous, "failed", f"{reasons.name(state, slot)} has failed: {status.failed}")
        return True
    unready = state.unready_since.get(slot)
    if unready is not None and now - unready >= plan.watchdogs.unready:
        why = f"{reasons.name(state, slot)} has had no ready replica for {reasons.seconds(now - unready)}"
        turn.restore(previous, "unready", why)
        return True
    lost = watch.unread(plan, state, turn.seen, slot, now)
    if lost is not None and watch.unread(plan, state, turn.seen, slot, turn.previous) is None:
        # Not a reason to roll back: nobody knows whether anything is wrong.
        turn.notify("critical", f"{reasons.name(state, slot)} is not guarded: {lost.why}")
    judged = plan.guarded()
    if judged is None or not readable(turn.seen.slots.get(slot)):
        return False
    view = View(
        at=now,
        previous=turn.previous,
        stable=state.candidate,
        candidate=slot,
        weight=100.0,
        cold=False,
        deltas={slot: turn.seen.slots[slot]},
        ready=state.ready,
    )
    checks = {
        check.name: evidence.advance(judged, check, guard.checks.get(check.name) or CheckState(), view)
        for check in judged.checks
    }
    turn.change(guard=guard.model_copy(update={"checks": checks}))
    for check in judged.checks:
        if evidence.log_e(judged, check, checks[check.name]) >= judged.log_limit(check):
            as_candidate = state.model_copy(update={"stable": state.candidate, "candidate": slot, "checks": checks})
            turn.restore(previous, check.name, reasons.against(judged, check, as_candidate))
            return True
    return False
