"""A verdict in a job summary: numbers in tables, foreign text as text, rendered by GitHub's own cmark."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from github_page import render
from hypothesis import given, settings
from hypothesis import strategies as st

from servegate.report.backing import Backing
from servegate.report.format import clean
from servegate.report.markdown import COMMENT_BYTES, escape, escape_html, report_markdown, verdict_markdown
from servegate.report.model import Report
from servegate.report.verdict import Outcome, Verdict

Compared = Callable[..., tuple[Verdict, Backing]]

OURS = {
    "blockquote", "p", "strong", "ul", "li", "h4", "table", "thead", "tbody", "tr", "th", "td",
    "details", "summary", "sub", "br", "code",
}  # fmt: skip


class Seen(HTMLParser):
    """Tags, attributes and visible text of rendered HTML."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: set[tuple[str, str | None]] = set()
        self.open: list[str] = []
        self.words: list[str] = []
        self.cells: list[str] = []
        self.feed(render(text))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes |= set(attrs)
        if tag not in ("br", "hr", "img"):
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if "td" in self.open or "th" in self.open:
            self.cells[-1] += data

    @property
    def text(self) -> str:
        return "".join(self.words).replace("\u00a0", " ").replace("\u2060", "")


def test_the_alert_and_the_tables_have_the_numbers(compared: Compared) -> None:
    verdict, backing = compared()
    seen = Seen(
        verdict_markdown(verdict.model_copy(update={"release_name": "v1.2.0", "policy": "release"}), backing=backing)
    )
    assert "FAIL: v1.2.0 must not serve traffic (policy release; 1 of 6 checks failed)" in seen.text
    assert "not-worse: accuracy 80.5 % against 90.5 %: worse than a loss of 3pp" in seen.text
    cells = [cell.replace("\u00a0", " ") for cell in seen.cells]
    rows = list(zip(*(cells[start:] for start in range(8)), strict=False))
    assert ("", "Metric", "Baseline", "Candidate", "Δ [90 % interval]", "Limit", "MDE", "Verdict") in rows
    assert (
        "❌",
        "not-worseaccuracy",
        "90.5 %",
        "80.5 %",
        "−10 pp [−13.8, −8.7]",
        "Δ ≥ −3 pp",
        "5.37 pp",
        "FAIL",
    ) in rows
    assert (
        "✅",
        "ttft-not-slowerTTFT p95, unpaired",
        "430 ms",
        "440 ms",
        "+10 ms [−12, +31]",
        "Δ ≤ +50 ms",
        "20 ms",
        "PASS",
    ) in rows
    assert ("✅", "accuracy", "96.3 % [89.8, 98.7]", "≥ 85 %", "82", "4 pp", "PASS") in [row[:7] for row in rows]
    assert ("⚠️", "goodput", "not measured", "≥ 95 %") in [row[:4] for row in rows]
    assert "INCONCLUSIVE (counts as PASS)" in cells


def test_items_show_what_the_model_said(compared: Compared) -> None:
    verdict, backing = compared("seven days")
    seen = Seen(verdict_markdown(verdict, backing=backing))
    assert "not-worse: 44 items lost, 1 won, 12 shown" in seen.text
    assert ("refund-03", "1", "0", "seven days", "seven days", "seven days") in zip(
        *(seen.cells[start:] for start in range(6)), strict=False
    )
    alone = Seen(verdict_markdown(verdict))
    assert ("Item", "Score before", "Score now", "seven days") in zip(
        *(alone.cells[start:] for start in range(4)), strict=False
    )


def test_the_fingerprint_tells_what_was_measured(compared: Compared) -> None:
    verdict, backing = compared("x")
    seen = Seen(verdict_markdown(verdict, backing=backing, notes=["commit <code>abc</code>"]))
    for part in ("Baseline eval/x", "seed 7", "data set 4b4b4b4b4b4b", "n 1,200", "x in x 4b4b4b4b4b4b", "commit abc"):
        assert part in seen.text
    assert "4b4b4b4b4b4b" in Seen(verdict_markdown(verdict)).text


@pytest.mark.parametrize(
    ("outcome", "alert", "says"),
    [
        (Outcome.PASS, "TIP", "may serve traffic"),
        (Outcome.FAIL, "CAUTION", "must not serve traffic"),
        (Outcome.INCONCLUSIVE, "WARNING", "no verdict, so no traffic: measured, but the numbers cannot tell"),
        (Outcome.VOID, "WARNING", "no verdict, so no traffic: something was not validly measured"),
    ],
)
def test_the_alert_says_how_bad_it_is(outcome: Outcome, alert: str, says: str, verdict: Callable[..., Verdict]) -> None:
    assert verdict_markdown(verdict(outcome)).startswith(f"> [!{alert}]\n> **{outcome}: v1.2.0 {says}**")


def test_a_pass_names_the_checks_that_only_warn(verdict: Callable[..., Verdict]) -> None:
    assert "(policy release; 3 checks; 1 did not pass, which only warns)" in verdict_markdown(verdict())


def markup_is_ours(text: str, compared: Compared) -> Seen:
    verdict, backing = compared(text)
    shown = verdict_markdown(verdict, backing=backing)
    assert not any(line.startswith("::") or "##[" in line for line in shown.splitlines())
    seen = Seen(shown)
    assert set(seen.tags) <= OURS
    assert {name for name, _ in seen.attributes} <= {"align"}
    assert seen.open == []
    return seen


def test_foreign_text_stays_text(hostile: str, compared: Compared, reports: tuple[Report, ...]) -> None:
    seen, plain = markup_is_ours(hostile, compared), markup_is_ours("text", compared)
    for tag in ("table", "tr", "td", "details", "summary", "h4", "li"):
        assert seen.tags[tag] == plain.tags[tag]
    assert seen.text.count(clean(hostile.encode(errors="replace").decode(), 80)) >= 10
    report = Seen(report_markdown(reports[0].model_copy(update={"name": hostile, "tool": hostile})))
    assert set(report.tags) <= OURS | {"h3"}


# Pieces that mean something to Markdown, HTML, a runner or GitHub's filters, and anything at all.
PIECES = st.sampled_from(
    ["\\", "|", "`", "``", "*", "**", "_", "~~", "[", "](", ")", "![", "<", ">", "</details>", "<summary>", "<!--",
     "-->", "&", "&#60;", "&lt;", "\n", "\r\n", "\n\n", "# ", "- ", "> ", "1. ", "    ", "\t", "::error::", "##[error]",
     "https://evil.example/", "www.evil.example", "@team", "#12", "GH-12", "o/r#1", ":tada:", ":+1:", "a@b.example",
     "$x$", "[^1]", "[ ]", "<script>", "<img src=x onerror=a()>", "\x1b[31m", "\u202e", "\u2028", "---", "===", "|---|"]
)  # fmt: skip
TEXT = st.lists(st.one_of(PIECES, st.text(st.characters(codec=None), max_size=6)), max_size=8).map("".join)


@settings(max_examples=60, deadline=None)
@given(text=TEXT)
def test_any_text_stays_text(text: str, compared: Compared) -> None:
    seen, plain = markup_is_ours(text, compared), markup_is_ours("text", compared)
    for tag in ("table", "tr", "td", "details", "summary", "h4", "li"):
        assert seen.tags[tag] == plain.tags[tag]


@settings(max_examples=300, deadline=None)
@given(text=TEXT)
def test_what_is_escaped_reads_as_it_was_written(text: str) -> None:
    whole = clean(text, 400)
    cells = Seen(f"| a |\n|---|\n| {escape(text)} |\n").cells
    assert [re.sub(r"\s+", " ", cell.replace("\u2060", "")).strip() for cell in cells] == ["a", squeezed(whole)]
    summary = Seen(f"<details><summary>{escape_html(text)}</summary>\n\n</details>\n")
    assert summary.tags == Counter(details=1, summary=1)
    assert squeezed(summary.text) == squeezed(whole)


def squeezed(text: str) -> str:
    return re.sub(r"\s+", " ", text.replace("\u2060", "")).strip()


@settings(max_examples=200, deadline=None)
@given(text=TEXT)
def test_nothing_is_left_for_the_filters_that_come_after(text: str) -> None:
    for shown in (Seen(escape(text)), Seen(f"<details><summary>{escape_html(text)}</summary>\n\n</details>")):
        assert "a" not in shown.tags
        raw = "".join(shown.words)
        assert not re.search(r"@\w|#\d|GH-\d|:tada:|:\+1:|www\.\w", raw)


def test_ten_megabytes_are_cut(compared: Compared) -> None:
    verdict, backing = compared("a|" * 5_000_000)
    assert len(verdict_markdown(verdict, backing=backing).encode()) < COMMENT_BYTES


def test_items_are_cut_before_checks_and_checks_that_hold_before_those_that_fail(compared: Compared) -> None:
    verdict, backing = compared(checks=400)
    sizes = [1_000_000, 300_000, 60_000, 5_000]
    whole, opened, rows, bare = texts = [verdict_markdown(verdict, size, backing) for size in sizes]
    for size, (more, less) in zip(sizes[1:], pairwise(texts), strict=True):
        assert 0.9 * size < len(less.encode()) <= size < len(more.encode())
        assert Seen(less).open == []
    assert "cut here" not in whole
    found = re.search(r"\*\*([\d,]+) differing items cut here", opened)
    assert found is not None
    shown = opened.count("<details><summary>not\\-worse") + opened.count("<details><summary>not-worse")
    assert int(found[1].replace(",", "")) == 12 * (400 - shown)
    found = re.search(r"\*\*(\d+) further checks and 4,800 differing items cut here", rows)
    assert found is not None
    assert rows.count("| ❌ |") == 405 - int(found[1])  # what fails comes first
    assert "| ✅ |" not in rows
    assert "must not serve traffic" in bare


def test_a_report_has_a_table_too(reports: tuple[Report, ...]) -> None:
    text = report_markdown(reports[2])
    assert r"| TTFT p95 | 431 ms \[410, 457\] | 1,196 of 1,200 |" in text
    assert "| goodput | not measured | 0 of 1,200 |" in text
