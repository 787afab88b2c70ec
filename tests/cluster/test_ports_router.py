"""The contract of a Router against the real API server and a gateway that can be stopped."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import contracts
import pytest
import yaml

from cluster import Cluster
from servegate.rollout.kube import Kube
from servegate.rollout.ports import FencedError, Router, RouteStatus
from servegate.rollout.routers.http_route import HttpRouteRouter

contract = contracts.load("test_ports_router")
globals().update(contracts.tests_of(contract))
# With a real gateway these two need time to pass; they follow below.
del globals()["test_verify_says_what_the_data_plane_really_does"]
del globals()["test_a_data_plane_that_does_not_answer_is_not_accepted_and_does_not_raise"]

NAMES = {"blue": "llm-blue", "green": "llm-green"}


def install(cluster: Cluster, namespace: str) -> None:
    """Two Services without pods and the shipped route, by the gateway of the cluster."""
    services = [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"ports": [{"name": "http", "port": 8000}], "selector": {"app": name}},
        }
        for name in NAMES.values()
    ]
    route = yaml.safe_load((contracts.UNIT.parents[2] / "k8s" / "base" / "route.yaml").read_text())
    route["metadata"]["namespace"] = namespace
    route["spec"]["hostnames"] = [f"{namespace}.test"]
    cluster.apply(*services, route)


@pytest.fixture
def router(cluster: Cluster, namespace: str, kube: Kube) -> HttpRouteRouter:
    install(cluster, namespace)
    return HttpRouteRouter(kube, "llm", NAMES)


@pytest.fixture
def plane(cluster: Cluster, namespace: str, router: HttpRouteRouter) -> Iterator[object]:
    def written() -> object:
        return cluster.get("-n", namespace, "httproute", "llm")["metadata"]["generation"]

    yield contract.Plane(
        open=lambda: HttpRouteRouter(Kube(namespace, kubeconfig=cluster.kubeconfig), "llm", NAMES),
        follow=lambda _: None,
        written=written,
        stop=lambda: None,
    )


def until(router: Router, accepted: bool = True) -> RouteStatus:
    deadline = time.monotonic() + 20
    while (status := router.verify()).accepted != accepted:
        assert time.monotonic() < deadline, status
        time.sleep(0.05)
    return status


def test_the_gateway_says_what_it_has_taken_over(cluster: Cluster, router: HttpRouteRouter) -> None:
    router.write({"blue": 100.0, "green": 0.0}, epoch=1)
    assert until(router).weights == {"blue": 100.0, "green": 0.0}
    process = cluster.children["envoy-gateway"].pid
    os.kill(process, signal.SIGSTOP)
    try:
        router.write({"blue": 50.0, "green": 50.0}, epoch=1)
        status = router.verify()
        assert (status.accepted, status.weights) == (False, {"blue": 100.0, "green": 0.0})
        assert "gateway gateway has not yet taken over generation" in status.message
    finally:
        os.kill(process, signal.SIGCONT)
    assert until(router).weights == {"blue": 50.0, "green": 50.0}


def test_a_back_end_that_is_gone_is_told_in_the_gateways_words(
    cluster: Cluster, namespace: str, router: HttpRouteRouter
) -> None:
    router.write({"blue": 90.0, "green": 10.0}, epoch=1)
    until(router)
    cluster.kubectl("-n", namespace, "delete", "service", "llm-green")
    assert "ResolvedRefs is False" in until(router, accepted=False).message
    assert "llm-green" in router.verify().message


def test_an_api_server_that_is_away(cluster: Cluster, namespace: str) -> None:
    away = Kube(namespace, kubeconfig=cluster.kubeconfig)
    away.configuration.host = f"https://{cluster.addresses.inside}:6444"
    status = HttpRouteRouter(away, "llm", NAMES).verify()
    assert (status.accepted, dict(status.weights)) == (False, {})
    assert "refused" in status.message


def test_a_rule_added_and_a_field_changed_by_others_stay(
    cluster: Cluster, namespace: str, router: HttpRouteRouter
) -> None:
    router.write({"blue": 90.0, "green": 10.0}, epoch=1)
    rule = (
        '{"op": "add", "path": "/spec/rules/0", "value": {"matches": [{"headers": [{"name": "x", "value": "1"}]}],'
        ' "backendRefs": [{"name": "llm-green", "port": 8000}]}}'
    )
    cluster.kubectl("-n", namespace, "patch", "httproute", "llm", "--type=json", "-p", f"[{rule}]")
    before = cluster.get("-n", namespace, "httproute", "llm")["spec"]
    router.write({"blue": 80.0, "green": 20.0}, epoch=1)
    after = cluster.get("-n", namespace, "httproute", "llm")["spec"]
    assert [ref["weight"] for ref in after["rules"][1]["backendRefs"]] == [80, 20]
    for ref, weight in zip(after["rules"][1]["backendRefs"], (90, 10), strict=True):
        ref["weight"] = weight
    assert after == before


def test_two_controllers_write_at_once_and_the_newer_one_wins(
    cluster: Cluster, namespace: str, router: HttpRouteRouter
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def old() -> str:
        mine = HttpRouteRouter(Kube(namespace, kubeconfig=cluster.kubeconfig), "llm", NAMES)
        try:
            for share in range(1, 100):
                mine.write({"blue": 100.0 - share, "green": float(share)}, epoch=1)
        except FencedError:
            return "fenced"
        return "done"

    with ThreadPoolExecutor(max_workers=1) as pool:
        running = pool.submit(old)
        time.sleep(0.1)
        router.write({"blue": 100.0, "green": 0.0}, epoch=2)
        assert running.result(timeout=60) == "fenced"
    assert router.read() == {"blue": 100.0, "green": 0.0}
