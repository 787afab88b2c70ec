"""Each component in each overlay on the real API server: strictly valid, applied twice without a difference.

Custom resources are checked by the projects' own definitions (tests/support/crds.py).
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from apply import Applier
from manifests import COMPONENTS, K8S, OVERLAYS, Object, added, documents, pods_of, render_all

from cluster import Cluster
from servegate.rollout.kube import Kube, KubeError

GITOPS = sorted((K8S / "gitops").glob("*.yaml"))


@pytest.fixture
def overlay(applier: Applier, request: pytest.FixtureRequest) -> str:
    """An overlay, applied. It stays: other tests use its namespace too."""
    name = str(request.param)
    render_all([(name,), *((name, component) for component in COMPONENTS)])
    for item in sorted(documents(name), key=lambda item: item["kind"] != "Namespace"):
        applier.apply(item)
    return name


def said(item: Object) -> Object:
    """An object without what the API server and controllers write on their own account."""
    metadata = {key: item["metadata"].get(key) for key in ("name", "namespace", "generation", "labels")}
    return {**item, "metadata": metadata, "status": None}


@pytest.mark.parametrize("overlay", OVERLAYS, indirect=True)
def test_each_component_applies_and_applies_again_without_a_difference(applier: Applier, overlay: str) -> None:
    before = {(item["kind"], item["metadata"]["name"]) for item in documents(overlay)}
    for name in COMPONENTS:
        if overlay == "eks" and name in ("model-s3", "spot"):  # it has them
            assert not added(overlay, name)
            continue
        changed = added(overlay, name)
        gone = before - {(item["kind"], item["metadata"]["name"]) for item in documents(overlay, name)}
        assert changed or gone, name
        for item in changed:
            applier.apply(item, dry=True)
        first = [said(applier.apply(item)) for item in changed]
        assert [said(applier.apply(item, dry=True)) for item in changed] == first, name
        assert [said(applier.apply(item)) for item in changed] == first, name
        for item in changed:
            # Policies stay: the API server does not watch Leases again after the last one that has them as parameter.
            if (item["kind"], item["metadata"]["name"]) not in before and not item["kind"].startswith("Validating"):
                applier.delete(item)


@pytest.mark.parametrize("overlay", ["production"], indirect=True)
def test_every_pod_is_admitted_as_restricted(applier: Applier, overlay: str) -> None:
    """The namespace enforces the Pod Security Standard `restricted`; a pod made from each template must pass."""
    seen = 0
    pod: Object = {}
    for name in COMPONENTS:
        for item in added(overlay, name):
            for template in pods_of(item):
                metadata = {"name": f"pod-{uuid.uuid4().hex[:8]}", "namespace": item["metadata"]["namespace"]}
                spec = {**template["spec"], "serviceAccountName": "default"}  # the component's own is not applied here
                pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
                applier.create(pod, dry=True)
                seen += 1
    assert seen > 10
    pod["spec"]["securityContext"] = {}
    with pytest.raises(KubeError, match="violates PodSecurity"):
        applier.create(pod, dry=True)


def place(applier: Applier, name: str, component: str, *kinds: str) -> list[Object]:
    """Objects of overlay local with a component, applied in a namespace of their own."""
    wanted = ("Namespace", "ServiceAccount", "Deployment", *kinds)
    text = yaml.safe_dump_all(item for item in documents("local", component) if item["kind"] in wanted)
    made: list[Object] = list(yaml.safe_load_all(text.replace("llm-local", name)))
    made.sort(key=lambda item: wanted.index(item["kind"]))
    for item in made:
        applier.apply(item)
    return made


@pytest.fixture
def slots(cluster: Cluster, applier: Applier) -> Iterator[tuple[str, Kube]]:
    """A namespace with two slots, a lease, autoscalers, and the guard on them in force."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    policies = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
    made = place(applier, name, "autoscaling-hpa", "Lease", *policies, "HorizontalPodAutoscaler")
    kube = Kube(name, kubeconfig=cluster.kubeconfig)
    cluster.until("the policy", lambda: "empty" in refusal(kube, 0, 1, dry=True))
    yield name, kube
    applier.delete(made[0])
    kube.close()


def scale(kube: Kube, replicas: int, *, dry: bool = False) -> None:
    """As an autoscaler does it."""
    path = f"/apis/apps/v1/namespaces/{kube.namespace}/deployments/llm-blue/scale"
    query = {"dryRun": "All"} if dry else {}
    metadata = {"name": "llm-blue", "namespace": kube.namespace}
    item = {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": metadata, "spec": {"replicas": replicas}}
    kube.call("PUT", path, item, query=query)


def fill(kube: Kube, replicas: int) -> None:
    """As a rollout does it."""
    kube.patch("Deployment", "llm-blue", [{"op": "add", "path": "/spec/replicas", "value": replicas}])


def refusal(kube: Kube, before: int, after: int, *, dry: bool = False) -> str:
    """What the API server says to an autoscaler; empty when it does as told."""
    if not dry:
        fill(kube, before)
    try:
        scale(kube, after, dry=dry)
    except KubeError as error:
        return str(error)
    return ""


def hold(kube: Kube, holder: str) -> None:
    kube.replace("Lease", {**kube.get("Lease", "servegate"), "spec": {"holderIdentity": holder}})


def test_no_autoscaler_fills_or_empties_a_slot_or_takes_replicas_from_a_rollout(slots: tuple[str, Kube]) -> None:
    _, kube = slots
    assert "only a rollout fills it" in refusal(kube, 0, 1)
    assert "only a rollout empties a slot" in refusal(kube, 2, 0)
    assert refusal(kube, 3, 2) == ""
    assert refusal(kube, 2, 4) == ""
    hold(kube, "somebody")
    assert "a rollout is running" in refusal(kube, 3, 2)
    assert refusal(kube, 3, 5) == ""
    fill(kube, 1)  # the rollout itself may
    hold(kube, "")
    assert refusal(kube, 3, 2) == ""


def test_the_autoscaler_of_an_empty_slot_is_off(cluster: Cluster, slots: tuple[str, Kube]) -> None:
    name, _ = slots

    def off() -> bool:
        found = cluster.get("-n", name, "horizontalpodautoscaler", "llm-green")
        conditions = found.get("status", {}).get("conditions", [])
        return any((each["type"], each["reason"]) == ("ScalingActive", "ScalingDisabled") for each in conditions)

    cluster.until("the autoscaler", off)
    assert cluster.get("-n", name, "deployment", "llm-green")["spec"]["replicas"] == 0


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [({"gpu-0": "spot", "gpu-1": "on-demand"}, [2, 2]), ({"gpu-0": "on-demand", "gpu-1": "on-demand"}, None)],
    ids=["half on demand", "no spot node is left"],
)
def test_half_of_the_replicas_are_on_demand(
    cluster: Cluster, applier: Applier, kinds: dict[str, str], expected: list[int] | None
) -> None:
    """The real scheduler's word; what the pods run does not matter."""
    name, label = f"test-{uuid.uuid4().hex[:8]}", "karpenter.sh/capacity-type"
    for node, kind in kinds.items():
        cluster.kubectl("label", "--overwrite", "node", node, f"{label}={kind}")
    made = place(applier, name, "spot")
    kube = Kube(name, kubeconfig=cluster.kubeconfig)
    try:
        fill(kube, 4)

        def nodes() -> list[str]:
            found = kube.find("Pod", {"servegate.dev/slot": "blue"})
            return [pod["spec"]["nodeName"] for pod in found if pod["spec"].get("nodeName")]

        cluster.until("four pods with a node", lambda: len(nodes()) == 4)
        if expected is not None:
            assert sorted(Counter(nodes()).values()) == expected
    finally:
        applier.delete(made[0])
        cluster.kubectl("label", "node", *kinds, f"{label}-")
        kube.close()


@pytest.mark.parametrize("file", GITOPS, ids=lambda file: str(file.stem))
def test_what_gitops_tools_are_told_is_valid(applier: Applier, file: Any) -> None:
    for item in yaml.safe_load_all(file.read_text()):
        applier.apply({**item, "metadata": {**item["metadata"], "namespace": "default"}}, dry=True)
