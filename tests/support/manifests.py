"""The shipped manifests as kustomize renders them."""

from __future__ import annotations

import copy
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from servegate.release import Engine, Image, Model, Release

K8S = Path(__file__).parents[2] / "k8s"
OVERLAYS = sorted(path.name for path in (K8S / "overlays").iterdir())
COMPONENTS = sorted(path.parent.name for path in (K8S / "components").glob("*/kustomization.yaml"))
KUBECTL = Path(sys.executable).with_name("kubectl")

WITH_PODS = ("CronJob", "DaemonSet", "Deployment", "Job", "StatefulSet")

Object = dict[str, Any]

SIMULATED = Release(
    name="v2",
    image=Image(repository="servegate.test/simulator", digest="sha256:" + "2" * 64),
    model=Model(uri="builtin://knowledge", served_name="support"),
    engine=Engine(name="simulator", version="1"),
)
"""A release that the test cluster can run."""


@functools.cache
def rendered(overlay: str, *components: str) -> str:
    """`kubectl kustomize k8s/overlays/<overlay>`; with components as the overlay would list them."""
    folder = K8S / "overlays" / overlay
    if not components:
        return _kustomize(folder)
    with tempfile.TemporaryDirectory(prefix="servegate-overlay-") as place:
        copied = Path(place).resolve() / overlay
        shutil.copytree(folder, copied)
        file = copied / "kustomization.yaml"
        found = yaml.safe_load(file.read_text().replace("../../", os.path.relpath(K8S, copied) + "/"))
        wanted = [os.path.relpath(K8S / "components" / name, copied) for name in components]
        found["components"] = [*found.get("components", []), *wanted]
        file.write_text(yaml.safe_dump(found))
        return _kustomize(copied)


def _kustomize(folder: Path) -> str:
    run = subprocess.run([str(KUBECTL), "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "deprecated" not in run.stderr
    return run.stdout


def render_all(combinations: Iterable[tuple[str, ...]]) -> None:
    """Render several at once into the memory of `rendered`."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda combination: rendered(*combination), combinations))


@functools.cache
def _parsed(overlay: str, *components: str) -> list[Object]:
    return list(yaml.load_all(rendered(overlay, *components), yaml.CSafeLoader))


def documents(overlay: str, *components: str) -> list[Object]:
    """The same as documents, the caller's own."""
    return copy.deepcopy(_parsed(overlay, *components))


def added(overlay: str, *components: str) -> list[Object]:
    """What components add to an overlay or change in it."""
    before = _parsed(overlay)
    return [item for item in documents(overlay, *components) if item not in before]


def of_kind(overlay: str, kind: str, *components: str) -> dict[str, Object]:
    """The objects of a kind by name."""
    return {item["metadata"]["name"]: item for item in documents(overlay, *components) if item["kind"] == kind}


def pods_of(item: Object) -> list[Object]:
    """Pod templates in an object."""
    spec = item.get("spec", {})
    if item["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    if item["kind"] == "LLMInferenceService":  # has labels and pod specification apart
        return [{"metadata": {"labels": spec["labels"]}, "spec": spec["template"]}]
    return [spec["template"]] if item["kind"] in WITH_PODS else []


def placed(overlay: str, namespace: str, *components: str) -> list[Object]:
    """The overlay's objects in another namespace, reached through the gateway as host `<namespace>.test`."""
    found = documents(overlay, *components)
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
