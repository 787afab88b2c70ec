"""One check of a verdict as every view shows it: the same cells in a terminal, in Markdown, in HTML and in JUnit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from servegate.report.format import change, clean, count, key_name, quantity, size, with_interval
from servegate.report.verdict import CheckResult, Outcome

_ORDER = [Outcome.FAIL, Outcome.VOID, Outcome.INCONCLUSIVE, Outcome.PASS]


@dataclass(frozen=True)
class Row:
    """Cells as text, cleaned; empty where there is nothing to say.

    Attributes:
        candidate: the value judged, with its interval.
        delta: candidate against baseline, with its interval.
        limit: what the check asked of the candidate, or of delta.
        verdict: the outcome, and what it counts as where that differs.
    """

    check: str
    metric: str
    baseline: str
    candidate: str
    delta: str
    limit: str
    n: str
    mde: str
    verdict: str


def row(result: CheckResult, at_most: str = "≤", at_least: str = "≥") -> Row:
    """The cells of one check; the signs are those the view can show."""
    unit = result.unit or ""
    compared = result.baseline is not None
    metric = "" if result.measure is None else key_name(result.measure, unit)
    if result.delta is not None and result.lost is None:
        metric += ", unpaired"
    return Row(
        check=clean(result.check, 80),
        metric=metric,
        baseline=quantity(result.baseline, unit, unlike=result.value) if compared else "",
        candidate=quantity(result.value, unit, unlike=result.baseline) if compared else value_of(result),
        delta="" if result.delta is None else change(result.delta, unit, result.delta_interval, result.ratio),
        limit=limit_of(result, at_most, at_least),
        n="" if result.n is None else count(result.n),
        mde="" if result.mde is None else size(result.mde, unit),
        verdict=outcome_words(result),
    )


def value_of(result: CheckResult) -> str:
    """The value a check judged, with its interval; empty for a check that judges no number."""
    if result.value is None and result.measure is None:
        return ""
    return with_interval(result.value, result.interval, result.unit or "", unlike=result.threshold)


def limit_of(result: CheckResult, at_most: str = "≤", at_least: str = "≥") -> str:
    """What the check asked for: `≤ 500 ms` of the value, `Δ ≥ −3 pp` of the difference; empty without a limit."""
    if result.threshold is None:
        return ""
    sign = {"<=": at_most, ">=": at_least}.get(result.comparison or "", clean(result.comparison or "", 20))
    unit = result.unit or ""
    if result.baseline is None or result.delta is None:
        return f"{sign} {quantity(result.threshold, unit, unlike=result.value)}".strip()
    if not result.ratio:
        return f"Δ {sign} {change(result.threshold - result.baseline, unit)}"
    if result.baseline == 0:
        return f"{sign} {quantity(result.threshold, unit)}"
    return f"Δ {sign} {change(result.threshold / result.baseline, unit, ratio=True)}"


def outcome_words(result: CheckResult) -> str:
    """The outcome, and what it counts as where that differs."""
    return str(result.outcome) if result.outcome is result.effect else f"{result.outcome} (counts as {result.effect})"


def by_weight(results: Iterable[CheckResult]) -> list[CheckResult]:
    """What decides first: by what a check counts as, then by what was found; else in the policy's order."""
    return sorted(results, key=lambda result: (_ORDER.index(result.effect), _ORDER.index(result.outcome)))


def notable(results: Iterable[CheckResult]) -> list[CheckResult]:
    """Checks that are not a plain pass."""
    return [result for result in results if {result.outcome, result.effect} != {Outcome.PASS}]


def levels(results: Iterable[CheckResult]) -> str:
    """Level of the intervals of delta: `90 %`, or `90 to 95 %` where they differ; empty without any."""
    found = sorted({round(100 * result.delta_interval.level, 1) for result in results if result.delta_interval})
    if not found:
        return ""
    return f"{found[0]:g} %" if len(found) == 1 else f"{found[0]:g} to {found[-1]:g} %"
