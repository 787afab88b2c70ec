"""The image's entry point as a process, with the simulator in the place of vLLM: drain, signals, exit codes."""

from __future__ import annotations

import http.client
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from entry_point import Container


@pytest.fixture
def started() -> Iterator[list[Container]]:
    found: list[Container] = []
    yield found
    for container in found:
        if container.process.poll() is None:
            container.process.send_signal(signal.SIGTERM)
            container.process.send_signal(signal.SIGTERM)
            container.process.wait(30)


def test_a_wrong_configuration_ends_at_once_with_2(tmp_path: Path) -> None:
    container = Container(tmp_path, "--max-model-length", "1", SERVE_MODEL="tiny")
    assert container.end() == 2
    assert container.log.read_text("utf-8") == (
        "servegate: --max-model-length: vLLM 0.32.0 has no such flag; did you mean --max-model-len?\n"
    )


def test_check_prints_and_does_not_start(tmp_path: Path) -> None:
    container = Container(tmp_path, "--check", SERVE_MODEL="tiny", SERVE_ARG_API_KEY="secret")
    assert container.end() == 0
    printed = container.log.read_text("utf-8")
    assert printed.startswith("vllm serve tiny --api-key *** ")
    assert "secret" not in printed


def test_sigterm_lets_requests_finish_and_serves_those_that_come_late(tmp_path: Path, started: list[Container]) -> None:
    container = Container(tmp_path, SERVE_MODEL="tiny")
    started.append(container)
    container.wait_ready()
    answers: list[int] = []
    # The simulator takes about 20 ms per token.
    request = threading.Thread(target=lambda: answers.append(container.ask(100)))
    request.start()
    while not container.in_flight():
        time.sleep(0.02)
    container.process.send_signal(signal.SIGTERM)
    while "SIGTERM: serving until nobody asks" not in container.log.read_text("utf-8"):
        time.sleep(0.02)
    assert container.ask(5) == 200
    request.join()
    assert answers == [200]
    assert container.end() == 0
    log = container.log.read_text("utf-8")
    assert "stopping vLLM, 0 requests in flight" in log
    assert "0 requests aborted" in log


def test_a_second_signal_does_not_wait(tmp_path: Path, started: list[Container]) -> None:
    container = Container(tmp_path, "tiny", "--shutdown-timeout", "0", SERVE_DRAIN_SECONDS="600")
    started.append(container)
    container.wait_ready()
    request = threading.Thread(target=_broken, args=(container,))
    request.start()
    while not container.in_flight():
        time.sleep(0.02)
    container.process.send_signal(signal.SIGTERM)
    while "serving until nobody asks" not in container.log.read_text("utf-8"):
        time.sleep(0.02)
    container.process.send_signal(signal.SIGINT)
    assert container.end() == 0
    request.join()
    assert "stopping vLLM, 1 requests in flight" in container.log.read_text("utf-8")


def _broken(container: Container) -> None:
    with pytest.raises((OSError, http.client.HTTPException)):
        container.ask(2000)


def test_an_engine_that_still_loads_is_stopped_at_once(tmp_path: Path) -> None:
    container = Container(tmp_path, SERVE_MODEL="tiny", STAND_IN="--fault slow_start:seconds=600")
    while "loading for 600 s" not in container.log.read_text("utf-8"):
        assert container.process.poll() is None, container.log.read_text("utf-8")
        time.sleep(0.05)
    container.process.send_signal(signal.SIGTERM)
    assert container.end() == 0


@pytest.mark.parametrize(
    ("engine", "status"),
    [
        ("#!/bin/sh\nexit 7\n", 7),
        ("#!/bin/sh\nkill -KILL $$\n", 137),
        ("#!/nowhere/interpreter\n", 127),
    ],
)
def test_it_ends_with_the_status_of_the_engine(tmp_path: Path, engine: str, status: int) -> None:
    assert Container(tmp_path, SERVE_MODEL="tiny", engine=engine).end() == status


def test_nothing_the_engine_started_is_left_behind(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    engine = f"#!/bin/sh\nsleep 600 & echo $! > {pid_file}\nexit 1\n"
    assert Container(tmp_path, SERVE_MODEL="tiny", engine=engine).end() == 1
    orphan = Path(f"/proc/{pid_file.read_text('utf-8').strip()}")
    deadline = time.monotonic() + 5
    while orphan.exists() and "Z" not in (orphan / "stat").read_text("utf-8").split()[2]:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_other_signals_are_passed_on(tmp_path: Path) -> None:
    engine = "#!/bin/sh\ntrap 'echo hup; exit 9' HUP\necho ready\nwhile :; do sleep 0.05; done\n"
    container = Container(tmp_path, SERVE_MODEL="tiny", engine=engine)
    while "ready" not in container.log.read_text("utf-8"):
        time.sleep(0.02)
    container.process.send_signal(signal.SIGHUP)
    assert container.end() == 9
