"""Slots as KServe's LLMInferenceServices (serving.kserve.io/v1alpha2, KServe 0.20): `<app>-blue` and `<app>-green`.

KServe makes of each a Deployment `<name>-kserve` and a Service `<name>-kserve-workload-svc`; pods get `spec.labels` and
`spec.annotations`. Four things about it decide what is written here:

- The Deployment's selector has `spec.labels` and cannot change, so the release stands in `spec.annotations` alone.
- Its preset runs `vllm serve` on what `spec.model` names, with port, names and time to drain, by a line of shell that
  `args` are pasted into. A container with a command of its own gets them as they are.
- Everything is a Go template to it: `{{` in a release would be carried out.
- It does not say which generation its conditions are of, so one counts when it has stood for some time before our eyes.
"""

from __future__ import annotations

import json
import shlex
from typing import Any, ClassVar

from servegate.errors import ConfigError
from servegate.release import Release
from servegate.rollout.kube import KubeError, Object, metadata
from servegate.rollout.workloads.pod_problems import Problem, deployment_problem
from servegate.rollout.workloads.pod_template import (
    MAIN,
    RELEASE,
    added,
    annotated,
    environment,
    image_of,
    own_arguments,
)
from servegate.rollout.workloads.slots import SlotWorkload

SCHEMES = ("hf", "pvc", "oci", "s3")
"""Of models that KServe brings into a pod."""
SERVICE_SUFFIX = "-kserve-workload-svc"
DEPLOYMENT_SUFFIX = "-kserve"
OBSTACLES = ("PresetsCombined", "MainWorkloadReady", "WorkloadsReady")
"""Conditions that say why there is no Deployment."""
ORDINARY = frozenset({"MinimumReplicasUnavailable", "Progressing", ""})
"""Reasons of a Deployment whose pods are not ready yet; the pods say more."""


class KServeWorkload(SlotWorkload):
    """Fills the LLMInferenceServices of an app's slots."""

    kind: ClassVar[str] = "LLMInferenceService"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._noticed: dict[
            str, tuple[str, float]
        ] = {}  # by name: what KServe says against it, and since when we see it

    def service(self, slot: str) -> str:
        """Name of the Service that lists the slot's pods: KServe makes it."""
        return self._name(slot) + SERVICE_SUFFIX

    def _digest(self, item: Object) -> str | None:
        return (item["spec"].get("annotations") or {}).get(RELEASE)

    def _put(self, item: Object, release: Release) -> list[Object]:
        return change(item, release)

    def _pod_spec(self, item: Object) -> Object:
        return dict(item["spec"].get("template") or {})

    def _available(self, item: Object) -> int:
        # KServe's Deployment has no minReadySeconds, and its endpoint picker watches the pods.
        return int(item["spec"].get("replicas", 1))

    def _obstacle(self, item: Object) -> Problem | None:
        name = str(metadata(item)["name"])
        try:
            found = deployment_problem(self.kube.get("Deployment", name + DEPLOYMENT_SUFFIX))
        except KubeError as error:
            if not error.missing:
                raise
            found = None
        said = _said(item)
        if said is None:
            self._noticed.pop(name, None)
            return found
        if name not in self._noticed or self._noticed[name][0] != said:
            self._noticed[name] = (said, self.now())
        return found or Problem(said, False, self._noticed[name][1])

    def _settled(self, item: Object) -> bool:
        return _conditions(item).get("MainWorkloadReady", {}).get("status") == "True"


def change(item: Object, release: Release) -> list[Object]:
    """JSON Patch operations that put `release` into an LLMInferenceService. Pure.

    Raises:
        ConfigError: the release has no image, is nothing KServe can run, or takes what is the manifest's.
    """
    spec, name = item["spec"], metadata(item)["name"]
    containers = (spec.get("template") or {}).get("containers") or ()
    index = next((index for index, found in enumerate(containers) if found["name"] == MAIN), None)
    if index is None:
        raise ConfigError(f"LLMInferenceService {name}: its template has no container {MAIN!r}")
    container, at = containers[index], f"/spec/template/containers/{index}"
    wanted = {
        "image": image_of(release),
        "args": arguments(release, in_shell=not container.get("command")),
        "env": environment(spec.get("annotations") or {}, container, release),
    }
    model = {"uri": model_uri(release), "name": release.model.served_name}
    ours = json.dumps([wanted["image"], wanted["args"], release.env, model, release.name], ensure_ascii=False)
    if "{{" in ours:
        raise ConfigError(f"release {release.label()}: KServe would carry out the '{{{{' in it as a template")
    return [
        {"op": "test", "path": f"{at}/name", "value": MAIN},
        *({"op": "add", "path": f"{at}/{key}", "value": value} for key, value in wanted.items()),
        *({"op": "add", "path": f"/spec/model/{key}", "value": value} for key, value in model.items()),
        *added("/spec/annotations", spec.get("annotations"), annotated(release)),
    ]


def arguments(release: Release, *, in_shell: bool) -> list[str]:
    """What the container gets beyond what KServe's preset passes.

    Args:
        in_shell: they become part of a line of shell, so that each is quoted for it.

    Raises:
        ConfigError: an argument of the release is not the release's to give.
    """
    own = own_arguments(release)
    quoted = [shlex.quote(argument) for argument in own] if in_shell else own
    return [argument.replace("$(", "$$(") for argument in quoted]  # the kubelet would expand `$(NAME)`


def model_uri(release: Release) -> str:
    """Where KServe gets the weights: hf://owner/model:revision, or as the release says it.

    Raises:
        ConfigError: KServe knows no such place.
    """
    uri, scheme = release.model.uri, release.model.uri.partition("://")[0]
    if scheme not in SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise ConfigError(f"release {release.label()}: KServe does not bring a model from {uri}; it knows {known}")
    if scheme == "oci" and "@sha256:" not in uri:
        raise ConfigError(f"release {release.label()}: {uri} has no @sha256: digest; a tag moves")
    return f"{uri}:{release.model.revision}" if scheme == "hf" and release.model.revision else uri


def _said(item: Object) -> str | None:
    """What KServe says against making pods of it; None when it has nothing to say."""
    conditions = _conditions(item)
    for kind in OBSTACLES:
        found = conditions.get(kind, {})
        if found.get("status") == "False" and found.get("reason", "") not in ORDINARY:
            text = "".join(char if char.isprintable() else " " for char in str(found.get("message") or ""))
            return f"KServe says of {kind}: {found['reason']}: {text[:300]}"
    return None


def _conditions(item: Object) -> dict[str, Object]:
    return {found["type"]: found for found in (item.get("status") or {}).get("conditions") or ()}
