"""What Envoy counts when an engine fails in every way: the table in servegate.rollout.sources.direct, observed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import urllib3

from servegate.endpoint import request
from servegate.errors import InfrastructureError
from servegate.process import Child, free_ports
from servegate.rollout.ports import PodSample
from servegate.rollout.routers.envoy import Envoy, EnvoyConfig, start_envoy
from servegate.rollout.sources.direct import DirectSource, Gateway

BACKEND = Path(__file__).parent / "envoy_backend.py"
COUNTERS = (
    "gateway_requests",
    "gateway_5xx",
    "gateway_connect_failures",
    "gateway_resets",
    "gateway_timeouts",
    "gateway_cancelled",
)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


@dataclass
class Plane:
    envoy: Envoy
    backend: Child
    source: DirectSource
    port: int
    folder: Path

    def sample(self, slot: str = "blue") -> PodSample:
        observed = self.source.observe(1.0)
        assert observed.missing == {}
        return next(pod for pod in observed.pods if pod.slot == slot)

    def change(self, path: str, timeout: float = 20.0, times: int = 3) -> dict[str, float]:
        """Counters that moved when `path` was asked some times, per request."""
        before = self.sample().counters
        for _ in range(times):
            self.ask(path, timeout)
        until(lambda: sum(self.sample().counters.values()) > sum(before.values()))
        # Requests are counted when they have ended: wait until none is under way.
        until(lambda: self.sample().gauges["gateway_active"] == 0)
        after = self.sample().counters
        return {name: (after[name] - before[name]) / times for name in COUNTERS if after[name] != before[name]}

    def ask(self, path: str, timeout: float) -> None:
        try:
            response = urllib3.request("GET", f"{self.envoy.url}{path}", retries=False, timeout=timeout)
            assert response.headers["x-servegate-slot"] == "blue"
        except urllib3.exceptions.HTTPError:
            pass


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    front, admin, port, idle = free_ports(4)
    backend = Child("blue", [sys.executable, str(BACKEND), str(port), "blue"], tmp_path / "blue.log")
    envoy = None
    try:
        until(lambda: answers(f"http://127.0.0.1:{port}/up"))
        config = EnvoyConfig(tmp_path / "envoy", front, admin, {"blue": [port], "green": [idle]}, idle_timeout=0.5)
        envoy = start_envoy(config, {"blue": 100.0, "green": 0.0})
        source = DirectSource(tuple, Gateway(envoy.admin, ["blue", "green"]), timeout=10.0)
        yield Plane(envoy, backend, source, port, tmp_path)
        source.close()
    finally:
        if envoy is not None:
            envoy.stop()
        backend.stop(grace=0.0)


def answers(url: str) -> bool:
    try:
        return request("GET", url, timeout=1.0)[0] == 200
    except InfrastructureError:
        return False


def test_a_fresh_gateway_has_zeros_and_not_nothing(plane: Plane) -> None:
    for slot in ("blue", "green"):
        sample = plane.sample(slot)
        assert sample.pod == f"gateway/{slot}"
        assert sample.counters == dict.fromkeys(COUNTERS, 0.0)
        assert sample.gauges == {"gateway_active": 0.0}


@pytest.mark.parametrize(
    ("path", "counted"),
    [
        ("/x", {"gateway_requests": 1}),
        ("/stream/100", {"gateway_requests": 1}),
        ("/status/404", {"gateway_requests": 1}),
        ("/status/500", {"gateway_requests": 1, "gateway_5xx": 1}),
        ("/status/503", {"gateway_requests": 1, "gateway_5xx": 1}),
        ("/close", {"gateway_requests": 1, "gateway_5xx": 1}),
        ("/silent", {"gateway_requests": 1, "gateway_5xx": 1, "gateway_timeouts": 1}),
        ("/close-after-headers", {"gateway_requests": 1, "gateway_resets": 1}),
        ("/reset-after-headers", {"gateway_requests": 1, "gateway_resets": 1}),
        ("/silent-after-headers", {"gateway_requests": 1, "gateway_resets": 1}),
    ],
)
def test_every_end_is_counted_once(plane: Plane, path: str, counted: dict[str, float]) -> None:
    assert plane.change(path) == counted
    assert set(plane.sample("green").counters.values()) == {0.0}


def test_an_engine_that_is_gone(plane: Plane) -> None:
    plane.backend.stop(grace=0.0)
    counted = {"gateway_requests": 1, "gateway_5xx": 1, "gateway_connect_failures": 1}
    assert plane.change("/x") == counted
    # Also after the probes have found out: nothing is hidden.
    until(lambda: b"failed_active_hc" in request("GET", f"{plane.envoy.admin}/clusters")[1])
    assert plane.change("/x") == counted


def test_an_engine_killed_in_the_middle_of_an_answer(plane: Plane) -> None:
    assert plane.change("/die-after-headers", times=1) == {"gateway_requests": 1, "gateway_resets": 1}


@pytest.mark.parametrize("path", ["/silent", "/silent-after-headers"])
def test_a_client_that_goes_away_is_no_request_of_the_slot(plane: Plane, path: str) -> None:
    assert plane.change(path, timeout=0.2) == {"gateway_cancelled": 1}


def test_probes_are_no_requests(plane: Plane) -> None:
    def probes() -> bool:
        text = request("GET", f"{plane.envoy.admin}/stats?filter=cluster.blue.health_check.attempt")[1]
        return int(text.split(b": ")[1]) >= 3

    until(probes)
    assert set(plane.sample().counters.values()) == {0.0}


@pytest.mark.parametrize(
    "path", ["/health", "/ping?x=1", "/load", "/version", "/metrics", "/v1/models", "/v1/models/m"]
)
def test_questions_about_the_engine_are_no_requests(plane: Plane, path: str) -> None:
    for _ in range(3):
        plane.ask(path, 20.0)
    assert plane.change(f"/v1/completions?of={path}", times=1) == {"gateway_requests": 1}
    assert plane.change("/healthy", times=1) == {"gateway_requests": 1}


def test_streams_under_way_are_active_and_not_yet_counted(plane: Plane) -> None:
    pool = urllib3.PoolManager()
    response = pool.request("GET", f"{plane.envoy.url}/stream/2000", preload_content=False, retries=False)
    response.read1(64)
    sample = plane.sample()
    assert sample.gauges["gateway_active"] == 1
    assert sample.counters["gateway_requests"] == 0
    response.read()
    until(lambda: plane.sample().counters["gateway_requests"] == 1)
    assert plane.sample().gauges["gateway_active"] == 0
