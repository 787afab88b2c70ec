"""What a rollout in a cluster leaves behind."""

from __future__ import annotations

import gzip
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_kube import FakeKube

from servegate.errors import ConfigError, InfrastructureError
from servegate.pipeline.kept import TRAIL, Keeper, fitting, left, of, unpacked
from servegate.report.records import CanaryTick
from servegate.rollout.kube import Kube
from servegate.rollout.stores.config_map import ConfigMapStore
from servegate.rollout.stores.sqlite import SqliteStore

REPORT_MAP = "/api/v1/namespaces/llm/configmaps/servegate-report"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[FakeKube]:
    fake = FakeKube()
    fake.put(REPORT_MAP, {"kind": "ConfigMap", "metadata": {"labels": {"of": "git"}}})
    yield fake
    fake.close()


@pytest.fixture
def store(api: FakeKube, tmp_path: Path) -> Iterator[ConfigMapStore]:
    made = ConfigMapStore(Kube("llm", kubeconfig=api.kubeconfig(tmp_path)))
    yield made
    made.close()


def keeper(store: ConfigMapStore, folder: Path, said: list[str]) -> Keeper:
    return Keeper(store, folder, lambda _level, message: said.append(message))


def line(rollout: str, text: str = "") -> bytes:
    return f'{{"rollout":"{rollout}","text":"{text}"}}\n'.encode()


def tick(at: float, reason: str = "") -> CanaryTick:
    return CanaryTick(at=at, phase="STEP", weights={"blue": 99.0, "green": 1.0}, stable="blue", slots={}, reason=reason)


def test_the_next_pod_goes_on_with_the_trail_of_its_own_rollout(store: ConfigMapStore, tmp_path: Path) -> None:
    said: list[str] = []
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    for folder in (first, second, third):
        folder.mkdir()
    (first / TRAIL).write_bytes(line("before") + line("r", "1") + line("r", "2"))
    keeper(store, first, said).keep("r")
    keeper(store, second, said).restore("r")
    assert (second / TRAIL).read_bytes() == line("r", "1") + line("r", "2")
    keeper(store, third, said).restore("another")
    assert not (third / TRAIL).exists()
    assert left(store).trail == line("r", "1") + line("r", "2")
    assert not said


def test_it_is_kept_at_decisions_and_once_a_minute(api: FakeKube, store: ConfigMapStore, tmp_path: Path) -> None:
    (tmp_path / TRAIL).write_bytes(line("r"))
    kept = keeper(store, tmp_path, [])
    for at, reason in ((100.0, ""), (101.0, ""), (102.0, "a step"), (103.0, ""), (161.0, ""), (162.0, "")):
        kept("r", tick(at, reason))
    assert [method for method, _ in api.calls] == ["PATCH"] * 3
    assert api.objects[REPORT_MAP]["metadata"]["labels"] == {"of": "git"}


def test_what_cannot_be_kept_ends_no_rollout(api: FakeKube, store: ConfigMapStore, tmp_path: Path) -> None:
    said: list[str] = []
    keeper(store, tmp_path, said).keep("r")  # there is no trail
    (tmp_path / TRAIL).write_bytes(line("r"))
    del api.objects[REPORT_MAP]  # manifests of an earlier version
    kept = keeper(store, tmp_path, said)
    kept.keep("r", ended=True)
    kept.restore("r")
    assert len(said) == 3
    assert said[1].startswith("no report: ")
    assert "not kept in the cluster" in said[2]


def test_a_trail_that_is_too_long_keeps_its_first_line_and_its_end() -> None:
    draw = random.Random(1)
    lines = [line("r", draw.randbytes(500).hex()) for _ in range(100)]
    packed, whole = fitting(b"".join(lines), room=20_000)
    found = gzip.decompress(packed).splitlines(keepends=True)
    assert not whole
    assert len(packed) <= 20_000
    assert found == [lines[0], *lines[-len(found) + 1 :]]
    assert len(found) > 10
    assert fitting(lines[0])[1]


def test_lines_of_a_rollout_are_told_from_those_of_others() -> None:
    assert of("a", line("a") + line("ab") + line("b", '\\"rollout\\":\\"a\\"')) == line("a")


def test_a_machine_has_it_beside_its_store(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "rollout.db")
    with pytest.raises(ConfigError, match="no rollout has left a report"):
        left(store)
    (tmp_path / TRAIL).write_bytes(line("r"))
    assert left(store).trail == line("r")
    store.close()


def test_what_is_damaged_or_a_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = gzip.compress(b"x" * 10_000)
    assert unpacked(packed) == b"x" * 10_000
    for bad in (b"", b"x", packed[:-9]):
        with pytest.raises(InfrastructureError, match="damaged"):
            unpacked(bad)
    monkeypatch.setattr("servegate.pipeline.kept.LARGEST", 9_000)
    with pytest.raises(InfrastructureError, match="too large"):
        unpacked(packed)
