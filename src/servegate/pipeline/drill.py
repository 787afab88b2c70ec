"""A drill: a release with a fault in it is rolled out under load, and must be taken back without anybody's help.

What the net is worth is two numbers: how long users were sent to the faulty release, and how many of them it hurt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from servegate.contract import Contract
from servegate.errors import ExitCode
from servegate.loadtest.background import Counts
from servegate.pipeline.canary import exit_code
from servegate.report.records import Seconds
from servegate.rollout.memory import HistoryLine
from servegate.rollout.model import Phase, State

Number = Annotated[int, Field(ge=0)]


class Drill(Contract):
    """What came of a drill."""

    schema_version: Literal[1] = 1
    rollout: str
    release: str = Field(description="name of the release with the fault")
    phase: str = Field(description="how its rollout ended")
    reason: str
    seconds_to_safe: Seconds | None = Field(
        description="from its first weight until stable had all traffic again; null: it had none, or was not taken back"
    )
    requests: Number = Field(description="of the load, those whose outcome is known")
    hurt: Number = Field(description="of these, those that brought no complete answer")
    hole: str | None = Field(description="what the net did not hold; null: it held")


def seconds_to_safe(history: Sequence[HistoryLine], rollout: str, stable: str) -> float | None:
    """From the first decision by which the stable slot had less than everything to the first after it by which it had
    everything again; None when there is no such pair.

    Args:
        rollout: id of the rollout whose lines count.
        stable: name of the slot.
    """
    of_it = [line for line in history if line.rollout == rollout]
    began = next((at for at, line in enumerate(of_it) if line.weights.get(stable, 0.0) < 100), None)
    if began is None:
        return None
    safe = next((line.at for line in of_it[began:] if line.weights.get(stable, 0.0) == 100), None)
    return None if safe is None else safe - of_it[began].at


def judged(state: State, history: Sequence[HistoryLine], load: Counts) -> Drill:
    """Whether the net held.

    Args:
        state: how the rollout of the faulty release ended.
        history: all decisions, oldest first.
        load: what the users of the drill got.
    """
    safe = seconds_to_safe(history, state.rollout, state.stable)
    return Drill(
        rollout=state.rollout,
        release=state.slots[state.candidate].name,
        phase=state.phase,
        reason=state.reason,
        seconds_to_safe=safe,
        requests=load.finished,
        hurt=load.failed,
        hole=_hole(state, safe, load),
    )


def _hole(state: State, safe: float | None, load: Counts) -> str | None:
    if state.phase is Phase.PROMOTED:
        return "a release with a fault in it was promoted"
    if exit_code(state) is not ExitCode.GATE_FAILED:
        return f"the rollout ended as {state.phase} ({state.cause}), and not because the release is bad: {state.reason}"
    if state.weights[state.stable] != 100:
        return f"after the rollback the stable slot has {state.weights[state.stable]:g} %"
    if safe is None:
        return f"the faulty release never had traffic, so nothing was tried: {state.reason}"
    if load.finished == 0:
        return "the load measured nothing"
    return None
