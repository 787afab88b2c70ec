"""Slots whose owner is another process: what is asked, what is answered, and who may ask."""

from __future__ import annotations

import stat
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from servegate.errors import ConfigError, InfrastructureError
from servegate.process import free_ports
from servegate.release import Engine, Model, Release
from servegate.rollout.ports import FencedError
from servegate.rollout.stores.sqlite import SqliteStore
from servegate.rollout.workloads.processes import Launch, ProcessWorkload
from servegate.rollout.workloads.supervised import Epochs, Supervised, serve

ENGINE = Path(__file__).parent / "engine.py"


def release(name: str = "v1") -> Release:
    return Release(name=name, model=Model(uri="file:///m", served_name="m"), engine=Engine(name="vllm", version="1"))


@pytest.fixture
def owned(tmp_path: Path) -> Iterator[tuple[ProcessWorkload, Supervised]]:
    def launch(_slot: str, item: Release, port: int) -> Launch:
        return Launch([sys.executable, str(ENGINE), str(port), item.model.served_name])

    ports = free_ports(2)
    workload = ProcessWorkload(launch, {"blue": [ports[0]], "green": [ports[1]]}, tmp_path / "logs", drain=0.0, grace=5)
    try:
        with serve(workload, tmp_path / "s.sock"):
            yield workload, Supervised(tmp_path / "s.sock", lambda: 1)
    finally:
        workload.close()


def test_what_is_asked_over_the_socket_happens(owned: tuple[ProcessWorkload, Supervised]) -> None:
    workload, remote = owned
    assert remote.status("blue").release is None
    remote.ensure("blue", release(), 1)
    status = remote.status("blue")
    assert (status.release, status.replicas, status.reclaimed) == (release().identity(), 1, ())
    assert remote.address("blue") == workload.address("blue")
    (target,) = remote.targets()
    assert (target.pod, target.slot, target.release) == ("blue/0", "blue", release().identity())
    remote.scale("blue", 0)
    assert remote.status("blue").release is None


def test_what_is_wrong_is_said_in_the_owners_words(owned: tuple[ProcessWorkload, Supervised]) -> None:
    _, remote = owned
    with pytest.raises(ConfigError, match="no slot 'red'"):
        remote.status("red")
    with pytest.raises(ConfigError, match="has 1 ports; 2 replicas"):
        remote.ensure("blue", release(), 2)
    with pytest.raises(ConfigError, match="nothing can be done"):
        remote._ask("PUT", "/else", {})
    with pytest.raises(ConfigError, match="nothing is known"):
        remote._ask("GET", "/else")
    with pytest.raises(ConfigError):
        remote._ask("PUT", "/slots/blue", {"release": {"name": "x"}, "replicas": 1})


def test_a_controller_whose_successor_has_acted_changes_nothing(
    owned: tuple[ProcessWorkload, Supervised], tmp_path: Path
) -> None:
    workload, _ = owned
    with closing(SqliteStore(tmp_path / "s.db")) as first, closing(SqliteStore(tmp_path / "s.db")) as second:
        old = Supervised(tmp_path / "s.sock", lambda: first.epoch)
        new = Supervised(tmp_path / "s.sock", lambda: second.epoch)
        first.acquire("paused", 0.0, 10.0)
        old.ensure("blue", release(), 1)
        second.acquire("successor", 20.0, 10.0)
        old.ensure("blue", release(), 1)  # nobody newer has touched the slot yet
        new.ensure("blue", release(), 1)
        with pytest.raises(FencedError, match=r"epoch 1 is over, slot blue is at 2"):
            old.scale("blue", 0)
        with pytest.raises(FencedError, match=r"epoch 1 is over"):
            old.ensure("blue", release("v2"), 1)
        assert workload.status("blue").release == release().identity()
        old.ensure("green", release(), 1)


@pytest.mark.parametrize("epoch", [{}, {"epoch": None}, {"epoch": True}, {"epoch": "2"}, {"epoch": 0}, {"epoch": 1.5}])
def test_a_change_without_an_epoch_is_refused(
    owned: tuple[ProcessWorkload, Supervised], tmp_path: Path, epoch: dict[str, object]
) -> None:
    workload, remote = owned
    with pytest.raises(ConfigError, match="names no epoch"):
        Supervised(tmp_path / "s.sock").ensure("blue", release(), 1)
    with pytest.raises(ConfigError, match="names no epoch"):
        remote._ask("PUT", "/slots/blue/replicas", {"replicas": 0, **epoch})
    assert workload.status("blue").release is None
    assert not (tmp_path / "s.sock.epochs.json").exists()


def test_the_epoch_is_kept_before_anything_is_done_or_nothing_is_done(
    owned: tuple[ProcessWorkload, Supervised], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workload, remote = owned
    kept = tmp_path / "s.sock.epochs.json"
    found: list[dict[str, int]] = []
    ensure = workload.ensure

    def looking(slot: str, wanted: Release, replicas: int) -> None:
        found.append(Epochs.read(kept).epochs)
        ensure(slot, wanted, replicas)

    monkeypatch.setattr(workload, "ensure", looking)
    remote.ensure("blue", release(), 1)
    assert found == [{"blue": 1}]

    def full(path: Path, data: bytes) -> None:
        raise InfrastructureError(f"{path}: cannot be written: no space left on device")

    monkeypatch.setattr("servegate.rollout.workloads.supervised.write_atomic", full)
    with pytest.raises(InfrastructureError, match="no space left"):
        Supervised(tmp_path / "s.sock", lambda: 2).ensure("blue", release("v2"), 1)
    assert workload.status("blue").release == release().identity()
    remote.scale("blue", 1)  # nothing was done under epoch 2, so 1 is not over


def test_a_damaged_file_of_epochs_is_named_and_a_new_store_forgets_them(tmp_path: Path) -> None:
    workload = ProcessWorkload(lambda *_: Launch([]), {"blue": [1]}, tmp_path / "logs")
    kept = tmp_path / "s.sock.epochs.json"
    kept.write_text('{"epochs": {"blue": "many"}}')
    with pytest.raises(ConfigError, match="epochs"), serve(workload, tmp_path / "s.sock"):
        pass
    with serve(workload, tmp_path / "s.sock", anew=True):
        Supervised(tmp_path / "s.sock", lambda: 1).scale("blue", 0)
    assert Epochs.read(kept).epochs == {"blue": 1}
    workload.close()


def test_only_the_user_may_ask_and_only_one_owns(owned: tuple[ProcessWorkload, Supervised], tmp_path: Path) -> None:
    workload, remote = owned
    assert stat.S_IMODE(remote.path.stat().st_mode) == 0o600
    with pytest.raises(ConfigError, match="another process owns"), serve(workload, remote.path):
        pass
    with pytest.raises(ConfigError, match="too long"), serve(workload, tmp_path / ("x" * 120)):
        pass


def test_an_owner_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError, match=r"rollout machine"):
        Supervised(tmp_path / "s.sock").status("blue")


def test_a_socket_that_a_killed_owner_left_is_taken_over(tmp_path: Path) -> None:
    import socket

    path = tmp_path / "s.sock"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    workload = ProcessWorkload(lambda *_: Launch([]), {"blue": [1]}, tmp_path / "logs")
    with serve(workload, path):
        assert Supervised(path).status("blue").ready == 0
    assert not path.exists()
    workload.close()
