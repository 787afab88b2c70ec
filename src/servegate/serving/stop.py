"""When to stop a server so that nobody is hurt: pure, one step per look.

A server that is told to stop refuses new requests, but a gateway goes on sending them until it has heard that the
pod goes: vLLM's own drain answers those with errors. So after the first SIGTERM vLLM is left alone, it goes on
serving, until nobody has asked for a while or the time is up. Then it is told.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Do(StrEnum):
    """What to do with the engine now."""

    WAIT = "wait"
    TERMINATE = "terminate"
    KILL = "kill"


@dataclass
class Stop:
    """One stop in progress.

    Args:
        since: time of the first signal, monotonic seconds.
        drain: seconds until the engine is told to stop at the latest.
        margin: seconds after that until it is killed.
        quiet: seconds without a request in flight after which nobody is expected any more.
    """

    since: float
    drain: float
    quiet: float
    margin: float = 10.0
    hurried: bool = False
    told: float | None = None
    _idle_since: float | None = None

    def hurry(self) -> None:
        """A second signal: do not wait for requests."""
        self.hurried = True

    def step(self, now: float, in_flight: int | None, listening: bool) -> Do:
        """Decide.

        Args:
            now: monotonic seconds.
            in_flight: requests that run or wait; None: the engine did not say.
            listening: whether the engine takes connections at all.
        """
        if self.told is not None:
            return Do.KILL if now - self.since >= self.drain + self.margin else Do.WAIT
        if in_flight:
            self._idle_since = None
        elif in_flight == 0 and self._idle_since is None:
            self._idle_since = now
        quiet = self._idle_since is not None and now - self._idle_since >= self.quiet
        if self.hurried or quiet or not listening or now - self.since >= self.drain:
            self.told = now
            return Do.TERMINATE
        return Do.WAIT
