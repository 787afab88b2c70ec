"""`servegate report`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from servegate.cli import main
from servegate.report.model import Report
from servegate.report.records import write_records
from servegate.report.story import ReleaseStory
from servegate.report.verdict import Outcome, Verdict


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["report", *map(str, arguments)])
    return int(ended.value.code or 0)


@pytest.fixture
def files(tmp_path: Path, verdict: Callable[..., Verdict], reports: tuple[Report, ...]) -> Path:
    verdict(Outcome.FAIL, "too slow").write(tmp_path / "verdict.json")
    reports[2].write(tmp_path / "report.json")
    return tmp_path


@pytest.mark.parametrize("name", ["verdict.json", "report.json"])
@pytest.mark.parametrize(
    ("shape", "start"), [("terminal", ""), ("markdown", ""), ("json", "{"), ("html", "<!doctype html>")]
)
def test_each_format_of_each_kind(
    name: str, shape: str, start: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("show", files / name, "--format", shape) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(start)
    assert "v1.2.0" in printed
    assert run("show", files / name, "--format", shape, "--output", files / "out") == 0
    assert (files / "out").read_text() == printed


def test_showing_a_failed_verdict_is_no_failure(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", files / "verdict.json") == 0
    assert "too slow" in capsys.readouterr().out


def test_junit_is_for_verdicts(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", files / "verdict.json", "--format", "junit") == 0
    assert ElementTree.fromstring(capsys.readouterr().out.encode()).get("failures") == "1"
    assert run("show", files / "report.json", "--format", "junit") == 2
    assert "only a verdict can be shown as JUnit XML" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", ":1:2: not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[1]", "is neither a report"),
        (b'{"kind": 1}', "is neither a report"),
        (b'{"kind": 1, "subject": 2}', "is not a valid Report"),
        (b'{"policy_sha256": "x"}', "is not a valid Verdict"),
    ],
)
def test_a_wrong_file_gets_one_message(
    content: bytes, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.json").write_bytes(content)
    assert run("show", tmp_path / "x.json") == 2
    message = capsys.readouterr().err
    assert says in message
    assert "Traceback" not in message


def test_a_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", tmp_path / "no.json") == 2
    assert "No such file" in capsys.readouterr().err


def test_a_timeline_becomes_a_page(
    tmp_path: Path, stories: list[ReleaseStory], capsys: pytest.CaptureFixture[str], ended: Callable[[str], Report]
) -> None:
    write_records(tmp_path / "timeline.jsonl", stories[1].ticks)
    write_records(tmp_path / "records.jsonl", stories[1].records)
    out = tmp_path / "page.html"
    assert run("canary", tmp_path / "timeline.jsonl", "--records", tmp_path / "records.jsonl", "--output", out) == 0
    page = out.read_text()
    assert "rolled back" in page
    assert "23 of 47 requests failed on green" in page
    assert "as the clients counted them" in page
    assert run("canary", tmp_path / "timeline.jsonl", "--output", out) == 0
    assert "for showing only" in out.read_text()
    assert "as the engines counted them" in out.read_text()
    ended("HighErrorRate").write(tmp_path / "report.json")
    assert run("canary", tmp_path / "timeline.jsonl", "--report", tmp_path / "report.json", "--output", out) == 0
    page = out.read_text()
    for words in ("Way back to v1 (blue)", "Guard of v2 (green)", "What a person must do"):
        assert words in page
    assert "Before the canary" not in page


def test_an_empty_or_torn_timeline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    timeline = tmp_path / "t.jsonl"
    timeline.write_text("")
    assert run("canary", timeline, "--output", tmp_path / "p.html") == 2
    assert "holds no tick" in capsys.readouterr().err
    timeline.write_text(json.dumps({"at": 1}) + "\n")
    assert run("canary", timeline, "--output", tmp_path / "p.html") == 2
    assert f"{timeline}:1: not a CanaryTick" in capsys.readouterr().err
    assert not (tmp_path / "p.html").exists()
