"""The contract Report: what every producer writes, and all that a gate reads.

A gate must be able to tell "measured and bad" from "not measured": values are optional, attempts are counted, and
a finding can void the report as a whole.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from servegate.contract import Contract, Sha256, Slot
from servegate.endpoint import EndpointFacts
from servegate.report.canary import CanaryStory
from servegate.report.records import Count, Epoch

Unit = Literal["seconds", "fraction", "tokens", "usd", "count", "requests/second", "tokens/second", "bytes", "score"]
# Names are shown and travel in verdicts; a name without end would be carried by everything that names it.
LONGEST_NAME = 500
Name = Annotated[str, Field(max_length=LONGEST_NAME)]
Kind = Literal["smoke", "eval", "load", "canary", "external"]


class Interval(Contract):
    """A confidence interval or sequence."""

    low: float
    high: float
    level: Annotated[float, Field(gt=0, lt=1)] = Field(description="such as 0.95")
    method: Name = Field(description="such as wilson, order-statistic, bootstrap-bca")

    @model_validator(mode="after")
    def _ordered(self) -> Interval:
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        return self


class Measure(Contract):
    """One number with all that is needed to judge it. Key: name, statistic, slice, slot."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=100)] = Field(
        description="ttft, error_rate, accuracy, …"
    )
    statistic: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_.]*$", max_length=100)] = Field(
        description="mean, p50, p95, rate, total, …"
    )
    slice: Name = Field("", description="part of the data, such as tags=refund; empty: all of it")
    slot: Slot | None = None
    value: float | None = Field(description="none: not measured. SI units")
    unit: Unit
    n: Count = Field(description="values the number rests on")
    attempted: Count = Field(description="values that were wanted")
    better: Literal["higher", "lower"] | None = None
    interval: Interval | None = None

    @property
    def key(self) -> str:
        """`name.statistic[slice]@slot`: how policies and tables name a measure."""
        slice_ = f"[{self.slice}]" if self.slice else ""
        slot = f"@{self.slot}" if self.slot else ""
        return f"{self.name}.{self.statistic}{slice_}{slot}"


class Subject(Contract):
    """What was judged: a release, or an endpoint that is nobody's release."""

    release: Sha256 | None = None
    name: Name | None = None
    endpoint: EndpointFacts | None = None

    @model_validator(mode="after")
    def _named(self) -> Subject:
        if self.release is None and self.endpoint is None:
            raise ValueError("a subject is a release, an endpoint, or both")
        return self


class Conditions(Contract):
    """What could change the numbers. Two reports are comparable only where these agree."""

    dataset_sha256: Sha256 | None = None
    profile_sha256: Sha256 | None = None
    plan_sha256: Sha256 | None = None
    seed: int | None = None
    temperature: float | None = None
    concurrency: Count | None = None
    client: str | None = Field(None, description="who asked, with version")
    other: dict[str, str] = Field(default_factory=dict)


class Samples(Contract):
    """A sidecar of records."""

    path: str = Field(description="relative to the report")
    sha256: Sha256
    record: Literal["EvalRecord", "RequestRecord", "CanaryTick", "AuditTick"]
    n: Count


class Finding(Contract):
    """Something a person should know that is not a number."""

    severity: Literal["info", "warning", "error"]
    code: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$", max_length=100)]
    message: str
    voids: bool = Field(False, description="the report's numbers must not be judged")


class Report(Contract):
    """What a producer measured."""

    schema_version: Literal[1] = 1
    kind: Kind
    name: Name = Field(description="of the suite, profile or plan")
    subject: Subject
    conditions: Conditions = Conditions()
    started: Epoch
    finished: Epoch
    tool: str = Field(description="name and version of the producer")
    measures: tuple[Measure, ...] = ()
    samples: tuple[Samples, ...] = ()
    findings: tuple[Finding, ...] = ()
    canary: CanaryStory | None = Field(None, description="of kind canary: how it went back, was watched, or compared")

    @model_validator(mode="after")
    def _consistent(self) -> Report:
        if self.finished < self.started:
            raise ValueError("finished before it started")
        keys = [measure.key for measure in self.measures]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise ValueError(f"measure {twice} stands twice")
        return self

    @property
    def void(self) -> Finding | None:
        """The first finding that voids the report."""
        return next((finding for finding in self.findings if finding.voids), None)

    def measure(self, key: str) -> Measure | None:
        """The measure with that key."""
        return next((measure for measure in self.measures if measure.key == key), None)
