"""The port for live quality: somebody who asks both slots items of a suite, and has the scores ready at every tick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from servegate.errors import InfrastructureError
from servegate.release import Release
from servegate.rollout.memory import Memory
from servegate.rollout.model import State
from servegate.rollout.ports import Workload
from servegate.rollout.seen import Asked


@dataclass(frozen=True)
class Target:
    """A slot as it is asked: past the router, by its own address."""

    url: str
    release: Release


class Asking(Protocol):
    """Asks items for the plan's checks on quality. It works in threads of its own: a tick never waits for it."""

    def __call__(self, state: State, targets: tuple[Target, Target] | None) -> tuple[Asked, ...]:
        """What was asked and is not in `state` yet, per check in the order of positions. Returns at once.

        The state says how far each check has come, and is the only memory: what this returns is returned again until a
        saved state has it, and a new process goes on after the last position that was saved.

        Args:
            targets: stable and the candidate; None: nothing is to be asked now.
        """


def targets(known: Memory, workload: Workload) -> tuple[Target, Target] | None:
    """Stable and the candidate as they are to be asked now; None when nothing is to be asked.

    Both must carry traffic and be ready: an item that cannot be answered would only be lost.
    """
    state = known.state
    slots = (state.stable, state.candidate)
    if not state.phase.weighted:
        return None
    if not all(state.weights.get(slot, 0.0) > 0 and state.ready.get(slot, 0) > 0 for slot in slots):
        return None
    try:
        stable, candidate = (Target(workload.address(slot), known.release_in(slot)) for slot in slots)
    except InfrastructureError:
        return None  # who cannot be reached is told of by its status
    return stable, candidate
