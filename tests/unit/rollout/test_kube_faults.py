"""A rollout whose memory and route are in a cluster with an API server that refuses, and clocks that disagree."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_kube import FakeKube, Object, RefusedError
from rollout_world import BAD, GOOD, STABLE, World

from servegate.errors import ConfigError, InfrastructureError
from servegate.rollout.kube import Kube, _ahead
from servegate.rollout.model import Phase
from servegate.rollout.ports import FencedError, Lease, LeaseLostError, Weights
from servegate.rollout.routers.http_route import HttpRouteRouter
from servegate.rollout.stores.config_map import ConfigMapStore

MAPS = "/api/v1/namespaces/llm/configmaps/servegate-"
LEASE = "/apis/coordination.k8s.io/v1/namespaces/llm/leases/servegate"
ROUTE = "/apis/gateway.networking.k8s.io/v1/namespaces/llm/httproutes/llm"
NAMES = {"blue": "llm-blue", "green": "llm-green"}


@pytest.fixture
def api() -> Iterator[FakeKube]:
    fake = FakeKube()
    for name in ("state", "history", "intents"):
        fake.put(MAPS + name, {"kind": "ConfigMap"})
    fake.put(LEASE, {"kind": "Lease"})
    parent = {"name": "gateway", "namespace": "gateway"}
    refs = [{"name": "llm-blue", "weight": 100}, {"name": "llm-green", "weight": 0}]

    def accepted(path: str, item: Object) -> None:
        if path == ROUTE:
            generation = item["metadata"]["generation"]
            kinds = ("Accepted", "ResolvedRefs")
            said = [{"type": kind, "status": "True", "observedGeneration": generation} for kind in kinds]
            item["status"] = {"parents": [{"parentRef": parent, "conditions": said}]}

    fake.react = accepted
    fake.put(ROUTE, {"kind": "HTTPRoute", "spec": {"parentRefs": [parent], "rules": [{"backendRefs": refs}]}})
    yield fake
    fake.close()


class ClusterWorld(World):
    """The small world, remembered in ConfigMaps and routed by an HTTPRoute."""

    def __init__(self, folder: Path, api: FakeKube) -> None:
        self.config = api.kubeconfig(folder)
        self.route = HttpRouteRouter(Kube(kubeconfig=self.config), "llm", NAMES, sleep=lambda _: None)
        super().__init__(folder, failing={BAD.name: 0.5})

    def open_store(self) -> Any:
        return ConfigMapStore(Kube(kubeconfig=self.config))

    def read(self) -> Weights:
        return self.route.read()

    def verify(self) -> Any:
        return self.route.verify()

    def write(self, weights: Weights, epoch: int) -> None:
        self.route.write(weights, epoch)
        super().write(weights, epoch)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("release", "end"), [(GOOD, Phase.PROMOTED), (BAD, Phase.ROLLED_BACK)])
def test_an_api_server_that_refuses_now_and_then_changes_no_end(
    api: FakeKube, tmp_path: Path, seed: int, release: Any, end: Phase
) -> None:
    draw = random.Random(seed)
    refused = 0

    def trouble(method: str, path: str) -> None:
        nonlocal refused
        if draw.random() < 0.12:
            refused += 1
            status = draw.choice((409, 429, 500, 503) if method != "GET" else (429, 500, 503))
            raise RefusedError(status, f"trouble {status}")

    world = ClusterWorld(tmp_path, api)
    api.before = trouble
    controller = world.controller()
    while True:
        try:
            controller.start(release, STABLE)
            break
        except InfrastructureError:
            continue
    assert controller.run().phase is end
    api.before = lambda _method, _path: None
    green = 100.0 if end is Phase.PROMOTED else 0.0
    assert world.route.read() == {"blue": 100 - green, "green": green}
    assert world.violations == []
    assert refused > 5
    assert any("HTTP 4" in notice or "HTTP 5" in notice for notice in world.notices)


@pytest.mark.parametrize("skew", [30.0, -30.0])
def test_a_clock_that_is_wrong_takes_no_living_lease_and_waits_for_no_dead_one(
    api: FakeKube, tmp_path: Path, skew: float
) -> None:
    """One machine's clock is right, the other's is half a minute ahead or behind."""
    config, now = api.kubeconfig(tmp_path), time.time()
    first = ConfigMapStore(Kube(kubeconfig=config))
    second = ConfigMapStore(Kube(kubeconfig=config, clock=lambda: time.time() + skew))
    held = first.acquire("first", now=now, ttl=15.0)
    with pytest.raises(LeaseLostError, match=r"first has it for another (9|1[01]) s"):
        second.acquire("second", now=now + 5 + skew, ttl=15.0)
    found = second.holder()
    assert found is not None
    assert abs(found.expires - (now + 15 + skew)) < 3
    assert first.renew(held, now=now + 7, ttl=15.0).expires == now + 22
    taken = second.acquire("second", now=now + 24 + skew, ttl=15.0)
    assert taken == Lease("second", 2, now + 39 + skew)
    assert second.renew(taken, now=now + 32 + skew, ttl=15.0).expires == now + 47 + skew
    with pytest.raises(LeaseLostError, match=r"second has it for another 2[0-4] s"):
        first.acquire("first", now=now + 25, ttl=15.0)


def test_two_never_act_whatever_the_clocks_say(api: FakeKube, tmp_path: Path) -> None:
    """Who takes a lease that is not over shuts its holder out."""
    config = api.kubeconfig(tmp_path)
    first, second = (ConfigMapStore(Kube(kubeconfig=config)) for _ in range(2))
    routes = [HttpRouteRouter(Kube(kubeconfig=config), "llm", NAMES, sleep=lambda _: None) for _ in range(2)]
    held = first.acquire("first", now=1000.0, ttl=15.0)
    routes[0].write({"blue": 90.0, "green": 10.0}, held.epoch)
    taken = second.acquire("second", now=1035.0, ttl=15.0)
    routes[1].write({"blue": 100.0, "green": 0.0}, taken.epoch)
    with pytest.raises(LeaseLostError, match="it belongs to second"):
        first.renew(held, now=1005.0, ttl=15.0)
    with pytest.raises(LeaseLostError, match=r"the lease of first \(epoch 1\) is over"):
        first.save("{}", 0, held)
    with pytest.raises(FencedError, match="epoch 1 is over"):
        routes[0].write({"blue": 50.0, "green": 50.0}, held.epoch)
    assert routes[1].read() == {"blue": 100.0, "green": 0.0}


@pytest.mark.parametrize("date", [None, "", "soon", "Thu, 99 Nov 2026 00:00:00 GMT"])
def test_without_a_date_the_clocks_are_taken_for_one(date: str | None) -> None:
    assert _ahead(date, 1e9) == 0.0


def test_a_kubeconfig_that_is_named_wins_over_the_pods_own_account(
    api: FakeKube, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("servegate.rollout.kube.ACCOUNT", tmp_path)
    (tmp_path / "namespace").write_text("elsewhere")
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(tmp_path)))
    kube = Kube()
    assert (kube.configuration.host, kube.namespace) == (api.url, "llm")
    monkeypatch.delenv("KUBECONFIG")
    with pytest.raises(ConfigError, match="service account"):
        Kube()  # in the pod now; its token is not there in this test
