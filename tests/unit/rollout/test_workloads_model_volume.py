"""Weights in a claim or an image: the volume is the release's, Git brings its place."""

from __future__ import annotations

from typing import Any

import pytest
from fake_deployments import empty_deployment

from servegate.errors import ConfigError
from servegate.release import Engine, Image, Model, Release
from servegate.rollout.workloads.pod_template import change

DIGEST = "sha256:" + "b" * 64


def release(uri: str) -> Release:
    return Release(
        name="v2",
        image=Image(repository="registry.example/llm", digest="sha256:" + "a" * 64),
        model=Model(uri=uri, served_name="support"),
        engine=Engine(name="vllm", version="0.29.0"),
    )


def volume(uri: str, *, there: bool = True) -> Any:
    """What the change puts into volume `model`, which is the second here; None: it leaves it."""
    deployment = empty_deployment("llm-blue", "blue")
    if there:
        volumes = [{"name": "cache", "emptyDir": {}}, {"name": "model", "persistentVolumeClaim": {"claimName": "none"}}]
        deployment["spec"]["template"]["spec"]["volumes"] = volumes
    patch = change(deployment, release(uri))
    found = [step["value"] for step in patch if step["path"] == "/spec/template/spec/volumes/1"]
    assert bool(found) == ({"op": "test", "path": "/spec/template/spec/volumes/1/name", "value": "model"} in patch)
    return found[0] if found else None


def test_a_claim_is_mounted_by_its_name_and_read_only() -> None:
    claim = {"claimName": "weights", "readOnly": True}
    assert volume("pvc://weights/qwen/8b") == {"name": "model", "persistentVolumeClaim": claim}


def test_an_image_is_mounted_by_its_digest() -> None:
    image = {"reference": f"registry.example/qwen@{DIGEST}", "pullPolicy": "IfNotPresent"}
    assert volume(f"oci://registry.example/qwen@{DIGEST}") == {"name": "model", "image": image}


def test_an_image_by_tag_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"oci://registry\.example/qwen:8b has no @sha256: digest"):
        volume("oci://registry.example/qwen:8b")


def test_weights_from_elsewhere_leave_nothing_of_another_release_there() -> None:
    assert volume("hf://org/model") == {"name": "model", "emptyDir": {}}
    assert volume("hf://org/model", there=False) is None


@pytest.mark.parametrize(("uri", "name"), [("pvc://weights/qwen", "model-pvc"), (f"oci://r/q@{DIGEST}", "model-oci")])
def test_a_deployment_without_the_volume_is_refused_with_the_component_that_brings_it(uri: str, name: str) -> None:
    with pytest.raises(ConfigError, match=f"llm-blue has no volume 'model'; component {name} brings it"):
        volume(uri, there=False)
