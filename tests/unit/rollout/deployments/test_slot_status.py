"""Whether a slot is ready, why its pods are not, and what a look costs."""

from __future__ import annotations

from typing import Any

import pytest
from deployment_slots import CORE, DEPLOYMENTS, T0, T1, Clock, deployment, engine, pod, ready, release, settle
from fake_kube import FakeKube

from servegate.rollout.workloads.deployments import DeploymentWorkload


def test_only_pods_that_stay_count_as_ready(api: FakeKube, workload: DeploymentWorkload) -> None:
    workload.ensure("green", release(), 2)
    pod(api, "llm-green-1", conditions=ready())
    pod(api, "llm-green-2", conditions=ready())
    api.objects[CORE + "pods/llm-green-2"]["metadata"]["deletionTimestamp"] = T0
    status = workload.status("green")
    assert (status.ready, status.replicas, status.failed) == (1, 2, None)


def test_a_pod_the_service_has_not_heard_of_yet_is_not_ready(api: FakeKube, workload: DeploymentWorkload) -> None:
    workload.ensure("green", release(), 1)
    pod(api, conditions=ready())
    deployment(api)["status"]["availableReplicas"] = 0
    assert workload.status("green").ready == 0


def test_a_pod_that_the_service_does_not_list_is_not_ready(api: FakeKube, workload: DeploymentWorkload) -> None:
    workload.ensure("green", release(), 1)
    pod(api, conditions=ready())
    path = "/apis/discovery.k8s.io/v1/namespaces/llm/endpointslices/llm-green-x"
    api.objects[path]["endpoints"][0]["conditions"]["ready"] = False
    status = workload.status("green")
    assert (status.ready, status.message) == (0, "0 of 1 listed by Service llm-green")
    api.objects[path]["endpoints"][0]["conditions"]["ready"] = True
    assert workload.status("green").ready == 1
    # Once it is listed nobody is asked again.
    calls = len(api.calls)
    workload.status("green")
    assert not any("endpointslices" in path for _, path in api.calls[calls:])


def test_a_slot_is_not_ready_while_another_release_answers_in_it(
    api: FakeKube, workload: DeploymentWorkload, clock: Clock
) -> None:
    workload.ensure("green", release(), 1)
    pod(api, "llm-green-1", conditions=ready())
    pod(api, "llm-green-2", conditions=ready())
    old = api.objects[CORE + "pods/llm-green-2"]
    old["metadata"].update(annotations={"servegate.dev/release": "sha256:old"}, deletionTimestamp=T0)
    status = workload.status("green")
    assert (status.ready, status.message) == (0, "waiting for 1 pod of another release to end")
    old["status"]["conditions"][0]["status"] = "False"
    clock.at += 5
    assert workload.status("green").ready == 1


def test_a_tick_of_a_settled_pair_of_slots_is_one_request(
    api: FakeKube, workload: DeploymentWorkload, clock: Clock
) -> None:
    for slot in ("blue", "green"):
        workload.ensure(slot, release(), 1)
        pod(api, f"llm-{slot}-1", slot, conditions=ready())
        settle(api, slot)
    for _ in range(2):
        clock.at += 5
        workload.status("blue"), workload.status("green")
    api.calls.clear()
    clock.at += 5
    assert workload.status("blue").ready == workload.status("green").ready == 1
    assert len(workload.targets()) == 2
    assert api.calls == [("GET", CORE.rstrip("/") + "/pods")]
    # A pod that is gone, or a minute, and the Deployment is read again.
    del api.objects[CORE + "pods/llm-green-1"]
    clock.at += 5
    api.calls.clear()
    assert workload.status("green").ready == 0
    assert ("GET", f"{DEPLOYMENTS}llm-green") in api.calls
    clock.at += 61
    api.calls.clear()
    workload.status("blue")
    assert ("GET", f"{DEPLOYMENTS}llm-blue") in api.calls


def test_targets_are_all_that_run(api: FakeKube, workload: DeploymentWorkload) -> None:
    workload.ensure("green", release(), 2)
    pod(api, "a", podIP="10.0.0.7")
    pod(api, "b", podIP="fd00::7")
    pod(api, "c", phase="Pending", podIP=None)
    assert [(item.pod, item.slot, item.url, item.release) for item in workload.targets()] == [
        ("green/a", "green", "http://10.0.0.7:8000", release().identity()),
        ("green/b", "green", "http://[fd00::7]:8000", release().identity()),
    ]


def test_something_of_no_release_in_a_slot(api: FakeKube, workload: DeploymentWorkload) -> None:
    deployment(api)["spec"]["replicas"] = 1
    status = workload.status("green")
    assert status.release is None
    assert status.failed == "Deployment llm-green runs something of no release"


ENDED = {"exitCode": 1, "startedAt": "2026-11-25T12:01:00Z", "message": "loading\nKeyError: 'model.embed'\n"}
LOG = "log: kubectl logs -n llm llm-green-1 -c engine"


@pytest.mark.parametrize(
    ("status", "failed"),
    [
        (
            {"containerStatuses": engine(state={"waiting": {"reason": "ImagePullBackOff", "message": "not found"}})},
            "pod llm-green-1: engine does not start: ImagePullBackOff: not found",
        ),
        (
            {
                "containerStatuses": engine(
                    state={"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "llm" not found'}}
                )
            },
            'pod llm-green-1: engine does not start: CreateContainerConfigError: secret "llm" not found',
        ),
        (
            {"containerStatuses": engine(state={"terminated": ENDED})},
            f"pod llm-green-1: engine ended with status 1; it said: KeyError: 'model.embed'; {LOG}",
        ),
        (
            {
                "containerStatuses": engine(
                    restartCount=1, state={"waiting": {"reason": "CrashLoopBackOff"}}, lastState={"terminated": ENDED}
                )
            },
            f"pod llm-green-1: engine ended with status 1; it said: KeyError: 'model.embed'; {LOG} --previous",
        ),
        (
            {
                "containerStatuses": engine(
                    restartCount=1,
                    state={"running": {}},
                    lastState={"terminated": {**ENDED, "reason": "OOMKilled", "exitCode": 137, "message": None}},
                )
            },
            f"pod llm-green-1: engine ran out of memory; {LOG} --previous",
        ),
        (
            {
                "initContainerStatuses": [
                    {"name": "model", "state": {"terminated": {"exitCode": 2, "startedAt": T0, "message": "403"}}}
                ]
            },
            "pod llm-green-1: model ended with status 2; it said: 403; log: kubectl logs -n llm llm-green-1 -c model",
        ),
        (
            {"initContainerStatuses": [{"name": "model", "state": {"terminated": {"exitCode": 0, "startedAt": T0}}}]},
            None,
        ),
        ({"phase": "Pending", "containerStatuses": engine(state={"waiting": {"reason": "ContainerCreating"}})}, None),
    ],
)
def test_why_a_pod_does_not_get_ready(
    api: FakeKube, workload: DeploymentWorkload, status: dict[str, Any], failed: str | None
) -> None:
    workload.ensure("green", release(), 1)
    pod(api, **status)
    assert workload.status("green").failed == failed


def test_an_engine_that_was_ready_and_ended_once_is_an_accident_and_thrice_a_loop(
    api: FakeKube, workload: DeploymentWorkload, clock: Clock
) -> None:
    workload.ensure("green", release(), 1)
    unready = [{"type": "Ready", "status": "False", "lastTransitionTime": T1}]  # long after the engine's start
    for restarts, failed in ((1, False), (2, False), (3, True)):
        clock.at += 5
        statuses = engine(restartCount=restarts, state={"running": {}}, lastState={"terminated": ENDED})
        pod(api, conditions=unready, containerStatuses=statuses)
        found = workload.status("green")
        assert (found.failed is not None) == failed
        assert "ended with status 1" in found.message


def test_no_node_is_waited_for_and_then_told(api: FakeKube, workload: DeploymentWorkload, clock: Clock) -> None:
    workload.ensure("green", release(), 1)
    said = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
    pod(
        api,
        phase="Pending",
        podIP=None,
        conditions=[{"type": "PodScheduled", "status": "False", "lastTransitionTime": T1, "message": said}],
    )
    status = workload.status("green")
    assert (status.failed, status.message) == (None, f"pod llm-green-1 has no node: {said}")
    clock.at += 61
    assert workload.status("green").failed == f"pod llm-green-1 has no node: {said}"


def test_a_deployment_that_can_make_no_pods(api: FakeKube, workload: DeploymentWorkload) -> None:
    workload.ensure("green", release(), 1)
    said = 'pods "llm-green-x" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=1'
    deployment(api)["status"] = {"conditions": [{"type": "ReplicaFailure", "status": "True", "message": said}]}
    assert workload.status("green").failed == f"no pod can be made: {said}"


def test_what_an_engine_says_is_text(api: FakeKube, workload: DeploymentWorkload) -> None:
    workload.ensure("green", release(), 1)
    pod(api, containerStatuses=engine(state={"terminated": {**ENDED, "message": "\x1b[2Jboo" + "x" * 5000}}))
    failed = workload.status("green").failed
    assert failed is not None
    assert "\x1b" not in failed
    assert len(failed) < 500
