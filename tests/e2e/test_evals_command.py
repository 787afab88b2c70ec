"""`servegate evals` as a person or a pipeline calls it: the shipped suite against the simulator."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from servegate.endpoint import Endpoint
from servegate.errors import InfrastructureError
from servegate.evals import load_suite
from servegate.process import Child, free_ports, python
from servegate.report.model import Report
from servegate.report.records import EvalRecord, read_records

SUITE = Path(__file__).parents[2] / "evals" / "suites" / "support.yaml"
COMMAND = [str(Path(sys.executable).with_name("servegate")), "evals"]


@contextmanager
def simulator(folder: Path, *arguments: str) -> Iterator[str]:
    (port,) = free_ports(1)
    command = python("-m", "servegate.simulator", "--port", str(port), *arguments)
    child = Child("simulator", command, folder / "simulator.log")
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            child.check()
            try:
                Endpoint(url).describe(timeout=1)
                break
            except InfrastructureError:
                child.wait(0.1)
        yield url
    finally:
        child.stop()


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with simulator(tmp_path_factory.mktemp("simulator")) as url:
        yield url


def evals(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=100)


def accuracy(report: Report, slice_: str = "") -> float:
    measure = report.measure("accuracy.mean" + (f"[{slice_}]" if slice_ else ""))
    assert measure is not None
    assert measure.value is not None
    return measure.value


def test_the_shipped_suite_is_what_it_says() -> None:
    suite = load_suite(SUITE)
    kinds = Counter(task.scorer.kind for task in suite.tasks)
    tags = Counter(tag for task in suite.tasks for tag in task.item.tags)
    assert len(suite.tasks) >= 60
    assert min(kinds[kind] for kind in ("exact", "regex", "choice", "json")) >= 10
    assert min(tags["ko"], tags["en"]) >= 30
    assert all({"ko", "en"} & set(task.item.tags) for task in suite.tasks)
    # No letter is right so often that always saying it would pay.
    letters = Counter(
        task.item.choices.index(str(task.item.target))
        for task in suite.tasks
        if task.scorer.kind == "choice" and task.item.choices and len(task.item.choices) == 4
    )
    assert max(letters.values()) <= 5
    assert len(letters) == 4


def test_a_healthy_engine_scores_high_but_not_everything(healthy: str, tmp_path: Path) -> None:
    done = evals("run", SUITE, "--base-url", healthy, "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    report = Report.read(tmp_path / "report.json")
    assert 0.9 <= accuracy(report) < 1
    assert accuracy(report, "scorer=json") == 1
    assert report.findings == ()
    records = list(read_records(tmp_path / "records.jsonl", EvalRecord))
    assert len(records) == len(load_suite(SUITE).tasks)
    missed = {record.id for record in records if record.score == 0}
    assert "en-gift-wrap" in missed
    assert "en-gift-wrap" in done.stdout  # a person sees which
    assert "88 of 88 questions" in done.stderr


def test_a_worse_engine_scores_lower(tmp_path: Path) -> None:
    with simulator(tmp_path, "--fault", "wrong:rate=0.5") as url:
        done = evals("run", SUITE, "--base-url", url, "--output", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    assert accuracy(Report.model_validate_json(done.stdout)) < 0.75


def test_an_engine_that_errs_is_void_and_not_bad(tmp_path: Path) -> None:
    with simulator(tmp_path, "--fault", "errors:rate=1") as url:
        done = evals("run", SUITE, "--base-url", url, "--output", tmp_path / "out")
    assert done.returncode == 3
    assert "servegate: the measurement is void: stopped after" in done.stderr
    assert "Traceback" not in done.stderr
    report = Report.read(tmp_path / "out" / "report.json")
    assert report.void is not None
    measure = report.measure("accuracy.mean")
    assert measure is not None
    assert measure.value is None


def test_limit_and_seed_ask_the_same_items_again(healthy: str, tmp_path: Path) -> None:
    ids = []
    for name in ("a", "b"):
        done = evals("run", SUITE, "--base-url", healthy, "-o", tmp_path / name, "--limit", "7", "--seed", "3")
        assert done.returncode == 0, done.stderr
        ids.append([record.id for record in read_records(tmp_path / name / "records.jsonl", EvalRecord)])
    assert len(ids[0]) == 7
    assert ids[0] == ids[1]
    conditions = Report.read(tmp_path / "a" / "report.json").conditions
    assert (conditions.seed, conditions.other["limit"]) == (3, "7")


def test_answers_extend_a_run_and_keep_what_it_measured(healthy: str, tmp_path: Path) -> None:
    common = ("run", SUITE, "--base-url", healthy, "--output", tmp_path)
    kept: set[tuple[str, int, float | None]] = set()
    items = len(load_suite(SUITE).tasks)
    for answers, asked in ((10, 10), (25, 25), (items + 1, 2 * items)):
        ended = evals(*common, "--answers", str(answers))
        assert ended.returncode == 0, ended.stderr
        records = list(read_records(tmp_path / "records.jsonl", EvalRecord))
        assert len(records) == asked
        now = {(record.id, record.repeat, record.sent) for record in records}
        assert kept < now
        kept = now
    less = evals(*common, "--answers", "20")
    assert (less.returncode, "asks for more already" in less.stderr) == (2, True)
    both = evals(*common, "--answers", "20", "--limit", "3")
    assert (both.returncode, "give one" in both.stderr) == (2, True)
    assert len(list(read_records(tmp_path / "records.jsonl", EvalRecord))) == 2 * items


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_whatever_ends_a_run_it_can_go_on(tmp_path: Path, number: signal.Signals, status: int) -> None:
    out = tmp_path / "out"
    with simulator(tmp_path, "--fault", "latency:factor=4") as url:
        arguments = ("run", str(SUITE), "--base-url", url, "--output", str(out), "--limit", "40")
        command = [*COMMAND, *arguments]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and process.poll() is None:
                if (out / "records.jsonl").exists() and (out / "records.jsonl").read_bytes().count(b"\n") >= 5:
                    break
                time.sleep(0.02)
            os.kill(process.pid, number)
            _, errors = process.communicate(timeout=60)
        assert process.returncode == status, errors
        assert "Traceback" not in errors
        kept = {record.id for record in read_records(out / "records.jsonl", EvalRecord)}
        assert 5 <= len(kept) < 40
        if number is signal.SIGINT:
            assert "--resume goes on" in errors
            assert Report.read(out / "report.json").void is not None
        else:
            assert not (out / "report.json").exists()
        done = evals(*arguments, "--resume")
    assert done.returncode == 0, done.stderr
    assert f"support: {len(kept)} of 40 questions" in done.stderr
    report = Report.read(out / "report.json")
    assert report.void is None
    assert report.samples[0].n == 40


def test_check_and_list() -> None:
    done = evals("check", SUITE)
    assert done.returncode == 0
    assert "support: 88 items, 88 questions" in done.stdout
    assert "refund 11" in done.stdout
    listed = evals("list", SUITE)
    assert len(listed.stdout.splitlines()) == 88


@pytest.mark.parametrize("command", ["check", "run"])
def test_a_bad_suite_is_one_message_with_file_and_line(tmp_path: Path, command: str) -> None:
    suite = tmp_path / "suite.yaml"
    suite.write_text("version: 1\nname: s\ndataset: d.jsonl\nconcurency: 3\n")
    more = [] if command == "check" else ["--base-url", "http://127.0.0.1:9"]
    done = evals(command, suite, *more)
    assert done.returncode == 2
    assert done.stderr == f"servegate: {suite}:4:1: concurency: unknown key; did you mean 'concurrency'?\n"


def test_nobody_there(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    done = evals("run", SUITE, "--base-url", f"http://127.0.0.1:{port}", "--output", tmp_path / "out")
    assert done.returncode == 4
    assert "cannot connect" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_output_that_cannot_be_written(healthy: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = evals("run", SUITE, "--base-url", healthy, "--output", tmp_path / "file")
    assert done.returncode == 4
    assert json.dumps(str(tmp_path / "file"))[1:-1] in done.stderr
    assert "Traceback" not in done.stderr
