"""The audit trail: one line per tick with all that a decision rested on, so that it can be made again.

Each line names the state it began from and the state it led to by their hashes, so the lines form a chain: a line that
is missing, was changed or was put in is seen. The state itself stands in the first line of a rollout alone; `decide` is
pure, so all later states follow from it and the observations.

A line is kept in the Store together with the state it led to, before anything is done (`Memory.last`; `earlier` has the
lines of ticks that were not saved one by one), and is appended to the trail afterwards, with what became of the
effects. A controller that is killed in between is followed by one that finds the lines in the Store and appends them;
what became of the last one's effects is then not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from servegate.config import validate
from servegate.contract import Contract, Sha256, Slot, canonical_json, sha256
from servegate.errors import ConfigError
from servegate.report.canary import Guarded, Proof
from servegate.report.records import Epoch, Evidence, read_records
from servegate.rollout import endings
from servegate.rollout.actions import Action
from servegate.rollout.decide import decide
from servegate.rollout.journal import append_line, last_line
from servegate.rollout.model import Decision, State
from servegate.rollout.plan import Plan
from servegate.rollout.seen import Observation


class AuditTick(Contract):
    """One tick: what was seen, what it is evidence of, what was decided, what was done."""

    schema_version: Literal[1] = 1
    rollout: str
    at: Epoch
    plan: dict[str, Any] | None = Field(None, description="in the first line of a rollout: the plan, defaults included")
    state: dict[str, Any] | None = Field(None, description="in the first line of a rollout: the state before it")
    before: Sha256 = Field(description="of the state before, without readings")
    after: Sha256 = Field(description="of the state that was saved, without readings")
    observation: Observation = Field(description="without readings: only the next deltas need them")
    evidence: tuple[Evidence, ...] = ()
    set_apart: dict[Slot, float] = Field(
        default_factory=dict, description="failures put down to pods that the platform took away"
    )
    proof: Proof | None = Field(None, description="of a rollback under way, or that ended at this tick")
    guard: Guarded | None = Field(None, description="the watch over a promoted release, while there is one")
    phase: str
    weights: dict[Slot, float]
    reason: str = Field("", description="why something changed")
    actions: tuple[Action, ...] = ()
    effects: tuple[str, ...] | None = Field(
        None, description="what became of each action: done, or failed with the reason; none: the controller was killed"
    )


def fingerprint(state: State) -> str:
    """`sha256:…` of a state without its readings."""
    return sha256(canonical_json(_bare(state)))


def line(plan: Plan, before: State, seen: Observation, decision: Decision, known: str | None = None) -> AuditTick:
    """The line of a decision, before its effects.

    Args:
        known: fingerprint of `before`; None for the first decision of a rollout, whose line holds the state itself.
    """
    first = known is None
    return AuditTick(
        rollout=before.rollout,
        at=seen.at,
        plan=plan.model_dump(mode="json") if first else None,
        state=_bare(before) if first else None,
        before=known or fingerprint(before),
        after=fingerprint(decision.state),
        observation=seen.model_copy(update={"readings": None}),
        evidence=decision.tick.evidence,
        set_apart={slot: float(tick.set_apart) for slot, tick in decision.tick.slots.items() if tick.set_apart},
        proof=endings.proof(plan, before, decision.state, seen),
        guard=endings.guarded(plan, decision.state),
        phase=decision.state.phase.value,
        weights=decision.state.weights,
        reason=decision.reason,
        actions=decision.actions,
    )


def _bare(state: State) -> dict[str, Any]:
    found = state.model_dump(mode="json", exclude={"readings"})
    for message in found["outbox"]:
        if message["origin"] is None:  # so that trails from before messages had one keep their fingerprints
            del message["origin"]
    return found


class Trail:
    """The file that the lines are appended to; None: nowhere."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def append(self, tick: AuditTick, effects: Sequence[str] | None) -> None:
        """Append a line, with what became of its effects.

        Raises:
            InfrastructureError: the file cannot be written.
        """
        if self.path is not None:
            done = tick if effects is None else tick.model_copy(update={"effects": tuple(effects)})
            append_line(self.path, done.model_dump_json() + "\n")

    def recover(self, kept: Sequence[AuditTick]) -> None:
        """Append the last lines as the Store has kept them, unless they stand there: their controller was killed.

        Raises:
            InfrastructureError: the file cannot be read or written.
        """
        if self.path is None or not kept:
            return
        found = last_line(self.path)
        try:
            known = None if found is None else AuditTick.model_validate_json(found)
        except ValidationError:
            known = None
        there = [known is not None and (known.before, known.after) == (line.before, line.after) for line in kept]
        for line in kept[there.index(True) + 1 if True in there else 0 :]:
            self.append(line, line.effects)


@dataclass(frozen=True)
class Difference:
    """A line that the replay does not confirm.

    Args:
        number: of the line in the trail, from 1.
    """

    number: int
    at: float
    message: str


@dataclass(frozen=True)
class Replay:
    """What came of replaying a trail.

    Args:
        rollouts: their ids, in order.
        ticks: lines that were decided again.
        changes: those that changed something.
        lost: lines whose effects are not known, because a controller was killed there.
        differences: lines that the replay does not confirm; empty: every decision was made again.
    """

    rollouts: tuple[str, ...]
    ticks: int
    changes: int
    lost: int
    differences: tuple[Difference, ...]


def read_trail(path: Path) -> list[AuditTick]:
    """Lines of a trail; one that stands twice (two controllers wrote it down) is taken once.

    Raises:
        ConfigError: it cannot be read, or a line is not such a record.
    """
    found: dict[tuple[str, str, str], AuditTick] = {}
    for item in read_records(path, AuditTick):
        key = (item.rollout, item.before, item.after)
        known = found.get(key)
        if known is None or known.effects is None:
            found[key] = item
    return list(found.values())


def replay(trail: Sequence[AuditTick]) -> Replay:
    """Make every decision of a trail again and compare.

    Raises:
        ConfigError: the trail does not begin with the beginning of a rollout, or holds a plan or state that is none.
    """
    if not trail:
        raise ConfigError("the trail is empty")
    plan: Plan | None = None
    state: State | None = None
    hashed = ""
    rollouts: list[str] = []
    differences: list[Difference] = []
    for number, tick in enumerate(trail, 1):
        if tick.state is not None and tick.plan is not None:
            plan = validate(tick.plan, Plan, f"plan in line {number}")
            state = validate(tick.state, State, f"state in line {number}")
            hashed = fingerprint(state)
            rollouts.append(tick.rollout)
        if plan is None or state is None:
            raise ConfigError("the trail does not begin with the beginning of a rollout: its first lines are missing")
        if hashed != tick.before:
            message = "does not follow from the line before it: a line is missing, was changed or was put in"
            differences.append(Difference(number, tick.at, message))
            break  # nothing that follows can be decided again
        again = decide(plan, state, tick.observation, tick.at)
        state, hashed = again.state, fingerprint(again.state)
        problem = _difference(again, hashed, tick)
        if problem is not None:
            differences.append(Difference(number, tick.at, problem))
            if hashed != tick.after:
                break
    return Replay(
        rollouts=tuple(rollouts),
        ticks=number,
        changes=sum(bool(tick.reason) for tick in trail),
        lost=sum(tick.effects is None for tick in trail),
        differences=tuple(differences),
    )


def _difference(again: Decision, hashed: str, tick: AuditTick) -> str | None:
    if again.reason != tick.reason:
        return f"was {tick.reason or 'nothing'!r}, is now {again.reason or 'nothing'!r}"
    if again.actions != tick.actions:
        return f"asked for {_kinds(tick.actions)}, asks now for {_kinds(again.actions)}"
    return "led to another state" if hashed != tick.after else None


def _kinds(actions: Sequence[Action]) -> str:
    return ", ".join(action.kind for action in actions) or "nothing"
