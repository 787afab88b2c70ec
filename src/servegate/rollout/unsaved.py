"""Ticks that need not be saved one by one, where a save is a request at somebody else's server.

A state is saved before any effect that rests on it. A tick that changes nothing and asks for nothing new leaves no
trace in the world: a controller that is killed after it is followed by one that begins from the state before, whose
counters are running totals, and so sees the same requests in one longer interval. Such ticks wait for the next save,
for at most as long as the store's `pace`; their lines of the audit trail are saved with it, and written down after it.
"""

from __future__ import annotations

from collections.abc import Sequence

from servegate.rollout.actions import Action, CompareOutputs, EnsureSlot, RunSmoke, Warm
from servegate.rollout.audit import AuditTick
from servegate.rollout.model import Decision, State

MOST = 20
"""Ticks that may wait."""
REPEATED = (EnsureSlot, RunSmoke, Warm, CompareOutputs)
"""Actions that go on being asked for while they are under way: fenced by their target, or this process's own."""


class Unsaved:
    """The ticks since the last save.

    Args:
        pace: seconds for which they may wait; 0: none may.

    Attributes:
        lines: their lines of the audit trail, oldest first.
    """

    def __init__(self, pace: float) -> None:
        self.pace = pace
        self.lines: tuple[AuditTick, ...] = ()
        self._at: float | None = None
        self._asked: tuple[Action, ...] = ()

    def may_wait(self, before: State, decision: Decision, now: float) -> bool:
        """Nothing changes that somebody must know of, and nothing is done that the last save has not asked for."""
        return (
            self._at is not None
            and self._at <= now < self._at + self.pace
            and len(self.lines) < MOST
            and not decision.reason
            and all(isinstance(item, REPEATED) and item in self._asked for item in decision.actions)
            and decision.state.outbox == before.outbox
        )

    def add(self, line: AuditTick, effects: Sequence[str]) -> None:
        """A tick that waits, and what became of its effects."""
        self.lines = (*self.lines, line.model_copy(update={"effects": tuple(effects)}))

    def saved(self, at: float, actions: tuple[Action, ...] = ()) -> None:
        """Everything until now is in the store, and it asks for these actions."""
        self._at, self._asked = at, actions

    def taken(self) -> tuple[AuditTick, ...]:
        """The lines, which are written down now."""
        lines, self.lines = self.lines, ()
        return lines

    def forget(self) -> None:
        """The state was read anew: it is as if these ticks had not been."""
        self.lines, self._at, self._asked = (), None, ()
