"""One page a person can open, keep, print and send: no script, nothing fetched, everything inside.

Names, reasons and model answers come from outside. Jinja escapes them; before that each printed value is cleaned of
control and direction marks and cut, in one place (`_finalize`), so that no template can forget it. A content
security policy in the page forbids what would remain.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from servegate import __version__
from servegate.report.backing import Backing
from servegate.report.format import (
    clean,
    clock,
    count,
    date,
    duration,
    measure_name,
    measured,
    percent,
    plural,
    quantity,
    short_hash,
    words,
)
from servegate.report.model import Finding, Measure, Report
from servegate.report.plots import Plot, timeline_plots
from servegate.report.records import EvalRecord
from servegate.report.rows import levels, row
from servegate.report.sections import Section, sections
from servegate.report.story import Defect, Facts, ReleaseStory, cards, facts, headline, ratio, summary
from servegate.report.verdict import Verdict

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["Defect", "ReleaseStory", "document", "page"]

MAX_EVENTS = 200
MAX_MEASURES = 200

# A number and its unit stay on one line.
_UNIT = re.compile(r"(\d) (?=(?:%|pp|ms|s|min|h|tokens/s|requests/s)(?!\w))")

BADGES = {
    "promoted": ("good", "✓", "promoted"),
    "rolled_back": ("bad", "✗", "rolled back"),
    "refused": ("bad", "✗", "refused by the gate"),
    "held": ("doubt", "‖", "held"),
    "unfinished": ("doubt", "?", "unfinished"),
    "serving": ("good", "✓", "serving"),
    "PASS": ("good", "✓", "PASS"),
    "FAIL": ("bad", "✗", "FAIL"),
    "INCONCLUSIVE": ("doubt", "?", "INCONCLUSIVE"),
    "VOID": ("doubt", "∅", "VOID"),
}


@dataclass(frozen=True)
class _Row:
    """A measure with a scale to draw it on: shares of the width, 0 to 1."""

    label: str
    shown: str
    n: str
    low: float | None
    high: float | None
    point: float | None


@dataclass(frozen=True)
class _Check:
    """One check of a smoke report: outcome as in a verdict, time it took, what was found."""

    name: str
    outcome: str
    took: str
    found: str


@dataclass(frozen=True)
class _ReportView:
    """A report as the page shows it."""

    report: Report
    title: str
    head: str
    checks: tuple[_Check, ...]
    scores: tuple[_Row, ...]
    quantiles: tuple[tuple[str, ...], ...]
    others: tuple[tuple[str, str, str], ...]
    left_out: int
    findings: tuple[Finding, ...]
    sections: tuple[Section, ...]
    failed: tuple[EvalRecord, ...]
    unmeasured: tuple[EvalRecord, ...]


@dataclass(frozen=True)
class _StoryView:
    """A story as the page shows it."""

    story: ReleaseStory
    anchor: str
    known: Facts
    badge: tuple[str, str, str]
    headline: str
    counted: str
    cards: Mapping[str, str]
    fired: tuple[str, ...]
    plots: tuple[Plot, ...]
    summary: str
    reports: tuple[_ReportView, ...]
    events: tuple[tuple[str, str, str, str], ...]
    events_left_out: int
    conditions: Mapping[str, str]


def page(title: str, stories: Sequence[ReleaseStory], intro: str = "", machine: Mapping[str, str] | None = None) -> str:
    """The page of one or more releases.

    Args:
        title: of the page.
        stories: one section each, in the order they happened.
        intro: a sentence or two of what was done.
        machine: label → value, what the run ran on.

    Returns:
        A whole HTML document in UTF-8 text.
    """
    views = [_story_view(story, index) for index, story in enumerate(stories, 1)]
    return (
        environment()
        .get_template("page.html.j2")
        .render(title=title, intro=intro, views=views, machine=machine or {}, tool=f"servegate {__version__}")
    )


def document(subject: Report | Verdict, backing: Backing | None = None) -> str:
    """The page of a single report or verdict, as a whole HTML document.

    Args:
        backing: reports and answers behind a verdict, where they are at hand: its items are shown with their answers.
    """
    verdict = subject if isinstance(subject, Verdict) else None
    reports = () if isinstance(subject, Verdict) else (_report_view(subject, ()),)
    if isinstance(subject, Verdict):
        title = f"Verdict on {subject.release_name or short_hash(subject.release)}"
        conditions = _verdict_conditions(subject)
    else:
        title = f"{subject.kind.capitalize()} report: {subject.name}"
        who = subject.subject
        judged = [who.name, who.release, who.endpoint.url if who.endpoint else None]
        conditions = {"subject": ", ".join(part for part in judged if part)} | _report_conditions(subject)
    shown = {
        "title": title,
        "verdict": verdict,
        "reports": reports,
        "conditions": conditions,
        "backing": backing,
    }
    return environment().get_template("document.html.j2").render(**shown, tool=f"servegate {__version__}")


@cache
def environment() -> Environment:
    """The templates, with what they may call."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    made.filters |= {
        "count": count,
        "cut": clean,
        "date": date,
        "duration": duration,
        "percent": percent,
        "quantity": quantity,
        "short": short_hash,
        "levels": levels,
        "row": row,
        "plural": plural,
    }
    made.globals["badges"] = BADGES
    return made


def _finalize(value: object) -> object:
    # Markup (the pictures, macros' output) is our own; all else is foreign until shown otherwise.
    if hasattr(value, "__html__"):
        return value
    return _UNIT.sub("\\1\u00a0", clean(value))


def _story_view(story: ReleaseStory, index: int) -> _StoryView:
    known = facts(story)
    records = story.eval_records
    views = []
    for report in story.reports:
        views.append(_report_view(report, records if report.kind == "eval" else ()))
        if report.kind == "eval":
            records = ()  # the answers stand once, under the first suite
    events = _events(story, known)
    return _StoryView(
        story=story,
        anchor=f"release-{index}",
        known=known,
        badge=BADGES[story.outcome],
        headline=headline(story, known),
        counted=_counted(known),
        cards=cards(story, known),
        fired=tuple(
            f"{item.check}: evidence {quantity(item.log_e, 'score', unlike=item.log_limit)}, "
            f"limit {quantity(item.log_limit, 'score')} (natural logarithms), "
            f"{percent(ratio(item.log_e, item.log_limit))} of what is needed"
            for item in known.fired
        ),
        plots=tuple(timeline_plots(story, known, f"r{index}")),
        summary=summary(known),
        reports=tuple(views),
        events=tuple(events[:MAX_EVENTS]),
        events_left_out=max(0, len(events) - MAX_EVENTS),
        conditions=_conditions(story),
    )


def _counted(known: Facts) -> str:
    if not known.served:
        return ""
    if known.from_records:
        return "Requests as the clients counted them, sent between the first and the last moment of this rollout."
    return "Requests as the engines counted them: those that never reached an engine are not among them."


def _events(story: ReleaseStory, known: Facts) -> list[tuple[str, str, str, str]]:
    """When, phase, weights, reason: each tick with a reason that is not the one before repeated."""
    found: list[tuple[str, str, str, str]] = []
    before = ""
    for tick in story.ticks:
        if tick.reason and tick.reason != before:
            weights = ", ".join(f"{slot} {tick.weights[slot]:g} %" for slot in sorted(tick.weights))
            found.append((clock(known.since(tick.at)), tick.phase.replace("_", " "), weights, tick.reason))
        before = tick.reason or before
    return found


def _report_view(report: Report, records: Sequence[EvalRecord]) -> _ReportView:
    checks, told = _smoke_checks(report) if report.kind == "smoke" else ((), frozenset())
    shown = [m for m in report.measures if not (checks and m.slice.startswith("check="))]
    measures = shown[:MAX_MEASURES]
    scored = [m for m in measures if report.kind == "eval" and m.unit in ("fraction", "score")]
    scores = [m for m in scored if (m.slice or m.interval) and m.better != "lower"]
    quantiles = [m for m in measures if m.statistic[0] == "p" and m.statistic[1:].replace(".", "").isdigit()]
    with_quantiles = {(m.name, m.slice, m.slot) for m in quantiles}
    tabled = [m for m in measures if (m.name, m.slice, m.slot) in with_quantiles]
    others = [m for m in measures if m not in scores and m not in tabled]
    return _ReportView(
        report=report,
        title={"smoke": "Smoke", "eval": "Evals", "load": "Load", "canary": "Canary"}.get(report.kind, "Results")
        + f": {report.name}",
        head=f"{date(report.started)}, {duration(report.finished - report.started)}, {report.tool}",
        checks=checks,
        scores=tuple(_score(m) for m in sorted(scores, key=lambda m: (m.slice.startswith("scorer="), m.slice, m.key))),
        quantiles=_quantile_table(tabled),
        others=tuple((measure_name(m), measured(m), _n(m)) for m in others),
        left_out=len(shown) - len(measures),
        findings=tuple(finding for finding in report.findings if finding.code not in told),
        sections=sections(report.canary),
        failed=tuple(record for record in records if record.score is not None and record.score < 1),
        unmeasured=tuple(record for record in records if record.score is None),
    )


def _smoke_checks(report: Report) -> tuple[tuple[_Check, ...], frozenset[str]]:
    """One row per check, from the measures sliced by check; and the codes of the findings told in them."""
    by_check: dict[str, dict[str, Measure]] = {}
    for measure in report.measures:
        if measure.slice.startswith("check="):
            by_check.setdefault(measure.slice.removeprefix("check="), {})[measure.statistic] = measure
    rows, told = [], set()
    for name, found in list(by_check.items())[:MAX_MEASURES]:
        passed, took = found.get("passed"), found.get("total")
        value = passed.value if passed is not None else None
        codes = {f"{name}-{end}" for end in ("ok", "failed", "not-run")}
        sentence = next((finding for finding in report.findings if finding.code in codes), None)
        if sentence is not None:
            told.add(sentence.code)
        rows.append(
            _Check(
                name=name,
                outcome="VOID" if value is None else "PASS" if value >= 1 else "FAIL",
                took=quantity(took.value, took.unit) if took is not None else "",
                found=sentence.message if sentence is not None else "",
            )
        )
    return tuple(rows), frozenset(told)


def _score(measure: Measure) -> _Row:
    def place(value: float | None) -> float | None:
        return None if value is None else min(1.0, max(0.0, value))

    interval = measure.interval
    part = f": {measure.slice.removeprefix('tags=').replace('=', ' ')}" if measure.slice else ", all"
    return _Row(
        label=words(measure.name) + part,
        shown=measured(measure),
        n=_n(measure),
        low=place(interval.low) if interval else None,
        high=place(interval.high) if interval else None,
        point=place(measure.value),
    )


def _quantile_table(measures: Sequence[Measure]) -> tuple[tuple[str, ...], ...]:
    """Rows of text, the header first: one row per measured thing, one column per statistic."""
    if not measures:
        return ()
    order = {"mean": 0.0, "p50": 50.0}
    statistics = sorted(
        {m.statistic for m in measures},
        key=lambda s: order.get(s, float(s[1:]) if s[1:].replace(".", "", 1).isdigit() else 1000.0),
    )
    rows: dict[str, dict[str, str]] = {}
    for m in measures:
        rows.setdefault(measure_name(m, statistic=False), {"n": _n(m)})[m.statistic] = measured(m)
    head = ("Measure", *statistics, "n")
    return (head, *((name, *(cells.get(s, "") for s in statistics), cells["n"]) for name, cells in rows.items()))


def _n(measure: Measure) -> str:
    if measure.n >= measure.attempted:
        return count(measure.n)
    return f"{count(measure.n)} of {count(measure.attempted)}"


def _conditions(story: ReleaseStory) -> dict[str, str]:
    found: dict[str, str] = {}
    release = story.release
    if release is not None:
        found["Release"] = release.identity()
        found["Model"] = f"{release.model.served_name} from {release.model.uri}" + (
            f" at {release.model.revision}" if release.model.revision else ""
        )
        found["Engine"] = f"{release.engine.name} {release.engine.version}"
        if release.args:
            found["Arguments"] = " ".join(release.args)
        for key in sorted(release.env):
            found[f"Environment {key}"] = release.env[key]
        if release.image is not None:
            found["Image"] = f"{release.image.repository}@{release.image.digest}"
        if release.chat_template is not None:
            found["Chat template"] = release.chat_template.sha256
        if release.system_prompt is not None:
            found["System prompt"] = release.system_prompt.sha256
    for report in story.reports:
        for key, value in _report_conditions(report).items():
            found[f"{report.kind} {report.name}: {key}"] = value
    if story.verdict is not None:
        found |= _verdict_conditions(story.verdict)
    return found


def _report_conditions(report: Report) -> dict[str, str]:
    conditions = report.conditions
    found = {
        "data set": conditions.dataset_sha256,
        "profile": conditions.profile_sha256,
        "plan": conditions.plan_sha256,
        "seed": None if conditions.seed is None else str(conditions.seed),
        "temperature": None if conditions.temperature is None else f"{conditions.temperature:g}",
        "concurrency": None if conditions.concurrency is None else count(conditions.concurrency),
        "client": conditions.client,
        "tool": report.tool,
        **conditions.other,
    }
    return {key: value for key, value in found.items() if value is not None}


def _verdict_conditions(verdict: Verdict) -> dict[str, str]:
    return {
        "Gate policy": f"{verdict.policy}, {verdict.policy_sha256}",
        "Judged": f"{date(verdict.decided_at)} by {verdict.decided_by}, {verdict.tool}",
    }
