"""What of a Deployment is the release's, and who may write it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from deployment_slots import CORE, DEPLOYMENTS, container, deployment, release
from fake_kube import FakeKube, RefusedError

from servegate.contract import sha256
from servegate.errors import ConfigError, InfrastructureError
from servegate.release import File, Model, Release
from servegate.rollout.kube import Kube, KubeError
from servegate.rollout.ports import FencedError
from servegate.rollout.workloads.deployments import DeploymentWorkload
from servegate.rollout.workloads.pod_template import arguments, drain_seconds, files


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
