"""Reports and verdicts as tables in a terminal, and as plain lines in a log.

A log keeps no control characters and has no width: there nothing is drawn, coloured or cut. What a terminal cannot
encode is replaced, so that no run ends with a UnicodeEncodeError after the work is done.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from servegate.report.format import (
    clean,
    count,
    date,
    duration,
    measure_name,
    measured,
    plain_line,
    quantity,
    short_hash,
    with_interval,
)
from servegate.report.model import Report
from servegate.report.verdict import CheckResult, Outcome, Verdict

STYLES = {
    Outcome.PASS: "green",
    Outcome.FAIL: "bold red",
    Outcome.INCONCLUSIVE: "yellow",
    Outcome.VOID: "bold magenta",
}


@dataclass(frozen=True)
class Glyphs:
    """Signs for this terminal's encoding."""

    done: str = "✓"
    failed: str = "✗"
    doubt: str = "?"
    arrow: str = "▸"
    full: str = "█"
    empty: str = "░"
    dot: str = "·"
    at_most: str = "≤"
    at_least: str = "≥"


ASCII = Glyphs(done="+", failed="x", doubt="?", arrow=">", full="#", empty=".", dot="-", at_most="<=", at_least=">=")


def interactive(console: Console) -> bool:
    """Whether a person watches: a real terminal that can move its cursor, not a continuous-integration run."""
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        return False
    # Rich takes FORCE_COLOR for a terminal; moving the cursor in a file is not what its user asked for.
    isatty = getattr(console.file, "isatty", None)
    return console.is_terminal and not console.is_dumb_terminal and bool(isatty and isatty())


def glyphs(console: Console) -> Glyphs:
    """Unicode signs where the encoding has them, ASCII elsewhere."""
    try:
        "".join(vars(Glyphs()).values()).encode(console.encoding)
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return Glyphs()


def encodable(text: str, console: Console) -> str:
    """`text` with `?` for what the terminal cannot encode."""
    try:
        return text.encode(console.encoding, "replace").decode(console.encoding)
    except LookupError:
        return text.encode("ascii", "replace").decode()


def say(console: Console, lines: Iterable[str]) -> None:
    """Write plain lines: no control characters, no wrapping, nothing a runner would take for a command."""
    for line in lines:
        console.file.write(encodable(plain_line(line), console) + "\n")
    console.file.flush()


def bar(share: float, width: int, signs: Glyphs) -> str:
    """A bar of `width` characters, full at 1."""
    filled = min(width, max(0, round(share * width)))
    return signs.full * filled + signs.empty * (width - filled)


def print_verdict(verdict: Verdict, console: Console) -> None:
    """The verdict, one row per check, and a sentence for each check that is not a plain pass."""
    signs = glyphs(console)
    name = clean(verdict.release_name or "no name", 80)
    head = f"{verdict.outcome}  {name} ({short_hash(verdict.release)})  by policy {clean(verdict.policy, 80)}"
    foot = f"{date(verdict.decided_at)} by {clean(verdict.decided_by, 80)}, {clean(verdict.tool, 80)}"
    if not interactive(console):
        say(console, [head, *(line for result in verdict.results for line in _plain_check(result)), foot])
        return
    console.print(Text(encodable(head, console), STYLES[verdict.outcome]))
    table = _table("", "Check", "Value", "Threshold", "n", "Detectable")
    for result in verdict.results:
        cells = check_cells(result, signs)
        table.add_row(
            *(Text(encodable(cell, console), STYLES[result.outcome] if i == 0 else "") for i, cell in enumerate(cells))
        )
    console.print(table)
    for result in verdict.results:
        if result.outcome is not Outcome.PASS or result.effect is not Outcome.PASS:
            line = (
                f"{_mark(result.outcome, signs)} {clean(result.check, 80)}{_counts_as(result)}: {clean(result.message)}"
            )
            console.print(Text(encodable(line, console), STYLES[result.outcome]))
    console.print(Text(encodable(foot, console), "dim"))


def print_report(report: Report, console: Console) -> None:
    """The report: what was measured of whom, and what its producer found worth saying."""
    who = clean(report.subject.name or short_hash(report.subject.release), 80)
    length = duration(report.finished - report.started)
    head = (
        f"{report.kind} {clean(report.name, 80)} of {who}: {date(report.started)}, {length}, {clean(report.tool, 80)}"
    )
    rows = [(measure_name(m), measured(m), f"{count(m.n)} of {count(m.attempted)}") for m in report.measures]
    void = report.void
    findings = [f"{finding.severity}: {clean(finding.code)}: {clean(finding.message)}" for finding in report.findings]
    if void is not None:
        findings.insert(0, "VOID: these numbers must not be judged")
    if not interactive(console):
        width = max((len(row[0]) for row in rows), default=0)
        say(console, [head, *(f"  {name:<{width}}  {value}  n {n}" for name, value, n in rows), *findings])
        return
    console.print(Text(encodable(head, console), "bold"))
    table = _table("Measure", "Value [interval]", "n of attempted")
    for row in rows:
        table.add_row(*(Text(encodable(cell, console)) for cell in row))
    console.print(table)
    for line in findings:
        console.print(Text(encodable(line, console), "bold magenta" if line.startswith("VOID") else "yellow"))


def check_cells(result: CheckResult, signs: Glyphs) -> tuple[str, ...]:
    """Outcome, check, value, threshold, n, detectable effect."""
    return (
        f"{_mark(result.outcome, signs)} {result.outcome}",
        clean(result.check, 80),
        value_of(result),
        threshold_of(result, signs),
        "" if result.n is None else count(result.n),
        "" if result.mde is None else quantity(result.mde, result.unit or ""),
    )


def value_of(result: CheckResult) -> str:
    """The value a check judged, with its interval; empty for a check that judges no number."""
    if result.value is None and result.measure is None:
        return ""
    return with_interval(result.value, result.interval, result.unit or "", unlike=result.threshold)


def threshold_of(result: CheckResult, signs: Glyphs = Glyphs()) -> str:
    """What the check asked for, such as `≤ 500 ms`; empty where there is no threshold."""
    if result.threshold is None:
        return ""
    sign = {"<=": signs.at_most, ">=": signs.at_least}.get(result.comparison or "", result.comparison or "")
    return f"{clean(sign, 20)} {quantity(result.threshold, result.unit or '', unlike=result.value)}".strip()


def outcome_words(result: CheckResult) -> str:
    """The outcome, and what it counts as where that differs."""
    return f"{result.outcome}{_counts_as(result)}"


def _plain_check(result: CheckResult) -> list[str]:
    _, check, value, threshold, n, mde = check_cells(result, Glyphs())
    parts = [value, threshold, n and f"n {n}", mde and f"detectable {mde}"]
    numbers = "  ".join(part for part in parts if part)
    return [f"  {outcome_words(result):<12}  {check}: {numbers}", f"      {clean(result.message)}"]


def _counts_as(result: CheckResult) -> str:
    return "" if result.outcome is result.effect else f" (counts as {result.effect})"


def _mark(outcome: Outcome, signs: Glyphs) -> str:
    return {Outcome.PASS: signs.done, Outcome.FAIL: signs.failed}.get(outcome, signs.doubt)


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < 2 else "right")
    return table
