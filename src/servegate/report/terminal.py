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
    short_hash,
)
from servegate.report.model import Report
from servegate.report.rows import Row, levels, notable, row
from servegate.report.sections import Section, sections
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
    except (UnicodeEncodeError, LookupError):  # LookupError: an encoding that Python does not know
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
    console.print(_checks(verdict, signs, console))
    for result in notable(verdict.results):
        line = f"{_mark(result.outcome, signs)} {clean(result.check, 80)}{_counts_as(result)}: {clean(result.message)}"
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
        width = max((len(name) for name, *_ in rows), default=0)
        told = [line for part in sections(report.canary) for line in _plain_section(part)]
        say(console, [head, *told, *(f"  {name:<{width}}  {value}  n {n}" for name, value, n in rows), *findings])
        return
    console.print(Text(encodable(head, console), "bold"))
    for part in sections(report.canary):
        _print_section(part, console)
    table = _table("Measure", "Value [interval]", "n of attempted")
    for cells in rows:
        table.add_row(*(Text(encodable(cell, console)) for cell in cells))
    console.print(table)
    for line in findings:
        console.print(Text(encodable(line, console), "bold magenta" if line.startswith("VOID") else "yellow"))


def _plain_section(part: Section) -> list[str]:
    lines = [f"{part.outcome:<12}  {clean(part.title)}: {clean(part.lead)}"]
    lines += [f"  DO: {clean(part.todo)}"] if part.todo else []
    lines += [f"  {label}: {clean(value)}" for label, value in part.facts.items()]
    for outcome, name, *cells in part.rows:
        named = zip(part.head[2:], cells, strict=True)
        found = (
            clean(cells[0]) if len(cells) == 1 else "; ".join(f"{head} {clean(cell)}" for head, cell in named if cell)
        )
        lines.append(f"  {outcome:<12}  {clean(name)}: {found}")
    return lines


def _print_section(part: Section, console: Console) -> None:
    style = STYLES[Outcome(part.outcome)]
    signs = glyphs(console)
    head = f"{_mark(Outcome(part.outcome), signs)} {clean(part.title)}: {clean(part.lead)}"
    console.print(Text(encodable(head, console), style))
    if part.todo:
        console.print(Text(encodable(f"What a person must do: {clean(part.todo)}", console), "bold red"))
    facts = _table("", "")
    facts.show_header = False
    for label, value in part.facts.items():
        facts.add_row(label, Text(encodable(clean(value), console)))
    console.print(facts)
    if part.rows:
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
        for name in part.head:
            table.add_column(encodable(name, console), overflow="fold")
        for outcome, *cells in part.rows:
            mark = Text(f"{_mark(Outcome(outcome), signs)} {outcome}", STYLES[Outcome(outcome)])
            table.add_row(mark, *(Text(encodable(clean(cell), console)) for cell in cells))
        console.print(table)
    console.print()


def _checks(verdict: Verdict, signs: Glyphs, console: Console) -> Table:
    """One row per check. What no check has gets no column."""
    rows = [row(result, signs.at_most, signs.at_least) for result in verdict.results]
    level = levels(verdict.results)
    # Without Δ in the encoding the words are English.
    change = "Δ" if encodable("Δ", console) == "Δ" else "Change"
    columns = {
        "Check": [_named(cells) for cells in rows],
        "Baseline": [cells.baseline for cells in rows],
        "Candidate": [cells.candidate for cells in rows],
        f"{change} [{level}]" if level else change: [cells.delta for cells in rows],
        "Limit": [cells.limit for cells in rows],
        "n": [cells.n for cells in rows],
        "MDE": [cells.mde for cells in rows],
    }
    kept = {name: cells for name, cells in columns.items() if any(cells)}
    table = _table("Verdict", *kept)
    for index, result in enumerate(verdict.results):
        mark = Text(f"{_mark(result.outcome, signs)} {result.outcome}", STYLES[result.outcome])
        table.add_row(mark, *(Text(encodable(cells[index], console)) for cells in kept.values()))
    return table


def _named(cells: Row) -> str:
    return cells.check if cells.metric in ("", cells.check) else f"{cells.check}: {cells.metric}"


def _plain_check(result: CheckResult) -> list[str]:
    cells = row(result)
    parts = {
        "": cells.candidate,
        "baseline": cells.baseline,
        "Δ": cells.delta,
        "limit": cells.limit,
        "n": cells.n,
        "MDE": cells.mde,
    }
    numbers = "  ".join(f"{name} {cell}".strip() for name, cell in parts.items() if cell)
    return [f"  {cells.verdict:<12}  {_named(cells)}  {numbers}".rstrip(), f"      {clean(result.message)}"]


def _counts_as(result: CheckResult) -> str:
    return "" if result.outcome is result.effect else f" (counts as {result.effect})"


def _mark(outcome: Outcome, signs: Glyphs) -> str:
    return {Outcome.PASS: signs.done, Outcome.FAIL: signs.failed}.get(outcome, signs.doubt)


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        # A name that finds no room goes on in the next line; nothing is cut.
        table.add_column(column, justify="left" if index < 2 else "right", no_wrap=index == 0, overflow="fold")
    return table
