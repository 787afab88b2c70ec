"""Processes as slots: readiness, draining, what engines leave behind, and nothing running afterwards."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import wait_until_exit

from servegate.endpoint import request
from servegate.errors import InfrastructureError
from servegate.process import free_ports
from servegate.release import Engine, Model, Release
from servegate.rollout.workloads.processes import Launch, ProcessWorkload

ENGINE = Path(__file__).parent / "engine.py"


def release(name: str, *arguments: str) -> Release:
    return Release(
        name=name,
        model=Model(uri="file:///m", served_name="m"),
        engine=Engine(name="simulator", version="1"),
        args=arguments,
    )


def launcher(slot: str, wanted: Release, port: int) -> Launch:
    served = "another-model" if wanted.name == "liar" else wanted.model.served_name
    return Launch([sys.executable, str(ENGINE), str(port), served, *wanted.args], {"SLOT": slot})


class Clock:
    """Monotonic seconds that pass when they are told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


Make = Callable[..., ProcessWorkload]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[ProcessWorkload] = []

    def build(**options: Any) -> ProcessWorkload:
        ports = {"blue": free_ports(1), "green": free_ports(1)}
        settings: dict[str, Any] = {"drain": 0.0, "grace": 5.0, **options}
        made.append(ProcessWorkload(launcher, ports, tmp_path / "logs", **settings))
        return made[-1]

    yield build
    for workload in made:
        workload.close()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def ready(workload: ProcessWorkload, slot: str = "blue") -> None:
    until(lambda: workload.status(slot).ready == 1)


def pid(workload: ProcessWorkload, slot: str = "blue") -> int:
    return int(request("GET", workload.address(slot) + "/pid")[1])


def test_an_engine_with_another_model_never_gets_ready(make: Make) -> None:
    workload = make()
    workload.ensure("blue", release("liar"), 1)
    until(lambda: _up(workload))
    for _ in range(3):
        status = workload.status("blue")
        assert (status.ready, status.failed, status.message) == (0, None, "0 of 1 ready")


def _up(workload: ProcessWorkload) -> bool:
    try:
        return request("GET", workload.address("blue") + "/health")[0] == 200
    except InfrastructureError:
        return False


def test_one_missed_probe_is_not_the_end(make: Make) -> None:
    workload = make()
    workload.ensure("blue", release("v1"), 1)
    ready(workload)
    request("GET", workload.address("blue") + "/unhealthy")
    assert [workload.status("blue").ready for _ in range(4)] == [1, 1, 0, 0]
    request("GET", workload.address("blue") + "/healthy")
    assert workload.status("blue").ready == 1


def test_a_process_that_dies_is_unready_at_once_and_started_again_only_when_wanted(make: Make) -> None:
    workload = make()
    workload.ensure("blue", release("v1"), 1)
    ready(workload)
    os.kill(pid(workload), 9)
    until(lambda: workload.status("blue").failed is not None)
    for _ in range(3):
        status = workload.status("blue")
        assert status.ready == 0
        assert "ended by SIGKILL" in (status.failed or "")
        assert "blue-0-" in (status.failed or "")
    # Its metrics are asked for in vain: a dead pod is missing, not gone.
    assert [target.pod for target in workload.targets()] == ["blue/0"]
    workload.ensure("blue", release("v1"), 1)
    ready(workload)
    assert workload.status("blue").failed is None


def test_leaving_waits_for_the_gateway_then_for_the_engine_then_no_more(make: Make) -> None:
    clock = Clock()
    workload = make(clock=clock, drain=5.0, grace=30.0)
    workload.ensure("blue", release("v1", "--ignore-term"), 1)
    ready(workload)
    process = pid(workload)
    workload.scale("blue", 0)
    clock.now += 4.9
    workload.status("blue")
    assert pid(workload) == process  # still answers those that were on their way
    clock.now += 0.1
    assert "to end" in workload.status("blue").message
    assert pid(workload) == process  # told to end; finishes in its own time
    clock.now += 29.9
    workload.status("blue")
    assert not wait_until_exit(process, 0.05)
    clock.now += 0.1
    assert workload.status("blue").message == "empty"
    assert wait_until_exit(process, 10)


def test_a_release_waits_until_the_one_before_has_left_the_port(make: Make) -> None:
    workload = make()
    workload.ensure("blue", release("v1", "--finish", "0.3"), 1)
    ready(workload)
    old = pid(workload)
    workload.ensure("blue", release("v2"), 1)
    assert workload.status("blue").ready == 0
    ready(workload)
    assert pid(workload) != old
    assert wait_until_exit(old, 1)
    assert [(target.pod, target.release) for target in workload.targets()] == [("blue/0", release("v2").identity())]


def test_what_an_engine_leaves_behind_goes_with_it(make: Make, tmp_path: Path) -> None:
    workload = make()
    workload.ensure("blue", release("v1", "--child"), 1)
    ready(workload)
    (log,) = (tmp_path / "logs").glob("blue-0-*.log")
    grandchild = int(log.read_text().split("child ")[1].split()[0])
    os.kill(grandchild, 0)
    workload.scale("blue", 0)
    until(lambda: workload.status("blue").message == "empty")
    assert _gone(grandchild)


def _gone(process: int) -> bool:
    """Ended; where nobody adopts orphans a zombie may remain."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in "ZX":
            return True
        time.sleep(0.02)
    return False


def test_closing_ends_everything_also_what_ignores_being_asked(make: Make) -> None:
    workload = make(grace=0.2)
    workload.ensure("blue", release("v1", "--ignore-term"), 1)
    workload.ensure("green", release("v2"), 1)
    ready(workload)
    ready(workload, "green")
    processes = [pid(workload), pid(workload, "green")]
    workload.close()
    workload.close()
    assert all(wait_until_exit(process, 10) for process in processes)
    with pytest.raises(InfrastructureError, match="closed"):
        workload.ensure("blue", release("v3"), 1)


def test_a_program_that_is_not_there_is_a_failure_of_the_slot(tmp_path: Path) -> None:
    workload = ProcessWorkload(
        lambda slot, wanted, port: Launch(["/no/such/engine"]), {"blue": [1]}, tmp_path, drain=0.0
    )
    workload.ensure("blue", release("v1"), 1)
    assert "/no/such/engine" in (workload.status("blue").failed or "")
    workload.close()


def test_engines_outlive_the_thread_that_asked_for_them(make: Make) -> None:
    workload = make()
    thread = threading.Thread(target=workload.ensure, args=("blue", release("v1"), 1))
    thread.start()
    thread.join()
    ready(workload)
    first = pid(workload)
    assert workload.status("blue").failed is None
    assert pid(workload) == first


def test_the_environment_of_the_launch_reaches_the_engine(make: Make) -> None:
    workload = make()
    workload.ensure("blue", release("v1"), 1)
    ready(workload)
    environment = Path(f"/proc/{pid(workload)}/environ").read_bytes().split(b"\0")
    assert b"SLOT=blue" in environment
