"""What people and alerts want of a rollout.

An intent is carried out once. Its id is kept in the state, so one that was carried out and not yet settled when the
controller died is only settled by the next. What was asked twice is answered with "nothing to do", never done twice.
"""

from __future__ import annotations

from collections.abc import Callable

from servegate.rollout import guard, watch
from servegate.rollout.model import Phase, Settle, SlotRelease
from servegate.rollout.ports import Intent
from servegate.rollout.progress import evidence_missing, replicas_missing
from servegate.rollout.turn import AFTER_PROMOTION, Turn

FORCE = "force"
"""Target of a promotion that skips evidence."""
KEPT_ALERTS = 100


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
    known: dict[str, Callable[[Turn, Intent], str]] = {
        "abort": _abort,
        "pause": _pause,
        "resume": _resume,
        "promote": _promote,
        "approve": _approve,
        "rollback": _rollback,
        "guard": _guard,
        "alert-rollback": _alert,
        "alert-freeze": _alert,
        "alert-resolved": _resolved,
    }
    if intent.kind not in known:
        people = [kind for kind in known if not kind.startswith("alert")]
        return f"refused: {intent.kind!r} is not something a rollout can do; it can {', '.join(people)}"
    return known[intent.kind](turn, intent)


def _ended(turn: Turn) -> str | None:
    phase = turn.state.phase
    if phase in AFTER_PROMOTION:
        return "refused: the rollout has ended, its release is promoted; rollback takes it back"
    if phase is Phase.ROLLED_BACK:
        return "refused: already rolled back"
    return "refused: rolling back" if phase is Phase.ROLLING_BACK else None


def _abort(turn: Turn, intent: Intent) -> str:
    phase = turn.state.phase
    if phase is Phase.ROLLED_BACK:
        return "nothing to do: already rolled back"
    if phase is Phase.ROLLING_BACK:
        return "nothing to do: rolling back already"
    if _promoted(turn):
        return "refused: the rollout has ended, its release is promoted; rollback takes it back"
    turn.roll_back("abort", _said(intent, "aborted"))
    return "rolling back"


def _pause(turn: Turn, intent: Intent) -> str:
    ended = _ended(turn)
    if ended and turn.state.phase is not Phase.GUARDED:
        return ended
    return _stand_still(turn, _said(intent, "paused"), "")


def _stand_still(turn: Turn, reason: str, alert: str) -> str:
    held = turn.state.held
    cause = "alert" if alert else "pause"
    if held is None:
        turn.hold("alert" if alert else "person", cause, reason, alert)
        return "paused"
    if held.cause == "person":
        return "nothing to do: paused already"
    turn.change(
        held=held.model_copy(update={"cause": "alert" if alert else "person", "alert": alert}),
        cause=cause,
        reason=reason,
    )
    turn.reason = turn.state.reason
    return "paused; it will not go on by itself"


def _resume(turn: Turn, intent: Intent) -> str:
    ended = _ended(turn)
    if turn.state.held is None:
        return ended or "nothing to do: it is not held"
    turn.resume(_said(intent, "resumed"))
    return "resumed"


def _promote(turn: Turn, intent: Intent) -> str:
    """Skip ahead: time and requests always, evidence only by force."""
    state = turn.state
    ended = _ended(turn)
    if ended or _promoted(turn):
        return ended or "refused: the rollout has ended, its release is promoted"
    phase = state.held.back_to if state.held else state.phase
    if phase in (Phase.PENDING, Phase.PREPARING):
        return "refused: the candidate does not carry traffic yet"
    if turn.ready(state.candidate) < 1:
        return f"refused: it needs {turn.ready_replica(state.candidate)}"
    last = len(turn.plan.steps) - 1
    few = replicas_missing(turn, last)
    if few is not None:
        turn.change(scaled_for=last)
        return f"refused: it needs {few}; they are being started, ask again"
    lacking = turn.plan.frozen(turn.now) or watch.suspicion(turn.plan, state, turn.now)
    if lacking is None and state.step < last:
        lacking = evidence_missing(turn)
    forced = intent.target == FORCE
    if lacking is not None and not forced:
        return f"refused: it still waits for {lacking}; --force with a reason skips that"
    turn.change(expedited=True)
    if state.step == last and state.held is None:
        return "all traffic is on the candidate already; it will be promoted after the step's time"
    skipped = f"; skipped by force: {lacking}" if lacking is not None else ""
    turn.enter_step(last, _said(intent, "promoted without waiting") + skipped)
    return "all traffic goes to the candidate; it will be promoted after the step's time"


def _approve(turn: Turn, intent: Intent) -> str:
    """Let the step go on that waits for a person."""
    held = turn.state.held
    if held is None or held.cause != "approval":
        return _ended(turn) or "nothing to do: nothing waits for an approval"
    index = 0 if held.back_to is Phase.PREPARING else turn.state.step + 1
    weight = turn.plan.steps[index].weight
    turn.change(approved=(*turn.state.approved, index), reason=_said(intent, f"{weight:g} % approved"))
    return f"{weight:g} % approved"


def _rollback(turn: Turn, intent: Intent) -> str:
    """Back to stable while the rollout runs, back to the release before or to a named one after it."""
    state = turn.state
    serving = state.slots[state.stable]
    if state.phase is Phase.ROLLING_BACK:
        going_to = state.restore.target if state.restore and not state.restore.swapped else serving
        if intent.target in (None, going_to.release):
            return "nothing to do: rolling back already"
    after = _promoted(turn)
    if intent.target is None and state.phase is Phase.ROLLED_BACK:
        return f"nothing to do: already rolled back, {serving.name} serves; name a release to go back further"
    if intent.target is None and not after:
        turn.roll_back("rollback", _said(intent, "rolled back"))
        return "rolling back"
    target = state.slots[state.candidate] if intent.target is None else _named(turn, intent.target)
    if target is None:
        return f"refused: no verified release {intent.target} is known"
    if target.release == serving.release:
        if after or state.phase is Phase.ROLLED_BACK:
            return f"nothing to do: {target.name} serves already"
        turn.roll_back("rollback", _said(intent, "rolled back"))
        return "rolling back"
    if not after and target.release == state.slots[state.candidate].release and state.phase is not Phase.ROLLED_BACK:
        return f"refused: {target.name} is the release that is being rolled out"
    turn.restore(target, "rollback", _said(intent, f"rolled back to {target.name}"))
    return f"rolling back to {target.name}"


def _named(turn: Turn, digest: str) -> SlotRelease | None:
    name = turn.seen.verified.get(digest)
    return None if name is None else SlotRelease(release=digest, name=name)


def _guard(turn: Turn, _: Intent) -> str:
    if turn.state.phase is Phase.GUARDED or (turn.state.held and turn.state.held.back_to is Phase.GUARDED):
        return "nothing to do: it is watched already"
    if turn.state.phase is not Phase.PROMOTED:
        return "refused: there is no promoted release to watch"
    return guard.begin(turn)


def _alert(turn: Turn, intent: Intent) -> str:
    """A firing alert that a rule of the plan names. `target` is `<fingerprint>@<start, seconds since the epoch>`."""
    key = intent.target or ""
    state = turn.state
    if key in state.alerts:
        return "nothing to do: this alert has been acted on"
    if state.phase.finished or state.phase is Phase.ROLLING_BACK:
        return f"nothing to do: {state.phase}"
    since = state.first_traffic
    if since is None or _started(key) < since:
        return "nothing to do: it fires since before the release carried traffic"
    turn.change(alerts=(*state.alerts, key)[-KEPT_ALERTS:])
    reason = f"alert {intent.reason or key}"
    if intent.kind == "alert-freeze":
        return _stand_still(turn, reason, key)
    if _promoted(turn):
        turn.restore(state.slots[state.candidate], "alert", reason)
    else:
        turn.roll_back("alert", reason)
    return "rolling back"


def _resolved(turn: Turn, intent: Intent) -> str:
    held = turn.state.held
    if held is None or held.cause != "alert" or held.alert != intent.target:
        return "nothing to do: nothing is held for this alert"
    turn.resume(f"goes on: alert {intent.reason or intent.target} is resolved")
    return "resumed"


def _started(key: str) -> float:
    try:
        return float(key.rpartition("@")[2])
    except ValueError:  # a key without a time: as if it had always been there
        return 0.0


def _promoted(turn: Turn) -> bool:
    """The release of this rollout is the stable one."""
    state = turn.state
    return state.phase in AFTER_PROMOTION or (state.held is not None and state.held.back_to is Phase.GUARDED)


def _said(intent: Intent, what: str) -> str:
    return f"{what} by {intent.by}{': ' + intent.reason if intent.reason else ''}"


__all__ = ["FORCE", "carry_out"]
