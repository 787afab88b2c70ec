"""The route file: whole numbers that add up, one writer at a time in whatever process, nobody else's file."""

from __future__ import annotations

import fcntl
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servegate.errors import ConfigError, InfrastructureError
from servegate.rollout.ports import FencedError
from servegate.rollout.routers import envoy, envoy_file
from servegate.rollout.routers.envoy import EnvoyConfig, bootstrap, find_envoy
from servegate.rollout.routers.envoy_file import EnvoyFileRouter
from servegate.rollout.routers.weights import UNITS, to_units


def router(folder: Path) -> EnvoyFileRouter:
    return EnvoyFileRouter(folder / "routes" / "routes.json", "http://127.0.0.1:9", ("blue", "green"))


@given(st.floats(min_value=0, max_value=100))
def test_whole_numbers_add_up_to_all_and_nothing_is_nothing(share: float) -> None:
    weights = {"blue": 100.0 - share, "green": share}
    if any(weight > 0 and round(weight * UNITS) == 0 for weight in weights.values()):
        with pytest.raises(ValueError, match="cannot be routed"):
            to_units(weights, ("blue", "green"))
        return
    units = to_units(weights, ("blue", "green"))
    assert sum(units.values()) == 100 * UNITS
    assert (units["green"] == 0) == (share == 0)
    assert (units["blue"] == 0) == (share == 100)
    assert math.isclose(units["green"] / UNITS, share, abs_tol=1 / UNITS)


def test_steps_of_a_plan_are_exact() -> None:
    for weight in (1.0, 2.5, 10.0, 50.0, 95.0, 100.0):
        units = to_units({"blue": 100 - weight, "green": weight}, ("blue", "green"))
        assert units["green"] / UNITS == weight


def test_what_is_written_is_a_route_to_every_slot(tmp_path: Path) -> None:
    subject = router(tmp_path)
    subject.write({"blue": 99.0, "green": 1.0}, epoch=7)
    document = json.loads(subject.file.read_text())
    assert document["version_info"] == "7.1"
    route = document["resources"][0]["virtual_hosts"][0]["routes"][0]["route"]
    assert route["timeout"] == "0s"
    assert route["retry_policy"]["num_retries"] == 0
    clusters = route["weighted_clusters"]["clusters"]
    assert [(cluster["name"], cluster["weight"]) for cluster in clusters] == [("blue", 990_000), ("green", 10_000)]
    for cluster in clusters:
        (header,) = cluster["response_headers_to_add"]
        assert header["header"] == {"key": "x-servegate-slot", "value": cluster["name"]}
        assert header["append_action"] == "OVERWRITE_IF_EXISTS_OR_ADD"


def test_only_route_files_stand_in_the_watched_folder(tmp_path: Path) -> None:
    subject = router(tmp_path)
    for weight in range(1, 20):
        subject.write({"blue": 100.0 - weight, "green": weight}, epoch=1)
    assert [path.name for path in subject.file.parent.iterdir()] == ["routes.json"]
    assert json.loads(subject.file.read_text())["version_info"] == "1.19"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"version_info": "1.1"}',
        '{"version_info": "one", "resources": []}',
        '{"version_info": "1.1", "resources": [{"virtual_hosts": []}]}',
        '{"version_info": "-1.1", "resources": [{}]}',
    ],
)
def test_a_file_that_is_not_ours_is_neither_read_nor_overwritten(tmp_path: Path, content: str) -> None:
    subject = router(tmp_path)
    subject.file.parent.mkdir()
    subject.file.write_text(content)
    with pytest.raises(InfrastructureError, match=r"routes\.json"):
        subject.read()
    with pytest.raises(InfrastructureError, match=r"routes\.json"):
        subject.write({"blue": 100.0, "green": 0.0}, epoch=1)
    assert subject.file.read_text() == content
    assert not subject.verify().accepted


WRITER = """
import sys
from pathlib import Path
from servegate.rollout.ports import FencedError
from servegate.rollout.routers.envoy_file import EnvoyFileRouter

router = EnvoyFileRouter(Path(sys.argv[1]), "http://127.0.0.1:9", ("blue", "green"))
epoch = int(sys.argv[2])
for number in range(100):
    try:
        router.write({"blue": 100.0 - number % 50, "green": float(number % 50)}, epoch)
    except FencedError:
        print("fenced")
        break
"""


def test_controllers_in_two_processes_are_fenced_by_the_file(tmp_path: Path) -> None:
    subject = router(tmp_path)
    subject.write({"blue": 100.0, "green": 0.0}, epoch=1)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(subject.file), str(epoch)], stdout=subprocess.PIPE, text=True
        )
        for epoch in (2, 3)
    ]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert outputs[1] == ""  # the newer one is never refused
    # Whatever the order was, the newer one has the last word.
    document = json.loads(subject.file.read_text())
    assert document["version_info"].startswith("3.")
    assert subject.read() == {"blue": 51.0, "green": 49.0}
    with pytest.raises(FencedError):
        subject.write({"blue": 100.0, "green": 0.0}, epoch=2)


def test_a_lock_that_is_never_released_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envoy_file, "LOCK_TIMEOUT", 0.0)
    subject = router(tmp_path)
    with (tmp_path / "routes.lock").open("ab") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(InfrastructureError, match=r"routes\.lock"):
            subject.write({"blue": 100.0, "green": 0.0}, epoch=1)
    subject.write({"blue": 100.0, "green": 0.0}, epoch=1)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InfrastructureError, match="cannot be opened"):
        router(tmp_path / "file").write({"blue": 100.0, "green": 0.0}, epoch=1)


def test_everything_listens_on_loopback_alone() -> None:
    config = EnvoyConfig(Path("/x"), 1, 2, {"blue": [3, 4], "green": [5]})
    text = json.dumps(bootstrap(config, Path("/x/routes/routes.json")))
    assert text.count('"address": "127.0.0.1"') == 5
    assert '"0.0.0.0"' not in text
    assert '"outlier_detection"' not in text


def test_a_slot_without_ports_is_refused() -> None:
    with pytest.raises(ConfigError, match="slot green has no port"):
        EnvoyConfig(Path("/x"), 1, 2, {"blue": [3], "green": []})
    with pytest.raises(ConfigError, match="needs a slot"):
        EnvoyConfig(Path("/x"), 1, 2, {})


def test_a_missing_envoy_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "envoy", None)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InfrastructureError, match=r"servegate\[serving\]"):
        find_envoy()


def test_an_envoy_on_the_path_serves_where_the_package_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    binary = tmp_path / "envoy"
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    monkeypatch.setitem(sys.modules, "envoy", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert envoy.find_envoy() == str(binary)
