"""What a rollout leaves behind for people: history, timeline and audit trail.

None of it decides anything. Writing that fails is told and costs nothing else: a full disk must not keep traffic on a
bad release.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from servegate.contract import canonical_json
from servegate.errors import ConfigError, InfrastructureError
from servegate.report.records import to_line
from servegate.rollout import audit, memory
from servegate.rollout.journal import append_line
from servegate.rollout.memory import HistoryLine, Memory
from servegate.rollout.model import Decision, Message, Observation, Phase, State
from servegate.rollout.ports import Store

GIVEN_UP = "notification given up"
"""How the line of the history begins that says of a message that nobody will get it any more."""


class Chronicle:
    """Writes decisions down.

    Args:
        store: keeps the history.
        timeline: JSON Lines file that gets every tick, for showing; None: nowhere.
        trail: JSON Lines file that gets all that every decision rested on (rollout/audit.py); None: nowhere.
        say: (level, message) for people, when something could not be written.
    """

    def __init__(
        self, store: Store, timeline: Path | None, trail: Path | None, say: Callable[[str, str], None]
    ) -> None:
        self.store, self.timeline, self.say = store, timeline, say
        self.trail = audit.Trail(trail)

    def decided(self, decision: Decision) -> None:
        """Write a decision into the history, when it changed something, and its tick into the timeline."""
        try:
            if decision.reason:
                self._append(decision.state, decision.reason)
            if self.timeline is not None:
                append_line(self.timeline, to_line(decision.tick))
        except InfrastructureError as error:
            self.say("warning", f"could not be written down: {error}")

    def given_up(self, before: State, seen: Observation, after: State) -> None:
        """Write messages into the history that the state forgets though they were not delivered.

        Before the state that forgets them is saved: a controller killed in between is followed by one that gives them
        up again, and finds them written.
        """
        kept = {message.id for message in after.outbox}
        lost = [message for message in before.outbox if message.id not in kept and message.id not in seen.delivered]
        self.dropped(before, lost, seen.at, "not delivered in time")

    def dropped(self, state: State, messages: Sequence[Message], at: float, why: str) -> None:
        """Write messages of a state into the history that nobody will get any more; each once.

        Args:
            at: seconds since the epoch.
        """
        if not messages:
            return
        try:
            written = {(line.rollout, line.reason) for line in memory.history(self.store)}
            for message in messages:
                line = _given_up(state, message, at, why)
                if (line.rollout, line.reason) not in written:
                    self._write(line)
        except (ConfigError, InfrastructureError) as error:
            self.say("warning", f"history: {error}")

    def done(self, entry: audit.AuditTick, effects: Sequence[str], earlier: Sequence[audit.AuditTick] = ()) -> None:
        """Write the line of a decision into the audit trail, with what became of its effects; earlier lines first."""
        try:
            for line in earlier:
                self.trail.append(line, line.effects)
            self.trail.append(entry, effects)
        except InfrastructureError as error:
            self.say("warning", f"audit trail: {error}")

    def recover_trail(self, known: Memory) -> None:
        """Append what a controller that was killed has decided and not written into the trail."""
        try:
            self.trail.recover((*known.earlier, *((known.last,) if known.last else ())))
        except InfrastructureError as error:
            self.say("warning", f"audit trail: {error}")

    def recover_history(self, state: State) -> None:
        """Append why the state is what it is, when its controller was killed between saving and writing it down."""
        try:
            lines = [
                line
                for line in memory.history(self.store)
                if line.rollout == state.rollout and not line.reason.startswith(GIVEN_UP)
            ]
            if state.reason and (not lines or lines[-1].at < state.phase_since):
                self._append(state, state.reason)
        except (ConfigError, InfrastructureError) as error:
            self.say("warning", f"history: {error}")

    def _append(self, state: State, reason: str) -> None:
        line = HistoryLine(
            at=state.updated,
            rollout=state.rollout,
            release=state.slots[rolled_out(state)].name,
            phase=state.phase.value,
            weights=state.weights,
            reason=reason,
        )
        self._write(line)

    def _write(self, line: HistoryLine) -> None:
        self.store.append_history(canonical_json(line.model_dump(mode="json")).decode())


def _given_up(state: State, message: Message, at: float, why: str) -> HistoryLine:
    origin = message.origin
    number = message.id if origin is None else origin.id
    return HistoryLine(
        at=at,
        rollout=state.rollout if origin is None else origin.rollout,
        release=state.slots[rolled_out(state)].name if origin is None else origin.release,
        phase=message.phase.value,
        weights=message.weights,
        reason=f"{GIVEN_UP} ({why}): message {number}, {message.level}: {message.text}",
    )


def rolled_out(state: State) -> str:
    """The slot of the release this rollout is about; the promotion has swapped the roles."""
    promoted = state.phase in (Phase.PROMOTED, Phase.GUARDED)
    back = state.restore is not None and state.restore.back_to is Phase.PROMOTED and not state.restore.swapped
    return state.stable if promoted or back else state.candidate
