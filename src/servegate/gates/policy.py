"""The policy: what must hold before a release may carry traffic, as a file a team edits.

The file keeps people's words (`expect: ttft p95 < 500ms`); they are parsed while it is read, so that a wrong unit or
a check that can never fail is an error with file and line, not a surprise in the middle of a release.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, field_validator, model_validator

from servegate.config import Config
from servegate.contract import Sha256, Slot, canonical_json, sha256
from servegate.gates.expression import Condition, MeasureName, check_sense, expectation, measure_name
from servegate.gates.units import fraction, seconds
from servegate.report.model import Kind, Report

_KINDS = get_args(Kind)


def _report(text: str) -> str:
    kind = text.partition("/")[0]
    if kind not in _KINDS:
        near = difflib.get_close_matches(kind, _KINDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(_KINDS)}"
        raise ValueError(f"{kind!r} is not a kind of report; {hint}")
    return text


def _age(text: str) -> str:
    if seconds(text) <= 0:
        raise ValueError("nothing is younger than that")
    return text


def _coverage(text: str) -> str:
    if not 0 < fraction(text) <= 1:
        raise ValueError("coverage lies above 0% and at most at 100%")
    return text


ReportName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=300,
        description="kind or kind/name: eval, eval/support, load/chat",
        examples=["smoke", "eval/support"],
    ),
    AfterValidator(_report),
]
Severity = Literal["block", "warn"]


def matches(name: str, report: Report) -> bool:
    """Whether a report is the one meant by `kind` or `kind/name`."""
    kind, slash, rest = name.partition("/")
    return report.kind == kind and (not slash or report.name == rest)


class Requirement(Config):
    """A report that must be there for any verdict to be given."""

    report: ReportName
    younger_than: Annotated[str, AfterValidator(_age)] | None = Field(
        None, description="greatest age since it finished", examples=["30min", "12h", "7d"]
    )
    of_release: bool = Field(True, description="it must be of the release that is judged")
    image: Sha256 | None = Field(None, description="digest of the image of the release that is judged")
    dataset: Sha256 | None = Field(None, description="digest of the data set it was measured on")

    @property
    def id(self) -> str:
        """How it is named in a verdict."""
        return f"require:{self.report}"

    @property
    def max_age(self) -> float | None:
        """Greatest age in seconds."""
        return None if self.younger_than is None else seconds(self.younger_than)


class Check(Config):
    """One thing that must hold."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$", description="its name in verdicts")]
    description: str = Field("", max_length=1000, description="why it must hold, for the person who sees it fail")
    report: ReportName
    measure: str | None = Field(
        None, max_length=300, description="ttft, ttft p95, accuracy[tags=refund]; may stand in `expect` instead"
    )
    slice: str | dict[str, str] | None = Field(
        None, description="part of the data", examples=["tags=refund", {"tags": "refund"}]
    )
    slot: Slot | None = Field(None, description="slot of a canary report")
    expect: str | None = Field(
        None,
        max_length=300,
        description="what the measure must be, with unit",
        examples=["p95 < 500ms", "accuracy >= 80%"],
    )
    no_findings: Literal["error", "warning"] | None = Field(
        None, description="the report has no finding of this severity or a worse one"
    )
    judge: Literal["interval", "value"] | None = Field(
        None,
        description="interval: the whole confidence interval must hold; value: the measured value alone; "
        "default: the interval where the measure has one",
    )
    coverage: Annotated[str, AfterValidator(_coverage)] = Field(
        "95%", description="share of what was attempted that must have been measured; below it the check is void"
    )
    severity: Severity = Field("block", description="warn: shown, never blocks")
    on_inconclusive: Literal["fail", "warn", "pass"] = Field(
        "fail", description="what it counts as when the numbers cannot tell"
    )

    @field_validator("slice", mode="after")
    @classmethod
    def _one_slice(cls, value: str | dict[str, str] | None) -> str | None:
        if isinstance(value, Mapping):
            if len(value) != 1:
                raise ValueError("a slice is one key and its value, such as {tags: refund}")
            return "=".join(next(iter(value.items())))
        return value

    @model_validator(mode="after")
    def _sensible(self) -> Check:
        if (self.expect is None) == (self.no_findings is None):
            raise ValueError("a check says either `expect` or `no_findings`")
        if self.expect is None:
            extra = [key for key in ("measure", "slice", "slot", "judge") if getattr(self, key) is not None]
            if extra:
                raise ValueError(f"`no_findings` is about the whole report; {extra[0]!r} has no meaning there")
        else:
            check_sense(self.target, self.condition)
        return self

    @cached_property
    def _parsed(self) -> tuple[MeasureName, Condition]:
        left, condition = expectation(self.expect or "")
        words = " ".join(part for part in (self.measure, left) if part)
        if not words:
            raise ValueError("which measure? Write `measure: ttft p95` or `expect: ttft p95 < 500ms`")
        named = measure_name(words)
        slice_ = self.slice if isinstance(self.slice, str) else ""
        for name, inline, key in (("slice", named.slice, slice_), ("slot", named.slot, self.slot)):
            if inline and key and inline != key:
                raise ValueError(f"two {name}s: {inline} and {key}")
        return MeasureName(named.name, named.statistic, named.slice or slice_, named.slot or self.slot), condition

    @property
    def target(self) -> MeasureName:
        """The measure it is about. Only of a check that has `expect`."""
        return self._parsed[0]

    @property
    def condition(self) -> Condition:
        """What the measure must be. Only of a check that has `expect`."""
        return self._parsed[1]

    @property
    def least_coverage(self) -> float:
        """`coverage` as a fraction."""
        return fraction(self.coverage)


class Policy(Config):
    """What must hold before a release may carry traffic."""

    version: Literal[1]
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
    description: str = Field("", max_length=2000)
    require: tuple[Requirement, ...] = ()
    # The length is checked below: pydantic would count a check with a mistake as missing and say so as well.
    checks: Annotated[tuple[Check, ...], Field(json_schema_extra={"minItems": 1, "maxItems": 500})]

    @model_validator(mode="after")
    def _can_fail(self) -> Policy:
        if not 1 <= len(self.checks) <= 500:
            raise ValueError(f"a policy has 1 to 500 checks, not {len(self.checks)}")
        for what, names in (
            ("check id", [check.id for check in self.checks]),
            ("requirement", [requirement.report for requirement in self.require]),
        ):
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise ValueError(f"{what} {twice!r} stands twice")
        if all(check.severity == "warn" for check in self.checks):
            raise ValueError("every check only warns: this policy could never fail")
        return self

    def identity(self) -> str:
        """`sha256:…` of what it says; blanks, comments and the order of keys do not count."""
        return sha256(canonical_json(self.model_dump(mode="json")))
