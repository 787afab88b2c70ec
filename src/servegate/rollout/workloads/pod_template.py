"""Release → pod template. Pure.

A slot's Deployment comes from Git with everything that belongs to the place: probes, resources, volumes, rights,
references to secrets. What decides the answers comes from the release and from nowhere else: image, arguments,
environment, files, and the claim or image with the weights. Only these fields are touched, and Git touches none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from servegate.contract import sha256
from servegate.errors import ConfigError
from servegate.release import File, Release
from servegate.rollout.kube import ANNOTATION, Object, annotations_of

ENGINE = "engine"
"""Name of the container that serves."""
MAIN = "main"
"""The same in what KServe makes."""
PORT_NAME = "http"
FILES = "/etc/servegate"
"""Where the slot's ConfigMap is mounted."""
_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
RELEASE = f"{ANNOTATION}release"
"""Label: id of the release. Annotation: its digest."""
NAME = f"{ANNOTATION}release-name"
OWN_ENV = f"{ANNOTATION}release-env"
"""Annotation: names of the environment variables that are the release's."""
MODEL = "model"
"""Volume that has the weights, where a component brings one."""
LEAVE = 15
"""Seconds between the end of the engine's own drain and SIGKILL."""


def engine_container(item: Object) -> tuple[int, Object]:
    """Index and document of the container that serves, in a Deployment or a pod.

    Raises:
        ConfigError: there is none.
    """
    for index, container in enumerate(_spec(item)["containers"]):
        if container["name"] == ENGINE:
            return index, container
    raise ConfigError(f"{item['metadata']['name']}: has no container {ENGINE!r}")


def port_of(item: Object) -> int:
    """Port at which a slot is reached, in a Deployment or a pod: the engine's own, or of what stands before it.

    Raises:
        ConfigError: no port has the name http.
    """
    for container in _spec(item)["containers"]:
        for found in container.get("ports") or ():
            if found.get("name") == PORT_NAME:
                return int(found["containerPort"])
    raise ConfigError(f"{item['metadata']['name']}: no container has a port {PORT_NAME!r}")


def engine_port(item: Object) -> int:
    """Port the engine itself listens at: the one named http, or its first where another container has that name.

    Raises:
        ConfigError: the container of the engine has no port.
    """
    ports = engine_container(item)[1].get("ports") or ()
    for found in sorted(ports, key=lambda port: port.get("name") != PORT_NAME):
        return int(found["containerPort"])
    raise ConfigError(f"{item['metadata']['name']}: container {ENGINE} has no port {PORT_NAME!r}")


def drain_seconds(deployment: Object) -> int:
    """Seconds an engine has to finish its answers after SIGTERM: the grace period less preStop, and some to leave.

    Raises:
        ConfigError: the grace period is too short for its preStop.
    """
    grace = int(_spec(deployment).get("terminationGracePeriodSeconds", 30))
    pre_stop = engine_container(deployment)[1].get("lifecycle", {}).get("preStop", {})
    pause = int(pre_stop.get("sleep", {}).get("seconds", 0))
    left = grace - pause - LEAVE
    if left < 1:
        raise ConfigError(
            f"Deployment {deployment['metadata']['name']}: terminationGracePeriodSeconds {grace} leaves no time to "
            f"finish answers after a preStop of {pause} s; make it at least {pause + LEAVE + 1}"
        )
    return left


def arguments(release: Release, deployment: Object) -> list[str]:
    """Arguments of the engine, with what follows from the place: port and time to drain.

    Raises:
        ConfigError: an argument of the release is not the release's to give.
    """
    own = own_arguments(release)
    scheme, _, place = release.model.uri.partition("://")
    if scheme == "hf":
        model = place
    elif scheme == "pvc":  # pvc://claim/path; the claim is mounted at /model
        model = "/model/" + place.partition("/")[2]
    elif scheme == "oci":
        model = "/model"
    else:
        model = release.model.uri
    made = [model] if release.engine.name == "vllm" else ["--model", model]
    made += ["--served-model-name", release.model.served_name]
    if scheme == "hf" and release.model.revision and release.engine.name == "vllm":
        made += ["--revision", release.model.revision]
    made += ["--host", "0.0.0.0", "--port", str(engine_port(deployment))]  # noqa: S104  a pod's address is not known before
    made += ["--shutdown-timeout", str(drain_seconds(deployment))]
    return [*made, *own]


def own_arguments(release: Release) -> list[str]:
    """Arguments of the engine that follow from nothing but the release.

    Raises:
        ConfigError: an argument of the release is not the release's to give.
    """
    reserved = (
        "--port",
        "--host",
        "--model",
        "--served-model-name",
        "--revision",
        "--shutdown-timeout",
        "--chat-template",
    )
    for argument in release.args:
        name = argument.partition("=")[0]
        if name in reserved:
            raise ConfigError(f"release {release.label()}: argument {name} follows from the manifest or the model")
    made = [] if release.chat_template is None else ["--chat-template", f"{FILES}/chat-template.jinja"]
    return [*made, *release.args]


def files(release: Release, contents: Mapping[str, str]) -> dict[str, str]:
    """What the slot's ConfigMap holds.

    Args:
        contents: text by sha256, of the files the release names.

    Raises:
        ConfigError: a file's content is not at hand or is not what the release names.
    """
    made = {"release.json": json.dumps(release.model_dump(mode="json", exclude_none=True), sort_keys=True)}
    wanted: tuple[tuple[str, File | None], ...] = (
        ("chat-template.jinja", release.chat_template),
        ("system-prompt.txt", release.system_prompt),
    )
    for name, file in wanted:
        if file is None:
            continue
        text = contents.get(file.sha256)
        if text is None or sha256(text.encode()) != file.sha256:
            raise ConfigError(f"release {release.label()}: the content of {file.path or name} is not at hand")
        made[name] = text
    return made


def change(deployment: Object, release: Release) -> list[Object]:
    """JSON Patch operations that put `release` into the Deployment's pod template.

    Raises:
        ConfigError: the release has no image, or takes what is the manifest's.
    """
    image = image_of(release)
    index, container = engine_container(deployment)
    at = f"/spec/template/spec/containers/{index}"
    template = deployment["spec"]["template"]
    patch: list[Object] = [
        {"op": "test", "path": f"{at}/name", "value": ENGINE},
        {"op": "add", "path": f"{at}/image", "value": image},
        {"op": "add", "path": f"{at}/args", "value": arguments(release, deployment)},
        {"op": "add", "path": f"{at}/env", "value": environment(annotations_of(template), container, release)},
        *_model_volume(deployment, release),
    ]
    at, found = "/spec/template/metadata", template["metadata"]
    return [
        *patch,
        *added(f"{at}/labels", found.get("labels"), {RELEASE: release.id}),
        *added(f"{at}/annotations", found.get("annotations"), annotated(release)),
    ]


def image_of(release: Release) -> str:
    """The release's image by digest. Raises ConfigError when it has none."""
    if release.image is None:
        raise ConfigError(f"release {release.label()}: has no image; a cluster runs nothing without one")
    return f"{release.image.repository}@{release.image.digest}"


def annotated(release: Release) -> dict[str, str]:
    """What a pod says of the release it runs."""
    return {RELEASE: release.identity(), NAME: release.name, OWN_ENV: ",".join(sorted(release.env))}


def added(place: str, before: object, values: Mapping[str, str]) -> list[Object]:
    """Operations that add `values` to the map at `place`, which is made where there is none."""
    made: list[Object] = [{"op": "add", "path": place, "value": {}}] if before is None else []
    return [*made, *({"op": "add", "path": f"{place}/{_escaped(key)}", "value": text} for key, text in values.items())]


def _model_volume(deployment: Object, release: Release) -> list[Object]:
    """Operations that put the release's claim or image of weights into volume `model`; nothing where it has neither."""
    scheme, _, place = release.model.uri.partition("://")
    volume: Object = {"name": MODEL, "emptyDir": {}}
    if scheme == "pvc":
        volume = {"name": MODEL, "persistentVolumeClaim": {"claimName": place.partition("/")[0], "readOnly": True}}
    elif scheme == "oci":
        if not _DIGEST.search(place):
            raise ConfigError(f"release {release.label()}: {release.model.uri} has no @sha256: digest; a tag moves")
        volume = {"name": MODEL, "image": {"reference": place, "pullPolicy": "IfNotPresent"}}
    volumes = _spec(deployment).get("volumes") or ()
    for index, found in enumerate(volumes):
        if found["name"] == MODEL:
            at = f"/spec/template/spec/volumes/{index}"
            if found == volume:
                return []
            return [
                {"op": "test", "path": f"{at}/name", "value": MODEL},
                {"op": "replace", "path": at, "value": volume},
            ]
    if "emptyDir" not in volume:
        raise ConfigError(
            f"release {release.label()}: its weights are in {release.model.uri}, and Deployment "
            f"{deployment['metadata']['name']} has no volume {MODEL!r}; component model-{scheme} brings it"
        )
    return []


def environment(before: Mapping[str, str], container: Object, release: Release) -> list[Object]:
    """The container's environment with the release's variables in place of those of the one before.

    Args:
        before: the pods' annotations as they are.

    Raises:
        ConfigError: a variable of the release belongs to the manifest.
    """
    theirs = set(before.get(OWN_ENV, "").split(","))
    kept = [item for item in container.get("env") or () if item["name"] not in theirs]
    taken = sorted({item["name"] for item in kept} & set(release.env))
    if taken:
        raise ConfigError(f"release {release.label()}: environment variable {taken[0]} belongs to the manifest")
    # `$(NAME)` would be expanded by the kubelet; a release means what it says.
    return kept + [{"name": name, "value": value.replace("$(", "$$(")} for name, value in sorted(release.env.items())]


def _spec(item: Object) -> dict[str, Any]:
    """Of a pod, also of the pod in a Deployment."""
    spec: dict[str, Any] = item["spec"]
    return dict(spec["template"]["spec"]) if "template" in spec else spec


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
