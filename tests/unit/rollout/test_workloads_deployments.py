"""Deployments as slots: what of them is the release's, why pods do not get ready, and what a look costs."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_deployments import empty_deployment
from fake_kube import FakeKube, Object, RefusedError

from servegate.contract import sha256
from servegate.errors import ConfigError, InfrastructureError
from servegate.release import Engine, File, Image, Model, Release
from servegate.rollout.kube import Kube, KubeError
from servegate.rollout.ports import FencedError
from servegate.rollout.workloads.capacity import Room
from servegate.rollout.workloads.deployments import DeploymentWorkload
from servegate.rollout.workloads.pod_template import arguments, drain_seconds, files

DEPLOYMENTS = "/apis/apps/v1/namespaces/llm/deployments/"
CORE = "/api/v1/namespaces/llm/"
T0 = "2026-11-25T12:00:00Z"
T1 = "2026-11-25T12:05:00Z"
SECONDS_T0, SECONDS_T1 = 1795608000.0, 1795608300.0


def release(**changes: Any) -> Release:
    fields: dict[str, Any] = {
        "name": "v2",
        "image": Image(repository="registry.example/llm", digest="sha256:" + "a" * 64),
        "model": Model(uri="hf://org/model", revision="abc", served_name="support"),
        "engine": Engine(name="vllm", version="0.33.0"),
        "args": ("--max-num-seqs=64",),
        "env": {"VLLM_LOGGING_LEVEL": "INFO"},
    }
    return Release(**{**fields, **changes})


class Clock:
    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def api() -> Iterator[FakeKube]:
    fake = FakeKube()
    for slot in ("blue", "green"):
        fake.put(f"{DEPLOYMENTS}llm-{slot}", empty_deployment(f"llm-{slot}", slot))
    yield fake
    fake.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def workload(api: FakeKube, clock: Clock, tmp_path: Path) -> DeploymentWorkload:
    kube = Kube(kubeconfig=api.kubeconfig(tmp_path))
    return DeploymentWorkload(kube, "llm", clock=clock, now=lambda: SECONDS_T1 + clock.at, epoch=lambda: 7)


def deployment(api: FakeKube, slot: str = "green") -> Object:
    return api.objects[f"{DEPLOYMENTS}llm-{slot}"]


def container(api: FakeKube) -> Object:
    found: Object = deployment(api)["spec"]["template"]["spec"]["containers"][0]
    return found


def pod(api: FakeKube, name: str = "llm-green-1", slot: str = "green", **status: Any) -> None:
    """A pod of what the Deployment wants now; not ready unless said."""
    item = deployment(api, slot)
    template = item["spec"]["template"]
    item.setdefault("status", {}).setdefault("availableReplicas", item["spec"]["replicas"])
    defaults: Object = {
        "phase": "Running",
        "podIP": "10.0.0.7",
        "conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": T0}],
    }
    meta = {**template["metadata"], "name": name, "namespace": "llm"}
    made = {"metadata": copy.deepcopy(meta), "spec": template["spec"], "status": {**defaults, **status}}
    api.put(f"{CORE}pods/{name}", made)
    listed(api, slot, name)


def listed(api: FakeKube, slot: str, *names: str) -> None:
    """The slot's Service lists these pods as well as those before."""
    path = f"/apis/discovery.k8s.io/v1/namespaces/llm/endpointslices/llm-{slot}-x"
    before = api.objects.get(path, {}).get("endpoints", [])
    more = [{"targetRef": {"name": name}, "conditions": {"ready": True}} for name in names]
    labels = {"kubernetes.io/service-name": f"llm-{slot}"}
    api.put(path, {"metadata": {"labels": labels}, "endpoints": [*before, *more]})


def ready(at: str = T0) -> list[Object]:
    return [{"type": "Ready", "status": "True", "lastTransitionTime": at}]


def engine(**state: Any) -> list[Object]:
    return [{"name": "engine", "restartCount": 0, **state}]


# --- the release in the pod template ----------------------------------------------------------------------------------


def test_everything_that_decides_answers_comes_from_the_release(api: FakeKube, workload: DeploymentWorkload) -> None:
    before = copy.deepcopy(deployment(api))
    workload.ensure("green", release(), 2)
    found = deployment(api)
    assert found["spec"]["replicas"] == 2
    assert found["metadata"]["annotations"] == {"servegate.dev/epoch": "7"}
    assert container(api)["image"] == "registry.example/llm@sha256:" + "a" * 64
    assert container(api)["args"] == [
        *("org/model", "--served-model-name", "support", "--revision", "abc"),
        *("--host", "0.0.0.0", "--port", "8000", "--shutdown-timeout", "13", "--max-num-seqs=64"),
    ]
    assert container(api)["env"] == [
        {"name": "HF_HOME", "value": "/cache"},
        {"name": "VLLM_LOGGING_LEVEL", "value": "INFO"},
    ]
    meta = found["spec"]["template"]["metadata"]
    assert meta["labels"]["servegate.dev/release"] == release().id
    assert meta["annotations"]["servegate.dev/release"] == release().identity()
    # And nothing else has changed.
    for key in ("image", "args", "env"):
        found["spec"]["template"]["spec"]["containers"][0][key] = before["spec"]["template"]["spec"]["containers"][
            0
        ].get(key)
    assert found["spec"]["template"]["spec"] == {
        **before["spec"]["template"]["spec"],
        "containers": [{**before["spec"]["template"]["spec"]["containers"][0], "args": None}],
    }


def test_the_next_release_leaves_nothing_of_the_one_before(api: FakeKube, workload: DeploymentWorkload) -> None:
    workload.ensure("green", release(env={"A": "1", "B": "$(HF_HOME)"}), 1)
    assert {"name": "B", "value": "$$(HF_HOME)"} in container(api)["env"]
    workload.ensure("green", release(env={"B": "2"}, args=()), 1)
    assert [item["name"] for item in container(api)["env"]] == ["HF_HOME", "B"]
    assert "--max-num-seqs=64" not in container(api)["args"]
    config = api.objects[CORE + "configmaps/llm-green"]
    assert config["immutable"] is True
    assert Release.model_validate(json.loads(config["data"]["release.json"])) == release(env={"B": "2"}, args=())


def test_files_are_in_the_slots_config_map_and_are_the_ones_named(api: FakeKube, tmp_path: Path) -> None:
    text = "{{ messages }}"
    named = release(chat_template=File(sha256=sha256(text.encode()), path="chat.jinja"))
    kube = Kube(kubeconfig=api.kubeconfig(tmp_path))
    with pytest.raises(ConfigError, match=r"the content of chat\.jinja is not at hand"):
        DeploymentWorkload(kube, "llm").ensure("green", named, 1)
    assert deployment(api)["spec"]["replicas"] == 0
    DeploymentWorkload(kube, "llm", contents={sha256(text.encode()): text}).ensure("green", named, 1)
    assert api.objects[CORE + "configmaps/llm-green"]["data"]["chat-template.jinja"] == text
    assert container(api)["args"][-3:-1] == ["--chat-template", "/etc/servegate/chat-template.jinja"]
    with pytest.raises(ConfigError, match="not at hand"):
        files(named, {sha256(text.encode()): "something else"})


@pytest.mark.parametrize(
    ("uri", "model"),
    [
        ("hf://org/name", "org/name"),
        ("pvc://claim/models/x", "/model/models/x"),
        ("oci://registry/x@sha256:1", "/model"),
        ("s3://bucket/x", "s3://bucket/x"),
        ("builtin://knowledge", "builtin://knowledge"),
    ],
)
def test_where_the_engine_finds_the_model(api: FakeKube, uri: str, model: str) -> None:
    made = arguments(release(model=Model(uri=uri, served_name="m")), deployment(api))
    assert made[:3] == [model, "--served-model-name", "m"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image": None}, "has no image"),
        ({"args": ("--port=1",)}, "argument --port follows from the manifest"),
        ({"args": ("--shutdown-timeout", "1")}, "argument --shutdown-timeout follows"),
        ({"env": {"HF_HOME": "/x"}}, "environment variable HF_HOME belongs to the manifest"),
    ],
)
def test_what_is_not_the_releases_to_decide(
    api: FakeKube, workload: DeploymentWorkload, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        workload.ensure("green", release(**changes), 1)
    assert deployment(api)["spec"]["replicas"] == 0


def test_pre_stop_drain_and_grace_fit_or_are_refused(api: FakeKube) -> None:
    item = deployment(api)
    assert drain_seconds(item) == 13
    item["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 12
    with pytest.raises(ConfigError, match="make it at least 18"):
        drain_seconds(item)


# --- writing ----------------------------------------------------------------------------------------------------------


def test_an_older_epoch_can_do_nothing(api: FakeKube, workload: DeploymentWorkload) -> None:
    deployment(api)["metadata"]["annotations"] = {"servegate.dev/epoch": "8"}
    with pytest.raises(FencedError, match="epoch 7 is over, Deployment llm-green is at 8"):
        workload.scale("green", 3)
    with pytest.raises(FencedError):
        workload.ensure("green", release(), 1)
    assert deployment(api)["spec"]["replicas"] == 0
    assert not [path for path in api.objects if "/configmaps/" in path]


def test_a_change_in_between_is_kept(api: FakeKube, workload: DeploymentWorkload) -> None:
    touched = False

    def others(method: str, path: str) -> None:
        nonlocal touched
        if method == "PATCH" and not touched:
            touched = True
            item = copy.deepcopy(api.objects[path])
            item["spec"]["template"]["spec"]["priorityClassName"] = "high"
            api.put(path, item)

    api.before = others
    workload.ensure("green", release(), 1)
    assert deployment(api)["spec"]["template"]["spec"]["priorityClassName"] == "high"
    assert deployment(api)["spec"]["replicas"] == 1


def test_what_may_not_be_done_is_told_in_the_api_servers_words(api: FakeKube, workload: DeploymentWorkload) -> None:
    words = 'deployments.apps "llm-green" is forbidden: User "x" cannot patch resource "deployments"'

    def forbid(method: str, _: str) -> None:
        if method == "PATCH":
            raise RefusedError(403, words)

    api.before = forbid
    with pytest.raises(KubeError, match="cannot patch resource"):
        workload.scale("green", 1)


def test_a_slot_that_is_gone(api: FakeKube, workload: DeploymentWorkload) -> None:
    del api.objects[f"{DEPLOYMENTS}llm-green"]
    with pytest.raises(InfrastructureError, match='deployments "llm-green" not found'):
        workload.status("green")


# --- status -----------------------------------------------------------------------------------------------------------


def settle(api: FakeKube, slot: str = "green") -> None:
    item = deployment(api, slot)
    count = item["spec"]["replicas"]
    numbers = {"replicas": count, "updatedReplicas": count, "availableReplicas": count}
    item["status"] = {"observedGeneration": item["metadata"]["generation"], **numbers}


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


# --- room -------------------------------------------------------------------------------------------------------------


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


# --- pods that the platform takes away --------------------------------------------------------------------------------


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
