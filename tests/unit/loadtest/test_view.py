"""What a person sees of a load test."""

from __future__ import annotations

from pathlib import Path

import pytest

from servegate.loadtest.view import show, shown_progress
from servegate.report.model import Finding, Interval, Measure, Report, Subject

SHA = "sha256:" + "0" * 64


def measure(
    name: str, statistic: str, value: float | None, slot: str | None = None, high: float | None = None
) -> Measure:
    interval = None
    if value is not None and high is not None:
        interval = Interval(low=value, high=high, level=0.95, method="order-statistic")
    return Measure.model_validate(
        {
            "name": name,
            "statistic": statistic,
            "slot": slot,
            "value": value,
            "unit": "seconds",
            "n": 400,
            "attempted": 400,
        }
        | {"interval": interval}
    )


def report(*slots: str, findings: tuple[Finding, ...] = ()) -> Report:
    values = {"p50": 0.05, "p95": 12.3456, "p99": 98.7654}
    measures = [
        measure(name, statistic, value, slot, high=99.9)
        for name in ("ttft", "e2e_latency_from_schedule")
        for slot in (None, *slots)
        for statistic, value in values.items()
    ]
    return Report.model_validate(
        {
            "kind": "load",
            "name": "[b]x",
            "subject": Subject(release=SHA, name="[red]model"),
            "started": 1,
            "finished": 2,
        }
        | {"tool": "t", "measures": measures, "findings": findings}
    )


@pytest.mark.parametrize("slots", [(), ("blue",), ("blue", "green")])
def test_no_number_is_cut_off_on_a_narrow_terminal(
    slots: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    show(report(*slots), Path("out"))
    shown = capsys.readouterr().out
    assert "…" not in shown
    rows = 2 * (1 + (len(slots) if len(slots) > 1 else 0))
    assert shown.count("12346–99900") == rows
    assert shown.count("98765") == 2 * rows


def test_names_are_text_and_not_markup(capsys: pytest.CaptureFixture[str]) -> None:
    found = Finding(severity="warning", code="requests-failed", message="the first: [/red]boom")
    show(report(findings=(found,)), Path("out"))
    shown = capsys.readouterr().out
    assert "[b]x against [red]model" in shown
    assert "warning: requests-failed: the first: [/red]boom" in shown
    assert "report: out/report.json" in shown


def test_what_was_not_measured_is_shown_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    empty = [measure("ttft", statistic, None) for statistic in ("p50", "p95", "p99")]
    rate = Measure(
        name="request_rate", statistic="mean", slice="", value=None, unit="requests/second", n=0, attempted=0
    )
    show(report().model_copy(update={"measures": (*empty, rate)}), Path("out"))
    shown = capsys.readouterr().out
    assert "request_rate.mean  not measured" in shown
    assert " 0.0" not in shown


def test_progress_is_plain_lines_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    with shown_progress("p") as progress:
        for second in range(50):
            progress(f"{second} of 50 s")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == ["p: starting the load process", "p: 0 of 50 s"]
