"""The contract of a Router for back ends that no gateway serves here: the real API server, with the projects' own CRDs.

The gateway of the test cluster does not route to InferencePools and KServe does not run in it, so what they say of a
change is written by the test, as their own types have it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import contracts
import pytest
import yaml
from apply import Applier

from cluster import Cluster
from servegate.rollout.kube import Kube, KubeError, Object
from servegate.rollout.ports import Router
from servegate.rollout.routers.http_route import GROUPS, HttpRouteRouter
from servegate.rollout.routers.kserve import KServeRouter

contract = contracts.load("test_ports_router")
globals().update(contracts.tests_of(contract))
# Nobody stops this data plane, which is the test itself; what it says follows below.
del globals()["test_verify_says_what_the_data_plane_really_does"]
del globals()["test_a_data_plane_that_does_not_answer_is_not_accepted_and_does_not_raise"]

NAMES = {"blue": "llm-blue", "green": "llm-green"}
COMPONENTS = Path(__file__).parents[2] / "k8s"


def said(cluster: Cluster, namespace: str, kind: str, name: str, status: Object) -> None:
    """Write a status as its controller would."""
    where = ("-n", namespace, "patch", kind, name, "--subresource=status", "--type=merge")
    cluster.kubectl(*where, "-p", json.dumps({"status": status}))


def pools(cluster: Cluster, namespace: str) -> Callable[[], Router]:
    route = yaml.safe_load((COMPONENTS / "base" / "route.yaml").read_text())
    route["metadata"]["namespace"] = namespace
    route["spec"]["hostnames"] = [f"{namespace}.test"]
    for ref in route["spec"]["rules"][0]["backendRefs"]:
        del ref["port"]
        ref.update(group=GROUPS["InferencePool"], kind="InferencePool")
    cluster.apply(route)
    kubeconfig = cluster.kubeconfig
    return lambda: HttpRouteRouter(Kube(namespace, kubeconfig=kubeconfig), "llm", NAMES, kind="InferencePool")


def kserve(cluster: Cluster, namespace: str) -> Callable[[], Router]:
    file = COMPONENTS / "components" / "kserve" / "services.yaml"
    for item in yaml.safe_load_all(file.read_text()):
        item["metadata"]["namespace"] = namespace
        cluster.apply(item)
    return lambda: KServeRouter(Kube(namespace, kubeconfig=cluster.kubeconfig), NAMES, "llm")


KINDS = {"inference-pool": (pools, "httproute", ("llm",)), "kserve": (kserve, "llminferenceservice", NAMES.values())}


@pytest.fixture(params=sorted(KINDS))
def plane(request: pytest.FixtureRequest, cluster: Cluster, namespace: str, applier: Applier) -> object:
    install, kind, names = KINDS[request.param]
    opened = install(cluster, namespace)

    def written() -> object:
        return [cluster.get("-n", namespace, kind, name)["metadata"]["generation"] for name in names]

    return contract.Plane(open=opened, follow=lambda _: None, written=written, stop=lambda: None)


def test_everything_but_pools_weights_stays(cluster: Cluster, namespace: str, applier: Applier) -> None:
    router = pools(cluster, namespace)()
    before = cluster.get("-n", namespace, "httproute", "llm")["spec"]
    router.write({"blue": 80.0, "green": 20.0}, epoch=1)
    after = cluster.get("-n", namespace, "httproute", "llm")["spec"]
    assert [ref.pop("weight") for ref in after["rules"][0]["backendRefs"]] == [80, 20]
    for ref in before["rules"][0]["backendRefs"]:
        del ref["weight"]
    assert after == before


def test_what_kserve_says_of_a_group(cluster: Cluster, namespace: str, applier: Applier) -> None:
    router = kserve(cluster, namespace)()

    def kserve_says(blue: int, green: int, ready: str = "True") -> None:
        members = [{"name": "llm-blue", "weight": blue}, {"name": "llm-green", "weight": green}]
        why = {"reason": "ModelNameMismatch", "message": "members serve different models"}
        conditions = [{"type": "HTTPRoutesReady", "status": "True"}, {"type": "GroupReady", "status": ready, **why}]
        status = {"conditions": conditions, "router": {"group": {"name": "llm", "members": members}}}
        for name in NAMES.values():
            said(cluster, namespace, "llminferenceservice", name, status)

    router.write({"blue": 90.0, "green": 10.0}, epoch=1)
    assert "KServe says of HTTPRoutesReady: nothing yet" in router.verify().message
    kserve_says(100, 0)
    assert "has not yet taken over" in router.verify().message
    kserve_says(900_000, 100_000)
    assert (router.verify().accepted, router.verify().weights) == (True, {"blue": 90.0, "green": 10.0})
    kserve_says(900_000, 100_000, "False")
    status = router.verify()
    assert (status.accepted, status.weights) == (False, {"blue": 90.0, "green": 10.0})
    assert "GroupReady: ModelNameMismatch: members serve different models" in status.message
    spec = cluster.get("-n", namespace, "llminferenceservice", "llm-green")["spec"]
    shipped = list(yaml.safe_load_all((COMPONENTS / "components" / "kserve" / "services.yaml").read_text()))[1]["spec"]
    assert spec["router"]["route"] == {"group": "llm", "weight": 100_000}
    assert spec["model"] == shipped["model"]
    # Somebody takes a slot out of the group: it is left alone.
    patch = '[{"op": "replace", "path": "/spec/router/route/group", "value": "other"}]'
    cluster.kubectl("-n", namespace, "patch", "llminferenceservice", "llm-green", "--type=json", "-p", patch)
    assert "LLMInferenceService llm-green: its group is other, not llm" in router.verify().message


def test_a_weight_that_kserve_forbids_is_refused_by_its_schema(
    cluster: Cluster, namespace: str, kube: Kube, applier: Applier
) -> None:
    kserve(cluster, namespace)
    with pytest.raises(KubeError, match="1000001"):
        kube.patch(
            "LLMInferenceService",
            "llm-blue",
            [{"op": "replace", "path": "/spec/router/route/weight", "value": 1_000_001}],
        )
