"""Whether a rollout's replicas would find room in the cluster, before anything is changed."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus

from servegate.errors import InfrastructureError
from servegate.rollout import capacity, scaling
from servegate.rollout.kube import KubeError
from servegate.rollout.model import State
from servegate.rollout.plan import Plan
from servegate.rollout.ports import Workload
from servegate.rollout.workloads.slots import SlotWorkload


@dataclass(frozen=True)
class Space:
    """What was found of a rollout's room.

    Attributes:
        slot: the candidate's.
        wanted: replicas that must find room beside what runs now, at the step that needs most.
        fits: how many of those do; None: it could not be looked at.
        why: what keeps the next one out, or why it could not be looked at.
        instead: what the plan could say to get along with what there is; "": nothing would do.
    """

    slot: str
    wanted: int
    fits: int | None
    why: str
    instead: str = ""

    @property
    def short(self) -> bool:
        """There is too little."""
        return self.fits is not None and self.fits < self.wanted

    def text(self) -> str:
        """One sentence for people."""
        if self.fits is None:
            return (
                f"room for {self.slot} is not known before: {self.why}; where there is none, the scheduler's words "
                f"(FailedScheduling) end the rollout before its first traffic"
            )
        if not self.short:
            return f"room for {self.slot}: all {self.wanted} replicas that it needs beside what runs find a node"
        said = f"room for {self.slot}: {self.fits} of {self.wanted} replicas find a node beside what runs; {self.why}"
        return f"{said}; {self.instead}" if self.instead else said


def look(plan: Plan, state: State, workload: Workload) -> Space | None:
    """Room for the rollout that `state` begins; None where replicas are no question of nodes.

    Raises:
        InfrastructureError: the API server cannot be asked.
    """
    if not isinstance(workload, SlotWorkload):
        return None
    slot, runs = state.candidate, workload.status(state.stable).replicas
    wanted = max(0, _most(plan, runs))
    try:
        room = workload.room(slot, wanted)
    except KubeError as error:
        if error.status != HTTPStatus.FORBIDDEN:
            raise
        return Space(slot, wanted, None, str(error))
    instead = _shift(plan, room.fits) if room.fits < wanted else ""
    return Space(slot, wanted, room.fits, room.why or "there are no nodes", instead)


def require(space: Space | None) -> None:
    """Raises InfrastructureError, with the numbers, where there is too little."""
    if space is not None and space.short:
        raise InfrastructureError(f"{space.text()}. Nothing was changed")


def _most(plan: Plan, runs: int) -> int:
    """Replicas at the step that needs most, less those of stable that run now; surge leaves stable as it is."""
    steps = range(len(plan.steps))
    if plan.capacity == "surge":
        return max(capacity.candidate(plan, index) for index in steps)
    return max(capacity.candidate(plan, index) + capacity.stable(plan, index) for index in steps) - runs


def _shift(plan: Plan, fits: int) -> str:
    if plan.capacity == "shift" or fits < 1:
        return ""
    other = plan.model_copy(update={"capacity": "shift", "spare": fits})
    if capacity.problem(other) is not None:
        return ""
    kept = min(fits, plan.replicas)
    way_back = scaling.way_back(other, None, kept)
    return f"`capacity: shift` with `spare: {fits}` would do, and a rollback would take {way_back}"
