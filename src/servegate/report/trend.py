"""What became of a suite's numbers over its last runs: series, and where one changed.

Scores are compared item by item: the items that every run asked, unchanged, and scored. Everything else has one number
per run, because what makes a run slow (a busy machine) makes all of its requests slow together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from servegate.errors import ConfigError
from servegate.report.format import clean, date, measure_name, percent, plural, quantity, short_hash
from servegate.report.markdown import escape
from servegate.report.model import Measure, Report
from servegate.report.records import EvalRecord, read_records
from servegate.stats.multiple import holm
from servegate.stats.trend import FEWEST, Scan, scan

ALPHA = 0.01
"""Runs in which nothing changed are said to have changed in at most one of a hundred looks, all series together."""
SHOWN_ITEMS = 5
_SCORE = "accuracy.mean"


@dataclass(frozen=True)
class Run:
    """A report, with the score of each item where it has answers; the key holds the item's own digest."""

    report: Report
    scores: Mapping[tuple[str, str], float]


@dataclass(frozen=True)
class Changed:
    """An item whose score moved: mean before and after."""

    id: str
    before: float
    after: float


@dataclass(frozen=True)
class Series:
    """One measure over the runs.

    Attributes:
        values: one per run, in SI units; None where a run did not measure it.
        paired: number of items that all runs share; 0 where there is one number per run.
        scan: what the search found, with its own p-value; None where there was nothing to judge.
        p: adjusted for the number of series (Holm).
        items: after a step of scores, the items that moved most.
    """

    measure: Measure
    values: tuple[float | None, ...]
    paired: int
    scan: Scan | None
    p: float | None
    items: tuple[Changed, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether a change is named."""
        return self.p is not None and self.p <= ALPHA

    @property
    def worse(self) -> bool:
        """Whether that change is for the worse."""
        if not self.changed or self.scan is None:
            return False
        return self.scan.change > 0 if self.measure.better == "lower" else self.scan.change < 0


@dataclass(frozen=True)
class Trend:
    """The runs of one suite or profile in the order of time, with what they measured."""

    kind: str
    name: str
    runs: tuple[Report, ...]
    left_out: int
    series: tuple[Series, ...]

    def document(self) -> dict[str, object]:
        """For JSON."""
        return {
            "kind": self.kind,
            "name": self.name,
            "left_out": self.left_out,
            "runs": [
                {"started": run.started, "release": run.subject.release, "name": run.subject.name} for run in self.runs
            ],
            "series": [
                {
                    "measure": series.measure.key,
                    "unit": series.measure.unit,
                    "values": series.values,
                    "paired_items": series.paired,
                    "p": series.p,
                    "changed": series.changed,
                    "worse": series.worse,
                    "scan": None if series.scan is None else asdict(series.scan),
                    "items": [asdict(item) for item in series.items],
                }
                for series in self.series
            ],
        }


def read_run(path: Path) -> Run:
    """A report and the scores of its answers, if they are beside it.

    Raises:
        ConfigError: the report, or a sidecar that is there, cannot be read.
    """
    report = Report.read(path)
    scores: dict[tuple[str, str], list[float]] = {}
    for samples in report.samples:
        sidecar = path.parent / samples.path
        if samples.record == "EvalRecord" and sidecar.exists():
            for record in read_records(sidecar, EvalRecord):
                if record.score is not None:
                    scores.setdefault((record.id, record.item_sha256), []).append(record.score)
    return Run(report, {key: sum(found) / len(found) for key, found in scores.items()})


def trend(runs: Sequence[Run], last: int = 30) -> Trend:
    """Put runs in order and search each measure for a change.

    Args:
        runs: of one kind and name, in any order; the same report given twice counts once.
        last: how many of the latest are looked at.

    Raises:
        ConfigError: no runs, or of several suites or profiles.
    """
    names = sorted({f"{run.report.kind}/{run.report.name}" for run in runs})
    if len(names) != 1:
        raise ConfigError(
            f"a trend is one of one suite or profile, found {', '.join(names) or 'no report'}; give the reports of one"
        )
    ordered = sorted({run.report.identity(): run for run in runs}.values(), key=lambda run: run.report.started)
    sound = [run for run in ordered if run.report.void is None]
    used = sound[-last:]
    found = [_series(measure, used) for measure in _measures(used)]
    judged = [index for index, series in enumerate(found) if series.scan is not None]
    adjusted = holm([scan.p for index in judged if (scan := found[index].scan) is not None]) if judged else ()
    for index, p in zip(judged, adjusted, strict=True):
        found[index] = _with_p(found[index], float(p), used)
    reports = tuple(run.report for run in used)
    kind, _, name = names[0].partition("/")
    return Trend(kind, name, reports, len(ordered) - len(used), tuple(found))


def _measures(runs: Sequence[Run]) -> list[Measure]:
    """What the latest run measured as a whole: no slices, no slots."""
    if not runs:
        return []
    return [item for item in runs[-1].report.measures if not item.slice and item.slot is None and item.better]


def _series(measure: Measure, runs: Sequence[Run]) -> Series:
    found = [run.report.measure(measure.key) for run in runs]
    values = tuple(None if item is None else item.value for item in found)
    if measure.key == _SCORE:
        shared = _shared(runs)
        if shared:
            matrix = np.array([[run.scores[key] for run in runs] for key in shared])
            return Series(measure, values, len(shared), scan(matrix), None)
    known = [value for value in values if value is not None]
    whole = len(known) == len(values) and bool(known)
    return Series(measure, values, 0, scan([known]) if whole else None, None)


def _shared(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Items of all runs, if they are at least half of the latest run's: else the pairs would be of another suite."""
    common = set.intersection(*(set(run.scores) for run in runs)) if runs else set()
    return sorted(common) if common and 2 * len(common) >= len(runs[-1].scores) else []


def _with_p(series: Series, p: float, runs: Sequence[Run]) -> Series:
    items: list[Changed] = []
    if p <= ALPHA and series.paired and series.scan is not None and series.scan.kind == "step":
        cut = series.scan.after
        for key in _shared(runs):
            row = [run.scores[key] for run in runs]
            before, after = sum(row[:cut]) / cut, sum(row[cut:]) / (len(row) - cut)
            if (after - before) * series.scan.change > 0:
                items.append(Changed(key[0], before, after))
        items.sort(key=lambda item: (-abs(item.after - item.before), item.id))
    return Series(series.measure, series.values, series.paired, series.scan, p, tuple(items[:SHOWN_ITEMS]))


def said(series: Series, runs: Sequence[Report]) -> str:
    """What is to be said of a series, in one sentence without markup."""
    name = measure_name(series.measure)
    if series.scan is None:
        same = len(runs) >= FEWEST and None not in series.values
        return f"{name}: no change, it was the same each time" if same else f"{name}: nothing to judge yet"
    if not series.changed:
        return f"{name}: no change (p {series.p:.2g})" if series.p is not None else f"{name}: not judged"
    unit = series.measure.unit
    size = quantity(abs(series.scan.change), unit) if unit != "fraction" else f"{abs(series.scan.change) * 100:.1f} pp"
    way = "fell" if series.scan.change < 0 else "rose"
    verdict = "worse" if series.worse else "better"
    over = f", on {plural(series.paired, 'item')} asked each time" if series.paired else ""
    if series.scan.kind == "step":
        run = runs[series.scan.after]
        when = f"with the run of {date(run.started)} ({_release(run)})"
    else:
        when = f"steadily over {plural(len(runs), 'run')}"
    return f"{name} {way} by {size} {when}: {verdict} (p {series.p:.2g}{over})"


def findings(found: Trend) -> list[str]:
    """A sentence for each series that changed, the worse ones first."""
    named = sorted((series for series in found.series if series.changed), key=lambda series: not series.worse)
    return [said(series, found.runs) for series in named]


def markdown(found: Trend, rows: int = 12) -> str:
    """What changed, and a table of the latest runs."""
    head, body = _table(found, rows)
    named = [f"- **{escape(line)}**" for line in findings(found)] or [f"- {_quiet(found)}"]
    lines = [f"### Trend of {escape(found.name)}", "", *named, *(f"- {escape(line)}" for line in _moved(found)), ""]
    lines += [f"| {' | '.join(escape(cell) for cell in head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(escape(cell) for cell in cells)} |" for cells in body]
    return "\n".join([*lines, ""])


def text(found: Trend, rows: int = 12) -> str:
    """The same as plain lines."""
    head, body = _table(found, rows)
    widths = [max(len(cells[column]) for cells in (head, *body)) for column in range(len(head))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) for cells in (head, *body)]
    lines = [f"Trend of {clean(found.name, 200)}", *(findings(found) or [_quiet(found)]), *_moved(found), "", *table]
    return "\n".join(line.rstrip() for line in [*lines, ""])


def _moved(found: Trend) -> list[str]:
    return [
        "items that moved most: "
        + ", ".join(f"{clean(i.id, 60)} {percent(i.before)} → {percent(i.after)}" for i in series.items)
        for series in found.series
        if series.items
    ]


def _table(found: Trend, rows: int) -> tuple[list[str], list[list[str]]]:
    """Names of the columns, and the cells of the latest runs; the first run after a step is marked."""
    shown = [series for series in found.series if any(value is not None for value in series.values)]
    body = []
    for index in range(max(0, len(found.runs) - rows), len(found.runs)):
        run = found.runs[index]
        cells = [date(run.started), _release(run)]
        for series in shown:
            value = series.values[index]
            mark = " ◀" if series.changed and series.scan and series.scan.after == index > 0 else ""
            cells.append(("—" if value is None else quantity(value, series.measure.unit)) + mark)
        body.append(cells)
    return ["run", "release", *(measure_name(series.measure) for series in shown)], body


def _quiet(found: Trend) -> str:
    if len(found.runs) < FEWEST:
        return f"{plural(len(found.runs), 'run')}: too few to say whether something changed"
    return f"nothing changed over {plural(len(found.runs), 'run')}"


def _release(run: Report) -> str:
    return clean(run.subject.name or short_hash(run.subject.release) or "unknown", 40)
