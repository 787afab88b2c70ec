"""LLMInferenceServices as slots: what of them is the release's, and what KServe says against them."""

from __future__ import annotations

import copy
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import deployment_slots
import pytest
import yaml
from deployment_slots import CORE, T0, Clock
from fake_kube import FakeKube, Object

from servegate.contract import sha256
from servegate.errors import ConfigError
from servegate.release import File, Model, Release
from servegate.rollout.kube import Kube
from servegate.rollout.ports import FencedError
from servegate.rollout.workloads.kserve import KServeWorkload, arguments, model_uri

SERVICES = "/apis/serving.kserve.io/v1alpha2/namespaces/llm/llminferenceservices/"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/llm/endpointslices/"
DEPLOYMENT = "/apis/apps/v1/namespaces/llm/deployments/llm-green-kserve"
SHIPPED = Path(__file__).parents[3] / "k8s/components/kserve/services.yaml"


def release(**changes: Any) -> Release:
    revised = Model(uri="hf://org/model", revision="abc", served_name="support")
    args = ("--max-num-seqs=64", '--hf-overrides={"a": "b c"}')
    return deployment_slots.release(**{"model": revised, "args": args, **changes})


@pytest.fixture
def api() -> Iterator[FakeKube]:
    fake = FakeKube()
    for item in yaml.safe_load_all(SHIPPED.read_text("utf-8")):
        fake.put(SERVICES + item["metadata"]["name"], item)
    yield fake
    fake.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def workload(api: FakeKube, clock: Clock, tmp_path: Path) -> KServeWorkload:
    return KServeWorkload(Kube(kubeconfig=api.kubeconfig(tmp_path)), "llm", clock=clock, now=clock, epoch=lambda: 7)


def service(api: FakeKube, slot: str = "green") -> Object:
    return api.objects[f"{SERVICES}llm-{slot}"]


def main(api: FakeKube) -> Object:
    (found,) = service(api)["spec"]["template"]["containers"]
    assert isinstance(found, dict)
    return found


def pod(api: FakeKube, name: str, *, listed: bool = True, **status: Any) -> None:
    """A pod as KServe makes it of what the slot wants now; ready unless said."""
    spec = service(api)["spec"]
    conditions = [{"type": "Ready", "status": "True", "lastTransitionTime": T0}]
    meta = {"name": name, "namespace": "llm", "labels": spec["labels"], "annotations": spec["annotations"]}
    found = {"phase": "Running", "podIP": "10.0.0.7", "conditions": conditions, **status}
    api.put(f"{CORE}pods/{name}", copy.deepcopy({"metadata": meta, "spec": spec["template"], "status": found}))
    labels = {"kubernetes.io/service-name": "llm-green-kserve-workload-svc"}
    endpoints = [{"targetRef": {"name": name}, "conditions": {"ready": True}}] if listed else []
    api.put(f"{SLICES}llm-green-x", {"metadata": {"labels": labels}, "endpoints": endpoints})


# --- the release in the spec ------------------------------------------------------------------------------------------


def test_everything_that_decides_answers_comes_from_the_release(api: FakeKube, workload: KServeWorkload) -> None:
    before = copy.deepcopy(service(api))
    workload.ensure("green", release(), 2)
    found = service(api)
    assert found["metadata"]["annotations"] == {"servegate.dev/epoch": "7"}
    spec = found["spec"]
    assert spec["replicas"] == 2
    assert spec["model"] == {"uri": "hf://org/model:abc", "name": "support"}
    assert spec["annotations"] == {
        "servegate.dev/release": release().identity(),
        "servegate.dev/release-name": "v2",
        "servegate.dev/release-env": "VLLM_LOGGING_LEVEL",
    }
    assert main(api)["image"] == "registry.example/llm@sha256:" + "a" * 64
    # KServe's preset makes them part of a line of shell.
    assert shlex.split(" ".join(main(api)["args"])) == list(release().args)
    assert main(api)["env"] == [{"name": "VLLM_LOGGING_LEVEL", "value": "INFO"}]
    # Nothing else: labels are in the selector of KServe's Deployment, and weight is the router's.
    for key in ("labels", "router"):
        assert spec[key] == before["spec"][key]
    theirs, ours = before["spec"]["template"], spec["template"]
    assert {**theirs, "containers": None} == {**ours, "containers": None}
    assert {key: value for key, value in main(api).items() if key not in ("args", "env", "image")} == {
        key: value for key, value in theirs["containers"][0].items() if key != "image"
    }
    assert api.objects[f"{CORE}configmaps/llm-green"]["immutable"] is True
    assert workload.release("green") == release()


def test_the_next_release_leaves_nothing_of_the_one_before(api: FakeKube, workload: KServeWorkload) -> None:
    workload.ensure("green", release(), 1)
    other = release(name="v3", args=(), env={"A": "$(B)"}, model=Model(uri="s3://bucket/m", served_name="support"))
    workload.ensure("green", other, 1)
    assert service(api)["spec"]["model"] == {"uri": "s3://bucket/m", "name": "support"}
    assert main(api)["args"] == []
    assert main(api)["env"] == [{"name": "A", "value": "$$(B)"}]
    generation = service(api)["metadata"]["generation"]
    workload.ensure("green", other, 1)
    assert service(api)["metadata"]["generation"] == generation


def test_a_template_of_the_release_is_mounted_where_the_engine_is_told(api: FakeKube, workload: KServeWorkload) -> None:
    text = "{{ messages }}"
    named = release(args=(), chat_template=File(path="chat.jinja", sha256=sha256(text.encode())))
    workload.contents = {sha256(text.encode()): text}
    workload.ensure("green", named, 1)
    assert main(api)["args"] == ["--chat-template", "/etc/servegate/chat-template.jinja"]
    assert api.objects[f"{CORE}configmaps/llm-green"]["data"]["chat-template.jinja"] == text
    (volume,) = service(api)["spec"]["template"]["volumes"]
    assert volume == {"name": "release", "configMap": {"name": "llm-green"}}


def test_a_command_of_the_manifests_own_gets_arguments_as_they_are() -> None:
    given = release(args=("--a=b c", "$(HOME)", "`id`; $HOME"))
    assert arguments(given, in_shell=False) == ["--a=b c", "$$(HOME)", "`id`; $HOME"]
    assert arguments(given, in_shell=True) == ["'--a=b c'", "'$$(HOME)'", "'`id`; $HOME'"]


def test_where_kserve_gets_the_weights() -> None:
    def uri(text: str, revision: str | None = None) -> str:
        return model_uri(release(model=Model(uri=text, revision=revision, served_name="m")))

    digest = "oci://registry.example/m@sha256:" + "b" * 64
    assert uri("hf://org/m") == "hf://org/m"
    assert uri("hf://org/m", "1" * 40) == "hf://org/m:" + "1" * 40
    assert uri("pvc://claim/m", "1") == "pvc://claim/m"
    assert uri(digest) == digest


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image": None}, "has no image"),
        ({"args": ("--port=1",)}, "argument --port follows from"),
        ({"args": ('--x={{ env "A" }}',)}, "KServe would carry out the '{{' in it"),
        ({"env": {"A": "{{.Spec}}"}}, "KServe would carry out the '{{' in it"),
        ({"model": Model(uri="file:///m", served_name="m")}, "KServe does not bring a model from file:///m"),
        ({"model": Model(uri="oci://registry.example/m:v1", served_name="m")}, "a tag moves"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_changed(
    api: FakeKube, workload: KServeWorkload, changes: dict[str, Any], said: str
) -> None:
    before = copy.deepcopy(api.objects)
    with pytest.raises(ConfigError, match=said):
        workload.ensure("green", release(**changes), 1)
    assert api.objects == before


def test_a_variable_or_a_container_that_is_the_manifests(api: FakeKube, workload: KServeWorkload) -> None:
    main(api)["env"] = [{"name": "VLLM_LOGGING_LEVEL", "value": "DEBUG"}]
    with pytest.raises(ConfigError, match="VLLM_LOGGING_LEVEL belongs to the manifest"):
        workload.ensure("green", release(), 1)
    main(api)["name"] = "engine"
    with pytest.raises(ConfigError, match="llm-green: its template has no container 'main'"):
        workload.ensure("green", release(), 1)


def test_an_older_epoch_can_do_nothing(api: FakeKube, workload: KServeWorkload) -> None:
    service(api)["metadata"]["annotations"] = {"servegate.dev/epoch": "8"}
    with pytest.raises(FencedError, match="epoch 7 is over, LLMInferenceService llm-green is at 8"):
        workload.ensure("green", release(), 1)
    with pytest.raises(FencedError):
        workload.scale("green", 0)


# --- what runs --------------------------------------------------------------------------------------------------------


def test_a_pod_is_ready_when_kserves_service_lists_it(api: FakeKube, workload: KServeWorkload, clock: Clock) -> None:
    workload.ensure("green", release(), 1)
    pod(api, "a", listed=False)
    status = workload.status("green")
    assert (status.ready, status.message) == (0, "0 of 1 listed by Service llm-green-kserve-workload-svc")
    pod(api, "a")
    clock.at += 1
    assert workload.status("green").ready == 1
    (target,) = workload.targets()
    assert (target.slot, target.url, target.release) == ("green", "http://10.0.0.7:8000", release().identity())


def test_the_address_is_kserves_service_and_speaks_http(api: FakeKube, workload: KServeWorkload) -> None:
    ports = [{"name": "http", "port": 8000}]
    api.put(f"{CORE}services/llm-green-kserve-workload-svc", {"spec": {"clusterIP": "10.1.0.1", "ports": ports}})
    assert workload.address("green") == "http://10.1.0.1:8000"
    ports[0]["name"] = "https"
    api.put(f"{CORE}services/llm-green-kserve-workload-svc", {"spec": {"clusterIP": "10.1.0.1", "ports": ports}})
    with pytest.raises(ConfigError, match="asks over HTTP"):
        workload.address("green")


def test_a_model_that_cannot_be_brought_fails_the_slot(api: FakeKube, workload: KServeWorkload) -> None:
    workload.ensure("green", release(), 1)
    ended = {"exitCode": 1, "message": "401 Client Error: org/model is gated", "startedAt": T0}
    containers = [{"name": "storage-initializer", "state": {"terminated": ended}}]
    conditions = [{"type": "Ready", "status": "False", "lastTransitionTime": T0}]
    pod(api, "a", conditions=conditions, initContainerStatuses=containers)
    failed = workload.status("green").failed
    assert failed is not None
    assert "storage-initializer ended with status 1; it said: 401 Client Error" in failed


def test_an_engine_that_ends_well_has_ended(api: FakeKube, workload: KServeWorkload) -> None:
    workload.ensure("green", release(), 1)
    conditions = [{"type": "Ready", "status": "False", "lastTransitionTime": T0}]
    state = {"terminated": {"exitCode": 0, "startedAt": T0}}
    pod(api, "a", conditions=conditions, containerStatuses=[{"name": "main", "restartCount": 0, "state": state}])
    assert "main ended with status 0" in str(workload.status("green").failed)


def test_what_kserve_says_counts_when_it_has_stood_for_some_time(
    api: FakeKube, workload: KServeWorkload, clock: Clock
) -> None:
    """It does not say of which generation it speaks: what it said of the release before must not end this one."""
    workload.ensure("green", release(), 1)

    def says(kind: str, reason: str, message: str) -> None:
        condition = {"type": kind, "status": "False", "reason": reason, "message": message, "lastTransitionTime": T0}
        service(api)["status"] = {"conditions": [condition]}
        clock.at += 61

    says("MainWorkloadReady", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    assert workload.status("green").message == "0 of 1 ready"
    says("PresetsCombined", "ConfigNotFound", "no\x1b config")
    status = workload.status("green")
    assert (status.failed, status.message) == (None, "KServe says of PresetsCombined: ConfigNotFound: no  config")
    clock.at += 59
    assert workload.status("green").failed is None
    clock.at += 2
    assert workload.status("green").failed == status.message
    says("MainWorkloadReady", "ReconcileSingleNodeWorkloadError", "OCI modelcars is not enabled")
    assert workload.status("green").failed is None
    clock.at += 61
    assert "OCI modelcars is not enabled" in str(workload.status("green").failed)


def test_pods_that_may_not_be_made_are_told_by_kserves_deployment(api: FakeKube, workload: KServeWorkload) -> None:
    workload.ensure("green", release(), 1)
    condition = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: gpus"}
    api.put(DEPLOYMENT, {"metadata": {"name": "llm-green-kserve"}, "status": {"conditions": [condition]}})
    assert workload.status("green").failed == "no pod can be made: exceeded quota: gpus"
