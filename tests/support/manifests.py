"""The shipped manifests as kustomize renders them."""

from __future__ import annotations

import copy
import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from servegate.release import Engine, Image, Model, Release

K8S = Path(__file__).parents[2] / "k8s"
OVERLAYS = sorted(path.name for path in (K8S / "overlays").iterdir())
KUBECTL = Path(sys.executable).with_name("kubectl")

Object = dict[str, Any]

SIMULATED = Release(
    name="v2",
    image=Image(repository="servegate.test/simulator", digest="sha256:" + "2" * 64),
    model=Model(uri="builtin://knowledge", served_name="support"),
    engine=Engine(name="simulator", version="1"),
)
"""A release that the test cluster can run."""


@functools.cache
def rendered(overlay: str) -> str:
    """`kubectl kustomize k8s/overlays/<overlay>`."""
    command = [str(KUBECTL), "kustomize", str(K8S / "overlays" / overlay)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "deprecated" not in run.stderr
    return run.stdout


@functools.cache
def _parsed(overlay: str) -> list[Object]:
    return list(yaml.safe_load_all(rendered(overlay)))


def documents(overlay: str) -> list[Object]:
    """The same as documents, the caller's own."""
    return copy.deepcopy(_parsed(overlay))


def of_kind(overlay: str, kind: str) -> dict[str, Object]:
    """The objects of a kind by name."""
    return {item["metadata"]["name"]: item for item in documents(overlay) if item["kind"] == kind}


def placed(overlay: str, namespace: str) -> list[Object]:
    """The overlay's objects in another namespace, reached through the gateway as host `<namespace>.test`."""
    found = documents(overlay)
    for item in found:
        if item["kind"] == "Namespace":
            item["metadata"]["name"] = namespace
        else:
            item["metadata"]["namespace"] = namespace
        if item["kind"] == "HTTPRoute":
            item["spec"]["hostnames"] = [f"{namespace}.test"]
        for subject in item.get("subjects", ()):
            subject["namespace"] = namespace
    return found
