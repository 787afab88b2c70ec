"""`servegate smoke` as a person or a pipeline calls it, against the simulator."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from servegate.endpoint import Endpoint, request
from servegate.errors import InfrastructureError
from servegate.process import Child, free_ports, python
from servegate.report.model import Report


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


def servegate(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("servegate")), "smoke", "run", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with simulator(tmp_path_factory.mktemp("simulator")) as url:
        yield url


def test_a_healthy_engine(healthy: str, tmp_path: Path) -> None:
    done = servegate("--base-url", healthy, "--output", str(tmp_path / "smoke.json"))
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [
        ["ok", name] for name in ("up", "release", "answers", "streams", "stops", "rejects")
    ]
    report = Report.read(tmp_path / "smoke.json")
    assert report.kind == "smoke"
    assert report.void is None


def test_json_is_the_report_and_nothing_else(healthy: str) -> None:
    done = servegate("--base-url", healthy, "--json")
    assert done.returncode == 0
    assert Report.model_validate(json.loads(done.stdout)).kind == "smoke"


def test_another_model(healthy: str) -> None:
    done = servegate("--base-url", healthy, "--model", "gpt-oss")
    assert done.returncode == 1
    assert "does not serve model 'gpt-oss'" in done.stdout
    assert done.stderr == ""


def test_nobody_there() -> None:
    (port,) = free_ports(1)
    done = servegate("--base-url", f"http://127.0.0.1:{port}")
    assert done.returncode == 4
    assert done.stderr.splitlines() == [f"servegate: cannot connect to http://127.0.0.1:{port}: Connection refused"]


def test_no_url() -> None:
    done = servegate("--base-url", "localhost:8000")
    assert done.returncode == 2
    assert "is not the URL of an endpoint" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("fault", "check", "sentence"),
    [
        ("errors:rate=1", "answers", "HTTP 500"),
        ("stream_errors:rate=1,after_tokens=5,mode=cut", "streams", "broke off in the middle of the answer"),
        ("stream_errors:rate=1,after_tokens=5,mode=error", "streams", "the stream carried an error"),
        ("hang", "up", "did not answer"),
    ],
)
def test_a_faulty_engine_fails(tmp_path: Path, fault: str, check: str, sentence: str) -> None:
    # The fault begins when the engine is up, as a fault would.
    (control,) = free_ports(1)
    with simulator(tmp_path, "--control-port", str(control)) as url:
        body = json.dumps({"faults": [fault]}).encode()
        assert request("PUT", f"http://127.0.0.1:{control}/faults", body=body)[0] == 200
        done = servegate("--base-url", url, "--deadline", "6")
    assert done.returncode == 1, done.stdout
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("FAILED") and line.split()[1] == check]
    assert sentence in line
