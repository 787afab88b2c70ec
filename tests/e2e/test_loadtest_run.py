"""Whole runs: a load process of its own against a server of its own, and every way either of them can end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from processes import wait_until_exit

from servegate.contract import sha256_file
from servegate.endpoint import Endpoint
from servegate.errors import InfrastructureError
from servegate.loadtest import LoadedProfile, RecordTail, load_profile, run, traffic
from servegate.loadtest.launch import LoadProcess
from servegate.process import Child, free_ports, python
from servegate.report.model import Report, Subject
from servegate.report.records import RequestRecord, read_records

ROOT = Path(__file__).parents[2]
MOCK = ROOT / "tests/unit/loadtest/mock_server.py"
PROFILE = """\
version: 1
name: small
arrival: {{kind: poisson, rate: {rate}}}
warm_up: {warm_up}
duration: {duration}
drain: {drain}
timeout: {timeout}
max_in_flight: {max_in_flight}
prompts: prompts.jsonl
max_tokens: 6
seed: 1
slos: {{ttft: 10s}}
"""
PROMPTS = (
    '{"id":"a","prompt":"Where is HM-10023?","tags":["en"]}\n{"id":"b","prompt":"배송비가 얼마예요?","tags":["ko"]}\n'
)


# What a run may say of a machine that many tests share.
BUSY = {"client-saturated", "chunks-bunched"}


def profile(folder: Path, **changes: str | int) -> Path:
    values: dict[str, str | int] = {
        "rate": "20/s",
        "warm_up": "500ms",
        "duration": "2s",
        "drain": "3s",
        "timeout": "5s",
    }
    text = PROFILE.format(**{**values, "max_in_flight": 100, **changes})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prompts.jsonl").write_text(PROMPTS, encoding="utf-8")
    path = folder / "small.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def endless(folder: Path, **changes: str | int) -> LoadedProfile:
    path = profile(folder, **changes)
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(line for line in lines if not line.startswith("duration")), encoding="utf-8")
    return load_profile(path)


@contextmanager
def mock(folder: Path, *arguments: str) -> Iterator[str]:
    (port,) = free_ports(1)
    child = Child("mock", python(str(MOCK), str(port), *arguments), folder / "mock.log")
    try:
        url = f"http://127.0.0.1:{port}"
        until(lambda: _answers(url), child.check)
        yield url
    finally:
        child.stop(0)


def _answers(url: str) -> bool:
    try:
        return Endpoint(url).get("/v1/models", 1)[0] == 200
    except InfrastructureError:
        return False


def until(condition: Callable[[], bool], check: Callable[[], None] = lambda: None) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        check()
        assert time.monotonic() < deadline, "waited 30 s"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mock(tmp_path_factory.mktemp("mock")) as address:
        yield address


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from servegate.cli import main; main()", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def test_a_run_measures_what_was_sent(tmp_path: Path, url: str) -> None:
    loaded = load_profile(profile(tmp_path))
    seen: list[str] = []
    subject = Subject(release="sha256:" + "1" * 64, name="r1")
    report = run(loaded, Endpoint(url, "good"), tmp_path / "out", subject=subject, progress=seen.append)
    assert not {finding.code for finding in report.findings} - BUSY
    assert report.subject == subject
    assert Report.read(tmp_path / "out/report.json") == report
    (samples,) = report.samples
    records = list(read_records(tmp_path / "out" / samples.path, RequestRecord))
    assert samples.sha256 == sha256_file(tmp_path / "out/records.jsonl")
    assert sorted(record.id for record in records) == list(range(len(records)))
    assert samples.n == len(records)
    warm = [record for record in records if "warm-up" in record.tags]
    assert 0 < len(warm) < len(records)
    for record in records:
        assert (record.ok, record.status, record.slot, record.finish_reason) == (True, 200, "green", "length")
        assert (record.output_tokens, record.tokens_from, record.chunks, len(record.gaps)) == (6, "usage", 6, 5)
        assert record.prompt_tokens == 7
        assert record.ttft is not None
        assert record.ttft >= 0.02
        assert record.e2e_latency is not None
        assert record.e2e_latency >= 0.02 + 5 * 0.005
    measured = {measure.key: measure for measure in report.measures}
    assert measured["error_rate.rate"].value == 0
    assert measured["error_rate.rate"].attempted == len(records) - len(warm)
    assert measured["goodput.rate"].value == 1
    assert {"ttft.p50", "ttft.p99", "itl.p95", "tpot.p95", "e2e_latency.p95", "ttft.p95@green"} <= measured.keys()
    assert {"ttft_from_schedule.p95", "e2e_latency_from_schedule.p95", "schedule_lag.p99"} <= measured.keys()
    throughput, rate = measured["output_throughput.mean"].value, measured["request_rate.mean"].value
    assert throughput is not None
    assert rate is not None
    assert throughput == pytest.approx(6 * rate, rel=0.2)
    assert report.conditions.profile_sha256 == loaded.profile_sha256
    assert report.conditions.dataset_sha256 == loaded.prompts_sha256
    assert report.conditions.client is not None
    assert report.conditions.client.startswith("locust 2.")
    assert int(report.conditions.other["client_connections"]) < len(records)  # connections are used again
    assert any("2 s" in text for text in seen)


def test_locust_shows_one_sane_line_per_request(tmp_path: Path, url: str) -> None:
    report = run(load_profile(profile(tmp_path)), Endpoint(url, "good"), tmp_path / "out")
    log = (tmp_path / "out/locust.log").read_text(encoding="utf-8")
    row = next(line.split() for line in log.splitlines() if line.startswith("POST"))
    assert row[1:4] == ["/v1/chat/completions", str(report.samples[0].n), "0(0.00%)"]
    assert 45 <= int(row[5]) <= 5000  # milliseconds


def test_the_same_folder_again_holds_the_new_run_alone(tmp_path: Path, url: str) -> None:
    loaded = load_profile(profile(tmp_path, duration="300ms", warm_up="0s"))
    first = run(loaded, Endpoint(url, "good"), tmp_path / "out")
    second = run(loaded, Endpoint(url, "good"), tmp_path / "out")
    assert second.samples[0].n == first.samples[0].n
    assert second.started > first.finished


@pytest.mark.parametrize(
    ("model", "kind", "said"),
    [
        ("http500", "http_500", "도와 주세요"),
        ("close", "truncated", "closed in the middle"),
        ("garbage", "protocol", "<<<>>>"),
        ("error-event", "stream_error", "engine died"),
        ("stall", "timeout", "not complete after 1 s"),
    ],
)
def test_a_bad_server_is_measured_as_bad(tmp_path: Path, url: str, model: str, kind: str, said: str) -> None:
    path = profile(tmp_path, duration="700ms", warm_up="0s", timeout="1s")
    result = command(
        "loadtest", "run", path, "--base-url", url, "--model", model, "--output", tmp_path / "out", "--json"
    )
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr + (tmp_path / "out/locust.log").read_text(encoding="utf-8")
    report = Report.model_validate_json(result.stdout)
    measured = {measure.key: measure.value for measure in report.measures}
    assert (measured["error_rate.rate"], measured["goodput.rate"], measured["e2e_latency.p50"]) == (1, 0, None)
    records = list(read_records(tmp_path / "out/records.jsonl", RequestRecord))
    assert {record.error for record in records} == {kind}
    (finding,) = report.findings
    assert kind in finding.message
    assert said in finding.message


def test_tokens_without_usage_are_chunks_and_the_report_says_so(tmp_path: Path, url: str) -> None:
    report = run(load_profile(profile(tmp_path, duration="500ms")), Endpoint(url, "no-usage"), tmp_path / "out")
    assert {finding.code for finding in report.findings} - BUSY == {"tokens-from-chunks"}
    assert report.measure("error_rate.rate") is not None


def test_an_open_loop_that_closed_voids_the_run(tmp_path: Path, url: str) -> None:
    path = profile(tmp_path, rate="40/s", duration="1s", warm_up="0s", max_in_flight=2, drain="500ms")
    result = command("loadtest", "run", path, "--base-url", url, "--model", "slow", "--output", tmp_path / "out")
    assert result.returncode == 3
    assert "void: connection-pool-blocked" in result.stdout
    assert result.stderr.splitlines()[-1].startswith("servegate: the measurement is void: ")
    records = list(read_records(tmp_path / "out/records.jsonl", RequestRecord))
    plan = command("loadtest", "check", path).stdout
    assert f"  {len(records)} requests in 1 s" in plan  # also those that were never sent
    assert {record.error for record in records if not record.ok} == {"unfinished"}


def test_what_is_open_when_the_drain_is_over_failed(tmp_path: Path, url: str) -> None:
    path = profile(tmp_path, duration="500ms", warm_up="0s", drain="200ms", timeout="60s")
    report = run(load_profile(path), Endpoint(url, "hang"), tmp_path / "out")
    assert [finding.message.split(": ")[1] for finding in report.findings] == ["unfinished; the first"]
    error_rate = report.measure("error_rate.rate")
    assert error_rate is not None
    assert error_rate.value == 1


def test_an_endpoint_that_dies_voids_the_run(tmp_path: Path) -> None:
    with mock(tmp_path, "--die-after", "10") as url:
        path = profile(tmp_path, duration="60s", warm_up="0s")
        result = command("loadtest", "run", path, "--base-url", url, "--model", "good", "--output", tmp_path / "out")
    assert result.returncode == 3, result.stderr
    assert "the endpoint died during the run" in result.stderr
    report = Report.read(tmp_path / "out/report.json")
    assert report.void is not None
    assert report.void.code == "endpoint-died"
    assert report.finished - report.started < 50  # it gave up


@pytest.mark.parametrize(
    ("page", "said"),
    [(b"<html>login</html>", "answered HTML where JSON was expected"), (b"[]", "lists no model")],
)
def test_an_address_that_is_something_else(tmp_path: Path, page: bytes, said: str) -> None:
    (port,) = free_ports(1)
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1/models").write_bytes(page)
    child = Child("web", python("-m", "http.server", str(port), "--bind", "127.0.0.1"), tmp_path / "log", cwd=tmp_path)
    try:
        until(lambda: _answers(f"http://127.0.0.1:{port}"), child.check)
        result = command("loadtest", "run", profile(tmp_path), "--base-url", f"http://127.0.0.1:{port}")
    finally:
        child.stop(0)
    assert (result.returncode, result.stdout) == (4, "")
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 2  # what began, and why it ended


def test_an_endpoint_that_is_down_and_a_model_it_does_not_serve(tmp_path: Path, url: str) -> None:
    (port,) = free_ports(1)
    down = command("loadtest", "run", profile(tmp_path), "--base-url", f"http://127.0.0.1:{port}")
    assert down.returncode == 4
    assert "cannot connect" in down.stderr
    wrong = command("loadtest", "run", profile(tmp_path), "--base-url", url, "--model", "gpt")
    assert wrong.returncode == 4
    assert "does not serve model 'gpt'; it serves good, slow" in wrong.stderr
    several = command("loadtest", "run", profile(tmp_path), "--base-url", url)
    assert several.returncode == 2
    assert "serves several models" in several.stderr


def test_a_profile_that_is_wrong(tmp_path: Path, url: str) -> None:
    path = profile(tmp_path, rate="20")
    for arguments in (("check", path), ("run", path, "--base-url", url)):
        result = command("loadtest", *arguments)
        assert result.returncode == 2
        assert f"{path}:3:26: arrival.rate: must be a rate with its unit" in result.stderr
        assert "Traceback" not in result.stderr
    endless(tmp_path)
    result = command("loadtest", "run", path, "--base-url", url)
    assert result.returncode == 2
    assert "duration: is required to measure" in result.stderr


def test_traffic_runs_until_it_is_stopped_and_loses_nothing(tmp_path: Path, url: str) -> None:
    loaded = endless(tmp_path, rate="40/s")
    with traffic(loaded, Endpoint(url, "good"), tmp_path / "out") as users:
        tail = RecordTail(users.records)
        seen: list[RequestRecord] = []

        def more() -> bool:
            seen.extend(tail.new())
            return len(seen) >= 40

        until(more, users.check)
        assert users.running
        counts = users.stop()
        assert not users.running
        assert counts.finished >= 40
        assert (counts.failed, counts.errors) == (0, {})
        assert counts.by_slot == {"green": (counts.finished, 0)}
        assert users.stop() == counts
    ids = [record.id for record in read_records(users.records, RequestRecord)]
    assert sorted(ids) == list(range(len(ids)))


def test_traffic_that_is_stopped_drains_open_answers(tmp_path: Path, url: str) -> None:
    with traffic(endless(tmp_path, rate="40/s"), Endpoint(url, "slow"), tmp_path / "out") as users:
        until(lambda: users.counts().finished > 0, users.check)
        counts = users.stop()
    assert counts.failed == 0


def test_traffic_that_ends_by_itself_says_so(tmp_path: Path, url: str) -> None:
    with traffic(endless(tmp_path), Endpoint(url, "good"), tmp_path / "out") as users:
        until(lambda: users.counts().finished > 0)
        os.kill(users.pid, signal.SIGKILL)
        until(lambda: not users.running)
        with pytest.raises(InfrastructureError, match=r"load process was ended by SIGKILL; log: .*locust\.log"):
            users.check()
        with pytest.raises(InfrastructureError, match="SIGKILL"):
            users.stop()
    assert list(read_records(users.records, RequestRecord))  # whole lines only


def test_a_load_process_that_is_killed_leaves_whole_records_and_no_report(tmp_path: Path, url: str) -> None:
    loaded = load_profile(profile(tmp_path, duration="60s"))
    status = tmp_path / "out/client.json"

    def kill(_: str) -> None:
        if (tmp_path / "out/records.jsonl").stat().st_size > 0:
            os.kill(json.loads(status.read_bytes())["pid"], signal.SIGKILL)

    with pytest.raises(InfrastructureError, match="SIGKILL"):
        run(loaded, Endpoint(url, "good"), tmp_path / "out", progress=kill)
    assert list(read_records(tmp_path / "out/records.jsonl", RequestRecord))
    assert not (tmp_path / "out/report.json").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -15), (signal.SIGKILL, -9)])
def test_nothing_is_left_running_when_the_command_is_ended(
    tmp_path: Path, url: str, number: signal.Signals, code: int
) -> None:
    path = profile(tmp_path, duration="60s")
    arguments = ["loadtest", "run", str(path), "--base-url", url, "--model", "good", "--output", str(tmp_path / "out")]
    parent = subprocess.Popen(
        [sys.executable, "-c", "from servegate.cli import main; main()", *arguments], stderr=subprocess.PIPE, text=True
    )
    try:
        tail = RecordTail(tmp_path / "out/records.jsonl")
        until(lambda: bool(tail.new()))
        child = json.loads((tmp_path / "out/client.json").read_bytes())["pid"]
        parent.send_signal(number)
        _, errors = parent.communicate(timeout=30)
    finally:
        parent.kill()
        parent.wait()
    assert parent.returncode == code
    assert wait_until_exit(child, 10)
    assert not (tmp_path / "out/report.json").exists()
    if number is signal.SIGINT:
        assert f"The requests sent until now are in {tmp_path / 'out/records.jsonl'}" in errors
        assert list(read_records(tmp_path / "out/records.jsonl", RequestRecord))
        assert "Traceback" not in errors


def test_a_disk_that_is_full_ends_the_run_with_its_name(tmp_path: Path, url: str) -> None:
    script = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))\n"
        "from servegate.cli import main\n"
        "main(sys.argv[1:])\n"
    )
    path = profile(tmp_path, rate="60/s", duration="30s")
    arguments = ["loadtest", "run", str(path), "--base-url", url, "--model", "good", "--output", str(tmp_path / "out")]
    run_it = [sys.executable, "-c", script, *arguments]
    result = subprocess.run(run_it, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 4, result.stderr
    assert "records.jsonl: cannot be written: File too large" in result.stderr
    assert list(read_records(tmp_path / "out/records.jsonl", RequestRecord))


def test_an_output_folder_that_cannot_be(tmp_path: Path, url: str) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(InfrastructureError, match="cannot be written"):
        LoadProcess(load_profile(profile(tmp_path)), Endpoint(url, "good"), tmp_path / "file" / "out")


def test_the_pipelines_own_locustfile_is_what_runs(tmp_path: Path, url: str) -> None:
    path = profile(tmp_path / "loadtest/profiles", duration="300ms", warm_up="0s")
    own = (ROOT / "loadtest/locustfile.py").read_text(encoding="utf-8")
    (tmp_path / "loadtest/locustfile.py").write_text(own + "\nprint('our own locustfile')\n", encoding="utf-8")
    run(load_profile(path), Endpoint(url, "good"), tmp_path / "out")
    assert "our own locustfile" in (tmp_path / "out/locust.log").read_text(encoding="utf-8")


def test_locust_by_hand(tmp_path: Path, url: str) -> None:
    path = profile(tmp_path, duration="300ms", warm_up="0s")
    base = [sys.executable, "-m", "locust", "-f", str(ROOT / "loadtest/locustfile.py"), "--headless", "--only-summary"]
    wrong = subprocess.run([*base, "--host", url], capture_output=True, text=True, timeout=60, check=False)
    assert wrong.returncode == 2
    assert "servegate: --traffic is required" in wrong.stderr
    options = ["--host", url, "--model", "good", "--traffic", str(path), "--records", str(tmp_path / "r.jsonl")]
    right = subprocess.run([*base, *options], capture_output=True, text=True, timeout=60, check=False)
    assert right.returncode == 0, right.stderr
    assert all(record.ok for record in read_records(tmp_path / "r.jsonl", RequestRecord))
    again = subprocess.run([*base, *options], capture_output=True, text=True, timeout=60, check=False)
    assert again.returncode == 4
    assert "r.jsonl: cannot be created: File exists" in again.stderr


def test_the_key_reaches_the_server_and_no_file(tmp_path: Path, url: str) -> None:
    run(load_profile(profile(tmp_path, duration="300ms")), Endpoint(url, "good", "s3cret-key"), tmp_path / "out")
    assert not [path for path in (tmp_path / "out").iterdir() if b"s3cret-key" in path.read_bytes()]


def test_the_parent_stays_free_of_gevent() -> None:
    script = (
        "import sys\n"
        "import servegate.loadtest, servegate.loadtest.view, servegate.loadtest.measures, servegate.loadtest.findings\n"
        "import servegate.cli.loadtest\n"
        "assert not {'gevent', 'locust', 'geventhttpclient', 'asyncio'} & sys.modules.keys(), sys.modules.keys()\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
