"""A verdict as Markdown for a job summary or a comment.

The reader decides in one line, the tables give the numbers, and what is only needed to look closer is folded. Names,
messages and answers come from outside: nothing in them may become markup, a link, a mention of a person, or a command
to the runner that prints them.
"""

from __future__ import annotations

import html
import re
from bisect import bisect_left
from collections.abc import Sequence

from servegate.report.backing import Backing, Item
from servegate.report.format import clean, count, date, measure_name, measured, plural, quantity, short_hash
from servegate.report.model import Report
from servegate.report.rows import by_weight, levels, notable, row
from servegate.report.sections import Section, sections
from servegate.report.verdict import CheckResult, Outcome, Verdict

COMMENT_BYTES = 60_000
"""Below the 65,536 characters a comment may have."""

SUMMARY_BYTES = 1024 * 1024 - 1024
"""Just below the 1 MiB a step may add to the job summary: above it GitHub drops the whole."""

_ALERT = {Outcome.PASS: "TIP", Outcome.FAIL: "CAUTION", Outcome.INCONCLUSIVE: "WARNING", Outcome.VOID: "WARNING"}
_SIGN = {Outcome.PASS: "✅", Outcome.FAIL: "❌", Outcome.INCONCLUSIVE: "❓", Outcome.VOID: "🚫"}
_MEANS = {
    Outcome.PASS: "may serve traffic",
    Outcome.FAIL: "must not serve traffic",
    Outcome.INCONCLUSIVE: "no verdict, so no traffic: measured, but the numbers cannot tell",
    Outcome.VOID: "no verdict, so no traffic: something was not validly measured",
}
_NOTHING = Backing()
_REASONS = 3  # in the alert; all of them stand below
_ITEMS = (25, 10)  # items shown of each check: the most that fit
_FINDINGS = 20
_EMOJI = re.compile(r":(?=(?:[a-z0-9_+-]*[a-z][a-z0-9_+-]*|[+-]1|100|1234):)")
_HELP = """\
<details><summary>How to read this</summary>

- **PASS** the check holds · **FAIL** it does not · **INCONCLUSIVE** measured, but the numbers cannot tell · \
**VOID** not validly measured. Neither of the last two is ever green by itself. ⚠️ is shown and does not block.
- **Δ** is the candidate against the baseline, item by item where the same items were asked; pp are percentage points, \
× is a ratio. It passes when the whole interval is on the good side of the limit, fails when the whole interval is on \
the other side.
- **Limit** is the greatest loss, or the least value, the policy accepts.
- **MDE** is the minimal detectable effect: a change this far beyond the limit would have been found in 80 % of such \
runs. A smaller one can hide.

</details>
"""


def escape(text: object, limit: int = 400) -> str:
    """Foreign text as one line that shows as itself, in a table cell too."""
    shown = _unlinked(clean(text, limit)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    shown = re.sub(r"([\\`*_{}\[\]()#+!|~$^=-])", r"\\\1", shown)
    return shown.replace(":", "&#58;") if "::" in shown or "://" in shown else shown


def escape_html(text: object, limit: int = 400) -> str:
    """The same where HTML is expected and Markdown is not read, such as in a summary line."""
    shown = html.escape(_unlinked(clean(text, limit)))
    return shown.replace(":", "&#58;") if "::" in shown or "://" in shown else shown


def _unlinked(text: str) -> str:
    """People, issues, addresses and emoji are found after the markup is read: an invisible joint breaks them."""
    text = re.sub(r"([@#])(?=\w)", "\\1\u2060", text)
    text = re.sub(r"(?i)(gh-)(?=\d)", "\\1\u2060", text)
    text = _EMOJI.sub(":\u2060", text)
    return re.sub(r"(?i)(www)\.", "\\1\u2060.", text)


def verdict_markdown(
    verdict: Verdict, limit: int = COMMENT_BYTES, backing: Backing = _NOTHING, notes: Sequence[str] = ()
) -> str:
    """Alert, tables of the checks, folded items and reasons, fingerprint.

    Args:
        limit: bytes the text may have. Items that differ are cut first, then rows of checks, those that hold before
            those that decide; a line says how many.
        backing: reports and answers, where they are at hand.
        notes: further lines for the foot, Markdown already.
    """
    results = by_weight(verdict.results)

    def text(shown: int, opened: int, items: int = _ITEMS[-1]) -> str:
        """With so many checks, the items of so many of them, and so many items of each."""
        return "\n".join(_lines(verdict, results, shown, opened, items, backing, notes)) + "\n"

    def fits(shown: int, opened: int, items: int = _ITEMS[-1]) -> bool:
        return len(text(shown, opened, items).encode()) <= limit

    every = len(results)
    for items in _ITEMS:
        if fits(every, every, items):
            return text(every, every, items)
    if fits(every, 0):
        return text(every, bisect_left(range(every), 1, key=lambda opened: not fits(every, opened + 1)))
    return text(bisect_left(range(every), 1, key=lambda shown: not fits(shown + 1, 0)), 0)


def report_markdown(report: Report) -> str:
    """The measures of a report as a table, and its findings."""
    who = report.subject.name or short_hash(report.subject.release)
    lines = [f"### {escape(report.kind)} {escape(report.name, 80)} of {escape(who, 80)}", ""]
    if report.void is not None:
        lines += ["> [!WARNING]", f"> Void: {escape(report.void.message)}", ""]
    for section in sections(report.canary):
        lines += _section(section)
    lines += ["| Measure | Value | n |", "|---|--:|--:|"]
    for measure in report.measures:
        n = f"{count(measure.n)} of {count(measure.attempted)}"
        lines.append(f"| {escape(measure_name(measure), 120)} | {escape(measured(measure))} | {n} |")
    lines += ["", *(f"- **{finding.severity}** {escape(finding.message)}" for finding in report.findings)]
    lines.append(f"\n<sub>{date(report.started)} · {escape(report.tool, 80)}</sub>")
    return "\n".join(lines) + "\n"


def _section(part: Section) -> list[str]:
    lines = [f"#### {_SIGN[Outcome(part.outcome)]} {escape(part.title, 160)}", "", escape(part.lead), ""]
    if part.todo:
        lines += ["> [!CAUTION]", f"> **What a person must do**: {escape(part.todo, 2000)}", ""]
    lines += [*(f"- **{escape(label)}** {escape(value, 2000)}" for label, value in part.facts.items()), ""]
    if part.rows:
        lines += [f"| | {' | '.join(part.head[1:])} |", f"|---{'|---' * (len(part.head) - 1)}|"]
        for outcome, *cells in part.rows:
            lines.append(f"| {_SIGN[Outcome(outcome)]} {outcome} | {' | '.join(escape(cell) for cell in cells)} |")
        lines.append("")
    return lines


def _lines(
    verdict: Verdict,
    every: list[CheckResult],
    shown: int,
    opened: int,
    items: int,
    backing: Backing,
    notes: Sequence[str],
) -> list[str]:
    results, cut = every[:shown], len(every) - shown
    lines = _alert(verdict)
    lines += _compared([result for result in results if result.baseline is not None], backing)
    absolute = [result for result in results if result.baseline is None and result.threshold is not None]
    lines += _table(
        "Service levels and limits",
        ["Metric", "Measured", "Limit", "n", "MDE", "Verdict"],
        [[_named(result), *_escaped(_cells(result, "candidate", "limit", "n", "mde"))] for result in absolute],
        absolute,
    )
    rest = [result for result in results if result.baseline is None and result.threshold is None]
    lines += _table(
        "Also required",
        ["What", "Found", "Verdict"],
        [[_named(result), escape(result.message)] for result in rest],
        rest,
    )
    hidden = sum(len(result.discordant) for result in every[opened:])
    if cut or hidden:
        what = [plural(cut, "further check")] if cut else []
        what += [plural(hidden, "differing item")] if hidden else []
        lines += [f"**{' and '.join(what)} cut here for want of room**; the verdict's file has all of them.", ""]
    for result in results[:opened]:
        lines += _items(result, items, backing)
    lines += _reasons(notable(results))
    lines += _findings(backing)
    lines += _fingerprint(verdict, backing)
    lines += [_HELP]
    decided = f"{date(verdict.decided_at)} by {escape(verdict.decided_by, 120)} with {escape(verdict.tool, 80)}"
    return [*lines, "<br>".join(f"<sub>{note}</sub>" for note in (decided, *notes))]


def _alert(verdict: Verdict) -> list[str]:
    name = escape(verdict.release_name or f"release {short_hash(verdict.release)}", 80)
    decisive = [result for result in verdict.results if result.effect is verdict.outcome]
    total = plural(len(verdict.results), "check")
    head = f"> **{verdict.outcome}: {name} {_MEANS[verdict.outcome]}** (policy {escape(verdict.policy, 80)}"
    if verdict.outcome is Outcome.PASS:
        warned = notable(verdict.results)
        note = f"; {len(warned)} did not pass, which only warns" if warned else ""
        return [f"> [!{_ALERT[verdict.outcome]}]", f"{head}; {total}{note})", ""]
    did = {Outcome.FAIL: "failed", Outcome.VOID: "void", Outcome.INCONCLUSIVE: "undecided"}[verdict.outcome]
    lines = [f"> [!{_ALERT[verdict.outcome]}]", f"{head}; {len(decisive)} of {total} {did})", ">"]
    # The first part of a message is the finding, what follows how it was found.
    lines += [f"> - **{escape(r.check, 80)}**: {escape(r.message.partition('; ')[0])}" for r in decisive[:_REASONS]]
    if len(decisive) > _REASONS:
        lines.append(f"> - and {plural(len(decisive) - _REASONS, 'more check')}")
    return [*lines, ""]


def _compared(results: list[CheckResult], backing: Backing) -> list[str]:
    found = {report.subject.name for result in results if (report := backing.report(result.baseline_report))}
    names = ", ".join(escape(name, 80) for name in sorted(name for name in found if name))
    level = levels(results)
    delta = f"Δ [{level} interval]" if level else "Δ"
    return _table(
        f"Compared with {names or 'the baseline'}",
        ["Metric", "Baseline", "Candidate", delta, "Limit", "MDE", "Verdict"],
        [[_named(r), *_escaped(_cells(r, "baseline", "candidate", "delta", "limit", "mde"))] for r in results],
        results,
    )


def _table(title: str, head: list[str], rows: list[list[str]], results: Sequence[CheckResult]) -> list[str]:
    """A titled table; each row gets its sign in front and its verdict behind. Nothing without rows."""
    if not rows:
        return []
    sides = [":--" if name in ("Metric", "What", "Found", "Verdict") else "--:" for name in head]
    lines = [f"#### {title}", "", f"| | {' | '.join(head)} |", f"|---|{'|'.join(sides)}|"]
    for cells, result in zip(rows, results, strict=True):
        lines.append(f"| {' | '.join([_sign(result), *cells, escape(row(result).verdict)])} |")
    return [*lines, ""]


def _sign(result: CheckResult) -> str:
    only_warns = result.effect is Outcome.PASS and result.outcome is not Outcome.PASS
    return "⚠️" if only_warns else _SIGN[result.outcome]


def _cells(result: CheckResult, *names: str) -> list[str]:
    cells = row(result)
    return [getattr(cells, name) for name in names]


def _escaped(cells: Sequence[str]) -> list[str]:
    # A number and its unit stay on one line; the sign of the interval's end is no bullet.
    return [escape(cell).replace(" ", "\u00a0") for cell in cells]


def _named(result: CheckResult) -> str:
    """The check's name, and the metric below it where that says more."""
    cells = row(result)
    metric = "" if cells.metric in ("", cells.check) else f"<br><sub>{escape(cells.metric, 120)}</sub>"
    return f"**{escape(cells.check)}**{metric}"


def _items(result: CheckResult, most: int, backing: Backing) -> list[str]:
    if not result.discordant:
        return []
    lost, won = result.lost or 0, result.won or 0
    found = backing.items(result)[:most]
    shown = f", {len(found)} shown" if len(found) < lost + won else ""
    title = f"{escape_html(result.check, 80)}: {plural(lost, 'item')} lost, {count(won)} won{shown}"
    answered = any(item.before is not None or item.now is not None for item in found)
    wanted = answered and any(item.wanted is not None for item in found)
    head = ["Item", "Score before", "Score now"]
    head += (["Wanted"] if wanted else []) + (["Answer before", "Answer now"] if answered else [])
    lines = [f"<details><summary>{title}</summary>", "", f"| {' | '.join(head)} |"]
    lines.append(f"|---|--:|--:|{'---|' * (len(head) - 3)}")
    lines += [f"| {' | '.join(_item(item, wanted=wanted, answered=answered))} |" for item in found]
    return [*lines, "", "</details>", ""]


def _item(item: Item, *, wanted: bool, answered: bool) -> list[str]:
    scores = [quantity(item.scores.baseline, "score"), quantity(item.scores.candidate, "score")]
    texts = ([item.wanted] if wanted else []) + ([item.before, item.now] if answered else [])
    return [escape(item.scores.id, 80), *scores, *("" if text is None else escape(text, 200) for text in texts)]


def _reasons(results: list[CheckResult]) -> list[str]:
    if not results:
        return []
    lines = [f"<details><summary>What was found, in full ({plural(len(results), 'check')})</summary>", ""]
    lines += [f"- {_sign(r)} **{escape(r.check, 80)}**: {escape(r.message, 1000)}" for r in results]
    return [*lines, "", "</details>", ""]


def _findings(backing: Backing) -> list[str]:
    """What the producers found worth a warning: a busy client, late requests."""
    found = [
        f"- **{finding.severity}** {escape(report.kind)}/{escape(report.name, 80)}: {escape(finding.message)}"
        for report in backing.reports
        for finding in report.findings
        if finding.severity != "info"
    ]
    if not found:
        return []
    more = [f"- and {len(found) - _FINDINGS} more"] if len(found) > _FINDINGS else []
    title = f"<details><summary>{plural(len(found), 'note')} of those who measured</summary>"
    return [title, "", *found[:_FINDINGS], *more, "", "</details>", ""]


def _fingerprint(verdict: Verdict, backing: Backing) -> list[str]:
    lines = ["<details><summary>Fingerprint</summary>", "", "| | |", "|---|---|"]
    file = f" in {escape(verdict.policy_file, 200)}" if verdict.policy_file else ""
    lines += [
        f"| Release | {escape(verdict.release_name or '', 80)} {_digest(verdict.release)} |",
        f"| Policy | {escape(verdict.policy, 80)}{file} {_digest(verdict.policy_sha256)} |",
    ]
    for prefix, reports in (("", backing.reports), ("Baseline ", backing.baselines)):
        for report in reports:
            facts = [f"{escape(k, 40)} {escape(v, 120)}" for k, v in _conditions(report).items() if v is not None]
            lines.append(f"| {prefix}{escape(report.kind)}/{escape(report.name, 80)} | {' · '.join(facts)} |")
    if not backing.reports:
        lines.append(f"| Reports | {' '.join(_digest(digest) for digest in verdict.reports[:20])} |")
    return [*lines, "", "</details>", ""]


def _conditions(report: Report) -> dict[str, object]:
    """What of a run could change its numbers, in words."""
    conditions, endpoint = report.conditions, report.subject.endpoint
    return {
        "of": report.subject.name,
        "model": endpoint.model if endpoint else None,
        "engine": endpoint.version if endpoint else None,
        "n": count(max((measure.attempted for measure in report.measures), default=0)),
        "data set": short_hash(conditions.dataset_sha256) if conditions.dataset_sha256 else None,
        "profile": short_hash(conditions.profile_sha256) if conditions.profile_sha256 else None,
        "seed": conditions.seed,
        "temperature": None if conditions.temperature is None else f"{conditions.temperature:g}",
        "concurrency": conditions.concurrency,
        "client": conditions.client,
        **dict(list(conditions.other.items())[:10]),
        "measured": date(report.finished),
        "report": short_hash(report.identity()),
    }


def _digest(digest: str | None) -> str:
    return "" if digest is None else f"<code>{short_hash(digest)}</code>"
