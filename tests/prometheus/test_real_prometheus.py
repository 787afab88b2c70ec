"""A real Prometheus scrapes real simulators: totals are the engines' own, and what is gone is missing."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import prometheus_server
import pytest
import simulator_process
from prometheus_server import PrometheusServer
from simulator_process import Simulator

from servegate.rollout.deltas import between
from servegate.rollout.model import Readings, SlotDelta
from servegate.rollout.ports import Observed
from servegate.rollout.sources.direct import DirectSource, Target
from servegate.rollout.sources.prometheus import PrometheusSource
from servegate.rollout.sources.prometheus_config import Basic, PrometheusConfig


@pytest.fixture
def engines() -> Iterator[list[Simulator]]:
    running = [simulator_process.start(), simulator_process.start()]
    yield running
    for engine in running:
        stop(engine)


@pytest.fixture
def prometheus(tmp_path: Path, engines: list[Simulator]) -> Iterator[PrometheusServer]:
    server = prometheus_server.start(tmp_path / "prometheus")
    server.retarget(labelled(engines))
    yield server
    server.stop()


def labelled(engines: list[Simulator]) -> list[tuple[int, dict[str, str]]]:
    slots = ("blue", "green")
    return [
        (engine.port, {"slot": slot, "release": f"sha256:{slot}", "pod": f"{slot}-0"})
        for engine, slot in zip(engines, slots, strict=True)
    ]


def until(source: PrometheusSource, seen: Callable[[Observed], bool]) -> Observed:
    deadline = time.monotonic() + 40
    while True:
        observed = source.observe(time.time())
        if seen(observed):
            return observed
        assert time.monotonic() < deadline, observed
        time.sleep(0.2)


def pods(observed: Observed) -> set[str]:
    return {sample.pod for sample in observed.pods}


def stop(engine: Simulator) -> None:
    engine.process.kill()
    engine.process.wait()
    assert engine.process.stderr is not None
    engine.process.stderr.close()


class Ticks:
    """Sums of deltas, tick by tick, as the controller takes them."""

    def __init__(self, source: PrometheusSource) -> None:
        self.source, self.requests = source, {"blue": 0.0, "green": 0.0}
        self.readings: Readings | None = None

    def tick(self) -> dict[str, SlotDelta]:
        found, self.readings = between(self.readings, self.source.observe(time.time()))
        for slot, delta in found.items():
            self.requests[slot] += delta.requests or 0.0
        return found


def test_from_the_first_request_to_a_dead_engine(prometheus: PrometheusServer, engines: list[Simulator]) -> None:
    config = PrometheusConfig.model_validate({"url": prometheus.url, "max_age": "4s", "labels": {"pod": "pod"}})
    source = PrometheusSource(config)
    both = {"blue/blue-0", "green/green-0"}
    observed = until(source, lambda found: pods(found) == both and not found.missing)
    # Nothing was asked yet: no series of HTTP requests, and still known to be zero.
    assert {sample.counters["http_requests"] for sample in observed.pods} == {0.0}
    assert {sample.release for sample in observed.pods} == {"sha256:blue", "sha256:green"}
    assert (
        source.preflight(["ttft", "itl", "e2e_latency", "running", "http_requests", "preemptions"], time.time()) == []
    )

    ticks = Ticks(source)
    ticks.tick()
    for number in range(12):
        engines[number % 3 == 0].ask(f"What is {number} and {number}?", max_tokens=4)
        ticks.tick()
    targets = [
        Target(f"{slot}/{slot}-0", slot, f"http://127.0.0.1:{engine.port}")
        for engine, slot in zip(engines, ("blue", "green"), strict=True)
    ]
    direct = DirectSource(lambda: targets, timeout=20.0)
    wanted = {sample.pod: sample for sample in direct.observe(time.time()).pods}
    direct.close()
    deadline = time.monotonic() + 20
    while ticks.requests != {"blue": 8.0, "green": 4.0}:
        assert time.monotonic() < deadline, ticks.requests
        time.sleep(0.2)
        ticks.tick()
    # The same totals as the engines themselves tell, bucket by bucket.
    found = {sample.pod: sample for sample in source.observe(time.time()).pods}
    for pod in sorted(both):
        assert found[pod].histograms == wanted[pod].histograms
        assert found[pod].counters == wanted[pod].counters
        assert found[pod].started == pytest.approx(wanted[pod].started)

    # Its target is taken out of the configuration: what was scraped grows old.
    prometheus.retarget(labelled(engines)[:1])
    observed = until(source, lambda found: pods(found) == {"blue/blue-0"})
    assert "its last scrape is" in observed.missing["green/green-0"]
    assert observed.faults == {"green/green-0": "stale"}
    prometheus.retarget(labelled(engines))
    until(source, lambda found: pods(found) == both)

    # It dies: Prometheus scrapes in vain.
    stop(engines[1])
    observed = until(source, lambda found: pods(found) == {"blue/blue-0"})
    assert observed.missing == {"green/green-0": "Prometheus cannot scrape it"}
    assert observed.faults == {"green/green-0": "down"}
    # It starts anew: what it did since counts from zero, once.
    engines[1] = simulator_process.start()
    engines[1].ask("One?", max_tokens=4)
    prometheus.retarget(labelled(engines))
    until(source, lambda found: pods(found) == both)
    deadline = time.monotonic() + 20
    while ticks.requests["green"] < 5:
        assert time.monotonic() < deadline, ticks.requests
        time.sleep(0.2)
        ticks.tick()
    assert ticks.requests == {"blue": 8.0, "green": 5.0}
    # Prometheus itself dies.
    prometheus.stop()
    observed = source.observe(time.time())
    assert observed.pods == ()
    assert observed.missing["blue/prometheus"] == "Prometheus: connection refused"
    assert observed.faults == {}
    source.close()


def test_tls_and_password(tmp_path: Path) -> None:
    cert, key, password = tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "password"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    subprocess.run([*command, *names, "-keyout", key, "-out", cert], check=True, capture_output=True)
    # The hash of "test" from Prometheus' documentation of basic authentication.
    digest = "$2b$12$hNf2lSsxfm0.i4a.1kVpSOVyBCfIB51VRjgBUyv6kdnyTlgWj81Ay"
    web = f"tls_server_config: {{cert_file: {cert}, key_file: {key}}}\nbasic_auth_users: {{servegate: '{digest}'}}\n"
    server = prometheus_server.start(tmp_path / "prometheus", web=web, scheme="https")
    password.write_text("wrong\n")
    basic = Basic(username="servegate", password_file=password)
    source = PrometheusSource(PrometheusConfig(url=server.url, ca_file=cert, basic=basic))
    try:
        until(source, lambda found: "HTTP 401" in found.missing.get("blue/prometheus", ""))
        password.write_text("test\n")
        assert until(source, lambda found: not found.missing).pods == ()
        (problem,) = source.preflight(["ttft"], time.time())
        assert "has no engine with slot='blue', slot='green'" in problem
    finally:
        source.close()
        server.stop()
