"""A namespace with two empty slots at an API server made for tests, and what happens to their pods."""

from __future__ import annotations

import copy
from typing import Any

from fake_kube import FakeKube, Object

from servegate.release import Engine, Image, Model, Release

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


def settle(api: FakeKube, slot: str = "green") -> None:
    item = deployment(api, slot)
    count = item["spec"]["replicas"]
    numbers = {"replicas": count, "updatedReplicas": count, "availableReplicas": count}
    item["status"] = {"observedGeneration": item["metadata"]["generation"], **numbers}
