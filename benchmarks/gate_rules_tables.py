"""What gate_rules.py measured, as Markdown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Items of a passage, in clustered suites.
CLUSTER = 5
RULES = ("paired (ours)", "tolerance 8 %", "Wilson bound", "unpaired z")
# Share of runs that PASS and that FAIL; what is missing to 1 is INCONCLUSIVE.
Shares = tuple[float, float]


@dataclass(frozen=True)
class Extended:
    """A run that may be extended: looks at a quarter, a half and all of the items.

    Attributes:
        margin: the smallest that the plan accepts.
        passed, failed: shares of an unchanged model, after all extensions.
        items: answers it was asked, on average, as a share of all.
        drop, caught: margin + 1.35 MDE of the extended run, on top of the discordance, and the share that FAILs.
        worse_items: answers that model was asked, on average.
    """

    margin: float
    passed: float
    failed: float
    items: float
    drop: float | None
    caught: float | None
    worse_items: float | None


@dataclass(frozen=True)
class Row:
    """One cell of the table.

    Attributes:
        margin, mde, drop: accepted loss; loss beyond it that 80 % of the runs would FAIL; margin + 1.35 MDE.
        unchanged: shares of an unchanged model, per rule.
        within: of a model that lost `drop` and still differs in `discordance` of the items; None: impossible.
        on_top: of one that lost `drop` on top of the items that differ anyway; None: impossible.
        measured: chance not to PASS an unchanged model when the plan had one A/A run.
        extended: the same suite in three looks; None: clustered.
    """

    n: int
    discordance: float
    clustered: bool
    margin: float
    mde: float | None
    drop: float | None
    unchanged: dict[str, Shares]
    within: dict[str, Shares] | None
    on_top: dict[str, Shares] | None
    measured: float
    extended: Extended | None


def tables(rows: list[Row]) -> list[str]:
    """Markdown: the unchanged model, then the worse ones."""
    lines = ["Unchanged model: not PASS (of which FAIL), % of the runs", "", *_head()]
    for row in rows:
        found = [f"{100 * (1 - row.unchanged[name][0]):.1f} ({100 * row.unchanged[name][1]:.1f})" for name in RULES]
        lines.append(_line(row, f"{100 * row.margin:.1f}", found))
    for title, which in (
        ("Worse by margin + 1.35 MDE, losses within the discordance: FAIL (and wrong PASS), % of the runs", "within"),
        ("The same loss on top of the discordance: FAIL (and wrong PASS), % of the runs", "on_top"),
    ):
        lines += ["", title, "", *_head()]
        for row in rows:
            worse: dict[str, Shares] | None = getattr(row, which)
            if worse is not None and row.drop is not None:
                found = [f"{100 * worse[name][1]:.1f} ({100 * worse[name][0]:.1f})" for name in RULES]
                lines.append(_line(row, f"{100 * row.margin:.1f}, lost {100 * row.drop:.1f}", found))
    return lines


def extensions(rows: list[Row]) -> list[str]:
    """Markdown: what a run in three looks decides, and how many answers it needs for that."""
    lines = [
        "A run in three looks (a quarter, a half, all): the answers it is asked, and what it decides, % of the runs",
        "",
        "| n | discordance | margin, points (one look) | unchanged: not PASS (FAIL), asked | lost: FAIL, asked |",
        "|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        found = row.extended
        if found is None:
            continue
        worse = ""
        if found.drop is not None and found.caught is not None and found.worse_items is not None:
            worse = f"{100 * found.drop:.1f}: {100 * found.caught:.1f}, {100 * found.worse_items:.0f} % of n"
        lines.append(
            f"| {row.n:,} | {100 * row.discordance:.0f} % | {100 * found.margin:.1f} ({100 * row.margin:.1f}) "
            f"| {100 * (1 - found.passed):.1f} ({100 * found.failed:.1f}), {100 * found.items:.0f} % of n | {worse} |"
        )
    return lines


def inconclusive(rows: list[Row]) -> list[str]:
    """The share of runs that our rule cannot tell, in the worst and in the middle cell."""
    ours_ = RULES[0]
    lines = []
    for title, which in (("unchanged", "unchanged"), ("worse, within", "within"), ("worse, on top", "on_top")):
        shares = [getattr(row, which)[ours_] for row in rows if getattr(row, which) is not None]
        if not shares:
            continue
        unsure = [100 * max(0.0, 1 - passed - failed) for passed, failed in shares]
        lines.append(
            f"- INCONCLUSIVE, {title}: {max(unsure):.2f} % in the worst cell, {np.median(unsure):.2f} % in the middle"
        )
    return lines


def _head() -> list[str]:
    return [f"| n | discordance | margin, points | {' | '.join(RULES)} |", "|" + "---:|" * (3 + len(RULES))]


def _line(row: Row, margin: str, found: list[str]) -> str:
    clusters = f", {row.n // CLUSTER} passages" if row.clustered else ""
    return f"| {row.n:,}{clusters} | {100 * row.discordance:.0f} % | {margin} | {' | '.join(found)} |"
