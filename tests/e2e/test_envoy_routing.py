"""A real Envoy: the split is the weights', a change loses nothing, streams are not buffered, old epochs are refused."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import urllib3
from envoy_plane import BACKEND, Plane, answers, plane_in, until
from processes import wait_until_exit

from servegate.endpoint import request
from servegate.errors import InfrastructureError
from servegate.process import Child, free_ports
from servegate.rollout.ports import FencedError
from servegate.rollout.routers.envoy import EnvoyConfig, start_envoy


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    yield from plane_in(tmp_path)


def test_requests_are_split_by_the_weights_and_answers_name_their_slot(plane: Plane) -> None:
    plane.set(10.0)
    slots: Counter[str] = Counter()
    pool = urllib3.PoolManager(maxsize=8)

    def ask(_: int) -> tuple[str, str]:
        response = pool.request("POST", f"{plane.envoy.url}/v1/chat/completions", body=b"{}", retries=False)
        return response.data.decode(), response.headers["x-servegate-slot"]

    with ThreadPoolExecutor(8) as threads:
        for body, header in threads.map(ask, range(1000)):
            assert body == header  # the engine cannot forge it
            slots[header] += 1
    # Binomial(1000, .1): 100 with a standard deviation of 9.5; six of them are one in a billion.
    assert 43 <= slots["green"] <= 157
    assert slots["blue"] + slots["green"] == 1000


def test_a_slot_with_weight_zero_gets_nothing_at_all(plane: Plane) -> None:
    for green, slot in ((0.0, "blue"), (100.0, "green")):
        plane.set(green)
        before = {name: plane.served(name, "x") for name in plane.ports}
        pool = urllib3.PoolManager()
        for _ in range(300):
            assert pool.request("GET", f"{plane.envoy.url}/x", retries=False).data == slot.encode()
        other = "green" if slot == "blue" else "blue"
        assert plane.served(other, "x") == before[other]


def test_weights_change_under_streaming_traffic_without_a_lost_request(plane: Plane) -> None:
    stop = threading.Event()
    whole: list[str] = []
    broken: list[str] = []

    def user() -> None:
        pool = urllib3.PoolManager()  # one connection, kept alive over all changes
        while not stop.is_set():
            try:
                response = pool.request("GET", f"{plane.envoy.url}/stream/300", retries=False, timeout=10.0)
                lines = response.data.decode().splitlines()
                slot = response.headers["x-servegate-slot"]
                if response.status == 200 and lines == [f"{slot} {number}" for number in range(10)]:
                    whole.append(slot)
                else:
                    broken.append(f"{response.status} {lines}")
            except urllib3.exceptions.HTTPError as error:
                broken.append(repr(error))

    threads = [threading.Thread(target=user) for _ in range(12)]
    for thread in threads:
        thread.start()
    try:
        for green in (1.0, 10.0, 50.0, 95.0, 100.0, 0.0, 50.0, 100.0, 0.0, 100.0):
            plane.set(green)
            time.sleep(0.5)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert broken == []
    counts = Counter(whole)
    assert min(counts["blue"], counts["green"]) > 20
    # A connection that is kept does not keep its user on the old slot.
    plane.set(100.0)
    for _ in range(50):
        assert request("GET", f"{plane.envoy.url}/x")[1] == b"green"


def test_a_stream_that_began_on_the_old_slot_ends_there(plane: Plane) -> None:
    pool = urllib3.PoolManager()
    response = pool.request("GET", f"{plane.envoy.url}/stream/1500", preload_content=False, retries=False)
    assert response.headers["x-servegate-slot"] == "blue"
    first = response.read1(64)
    plane.set(100.0)
    assert request("GET", f"{plane.envoy.url}/x")[1] == b"green"
    rest = response.read()
    assert (first + rest).decode().splitlines() == [f"blue {number}" for number in range(10)]


def test_streaming_is_not_buffered(plane: Plane) -> None:
    pool = urllib3.PoolManager()
    response = pool.request("GET", f"{plane.envoy.url}/stream/1000", preload_content=False, retries=False)
    arrived: list[tuple[int, float]] = []
    while data := response.read1(65536):
        arrived.extend((number, time.monotonic()) for number in range(data.count(b"\n")))
    assert len(arrived) == 10
    # Ten chunks over a second: the first must be there long before the engine has made the last.
    assert arrived[-1][1] - arrived[0][1] > 0.5


def test_an_older_epoch_changes_nothing(plane: Plane) -> None:
    plane.set(50.0, epoch=7)
    with pytest.raises(FencedError, match="epoch 6"):
        plane.envoy.router.write({"blue": 0.0, "green": 100.0}, epoch=6)
    status = plane.envoy.router.verify()
    assert (status.accepted, status.weights) == (True, {"blue": 50.0, "green": 50.0})


def test_the_same_weights_under_a_newer_epoch_arrive_too(plane: Plane) -> None:
    for epoch in (1, 2, 9):
        plane.set(0.0, epoch=epoch)
    assert '"9.' in plane.envoy.router.file.read_text()


def test_a_route_envoy_refuses_is_not_taken_for_one_that_serves(plane: Plane) -> None:
    plane.set(50.0)
    file = plane.envoy.router.file
    document = json.loads(file.read_text())
    document["version_info"] = "1.99"
    route = document["resources"][0]["virtual_hosts"][0]["routes"][0]["route"]
    route["weighted_clusters"]["clusters"][0]["name"] = "nowhere"
    other = file.parent.parent / "other.json"
    other.write_text(json.dumps(document))
    other.replace(file)
    until(lambda: not plane.envoy.router.verify().accepted)
    assert request("GET", f"{plane.envoy.url}/x")[0] == 200  # the route before it stays in force
    status = plane.envoy.router.verify()
    assert not status.accepted
    assert dict(status.weights) == {"blue": 50.0, "green": 50.0}
    assert "1.99" in status.message


def test_clients_cannot_switch_retries_on(plane: Plane) -> None:
    headers = {"x-envoy-retry-on": "5xx,reset,connect-failure", "x-envoy-max-retries": "5"}
    status, _ = request("GET", f"{plane.envoy.url}/status/500", headers=headers)
    assert status == 500
    assert plane.served("blue", "status") == 1


def test_a_dead_engine_is_named_in_the_answer_too(plane: Plane) -> None:
    plane.backends["blue"].stop(grace=0.0)
    response = urllib3.request("GET", f"{plane.envoy.url}/x", retries=False)
    assert (response.status, response.headers["x-servegate-slot"]) == (503, "blue")


def test_an_engine_that_came_back_serves_again(plane: Plane) -> None:
    plane.backends["blue"].stop(grace=0.0)
    assert request("GET", f"{plane.envoy.url}/x")[0] == 503
    command = [sys.executable, str(BACKEND), str(plane.ports["blue"]), "blue"]
    plane.backends["blue"] = Child("blue", command, plane.folder / "blue.log")
    until(lambda: answers(f"http://127.0.0.1:{plane.ports['blue']}/up"))
    assert request("GET", f"{plane.envoy.url}/x")[0] == 200


def test_a_replica_that_died_is_left_out_while_another_lives(tmp_path: Path) -> None:
    front, admin, one, two = free_ports(4)
    backends = [
        Child(f"b{port}", [sys.executable, str(BACKEND), str(port), "blue"], tmp_path / "b.log") for port in (one, two)
    ]
    envoy = None
    try:
        for port in (one, two):
            until(partial(answers, f"http://127.0.0.1:{port}/up"))
        envoy = start_envoy(EnvoyConfig(tmp_path / "envoy", front, admin, {"blue": [one, two]}), {"blue": 100.0})
        backends[0].stop(grace=0.0)
        clusters = f"{envoy.admin}/clusters"
        until(lambda: b"failed_active_hc" in request("GET", clusters)[1])
        assert {request("GET", f"{envoy.url}/x")[0] for _ in range(50)} == {200}
    finally:
        if envoy is not None:
            envoy.stop()
        for child in backends:
            child.stop(grace=0.0)


def test_envoy_that_dies_is_reported_with_its_log(plane: Plane) -> None:
    plane.envoy.check()
    os.kill(plane.envoy.child.pid, signal.SIGSEGV)
    until(lambda: plane.envoy.child.returncode is not None)
    status = plane.envoy.router.verify()
    assert not status.accepted
    assert "envoy was ended by" in status.message
    assert "envoy.log" in status.message
    with pytest.raises(InfrastructureError, match=r"envoy\.log"):
        plane.envoy.check()


def test_a_port_in_use_is_named_and_leaves_nothing_running(tmp_path: Path) -> None:
    _, admin, backend = free_ports(3)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InfrastructureError, match=f"(?s)127.0.0.1:{port}.*in use"):
            start_envoy(EnvoyConfig(tmp_path / "front", port, admin, {"blue": [backend]}), {"blue": 100.0})
        with pytest.raises(InfrastructureError, match=f"(?s)127.0.0.1:{port}.*in use"):
            start_envoy(EnvoyConfig(tmp_path / "admin", admin, port, {"blue": [backend]}), {"blue": 100.0})
    assert not answers(f"http://127.0.0.1:{admin}/ready")


def test_two_run_at_once_and_stop_by_themselves(plane: Plane, tmp_path: Path) -> None:
    front, admin = free_ports(2)
    config = EnvoyConfig(tmp_path / "second", front, admin, {slot: [port] for slot, port in plane.ports.items()})
    second = start_envoy(config, {"blue": 0.0, "green": 100.0})
    try:
        assert request("GET", f"{second.url}/x")[1] == b"green"
        assert request("GET", f"{plane.envoy.url}/x")[1] == b"blue"
    finally:
        second.stop()
    assert wait_until_exit(second.child.pid, 5)
    assert request("GET", f"{plane.envoy.url}/x")[1] == b"blue"


def test_only_loopback_is_listened_on(plane: Plane) -> None:
    listening = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        local, state = line.split()[1], line.split()[3]
        if state == "0A":
            address, port = local.split(":")
            listening.add((address, int(port, 16)))
    ports = {int(url.rsplit(":", 1)[1]) for url in (plane.envoy.url, plane.envoy.admin)}
    assert {address for address, port in listening if port in ports} == {"0100007F"}
