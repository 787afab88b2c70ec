"""A verdict in a job summary: numbers in a table, foreign text as text."""

from __future__ import annotations

from collections.abc import Callable
from html import unescape

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from servegate.report.format import clean
from servegate.report.markdown import escape, report_markdown, verdict_markdown
from servegate.report.model import Report
from servegate.report.verdict import Outcome, Verdict


def tokens(text: str) -> list[Token]:
    found = []
    for token in MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(text):
        found.append(token)
        found += token.children or []
    return found


def test_the_table_has_the_numbers(verdict: Callable[..., Verdict]) -> None:
    text = verdict_markdown(verdict(Outcome.FAIL, "p95 of TTFT is 431 ms, at most 400 ms"))
    assert text.startswith("> [!CAUTION]\n> **FAIL** v1.2.0: p95 of TTFT is 431 ms, at most 400 ms\n")
    cells = [token.content for token in tokens(text) if token.type == "inline"]
    for part in (r"96.3 % \[89.8, 98.7\]", "≥ 85 %", "82", "4 %", "not measured", r"INCONCLUSIVE \(counts as PASS\)"):
        assert part in cells
    assert sum(token.type == "tr_open" for token in tokens(text)) == 4


@pytest.mark.parametrize(
    ("outcome", "alert"),
    [(Outcome.PASS, "TIP"), (Outcome.FAIL, "CAUTION"), (Outcome.INCONCLUSIVE, "WARNING"), (Outcome.VOID, "WARNING")],
)
def test_the_alert_says_how_bad_it_is(outcome: Outcome, alert: str, verdict: Callable[..., Verdict]) -> None:
    assert verdict_markdown(verdict(outcome)).startswith(f"> [!{alert}]\n> **{outcome}**")


def test_a_pass_names_the_checks_that_only_warn(verdict: Callable[..., Verdict]) -> None:
    assert "2 checks passed; 1 check did not pass and only warn" in verdict_markdown(verdict())


def test_foreign_text_stays_text(hostile: str, verdict: Callable[..., Verdict], reports: tuple[Report, ...]) -> None:
    bad = verdict(Outcome.FAIL).results[1].model_copy(update={"check": hostile, "message": hostile, "measure": hostile})
    data = {"results": (bad,), "policy": hostile, "release_name": hostile, "decided_by": hostile, "tool": hostile}
    text = verdict_markdown(verdict(Outcome.FAIL).model_copy(update=data))
    kinds = [token.type for token in tokens(text)]
    assert not {"code_inline", "link_open", "image", "em_open", "s_open", "fence", "heading_open"} & set(kinds)
    html = {token.content for token in tokens(text) if token.type in ("html_inline", "html_block")}
    assert html == {"<sub>", "</sub>"}
    assert text.count("<") == 2
    assert kinds.count("tr_open") == 2
    assert kinds.count("td_open") == 8
    assert "::" not in text
    assert "##[" not in text
    report = report_markdown(reports[0].model_copy(update={"name": hostile, "tool": hostile}))
    assert not {"link_open", "code_inline", "em_open"} & {token.type for token in tokens(report)}


def test_nobody_is_mentioned_and_nothing_is_linked() -> None:
    shown = escape("@team owner/repo#12 https://evil.example www.evil.example")
    assert "@team" not in shown
    assert "#12" not in shown
    assert "://" not in shown
    assert "www." not in shown


def test_what_is_escaped_reads_as_it_was_written() -> None:
    text = "a|b `c` *d* [e](f) <g> & 1 - 2 = 3 $x$"
    inline = MarkdownIt("commonmark").parseInline(escape(text))[0]
    assert "".join(token.content for token in inline.children or []) == clean(text)
    assert unescape("&lt;g&gt;") == "<g>"


def test_many_checks_fit_and_the_failed_ones_stay(verdict: Callable[..., Verdict]) -> None:
    good = verdict().results[0].model_copy(update={"message": "m" * 300, "outcome": Outcome.INCONCLUSIVE})
    failed = verdict(Outcome.FAIL, "the one that failed").results[1]
    many = verdict(Outcome.FAIL).model_copy(update={"results": (*([good] * 2000), failed)})
    text = verdict_markdown(many)
    assert 40_000 < len(text.encode()) <= 60_000
    assert "the one that failed" in text
    assert "further checks left out" in text


def test_a_report_has_a_table_too(reports: tuple[Report, ...]) -> None:
    text = report_markdown(reports[2])
    assert r"| TTFT p95 | 431 ms \[410, 457\] | 1,196 of 1,200 |" in text
    assert "| goodput | not measured | 0 of 1,200 |" in text
