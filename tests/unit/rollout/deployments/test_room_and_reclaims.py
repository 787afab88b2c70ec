"""Room for a slot on the nodes, and pods that the platform takes away."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from deployment_slots import CORE, SECONDS_T0, SECONDS_T1, T1, Clock, deployment, engine, pod, ready, release
from fake_kube import FakeKube, Object, RefusedError

from servegate.errors import ConfigError
from servegate.rollout.kube import KubeError
from servegate.rollout.workloads.capacity import Room
from servegate.rollout.workloads.deployments import DeploymentWorkload


def node(api: FakeKube, name: str, gpus: int, **spec: Any) -> None:
    status = {
        "allocatable": {"nvidia.com/gpu": str(gpus), "pods": "10"},
        "conditions": [{"type": "Ready", "status": "True"}],
    }
    api.put(f"/api/v1/nodes/{name}", {"metadata": {"labels": {}}, "spec": spec, "status": status})


def elsewhere(api: FakeKube, name: str, on: str, gpus: int) -> None:
    containers = [{"name": "x", "resources": {"limits": {"nvidia.com/gpu": str(gpus)}}}]
    api.put(f"/api/v1/pods/{name}", {"spec": {"nodeName": on, "containers": containers}, "status": {}})


def test_room_for_a_slot(api: FakeKube, workload: DeploymentWorkload) -> None:
    node(api, "a", 2)
    node(api, "b", 2, taints=[{"key": "team", "value": "x", "effect": "NoSchedule"}])
    node(api, "c", 4, unschedulable=True)
    elsewhere(api, "other", "a", 1)
    assert workload.room("green", 1).fits == 1
    assert workload.room("green", 2) == Room(1, "1 node: no more nvidia.com/gpu, 1 node: taint team, 1 node: cordoned")


def test_room_may_be_forbidden_to_know(api: FakeKube, workload: DeploymentWorkload) -> None:
    def forbid(_: str, path: str) -> None:
        if path == "/api/v1/nodes":
            raise RefusedError(403, 'nodes is forbidden: User "x" cannot list resource "nodes"')

    api.before = forbid
    with pytest.raises(KubeError) as caught:
        workload.room("green", 1)
    assert caught.value.status == 403


def disruption(reason: str, message: str = "") -> Object:
    return {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": reason,
        "message": message,
        "lastTransitionTime": T1,
    }


TAKEN: list[tuple[Object, str]] = [
    ({"conditions": [*ready(), disruption("EvictionByEvictionAPI")]}, "EvictionByEvictionAPI"),
    ({"conditions": [*ready(), disruption("PreemptionByScheduler")]}, "PreemptionByScheduler"),
    (
        {"conditions": [disruption("TerminationByKubelet", "node low\non \x1bmemory")]},
        "TerminationByKubelet: node low on",
    ),
    ({"conditions": [disruption("DeletionByTaintManager")]}, "DeletionByTaintManager"),
    ({"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}, "Evicted: The node"),
    ({"phase": "Failed", "reason": "Preempting"}, "Preempting"),
    ({"phase": "Failed", "reason": "NodeShutdown"}, "NodeShutdown"),
    (
        {
            "phase": "Failed",
            "reason": "Terminated",
            "message": "Pod was terminated in response to imminent node shutdown.",
        },
        "NodeShutdown: Pod was terminated",
    ),
]


@pytest.mark.parametrize(("status", "why"), TAKEN)
def test_a_pod_that_the_platform_takes_away_is_named(
    api: FakeKube, workload: DeploymentWorkload, status: Object, why: str
) -> None:
    workload.ensure("green", release(), 2)
    pod(api, "llm-green-1", **status)
    pod(api, "llm-green-2", conditions=ready())
    found = workload.status("green")
    (lost,) = found.reclaimed
    assert lost.pod == "llm-green-1"
    assert lost.why.startswith(why)
    assert lost.why.isprintable()
    assert lost.at == (SECONDS_T1 if "disruption" in str(status).lower() else SECONDS_T0)
    assert found.failed is None


CRASHED: list[Object] = [
    {"containerStatuses": engine(state={"terminated": {"exitCode": 137, "reason": "OOMKilled"}})},
    {"containerStatuses": engine(state={"terminated": {"exitCode": 1}})},
    {"phase": "Failed", "reason": "Terminated", "message": "who knows"},
    {"phase": "Failed", "reason": "DeadlineExceeded"},
    {"conditions": [{"type": "DisruptionTarget", "status": "False", "lastTransitionTime": T1}]},
    {},
]


@pytest.mark.parametrize("status", CRASHED)
def test_a_crash_is_nobody_elses_doing(api: FakeKube, workload: DeploymentWorkload, status: Object) -> None:
    workload.ensure("green", release(), 1)
    pod(api, **status)
    assert workload.status("green").reclaimed == ()


def test_the_taint_of_a_spot_node_explains_a_pod_that_leaves(
    api: FakeKube, workload: DeploymentWorkload, clock: Clock
) -> None:
    workload.ensure("green", release(), 1)
    deployment(api)["spec"]["template"]["spec"]["nodeName"] = "gpu-0"
    node(api, "gpu-0", 1)
    pod(api)
    assert workload.status("green").reclaimed == ()
    taint = {"key": "cloud.google.com/impending-node-termination", "effect": "NoSchedule", "timeAdded": T1}
    node(api, "gpu-0", 1, taints=[taint])
    clock.at += 6
    (lost,) = workload.status("green").reclaimed
    assert (lost.why, lost.at) == ("node taint cloud.google.com/impending-node-termination", SECONDS_T1)
    pod(api, conditions=ready())  # it answers: nothing needs to be explained yet
    clock.at += 6
    assert workload.status("green").reclaimed == ()


def test_where_nodes_may_not_be_read_they_are_asked_once(
    api: FakeKube, workload: DeploymentWorkload, clock: Clock
) -> None:
    def refuse(_method: str, path: str) -> None:
        if path.startswith("/api/v1/nodes"):
            raise RefusedError(403, "may not")

    api.before = refuse
    workload.ensure("green", release(), 1)
    deployment(api)["spec"]["template"]["spec"]["nodeName"] = "gpu-0"
    pod(api)
    for _ in range(3):
        clock.at += 6
        assert workload.status("green").reclaimed == ()
    assert sum(path.startswith("/api/v1/nodes") for _, path in api.calls) == 1


def test_what_a_slot_runs_can_be_read_from_the_cluster_alone(api: FakeKube, workload: DeploymentWorkload) -> None:
    assert workload.release("blue") is None  # empty
    workload.ensure("blue", release(), 1)
    assert workload.release("blue") == release()
    workload.scale("blue", 0)
    assert workload.release("blue") is None
    workload.scale("blue", 1)
    config = copy.deepcopy(api.objects[f"{CORE}configmaps/llm-blue"])
    for text, said in (("{", "release.json cannot be read"), (release(name="v3").model_dump_json(), "is of v3")):
        config["data"]["release.json"] = text
        api.put(f"{CORE}configmaps/llm-blue", config)
        with pytest.raises(ConfigError, match=said):
            workload.release("blue")


def test_a_slot_that_is_not_there_runs_nothing(workload: DeploymentWorkload) -> None:
    workload.app = "other"
    assert workload.release("blue") is None
