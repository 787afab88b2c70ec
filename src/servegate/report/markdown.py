"""A verdict as Markdown for a job summary or a comment.

The reader decides in one line, the table gives the numbers. Names and messages come from outside: nothing in them
may become markup, a link, a mention of a person, or a command to the runner that prints them.
"""

from __future__ import annotations

import re
from bisect import bisect_left

from servegate.report.format import clean, count, date, measure_name, measured, plural, quantity, short_hash
from servegate.report.model import Report
from servegate.report.terminal import outcome_words, threshold_of, value_of
from servegate.report.verdict import CheckResult, Outcome, Verdict

MAX_BYTES = 60_000
"""Below the 64 KiB a comment may have; a job summary may have more."""

_ALERT = {Outcome.PASS: "TIP", Outcome.FAIL: "CAUTION", Outcome.INCONCLUSIVE: "WARNING", Outcome.VOID: "WARNING"}
_SIGN = {Outcome.PASS: "✅", Outcome.FAIL: "❌", Outcome.INCONCLUSIVE: "❔", Outcome.VOID: "⚠️"}
_ORDER = [Outcome.FAIL, Outcome.VOID, Outcome.INCONCLUSIVE, Outcome.PASS]


def escape(text: object, limit: int = 400) -> str:
    """Foreign text as one line that shows as itself, in a table cell too."""
    shown = clean(text, limit).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    shown = re.sub(r"([\\`*_{}\[\]()#+!|~$^=-])", r"\\\1", shown)
    # Mentions, issue numbers and addresses are found after the markup is read: an invisible joint breaks them.
    shown = re.sub(r"([@#])(?=\w)", "\\1\u2060", shown)
    shown = re.sub(r"(?i)\b(www)\.", "\\1\u2060.", shown)
    return shown.replace(":", "&#58;") if "::" in shown or "://" in shown else shown


def verdict_markdown(verdict: Verdict, limit: int = MAX_BYTES) -> str:
    """Alert line, gate table, a sentence for each check that is not a plain pass, and the fingerprint.

    Args:
        limit: bytes the text may have; rows of passed checks are left out first, with a note.
    """
    results = sorted(verdict.results, key=lambda result: _ORDER.index(result.effect))

    def text(shown: int) -> str:
        return _verdict(verdict, results[:shown], len(results) - shown)

    if len(text(len(results)).encode()) <= limit:
        return text(len(results))
    too_many = bisect_left(range(len(results)), 1, key=lambda shown: len(text(shown).encode()) > limit)
    return text(max(0, too_many - 1))


def report_markdown(report: Report) -> str:
    """The measures of a report as a table, and its findings."""
    who = report.subject.name or short_hash(report.subject.release)
    lines = [f"### {escape(report.kind)} {escape(report.name, 80)} of {escape(who, 80)}", ""]
    if report.void is not None:
        lines += ["> [!WARNING]", f"> Void: {escape(report.void.message)}", ""]
    lines += ["| Measure | Value | n |", "|---|--:|--:|"]
    for measure in report.measures:
        n = f"{count(measure.n)} of {count(measure.attempted)}"
        lines.append(f"| {escape(measure_name(measure), 120)} | {escape(measured(measure))} | {n} |")
    lines += ["", *(f"- **{finding.severity}** {escape(finding.message)}" for finding in report.findings)]
    lines.append(f"\n<sub>{date(report.started)} · {escape(report.tool, 80)}</sub>")
    return "\n".join(lines) + "\n"


def _verdict(verdict: Verdict, results: list[CheckResult], left_out: int) -> str:
    name = escape(verdict.release_name or "the release", 80)
    lines = [f"> [!{_ALERT[verdict.outcome]}]", f"> **{verdict.outcome}** {name}: {_why(verdict)}", ""]
    lines += ["| | Check | Measure | Value | Threshold | n | MDE | Outcome |", "|---|---|---|--:|--:|--:|--:|---|"]
    lines += [_row(result) for result in results]
    if left_out:
        lines += ["", f"{plural(left_out, 'further check')} left out for want of room."]
    notable = [r for r in results if r.outcome is not Outcome.PASS or r.effect is not Outcome.PASS]
    lines += ["", *(f"- {_SIGN[r.outcome]} **{escape(r.check, 80)}**: {escape(r.message)}" for r in notable)]
    foot = (
        f"release {short_hash(verdict.release)} · policy {escape(verdict.policy, 80)} "
        f"{short_hash(verdict.policy_sha256)} · {plural(len(verdict.reports), 'report')} · "
        f"{date(verdict.decided_at)} · {escape(verdict.decided_by, 80)} · {escape(verdict.tool, 80)}"
    )
    return "\n".join([*lines, "", f"<sub>{foot}</sub>", ""])


def _why(verdict: Verdict) -> str:
    """The alert's sentence: what decided, or how many checks held."""
    decisive = [r for r in verdict.results if r.effect is verdict.outcome]
    if verdict.outcome is not Outcome.PASS and decisive:
        more = f" (and {plural(len(decisive) - 1, 'more check')})" if len(decisive) > 1 else ""
        return escape(decisive[0].message) + more
    warned = sum(r.outcome is not Outcome.PASS for r in verdict.results)
    note = f"; {plural(warned, 'check')} did not pass and only warn" if warned else ""
    return f"{plural(len(verdict.results) - warned, 'check')} passed{note}."


def _row(result: CheckResult) -> str:
    cells = [
        _SIGN[result.outcome],
        escape(result.check, 80),
        escape(result.measure or "", 120),
        escape(value_of(result)),
        escape(threshold_of(result)),
        "" if result.n is None else count(result.n),
        "" if result.mde is None else escape(quantity(result.mde, result.unit or "")),
        escape(outcome_words(result)),
    ]
    return "| " + " | ".join(cells) + " |"
