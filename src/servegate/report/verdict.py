"""The contract Verdict: what a gate decided, about what, under which policy."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from servegate.contract import Contract, Sha256
from servegate.errors import ExitCode
from servegate.report.model import Interval, Unit
from servegate.report.records import Count, Epoch


class Outcome(StrEnum):
    """Four answers. What was not measured is never green."""

    PASS = "PASS"  # noqa: S105  an outcome, not a password
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    VOID = "VOID"

    @property
    def exit_code(self) -> ExitCode:
        """What a process that reached this outcome ends with."""
        return {
            Outcome.PASS: ExitCode.PASS,
            Outcome.FAIL: ExitCode.GATE_FAILED,
            Outcome.INCONCLUSIVE: ExitCode.NO_VERDICT,
            Outcome.VOID: ExitCode.NO_VERDICT,
        }[self]


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """FAIL over VOID over INCONCLUSIVE over PASS; of nothing: VOID, because nothing was measured."""
    order = [Outcome.PASS, Outcome.INCONCLUSIVE, Outcome.VOID, Outcome.FAIL]
    return max(outcomes, key=order.index, default=Outcome.VOID)


class Discordant(Contract):
    """An item two runs answered differently; scores are means over repeats."""

    id: str = Field(description="of the item")
    baseline: Annotated[float, Field(ge=0, le=1)]
    candidate: Annotated[float, Field(ge=0, le=1)]


class CheckResult(Contract):
    """What one check of a policy found."""

    check: str = Field(description="id of the check in the policy")
    outcome: Outcome = Field(description="what the numbers say")
    effect: Outcome = Field(description="what it counts as, after severity and on_inconclusive")
    severity: Literal["block", "warn"] = "block"
    measure: str | None = Field(None, description="key of the measure judged")
    report: Sha256 | None = Field(None, description="digest of the report it came from")
    value: float | None = None
    unit: Unit | None = None
    n: Count | None = None
    interval: Interval | None = None
    threshold: float | None = Field(None, description="SI units")
    comparison: str | None = Field(None, description="such as <= or >=")
    baseline: float | None = Field(None, description="the baseline's value")
    baseline_report: Sha256 | None = Field(None, description="digest of the report the baseline came from")
    delta: float | None = Field(None, description="value - baseline; value / baseline where `ratio` is true")
    ratio: bool = Field(False, description="delta is a ratio")
    delta_interval: Interval | None = Field(None, description="of delta; its level is two-sided")
    wanted: Count | None = Field(None, description="answers the producer is asked for before the gate is asked again")
    mde: float | None = Field(None, description="minimal detectable effect, in the measure's unit")
    lost: Count | None = Field(None, description="items answered worse than by the baseline; none: not paired")
    won: Count | None = Field(None, description="items answered better than by the baseline; none: not paired")
    discordant: tuple[Discordant, ...] = Field((), description="such items, the worst first; not always all of them")
    line: Annotated[int, Field(gt=0)] | None = Field(None, description="of the check in the policy's file, from 1")
    message: str = Field(description="one sentence with the numbers")


class Verdict(Contract):
    """The decision over all checks."""

    schema_version: Literal[1] = 1
    outcome: Outcome
    release: Sha256 | None
    release_name: str | None = None
    policy: str = Field(description="name of the policy")
    policy_sha256: Sha256
    policy_file: str | None = Field(None, description="of the policy, from the top of its repository")
    reports: tuple[Sha256, ...] = Field(description="digests of the reports judged")
    results: tuple[CheckResult, ...]
    decided_at: Epoch
    decided_by: str = Field(description="who or what ran the gate")
    tool: str
