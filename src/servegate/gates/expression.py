"""Measures and conditions in a person's words: `ttft p95 < 500ms`, `accuracy[tags=refund] >= 80%`.

A policy keeps what the person wrote; this file says what it means.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from servegate.gates.units import KNOWN, Quantity, misfit, quantity

_MEASURE = re.compile(
    r"(?P<name>[a-z][a-z0-9_]*)(?:[ .]+(?P<statistic>[a-z][a-z0-9_.]*))?"
    r"(?:\s*\[(?P<slice>[^\[\]]{1,200})\])?(?:\s*@(?P<slot>[a-z][a-z0-9-]{0,30}))?"
)
_CONDITION = re.compile(r"(?P<left>[^<>≤≥]*?)(?P<operator><=|>=|≤|≥|<|>)(?P<right>[^<>=≤≥]*)")


@dataclass(frozen=True)
class MeasureName:
    """Which measure of a report is meant.

    Attributes:
        name: such as ttft.
        statistic: such as p95; None: the only one there is, or the mean or rate.
        slice: such as tags=refund; empty: the whole.
        slot: of a canary report.
    """

    name: str
    statistic: str | None = None
    slice: str = ""
    slot: str | None = None

    def __str__(self) -> str:
        statistic = f" {self.statistic}" if self.statistic else ""
        slice_ = f"[{self.slice}]" if self.slice else ""
        return f"{self.name}{statistic}{slice_}{f'@{self.slot}' if self.slot else ''}"


@dataclass(frozen=True)
class Condition:
    """What a measure must be.

    Attributes:
        operator: one of <, <=, >, >=.
        limit: the other side.
    """

    operator: str
    limit: Quantity

    @property
    def wants(self) -> str:
        """The direction it rewards: higher or lower."""
        return "higher" if self.operator[0] == ">" else "lower"

    def holds(self, value: float) -> bool:
        """Whether a value satisfies it."""
        return {
            "<": value < self.limit.value,
            "<=": value <= self.limit.value,
            ">": value > self.limit.value,
            ">=": value >= self.limit.value,
        }[self.operator]


def measure_name(text: str) -> MeasureName:
    """Parse `ttft p95`, `ttft.p95`, `accuracy[tags=refund]`, `error_rate@green`.

    Raises:
        ValueError: it is none of these.
    """
    found = _MEASURE.fullmatch(text.strip())
    if found is None:
        shown = text.strip() if len(text) <= 80 else text[:77] + "…"
        raise ValueError(f"{shown!r} is not a measure such as `ttft p95` or `accuracy[tags=refund]`")
    return MeasureName(found["name"], found["statistic"], (found["slice"] or "").strip(), found["slot"])


def expectation(text: str) -> tuple[str, Condition]:
    """Split `ttft p95 < 500ms` into the words before the sign and the condition.

    Raises:
        ValueError: no condition, no unit where one is needed, or a condition that always or never holds.
    """
    found = _CONDITION.fullmatch(text.strip())
    if found is None:
        shown = text if len(text) <= 80 else text[:77] + "…"
        raise ValueError(f"{shown!r} is not a condition such as `p95 < 500ms` or `>= 80%`")
    operator = {"≤": "<=", "≥": ">="}.get(found["operator"], found["operator"])
    return found["left"].strip(), Condition(operator, quantity(found["right"]))


def check_sense(measure: MeasureName, condition: Condition) -> None:
    """Refuse a condition that cannot mean what its author wants.

    Raises:
        ValueError: a unit that does not fit a measure whose unit is known, the wrong direction for it, or a condition
            that every value or no value satisfies.
    """
    limit = condition.limit
    if measure.name in KNOWN:
        unit, better = KNOWN[measure.name]
        if not limit.fits(unit):
            raise ValueError(misfit(limit, unit))
        if condition.wants != better:
            raise ValueError(
                f"{measure.name} is better when {better}; `{condition.operator} {limit.written}` asks for the opposite"
            )
    if not condition.holds(0.0) and condition.operator[0] == "<":
        raise ValueError(f"nothing is `{condition.operator} {limit.written}`: the check could never pass")
    if condition.holds(0.0) and condition.operator[0] == ">":
        raise ValueError(f"everything is `{condition.operator} {limit.written}`: the check could never fail")
    if limit.fits("fraction"):
        if condition.operator[0] == "<" and condition.holds(1.0):
            raise ValueError(f"every fraction is `{condition.operator} {limit.written}`: the check could never fail")
        if condition.operator[0] == ">" and not condition.holds(1.0):
            raise ValueError(f"no fraction is `{condition.operator} {limit.written}`: the check could never pass")
