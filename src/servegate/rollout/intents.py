"""What people want of a running rollout: abort, pause, resume, promote.

An intent is carried out once. Its id is kept in the state, so one that was carried out and not yet settled when the
controller died is only settled by the next.
"""

from __future__ import annotations

from servegate.rollout.model import Phase, Settle
from servegate.rollout.ports import Intent
from servegate.rollout.turn import Turn


def carry_out(turn: Turn) -> None:
    """Carry out the intents of this observation in the order in which they were left."""
    for intent in sorted(turn.seen.intents, key=lambda intent: intent.id):
        if intent.id <= turn.state.last_intent:
            outcome = "carried out"
        else:
            outcome = _carry_out(turn, intent)
            turn.change(last_intent=intent.id)
        turn.settled.append(Settle(intent=intent, outcome=outcome))


def _carry_out(turn: Turn, intent: Intent) -> str:
    phase = turn.state.phase
    if intent.kind not in ("abort", "pause", "resume", "promote"):
        return f"refused: {intent.kind!r} is not something a rollout can do; it can abort, pause, resume, promote"
    if phase is Phase.PROMOTED:
        return "refused: the rollout has ended, its release is promoted"
    if phase is Phase.ROLLED_BACK:
        return "nothing to do: already rolled back" if intent.kind == "abort" else "refused: already rolled back"
    if phase is Phase.ROLLING_BACK:
        return "nothing to do: rolling back already" if intent.kind == "abort" else "refused: rolling back"
    if intent.kind == "abort":
        turn.roll_back("abort", _said(intent, "aborted"))
        return "rolling back"
    if intent.kind == "pause":
        return _pause(turn, intent)
    if intent.kind == "resume":
        return _resume(turn, intent)
    return _promote(turn, intent)


def _pause(turn: Turn, intent: Intent) -> str:
    held = turn.state.held
    if held is None:
        turn.hold("person", "pause", _said(intent, "paused"))
        return "paused"
    if held.cause == "person":
        return "nothing to do: paused already"
    turn.change(held=held.model_copy(update={"cause": "person"}), reason=_said(intent, "paused"))
    turn.reason = turn.state.reason
    return "paused; it will not go on by itself"


def _resume(turn: Turn, intent: Intent) -> str:
    if turn.state.held is None:
        return "nothing to do: it is not held"
    turn.resume(_said(intent, "resumed"))
    return "resumed"


def _promote(turn: Turn, intent: Intent) -> str:
    state = turn.state
    phase = state.held.back_to if state.held else state.phase
    if phase in (Phase.PENDING, Phase.PREPARING):
        return "refused: the candidate does not carry traffic yet"
    if state.ready.get(state.candidate, 0) < 1:
        return "refused: the candidate has no ready replica"
    last = len(turn.plan.steps) - 1
    turn.change(expedited=True)
    if state.step == last and state.held is None:
        return "all traffic is on the candidate already; it will be promoted after the step's time"
    turn.enter_step(last, _said(intent, "promoted without waiting"))
    return "all traffic goes to the candidate; it will be promoted after the step's time"


def _said(intent: Intent, what: str) -> str:
    return f"{what} by {intent.by}{': ' + intent.reason if intent.reason else ''}"
