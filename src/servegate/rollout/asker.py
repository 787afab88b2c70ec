"""Asks the ports how things stand. Who does not answer costs what he would have said, never the tick."""

from __future__ import annotations

from collections.abc import Callable

from servegate.errors import InfrastructureError
from servegate.rollout.deltas import BucketError, between
from servegate.rollout.model import Readings, SlotDelta, State
from servegate.rollout.ports import Router, RouteStatus, SlotStatus, Source, Workload


class Asker:
    """Asks.

    Args:
        say: (level, message) for people, when somebody does not answer.
    """

    def __init__(self, source: Source, workload: Workload, router: Router, say: Callable[[str, str], None]) -> None:
        self.source, self.workload, self.router, self.say = source, workload, router, say

    def read(self, state: State, now: float) -> tuple[dict[str, SlotDelta], Readings | None]:
        """What each slot did since the state's readings, and the readings of now; None when nothing is known."""
        try:
            return between(state.readings, self.source.observe(now))
        except (BucketError, InfrastructureError) as error:
            # Nothing is known of either slot; `decide` sees why.
            return {slot: SlotDelta(missing={f"{slot}/metrics": str(error)}) for slot in state.slots}, None

    def status(self, slot: str) -> SlotStatus | None:
        """How the slot stands; None when nobody knows."""
        try:
            return self.workload.status(slot)
        except InfrastructureError as error:
            self.say("warning", f"{slot}: cannot be asked: {error}")
            return None

    def route(self) -> RouteStatus | None:
        """What the router serves; None when nobody knows."""
        try:
            return self.router.verify()
        except InfrastructureError as error:
            self.say("warning", f"router: cannot be asked: {error}")
            return None
