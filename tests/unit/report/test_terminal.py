"""Reports and verdicts in a terminal and in a log."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from servegate.report.model import Finding, Report
from servegate.report.terminal import print_report, print_verdict
from servegate.report.verdict import Outcome, Verdict


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def nobody_but_us(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")


def shown(subject: Report | Verdict, file: io.StringIO) -> str:
    console = Console(file=file, width=100, force_terminal=isinstance(file, Screen), color_system=None)
    if isinstance(subject, Verdict):
        print_verdict(subject, console)
    else:
        print_report(subject, console)
    return file.getvalue()


@pytest.mark.parametrize("kind", [Screen, io.StringIO])
def test_a_verdict_shows_its_numbers(kind: type[io.StringIO], verdict: Callable[..., Verdict]) -> None:
    text = shown(verdict(Outcome.FAIL, "too slow"), kind())
    for part in ("FAIL", "v1.2.0 (4b4b4b4b4b4b)", "96.3 % [89.8, 98.7]", "≤ 800 ms", "1,196", "4 pp", "too slow"):
        assert part in text
    assert "not measured" in text
    assert "counts as PASS" in text


@pytest.mark.parametrize("kind", [Screen, io.StringIO])
def test_what_was_not_measured_has_no_tick(kind: type[io.StringIO], verdict: Callable[..., Verdict]) -> None:
    lines = [line for line in shown(verdict(), kind()).splitlines() if "goodput" in line]
    assert lines
    assert not any("✓" in line for line in lines)


@pytest.mark.parametrize("kind", [Screen, io.StringIO])
def test_a_report_shows_its_numbers(kind: type[io.StringIO], reports: tuple[Report, ...]) -> None:
    text = shown(reports[2], kind())
    for part in ("load steady of v1.2.0", "TTFT p95", "431 ms [410, 457]", "1,196 of 1,200", "1,843 tokens/s"):
        assert part in text
    assert "warning: late-sends: 4 requests" in text
    assert "error rate rate" not in text


def test_a_void_report_says_it_before_its_numbers_are_believed(reports: tuple[Report, ...]) -> None:
    void = Finding(severity="error", code="client-saturated", message="the client was late", voids=True)
    text = shown(reports[2].model_copy(update={"findings": (void,)}), io.StringIO())
    assert "VOID: these numbers must not be judged" in text


def test_a_log_has_no_control_characters(
    hostile: str, verdict: Callable[..., Verdict], reports: tuple[Report, ...]
) -> None:
    bad = verdict(Outcome.FAIL).results[0].model_copy(update={"check": hostile, "message": hostile})
    texts = [
        shown(verdict().model_copy(update={"results": (bad,), "policy": hostile, "tool": hostile}), io.StringIO()),
        shown(reports[0].model_copy(update={"name": hostile, "tool": hostile}), io.StringIO()),
    ]
    for text in texts:
        lines = text.split("\n")[:-1]
        assert all(line.isprintable() for line in lines)
        assert not any(line.lstrip().startswith("::") or "##[" in line for line in lines)


def test_a_terminal_obeys_no_foreign_sequence(hostile: str, verdict: Callable[..., Verdict]) -> None:
    text = shown(verdict(Outcome.FAIL, hostile), Screen())
    assert "\x1b[31m" not in text
    assert "\x07" not in text
