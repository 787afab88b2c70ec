"""One check of a policy: a measure against a limit, a measure against a baseline, or a report without findings."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, field_validator, model_validator

from servegate.config import Config
from servegate.contract import Slot
from servegate.gates.expression import Condition, MeasureName, check_sense, expectation, measure_name
from servegate.gates.units import KNOWN, Quantity, fraction, misfit, quantity, seconds
from servegate.report.model import Conditions, Kind, Report

_KINDS = get_args(Kind)


def _report(text: str) -> str:
    kind = text.partition("/")[0]
    if kind not in _KINDS:
        near = difflib.get_close_matches(kind, _KINDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(_KINDS)}"
        raise ValueError(f"{kind!r} is not a kind of report; {hint}")
    return text


def age(text: str) -> str:
    """Check a greatest age. Raises ValueError when it is not a positive length of time."""
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


@dataclass(frozen=True)
class Margin:
    """How much worse than the baseline a measure may be.

    Attributes:
        amount: an absolute loss in SI units; None: `share` says it.
        share: a loss as a share of the baseline's value; None: `amount` says it.
        written: as the policy has it.
    """

    amount: Quantity | None
    share: float | None
    written: str

    def loss(self, baseline: float) -> float:
        """The loss in SI units."""
        return self.share * abs(baseline) if self.share is not None else self.amount.value if self.amount else 0.0


def margin(text: str) -> Margin:
    """Parse `3pp`, `50ms` or `10% of baseline`.

    Raises:
        ValueError: none of these, or a share that may mean either.
    """
    found = re.fullmatch(r"(.+?)\s+of\s+(?:the\s+)?baseline", text.strip())
    if found is not None:
        share = fraction(found[1])
        if share >= 1:
            raise ValueError(f"{text!r}: a loss of all there is could never fail")
        return Margin(None, share, text.strip())
    amount = quantity(text)
    if amount.written.endswith("%"):
        raise ValueError(
            f"{text!r} may mean points or a share: write {amount.written[:-1].strip()}pp or {text} of baseline"
        )
    if amount.fits("fraction") and amount.value >= 1:
        raise ValueError(f"{text!r}: a loss of all there is could never fail")
    return Margin(amount, None, text.strip())


def _margin(text: str) -> str:
    margin(text)
    return text


def _confidence(text: str) -> str:
    if not 0.5 < fraction(text) < 1:
        raise ValueError("a confidence lies above 50% and below 100%")
    return text


def _discordance(text: str) -> str:
    if not 0 <= fraction(text) <= 1:
        raise ValueError("a discordance lies between 0% and 100%")
    return text


# What of two reports must agree before they are compared.
FINGERPRINT = (*(name for name in Conditions.model_fields if name != "other"), "model", "engine_version")


def condition_name(name: str) -> str:
    """Check the name of a condition that may differ. Raises ValueError with the nearest one."""
    if name not in FINGERPRINT and not name.startswith("other."):
        near = difflib.get_close_matches(name, FINGERPRINT, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(FINGERPRINT)}, other.…"
        raise ValueError(f"{name!r} is not a condition; {hint}")
    return name


class Baseline(Config):
    """A comparison with the report of an earlier release: not worse than by a margin, at a confidence."""

    margin: Annotated[str, AfterValidator(_margin)] = Field(
        description="greatest loss that is accepted", examples=["3pp", "50ms", "10% of baseline"]
    )
    confidence: Annotated[str, AfterValidator(_confidence)] = Field(
        "95%", description="of the one-sided statements `not worse` (PASS) and `worse` (FAIL)"
    )
    detect: Annotated[str, AfterValidator(_margin)] | None = Field(
        None, description="a loss that must not slip through; `gate plan` prints the chance to fail it"
    )
    discordance: Annotated[str, AfterValidator(_discordance)] | None = Field(
        None, description="share of items two runs of one model answer differently, for `gate plan` without an A/A run"
    )
    looks: tuple[Annotated[int, Field(gt=0)], ...] | None = Field(
        None,
        description="numbers of answers at which may be judged; undecided before the last asks for the next",
        examples=[[100, 200, 400]],
    )
    younger_than: Annotated[str, AfterValidator(age)] | None = Field(None, description="greatest age of the baseline")
    allow: tuple[str, ...] = Field(
        (), description="conditions that may differ", examples=[["model", "engine_version", "seed", "other.gpu"]]
    )

    @field_validator("looks", mode="after")
    @classmethod
    def _rising(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and not (2 <= len(value) <= 10 and all(a < b for a, b in pairwise(value))):
            raise ValueError("looks are 2 to 10 rising numbers of answers, such as [100, 200, 400]")
        return value

    @field_validator("allow", mode="after")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(condition_name(name) for name in value)

    @property
    def accepted(self) -> Margin:
        """`margin`, parsed."""
        return margin(self.margin)

    @property
    def detected(self) -> Margin | None:
        """`detect`, parsed."""
        return None if self.detect is None else margin(self.detect)

    @property
    def alpha(self) -> float:
        """One-sided error, 1 − confidence."""
        return round(1 - fraction(self.confidence), 12)

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
    baseline: Baseline | None = Field(None, description="compare with the same measure of an earlier release")
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
        kinds = ("expect", "baseline", "no_findings")
        if sum(getattr(self, kind) is not None for kind in kinds) != 1:
            raise ValueError("a check says one of `expect`, `baseline` and `no_findings`")
        if self.no_findings is not None:
            self._without("measure", "slice", "slot", "judge", why="`no_findings` is about the whole report")
        elif self.baseline is not None:
            self._without("judge", why="a baseline is always compared by interval")
            self._fits(self.baseline)
        else:
            check_sense(self.target, self.condition)
        return self

    def _without(self, *keys: str, why: str) -> None:
        extra = [key for key in keys if getattr(self, key) is not None]
        if extra:
            raise ValueError(f"{why}; {extra[0]!r} has no meaning there")

    def _fits(self, baseline: Baseline) -> None:
        if self.target.name not in KNOWN:
            return
        unit = KNOWN[self.target.name][0]
        for text in (baseline.margin, baseline.detect):
            amount = None if text is None else margin(text).amount
            if amount is not None and not amount.fits(unit):
                raise ValueError(misfit(amount, unit))

    @cached_property
    def _parsed(self) -> tuple[MeasureName, Condition | None]:
        left, condition = expectation(self.expect) if self.expect is not None else ("", None)
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
        """The measure it is about. Not of a check of findings."""
        return self._parsed[0]

    @property
    def condition(self) -> Condition:
        """What the measure must be. Only of a check that has `expect`."""
        condition = self._parsed[1]
        assert condition is not None
        return condition

    @property
    def least_coverage(self) -> float:
        """`coverage` as a fraction."""
        return fraction(self.coverage)
