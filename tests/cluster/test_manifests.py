"""The manifests on the real API server: strictly valid, applied twice without a difference, harmless to a rollout."""

from __future__ import annotations

import pytest
from apply import Applier
from manifests import OVERLAYS, SIMULATED, of_kind, rendered

from cluster import Cluster
from servegate.rollout.kube import Kube
from servegate.rollout.routers.http_route import HttpRouteRouter
from servegate.rollout.workloads.deployments import DeploymentWorkload

MANAGER = ("--server-side", "--field-manager=git")


@pytest.fixture
def overlay(request: pytest.FixtureRequest, cluster: Cluster, applier: Applier) -> str:
    """An overlay whose namespace and custom resources exist; dry runs need that."""
    name = str(request.param)
    (namespace,) = of_kind(name, "Namespace")
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    return name


@pytest.mark.parametrize("overlay", OVERLAYS, indirect=True)
def test_each_overlay_applies_and_applies_again_without_a_difference(cluster: Cluster, overlay: str) -> None:
    text = rendered(overlay)
    apply = ("apply", *MANAGER, "--validate=strict", "-f", "-")
    cluster.kubectl(*apply, "--dry-run=server", stdin=text)
    cluster.kubectl(*apply, stdin=text)
    assert cluster.kubectl("diff", *MANAGER, "-f", "-", stdin=text, check=False) == ""
    before = cluster.kubectl("apply", *MANAGER, "-f", "-", "-o", "name", stdin=text)
    assert len(before.split()) == len(list(filter(None, text.split("\n---\n"))))
    assert cluster.kubectl("diff", *MANAGER, "-f", "-", stdin=text, check=False) == ""


@pytest.mark.parametrize("overlay", ["local"], indirect=True)
def test_git_applied_in_the_middle_of_a_rollout_takes_nothing_back(cluster: Cluster, overlay: str) -> None:
    """Weights, replicas and the release's fields have an owner: an apply that would change them is refused."""
    text = rendered(overlay)
    cluster.kubectl("apply", *MANAGER, "-f", "-", stdin=text)
    (namespace,) = of_kind(overlay, "Namespace")
    kube = Kube(namespace, kubeconfig=cluster.kubeconfig)
    workload = DeploymentWorkload(kube, "llm", epoch=lambda: 1)
    router = HttpRouteRouter(kube, "llm", {"blue": "llm-blue", "green": "llm-green"})
    try:
        workload.ensure("green", SIMULATED, 1)
        router.write({"blue": 90.0, "green": 10.0}, epoch=1)
        names = ("httproute/llm", "deployment/llm-green", "configmap/llm-green")
        before = [cluster.get("-n", namespace, name)["metadata"].get("generation") for name in names]
        said = cluster.kubectl("apply", *MANAGER, "-f", "-", stdin=text, check=False)
        assert "conflict" in said
        after = [cluster.get("-n", namespace, name)["metadata"].get("generation") for name in names]
        assert after == before
        assert router.read() == {"blue": 90.0, "green": 10.0}
        assert workload.status("green").release == SIMULATED.identity()
    finally:
        cluster.kubectl("delete", "namespace", namespace, "--wait=false")
