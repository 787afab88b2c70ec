"""The demo as a user runs it: both endings, the files it leaves, and nothing left running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from servegate.contract import sha256_file
from servegate.gates.trust import load_trust
from servegate.pipeline.verdicts import Verdicts, files
from servegate.release import Release
from servegate.report.model import Report
from servegate.report.records import CanaryTick, RequestRecord, read_records
from servegate.report.verdict import Verdict

MARK = "SERVEGATE_TEST_MARK"
ROOT = Path(__file__).parents[2]


def start(output: Path, mark: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", "from servegate.cli import main; main()", "demo", "--output", str(output), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env={**os.environ, "CI": "true", MARK: mark},
    )


def survivors(mark: str) -> dict[int, str]:
    """Processes that carry the mark in their environment."""
    found = {}
    wanted = f"{MARK}={mark}".encode()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                if wanted in (folder / "environ").read_bytes().split(b"\0"):
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:200]
            except OSError:  # it ended meanwhile, or is a kernel thread
                continue
    return found


def wait_for(condition: Any, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.1)
    return bool(condition())


@dataclass
class Ended:
    output: Path
    text: str
    status: int
    summary: dict[str, Any]
    survivors: dict[int, str]

    def release(self, name: str) -> dict[str, Any]:
        found = [release for release in self.summary["releases"] if release["name"] == name]
        assert len(found) == 1
        return dict(found[0])


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ended]:
    output, mark = tmp_path_factory.mktemp("demo") / "demo", uuid.uuid4().hex
    with start(output, mark) as process:
        try:
            text, _ = process.communicate(timeout=480)
        finally:
            process.kill()
    assert process.returncode is not None
    summary = json.loads((output / "summary.json").read_text()) if (output / "summary.json").exists() else {}
    assert summary, text
    yield Ended(output, text, process.returncode, summary, survivors(mark))


@pytest.mark.timeout(600)
def test_the_healthy_release_is_promoted_and_loses_nothing(ended: Ended) -> None:
    release = ended.release("v2.0.0")
    assert release["outcome"] == "promoted", ended.text
    assert release["verdict"] == "PASS"
    assert release["run"]["failed_requests"] == 0
    assert release["candidate"]["requests"] > 300
    assert release["largest_weight_percent"] == 100


@pytest.mark.timeout(600)
def test_the_defective_release_is_rolled_back_at_a_small_share(ended: Ended) -> None:
    release = ended.release("v3.0.0")
    assert release["outcome"] == "rolled_back", ended.text
    assert release["verdict"] == "PASS"
    assert release["largest_weight_percent"] <= 50
    assert 0 < release["seconds_from_first_effect_to_weight_zero"] < 150
    assert 0 < release["candidate"]["failed_requests"] <= release["run"]["failed_requests"]
    assert release["candidate"]["failed_requests"] < release["candidate"]["requests"]
    assert "error" in release["reason"] or "fail" in release["reason"]
    assert ended.status == 0


@pytest.mark.timeout(600)
def test_numbers_agree_with_the_records(ended: Ended) -> None:
    records = list(read_records(ended.output / "traffic" / "records.jsonl", RequestRecord))
    assert len(records) == ended.summary["requests"]
    assert sum(not record.ok for record in records) == ended.summary["failed_requests"]
    assert {record.slot for record in records if record.ok} == {"blue", "green"}
    ticks = list(read_records(ended.output / "v3.0.0" / "timeline.jsonl", CanaryTick))
    assert ticks[-1].phase == "ROLLED_BACK"
    assert ticks[-1].weights[ticks[-1].candidate or ""] == 0


@pytest.mark.timeout(600)
def test_every_stage_left_its_report_and_the_verdict_names_them(ended: Ended) -> None:
    for name in ("v2.0.0", "v3.0.0"):
        folder = ended.output / name
        verdict = Verdict.read(folder / "verdict.json")
        reports = [Report.read(folder / stage / "report.json") for stage in ("smoke", "evals", "load")]
        assert set(verdict.reports) == {report.identity() for report in reports}
        trusted = Verdicts(load_trust(ended.output / "trust.yaml"), files([folder]))
        trusted.require(Release.read(folder / "release.json"))
        assert {report.subject.release for report in reports} == {verdict.release}
        for report, stage in zip(reports, ("smoke", "evals", "load"), strict=True):
            for sample in report.samples:
                assert sha256_file(folder / stage / sample.path) == sample.sha256


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for key, value in attrs if key in ("src", "href", "xlink:href")]


@pytest.mark.timeout(600)
def test_the_page_stands_alone(ended: Ended) -> None:
    text = (ended.output / "report.html").read_text()
    page = Page()
    page.feed(text)
    assert [link for link in page.links if not link.startswith(("#", "data:"))] == []
    assert {"svg", "table", "h1", "h2"} <= page.tags
    assert "script" not in page.tags
    assert ended.release("v3.0.0")["reason"].split(":")[0].split("(")[0].strip()[:20] in text
    assert len(text) < 4_000_000


@pytest.mark.timeout(600)
def test_the_page_proves_the_way_back(ended: Ended) -> None:
    text = (ended.output / "report.html").read_text()
    assert text.count("Way back to ") == 1  # of the release that was rolled back alone
    for point in ("Weights effective", "Old release answers", "Error rate back"):
        assert point in text


@pytest.mark.timeout(600)
def test_plain_lines_when_nobody_watches(ended: Ended) -> None:
    assert "\x1b" not in ended.text
    assert "v2.0.0" in ended.text
    assert str(ended.output / "report.html") in ended.text.replace("\n", "")


@pytest.mark.timeout(600)
def test_nothing_is_left_running(ended: Ended) -> None:
    assert ended.survivors == {}
    logs = {path.name for path in ended.output.rglob("*.log")}
    assert {"envoy.log"} < logs


@pytest.mark.timeout(240)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whatever_ends_it_nothing_is_left(tmp_path: Path, number: signal.Signals) -> None:
    output, mark = tmp_path / "demo", uuid.uuid4().hex
    with start(output, mark) as process:
        # Users are being served and the release is being measured: every kind of child is there.
        assert wait_for(lambda: any(output.glob("v2.0.0/evals/records.jsonl")), 90), process.communicate()[0]
        assert len(survivors(mark)) >= 4
        process.send_signal(number)
        text, _ = process.communicate(timeout=30)
    assert wait_for(lambda: not survivors(mark), 10), survivors(mark)
    assert "Traceback" not in text
    if number is not signal.SIGKILL:
        assert process.returncode == 130
        assert "interrupted" in text


@pytest.mark.timeout(240)
def test_two_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    mark, places = uuid.uuid4().hex, [tmp_path / "demo", tmp_path / "demo-2"]
    with start(places[0], mark) as first:
        assert wait_for(lambda: (places[0] / "traffic" / "records.jsonl").exists(), 60)
        with start(places[0], mark) as second:
            try:
                assert wait_for(lambda: all(any(place.glob("v2.0.0/evals/*.jsonl")) for place in places), 90)
                assert (first.poll(), second.poll()) == (None, None)
            finally:
                second.terminate()
                second.wait(30)
                first.terminate()
                first.wait(30)
    assert wait_for(lambda: not survivors(mark), 10)


def test_a_folder_with_something_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "thesis.txt").write_text("do not delete")
    with start(tmp_path / "demo", uuid.uuid4().hex) as process:
        text, _ = process.communicate(timeout=60)
    assert process.returncode == 4
    assert "is not a demo" in text
    assert (tmp_path / "demo" / "thesis.txt").read_text() == "do not delete"


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with start(Path("/proc/servegate/demo"), uuid.uuid4().hex) as process:
        text, _ = process.communicate(timeout=60)
    assert process.returncode == 4
    assert text.startswith("servegate: /proc/servegate/demo: cannot be written")
