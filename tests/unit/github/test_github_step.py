"""Workflow commands, outputs and summary: read as the runner reads them."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servegate.errors import InfrastructureError
from servegate.github.commands import annotate, command
from servegate.github.files import append_outputs, append_summary
from servegate.report.format import clean
from servegate.report.markdown import SUMMARY_BYTES
from servegate.report.verdict import Outcome, Verdict

ANY = st.text(st.characters(codec="utf-8"), max_size=80)


def obeyed(line: str) -> tuple[str, dict[str, str], str]:
    """What a runner makes of a line: its grammar, and its escapes."""
    found = re.fullmatch(r"::(\w+) ([^\r\n]*?)::([^\r\n]*)", line)
    assert found is not None
    properties = dict(part.split("=", 1) for part in found[2].split(",") if part)
    undo = [("%2C", ","), ("%3A", ":"), ("%0A", "\n"), ("%0D", "\r"), ("%25", "%")]

    def unescape(text: str) -> str:
        for code, char in undo:
            text = text.replace(code, char)
        return text

    return found[1], {key: unescape(value) for key, value in properties.items()}, unescape(found[3])


@given(message=ANY, title=ANY)
def test_any_text_is_one_command(message: str, title: str) -> None:
    line = command("error", message, title=title, file="gates/a,b:c%.yaml", line=3)
    assert len(line.splitlines()) == 1
    level, properties, shown = obeyed(line)
    assert level == "error"
    assert properties == {"file": "gates/a,b:c%.yaml", "line": "3", "title": clean(title, 200)}
    assert shown == clean(message)


def test_each_failed_check_stands_on_its_line(tmp_path: Path, verdict: Callable[..., Verdict]) -> None:
    (tmp_path / "gates").mkdir()
    (tmp_path / "gates/release.yaml").touch()
    found = verdict(Outcome.PASS, Outcome.INCONCLUSIVE, Outcome.FAIL, Outcome.VOID)
    lines = annotate(found, tmp_path)
    assert [obeyed(line)[1]["line"] for line in lines] == ["12", "13", "11"]
    assert obeyed(lines[0]) == (
        "error",
        {"file": "gates/release.yaml", "line": "12", "title": "check-2: FAIL"},
        "2: it is too slow",
    )


def test_what_only_warns_is_a_warning(tmp_path: Path, verdict: Callable[..., Verdict]) -> None:
    lines = annotate(verdict(Outcome.FAIL, Outcome.PASS, effect=Outcome.PASS), tmp_path)
    assert [obeyed(line)[0] for line in lines] == ["warning"]
    assert obeyed(lines[0])[1]["title"] == "check-0: FAIL (counts as PASS)"


@pytest.mark.parametrize("file", [None, "/etc/passwd", "../x.yaml", "missing.yaml", "a\\b", "gates", "\u202e"])
def test_a_file_that_is_not_in_the_repository_is_not_named(
    file: str | None, tmp_path: Path, verdict: Callable[..., Verdict]
) -> None:
    (tmp_path / "repo" / "gates").mkdir(parents=True)
    (tmp_path / "x.yaml").touch()
    (line,) = annotate(verdict(Outcome.FAIL, file=file), tmp_path / "repo")
    assert set(obeyed(line)[1]) == {"title"}


def test_ten_of_a_level_and_the_tenth_says_how_many_more(tmp_path: Path, verdict: Callable[..., Verdict]) -> None:
    lines = annotate(verdict(*[Outcome.FAIL] * 10), tmp_path)
    assert len(lines) == 10
    assert "further" not in lines[-1]
    lines = annotate(verdict(*[Outcome.FAIL] * 25), tmp_path)
    assert len(lines) == 10
    assert obeyed(lines[-1])[2] == "16 further checks did not pass; the job summary has all of them"


def outputs_of(path: Path) -> dict[str, str]:
    """Outputs as the runner reads them."""
    lines, found = path.read_text().split("\n"), {}
    while lines != [""]:
        name, delimiter = lines.pop(0).split("<<")
        end = lines.index(delimiter)
        found[name] = "\n".join(lines[:end])
        lines = lines[end + 1 :]
    return found


@given(values=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=60), max_size=4))
def test_outputs_are_read_as_they_were_written(values: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("out") / "out"
    wanted = {f"name-{index}": value for index, value in enumerate(values)}
    append_outputs(path, wanted)
    append_outputs(path, {"last": "a\nlast<<x\nx\n"})
    assert outputs_of(path) == {**wanted, "last": "a\nlast<<x\nx\n"}


def test_a_delimiter_that_stands_in_the_value_is_not_used(tmp_path: Path) -> None:
    numbers = count()
    append_outputs(tmp_path / "out", {"a": "x\nservegate_0\nverdict<<y"}, token=lambda: str(next(numbers)))
    assert outputs_of(tmp_path / "out") == {"a": "x\nservegate_0\nverdict<<y"}


def test_a_summary_takes_the_room_that_is_left(tmp_path: Path) -> None:
    path = tmp_path / "summary"
    rooms: list[int] = []

    def text(room: int) -> str:
        rooms.append(room)
        return "x" * (room // 2)

    assert append_summary(path, text)
    assert append_summary(path, text)
    assert rooms == [SUMMARY_BYTES, SUMMARY_BYTES - path.stat().st_size + rooms[1] // 2 + 1]
    path.write_text("y" * SUMMARY_BYTES)
    assert not append_summary(path, text)
    assert not append_summary(tmp_path / "other", lambda room: "x" * (room + 1))
    assert path.read_text() == "y" * SUMMARY_BYTES


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError, match="cannot be written"):
        append_outputs(tmp_path, {"a": "b"})
