"""The live view: a panel where a person watches, lines where none does."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from servegate.report.live import CanaryView, PlanFacts
from servegate.report.records import CanaryTick, Evidence, SlotTick
from servegate.report.story import ReleaseStory

PLAN = PlanFacts(
    steps=(1, 10, 50, 95, 100),
    releases={"blue": "v1.1.0", "green": "v1.2.0"},
    step_seconds=(25, 35, 40, 40, 0),
    name="v1.2.0",
)


class Screen(io.StringIO):
    """Looks like a terminal to whoever asks."""

    def isatty(self) -> bool:
        return True


class Latin(Screen):
    """A terminal that cannot show Unicode."""

    encoding = "ascii"


@pytest.fixture(autouse=True)
def nobody_but_us(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CI", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def picture(view: CanaryView, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(view.panel())
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def watched(width: int = 80, file: io.StringIO | None = None) -> CanaryView:
    return CanaryView(PLAN, Console(file=file or Screen(), width=width, force_terminal=True))


def logged(ticks: list[CanaryTick]) -> list[str]:
    file = io.StringIO()
    with CanaryView(PLAN, Console(file=file)) as view:
        for tick in ticks:
            view(tick)
    return file.getvalue().splitlines()


def tick(at: float, phase: str = "STEP", **more: object) -> CanaryTick:
    weights = {"blue": 90.0, "green": 10.0}
    data = {"at": at, "phase": phase, "step": 1, "stable": "blue", "candidate": "green", "weights": weights}
    return CanaryTick.model_validate(data | more)


def test_the_panel_tells_the_whole_story(stories: list[ReleaseStory]) -> None:
    with watched() as view:
        for one in stories[1].ticks[:58]:
            view(one)
        shown = picture(view)
    assert "✓ PREPARING ▸ ✓ 1 % ▸ [10 %] ▸ 50 % ▸ 95 % ▸ 100 %" in shown
    assert "v1.2.0  candidate" in shown
    assert re.search(r"green .*█.* 10 %", shown)
    assert "TTFT p50/p95 ms" in shown
    assert "errors against stable" in shown
    assert "to roll back" in shown
    assert "held at 1 % for its time: on to 10 %" in shown


def test_a_rollback_stays_where_it_happened(stories: list[ReleaseStory]) -> None:
    with watched() as view:
        for one in stories[1].ticks:
            view(one)
        shown = picture(view)
    assert "[✗ 10 %]" in shown
    assert "23 of 47 requests failed on green" in shown
    assert "left" not in shown


def test_a_promotion_has_every_step_behind_it(stories: list[ReleaseStory]) -> None:
    with watched() as view:
        for one in stories[0].ticks:
            view(one)
        shown = picture(view)
    assert shown.count("✓ ") >= 6
    assert "PROMOTED" in shown


@pytest.mark.parametrize("width", [60, 80, 99, 100, 160])
def test_nothing_is_wider_than_the_terminal(width: int, stories: list[ReleaseStory]) -> None:
    with watched(width) as view:
        for one in stories[1].ticks[:60]:
            view(one)
        shown = picture(view, width)
    assert max(len(line) for line in shown.splitlines()) <= width
    if width >= 80:
        assert "…" not in shown.replace("0 of 421 on…", "")


def test_a_terminal_without_unicode_gets_ascii(stories: list[ReleaseStory]) -> None:
    screen = Latin()
    with watched(file=screen) as view:
        for one in stories[1].ticks:
            view(one.model_copy(update={"reason": "환불 – ✓"}))
    assert screen.getvalue().isascii()
    assert "[x 10 %]" in screen.getvalue()
    assert "#" in screen.getvalue()


def test_no_color_has_no_colour(monkeypatch: pytest.MonkeyPatch, stories: list[ReleaseStory]) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    screen = Screen()
    with watched(file=screen) as view:
        for one in stories[1].ticks[:60]:
            view(one)
    codes = re.findall(r"\x1b\[([0-9;]*)m", screen.getvalue())
    assert not [code for code in codes if re.search(r"(^|;)(3[0-7]|4[0-7]|9[0-7]|38|48)(;|$)", code)]


def test_the_terminal_is_given_back(stories: list[ReleaseStory]) -> None:
    screen = Screen()
    with pytest.raises(KeyboardInterrupt), watched(file=screen) as view:
        view(stories[1].ticks[0])
        raise KeyboardInterrupt
    assert screen.getvalue().count("\x1b[?25l") == screen.getvalue().count("\x1b[?25h") == 1


def test_a_log_has_lines_and_no_control_characters(stories: list[ReleaseStory]) -> None:
    lines = logged(list(stories[1].ticks))
    assert all(line.isprintable() for line in lines)
    changes = [line for line in lines if "weights" in line]
    assert changes[0] == "[0:00] PREPARING, weights blue 100 %, green 0 %"
    assert changes[1].startswith("[0:12] STEP 1/5, weights blue 99 %, green 1 %: candidate is ready")
    assert any("ROLLING_BACK" in line and "23 of 47" in line for line in changes)
    states = [line for line in lines if "requests" in line and line not in changes]
    assert len(states) >= 8
    assert "of the rollback limit: errors against stable" in states[4]


@pytest.mark.parametrize(("variable", "value"), [("CI", "true"), ("TERM", "dumb")])
def test_ci_and_dumb_terminals_get_lines(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    screen = Screen()
    with CanaryView(PLAN, Console(file=screen)) as view:
        view(tick(0.0))
    assert screen.getvalue() == "[0:00] STEP 2/5, weights blue 90 %, green 10 %\n"


def test_forced_colour_does_not_move_the_cursor_of_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    file = io.StringIO()
    with CanaryView(PLAN, Console(file=file)) as view:
        view(tick(0.0))
    assert "\x1b" not in file.getvalue()


def test_status_lines_come_every_five_seconds() -> None:
    slots = {"green": SlotTick(requests=2, failures=0)}
    lines = logged([tick(float(i), slots=slots) for i in range(21)])
    assert [line[:7] for line in lines] == ["[0:00] ", "[0:05] ", "[0:10] ", "[0:15] ", "[0:20] "]
    assert "green 12 requests, 0 failed" in lines[1]


def test_foreign_text_commands_nothing(hostile: str) -> None:
    lines = logged([tick(0.0, reason=hostile), tick(1.0, phase="ROLLING_BACK", reason=hostile)])
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)
    assert not any(line.lstrip().startswith("::") or "##[" in line for line in lines)
    with watched() as view:
        view(tick(0.0, reason=hostile))
        assert "\x1b[31mred" not in picture(view)


def test_time_left_is_at_least_what_the_plan_takes() -> None:
    view = watched()
    view(tick(0.0))
    view(tick(5.0))
    assert view.time_left() == "at least 1 min 50 s left"  # 35 - 5 + 40 + 40


def test_time_left_is_estimated_from_growing_evidence() -> None:
    view = watched()
    for i in range(10):
        evidence = (Evidence(check="a", log_e=0, log_limit=5, promote_log_e=i * 0.01, promote_log_limit=4),)
        view(tick(float(i), evidence=evidence))
    assert view.time_left() == "about 6 min 31 s left"  # 3.91 to go at 0.01 a second
    view(tick(10.0, phase="HELD"))
    assert view.time_left() == "held"


def test_what_was_not_measured_is_not_a_zero() -> None:
    view = watched()
    view(tick(0.0, slots={"green": SlotTick(), "blue": SlotTick(requests=3, failures=0, ready=True)}))
    green = next(line for line in picture(view).splitlines() if line.startswith("│ green") and "/" in line)
    assert "0" not in green
    assert "?" in green
