"""Stages before the canary."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from rich.console import Console

from servegate.report.stages import Stages


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def nobody_but_us(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")


def clock(*times: float) -> Iterator[float]:
    yield from times


def test_a_log_gets_start_progress_now_and_then_and_the_result() -> None:
    now = 0.0
    file = io.StringIO()
    stages = Stages(Console(file=file), now=lambda: now)
    stages.start("evals")
    for now in (1.0, 2.0, 6.0, 7.0):
        stages.update(f"{now:g}/80")
    now = 8.0
    stages.done("evals", ok=True, summary="79/80")
    assert file.getvalue().splitlines() == ["evals ···", "evals 6/80, 6.0 s", "evals ✓ 79/80 8.0 s"]


def test_a_failed_stage_says_so_in_words_and_sign() -> None:
    file = io.StringIO()
    stages = Stages(Console(file=file), now=lambda: 0.0)
    stages.start("gate")
    stages.done("gate", ok=False, summary="FAIL: ttft-p95")
    assert "gate ✗ FAIL: ttft-p95" in file.getvalue()


def test_an_exception_ends_the_stage_it_happened_in() -> None:
    file = io.StringIO()
    with pytest.raises(KeyboardInterrupt), Stages(Console(file=file), now=lambda: 0.0) as stages:
        stages.start("load")
        raise KeyboardInterrupt
    assert file.getvalue().splitlines()[-1] == "load ✗ interrupted 0.0 s"


def test_a_terminal_gets_its_cursor_back_and_one_line_per_stage() -> None:
    screen = Screen()
    with Stages(Console(file=screen, force_terminal=True, width=80, color_system=None), now=lambda: 0.0) as stages:
        stages.start("smoke")
        stages.update("3/6")
        stages.done("smoke", ok=True, summary="6/6")
        stages.note("started")
    text = screen.getvalue()
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1
    assert "✓ smoke  6/6 0.0 s\n" in text
    assert text.endswith("started\n")


def test_foreign_text_commands_nothing(hostile: str) -> None:
    file = io.StringIO()
    stages = Stages(Console(file=file), now=lambda: 0.0)
    stages.start(hostile)
    stages.done(hostile, ok=False, summary=hostile)
    stages.note(hostile)
    lines = file.getvalue().split("\n")[:-1]
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)
    assert not any(line.lstrip().startswith("::") or "##[" in line for line in lines)
