"""What the gateway counts for each slot, with pods that are killed under traffic. One tick is two seconds."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3
from cluster_place import Place, Users

from cluster import Cluster
from servegate.endpoint import request
from servegate.rollout.deltas import between
from servegate.rollout.ports import Arrangement, Observed
from servegate.rollout.seen import Readings, SlotDelta
from servegate.rollout.sources.direct import DirectSource
from servegate.rollout.sources.gateway import EnvoyGateway, endpoints

pytestmark = pytest.mark.timeout(300)
TICK = 2.0
SERVICES = {"blue": "llm-blue", "green": "llm-green"}


@pytest.fixture
def place(cluster: Cluster, tmp_path: Path) -> Iterator[Place]:
    made = Place(cluster, tmp_path)
    yield made
    made.close()


class Ticks:
    """Readings as the controller takes them, and the sums of what they said."""

    def __init__(self, place: Place) -> None:
        gateway = EnvoyGateway(place.cluster.envoy_admin, tuple(SERVICES), lambda: endpoints(place.kube, SERVICES))
        self.source = DirectSource(place.workload.targets, gateway)
        self.readings: Readings | None = None
        self.requests = dict.fromkeys(SERVICES, 0.0)
        self.failures = dict.fromkeys(SERVICES, 0.0)

    def tick(self) -> dict[str, SlotDelta]:
        time.sleep(TICK)
        seen: Observed = self.source.observe(time.time())
        assert not any(name.startswith("gateway/") for name in seen.missing), seen.missing
        deltas, self.readings = between(self.readings, seen)
        for slot, delta in deltas.items():
            self.requests[slot] += delta.requests or 0.0
            self.failures[slot] += delta.failures or 0.0
        return deltas


def engine(cluster: Cluster, seed: str) -> int:
    """Process of the engine with this seed, among the descendants of the cluster's kubelet."""
    left = [cluster.children["kubelet"].pid]
    while left:
        pid = left.pop()
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            for task in Path(f"/proc/{pid}/task").iterdir():
                left += [int(child) for child in (task / "children").read_text().split()]
        except OSError:  # it has just ended
            continue
        if any(pair == (b"--seed", seed.encode()) for pair in itertools.pairwise(command)):
            return pid
    raise AssertionError(f"no engine with seed {seed}")


def test_a_killed_pod_fails_on_its_slot_within_one_tick_and_every_request_counts_once(place: Place) -> None:
    users = [place.serve()]
    try:
        place.fill("green", "v2")
        place.weigh(50)
        ticks = Ticks(place)
        ticks.tick()
        users += [Users(place.cluster.gateway_url, f"{place.namespace}.test") for _ in range(3)]
        good = ticks.tick()
        assert all(good[slot].requests for slot in SERVICES), good
        assert ticks.failures == {"blue": 0, "green": 0}
        os.kill(engine(place.cluster, "2"), signal.SIGKILL)
        deltas = ticks.tick()
        assert (deltas["green"].failures or 0) > 0, deltas["green"]
        assert deltas["blue"].failures == 0
    finally:
        bad = sum(len(each.bad) for each in users if each.stop())
    ticks.tick()
    assert ticks.failures == {"blue": 0, "green": bad}
    ticks.source.close()


def test_a_stream_is_in_flight_at_its_slot_and_outlives_a_promotion(place: Place) -> None:
    users = place.serve()
    users.stop()
    place.fill("green", "v2")
    place.weigh(50)
    ticks = Ticks(place)
    ticks.tick()
    assert ticks.tick()["blue"].gauges["gateway_active"] == 0
    place.weigh(1)
    ended: list[bytes] = []

    def long() -> None:
        body = {
            "model": "support",
            "messages": [{"role": "user", "content": "count"}],
            "max_tokens": 400,
            "min_tokens": 400,
            "ignore_eos": True,
            "stream": True,
        }
        pool = urllib3.PoolManager(retries=False)
        url, host = f"{place.cluster.gateway_url}/v1/chat/completions", f"{place.namespace}.test"
        ended.append(pool.request("POST", url, json=body, headers={"Host": host}, timeout=120).data)

    streams = [threading.Thread(target=long) for _ in range(6)]
    for stream in streams:
        stream.start()
    assert ticks.tick()["blue"].gauges["gateway_active"] > 0
    place.weigh(100)
    at_the_swap = len(ended)
    # Blue has no weight and is gone from Envoy: what is in flight there is not known, rather than none.
    assert "gateway_active" not in ticks.tick()["blue"].gauges
    for stream in streams:
        stream.join()
    assert at_the_swap < len(streams)
    assert all(data.rstrip().endswith(b"[DONE]") for data in ended)
    for path in ("/health", "/v1/models?x=1"):  # of a load balancer: no request that an engine counts
        headers = {"Host": f"{place.namespace}.test"}
        assert request("GET", f"{place.cluster.gateway_url}{path}", headers=headers, timeout=30)[0] == 200
    ticks.tick()
    assert sum(ticks.requests.values()) == len(streams)
    assert ticks.failures == {"blue": 0, "green": 0}
    ticks.source.close()


def test_a_shadow_gets_copies_and_counts_no_request_of_its_own(place: Place) -> None:
    users = place.serve()
    try:
        place.fill("green", "v2")
        place.arrange(Arrangement({"green": 100.0}))
        place.cluster.until("copies", lambda: place.router.verify().accepted)
        assert place.router.verify().arrangement == Arrangement({"green": 100.0})
        ticks = Ticks(place)
        ticks.tick()
        deltas = ticks.tick()
    finally:
        users.stop()
    assert set(users.seen) == {"complete"}
    assert (deltas["blue"].requests or 0) > 0
    assert deltas["green"].requests == 0
    assert deltas["green"].counters["http_requests"] > 0
    place.arrange(Arrangement())
    assert place.cluster.get("-n", place.namespace, "httproute", "llm")["spec"]["rules"][0].get("filters") in (None, [])
    ticks.source.close()
