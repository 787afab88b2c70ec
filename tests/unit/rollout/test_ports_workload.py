"""The contract of a Workload, run against every implementation."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest
from fake_deployments import FakeDeployments

from servegate.endpoint import request
from servegate.errors import ConfigError, InfrastructureError
from servegate.process import free_ports
from servegate.release import Engine, Image, Model, Release
from servegate.rollout.kube import Kube
from servegate.rollout.ports import FencedError, SlotStatus, Workload
from servegate.rollout.workloads.deployments import DeploymentWorkload
from servegate.rollout.workloads.processes import Launch, ProcessWorkload
from servegate.rollout.workloads.supervised import Supervised, serve

ENGINE = Path(__file__).parent / "engine.py"


def release(name: str, served: str = "m", *arguments: str) -> Release:
    return Release(
        name=name,
        image=Image(repository="example.invalid/engine", digest="sha256:" + "0" * 64),
        model=Model(uri="file:///m", served_name=served),
        engine=Engine(name="simulator", version="1"),
        args=arguments,
    )


def engines(folder: Path) -> ProcessWorkload:
    ports = free_ports(4)

    def launcher(slot: str, wanted: Release, port: int) -> Launch:
        return Launch([sys.executable, str(ENGINE), str(port), wanted.model.served_name, *wanted.args])

    return ProcessWorkload(launcher, {"blue": ports[:2], "green": ports[2:]}, folder / "logs", drain=0.0, grace=5.0)


def processes(folder: Path) -> tuple[Workload, Callable[[], None]]:
    workload = engines(folder)
    return workload, workload.close


def deployments(folder: Path) -> tuple[Workload, Callable[[], None]]:
    cluster = FakeDeployments(engines(folder), ("blue", "green"))
    kube = Kube(kubeconfig=cluster.api.kubeconfig(folder))
    return DeploymentWorkload(kube, "llm", max_replicas=2), cluster.close


class Fenced(Protocol):
    """A workload that more than one controller can reach. A ProcessWorkload lives in the process of its only one."""

    def client(self, epoch: Callable[[], int]) -> Workload:
        """The workload for a controller whose lease has that epoch."""

    def restart(self) -> None:
        """Whoever carries changes out is another one now; what runs stays."""


class Owner:
    """A process's slots behind a socket, whose owner can be ended and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.workload, self.stack = engines(folder), ExitStack()
        self.stack.enter_context(serve(self.workload, folder / "s.sock"))

    def client(self, epoch: Callable[[], int]) -> Workload:
        return Supervised(self.folder / "s.sock", epoch)

    def restart(self) -> None:
        """The owner of the socket is another one; what runs in the slots stays."""
        self.stack.close()
        self.stack.enter_context(serve(self.workload, self.folder / "s.sock"))

    def close(self) -> None:
        self.stack.close()
        self.workload.close()


class Cluster:
    """Deployments; a client that is made anew knows nothing of the one before."""

    def __init__(self, folder: Path) -> None:
        self.cluster = FakeDeployments(engines(folder), ("blue", "green"))
        self.kubeconfig = self.cluster.api.kubeconfig(folder)

    def client(self, epoch: Callable[[], int]) -> Workload:
        return DeploymentWorkload(Kube(kubeconfig=self.kubeconfig), "llm", max_replicas=2, epoch=epoch)

    def restart(self) -> None:
        """Nothing to do: the epoch stands at the API server."""

    def close(self) -> None:
        self.cluster.close()


def supervised(folder: Path) -> tuple[Workload, Callable[[], None]]:
    owner = Owner(folder)
    return owner.client(lambda: 1), owner.close


IMPLEMENTATIONS = {"processes": processes, "deployments": deployments, "supervised": supervised}


@pytest.fixture(params=[Owner, Cluster])
def fenced(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fenced]:
    made = request.param(tmp_path)
    yield made
    made.close()


@pytest.fixture(params=sorted(IMPLEMENTATIONS))
def workload(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Workload]:
    made, close = IMPLEMENTATIONS[request.param](tmp_path)
    yield made
    close()


def until(workload: Workload, slot: str, wanted: Callable[[SlotStatus], bool]) -> SlotStatus:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        status = workload.status(slot)
        if wanted(status):
            return status
        time.sleep(0.02)
    raise AssertionError(f"{slot} stays {status}")


def ask(workload: Workload, slot: str, path: str) -> tuple[int, bytes]:
    """What a ready slot answers. On a busy machine a Service hears of its pods a moment after they are ready."""
    deadline = time.monotonic() + 10
    while True:
        try:
            return request("GET", workload.address(slot) + path)
        except InfrastructureError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def test_an_empty_slot(workload: Workload) -> None:
    status = workload.status("blue")
    assert (status.release, status.replicas, status.ready, status.failed) == (None, 0, 0, None)


def test_a_slot_gets_ready_and_is_reached_past_the_router(workload: Workload) -> None:
    one = release("v1")
    workload.ensure("blue", one, 2)
    status = until(workload, "blue", lambda status: status.ready == 2)
    assert (status.release, status.replicas, status.failed) == (one.identity(), 2, None)
    assert ask(workload, "blue", "/health")[0] == 200
    assert workload.status("green").release is None


def test_ensuring_the_same_again_changes_nothing(workload: Workload) -> None:
    workload.ensure("blue", release("v1"), 1)
    until(workload, "blue", lambda status: status.ready == 1)
    before = ask(workload, "blue", "/pid")
    for _ in range(3):
        workload.ensure("blue", release("v1"), 1)
        assert workload.status("blue").ready == 1
    assert ask(workload, "blue", "/pid") == before


def test_another_release_replaces_the_old_one(workload: Workload) -> None:
    workload.ensure("blue", release("v1", "old"), 1)
    until(workload, "blue", lambda status: status.ready == 1)
    before = ask(workload, "blue", "/pid")
    workload.ensure("blue", release("v2", "new"), 1)
    assert workload.status("blue").release == release("v2", "new").identity()
    until(workload, "blue", lambda status: status.ready == 1)
    assert ask(workload, "blue", "/pid") != before
    assert b'"new"' in ask(workload, "blue", "/v1/models")[1]


def test_scaling_up_down_and_to_nothing(workload: Workload) -> None:
    workload.ensure("blue", release("v1"), 1)
    until(workload, "blue", lambda status: status.ready == 1)
    before = ask(workload, "blue", "/pid")
    workload.scale("blue", 2)
    until(workload, "blue", lambda status: status.ready == 2)
    workload.scale("blue", 1)
    assert until(workload, "blue", lambda status: status.ready == 1).replicas == 1
    assert ask(workload, "blue", "/pid") == before
    workload.scale("blue", 0)
    workload.scale("blue", 0)
    status = until(workload, "blue", lambda status: "empty" in status.message)
    assert (status.release, status.replicas, status.ready) == (None, 0, 0)


def test_an_engine_that_cannot_run_is_reported_with_its_last_words(workload: Workload) -> None:
    broken = release("v2", "m", "--exit", "3")
    workload.ensure("green", broken, 1)
    status = until(workload, "green", lambda status: status.failed is not None)
    assert status.ready == 0
    assert status.failed is not None
    assert "ended with status 3" in status.failed
    assert "CUDA out of memory" in status.failed
    assert "log:" in status.failed
    assert "\n" not in status.failed  # it becomes part of a sentence
    # It stays so, also when it is wanted again; another release may try.
    workload.ensure("green", broken, 1)
    assert workload.status("green").failed == status.failed
    workload.ensure("green", release("v3"), 1)
    assert until(workload, "green", lambda status: status.ready == 1).failed is None


def test_what_cannot_be_is_refused(workload: Workload) -> None:
    with pytest.raises(ConfigError, match="no slot 'red'"):
        workload.status("red")
    with pytest.raises(ConfigError, match="3 replicas"):
        workload.ensure("blue", release("v1"), 3)


def test_a_controller_whose_successor_has_acted_changes_nothing_also_after_a_restart(fenced: Fenced) -> None:
    held = {"old": 1, "new": 2}
    old, new = fenced.client(lambda: held["old"]), fenced.client(lambda: held["new"])
    one, two = release("v1"), release("v2", "other")
    old.ensure("blue", one, 1)
    new.ensure("blue", one, 1)
    for restarted in (False, True):
        if restarted:
            fenced.restart()
            old, new = fenced.client(lambda: held["old"]), fenced.client(lambda: held["new"])
        with pytest.raises(FencedError, match=r"epoch 1 is over, .*blue is at 2"):
            old.ensure("blue", two, 1)
        with pytest.raises(FencedError, match=r"epoch 1 is over, .*blue is at 2"):
            old.scale("blue", 0)
        assert new.status("blue").release == one.identity()
        assert new.status("blue").replicas == 1
        new.scale("blue", 1)
    # A lease that was taken again counts anew; and who holds it may do all.
    held["old"] = 3
    old.ensure("blue", two, 1)
    assert old.status("blue").release == two.identity()
    with pytest.raises(FencedError, match=r"epoch 2 is over, .*blue is at 3"):
        new.scale("blue", 0)
