"""Deployments on the fake API server whose pods are processes: controller, scheduler and kubelet of a unit test."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from fake_kube import FakeKube, Object

from servegate.process import tail
from servegate.release import Release
from servegate.rollout.workloads.processes import ProcessWorkload

NAMESPACE = "namespaces/llm"
_NOW = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def empty_deployment(name: str, slot: str) -> Object:
    """A slot as Git makes it."""
    labels = {"servegate.dev/slot": slot, "app.kubernetes.io/component": "engine"}
    container = {
        "name": "engine",
        "image": "example.invalid/none",
        "ports": [{"name": "http", "containerPort": 8000}],
        "env": [{"name": "HF_HOME", "value": "/cache"}],
        "lifecycle": {"preStop": {"sleep": {"seconds": 2}}},
        "resources": {"limits": {"nvidia.com/gpu": "1"}},
    }
    spec = {"terminationGracePeriodSeconds": 30, "containers": [container]}
    return {
        "metadata": {"name": name, "labels": labels},
        "spec": {"replicas": 0, "template": {"metadata": {"labels": labels}, "spec": spec}},
    }


class FakeDeployments:
    """Follows the Deployments `llm-<slot>`; `engines` are their pods."""

    def __init__(self, engines: ProcessWorkload, slots: Sequence[str]) -> None:
        self.api, self.engines, self.slots = FakeKube(), engines, slots
        for slot in slots:
            self.api.put(self.path("deployments", slot), empty_deployment(f"llm-{slot}", slot))
            port = int(engines.address(slot).rpartition(":")[2])
            spec = {"clusterIP": "127.0.0.1", "ports": [{"name": "http", "port": port}]}
            self.api.put(self.path("services", slot), {"spec": spec})
        self.api.look = self._follow

    def close(self) -> None:
        self.api.close()
        self.engines.close()

    @staticmethod
    def path(kind: str, slot: str) -> str:
        group = "/apis/apps/v1" if kind == "deployments" else "/api/v1"
        return f"{group}/{NAMESPACE}/{kind}/llm-{slot}"

    def _follow(self, path: str) -> None:
        """Before each answer: Deployments to processes, processes to pods."""
        for key in [key for key in self.api.objects if "/pods/" in key]:
            del self.api.objects[key]
        for slot in self.slots:
            deployment = self.api.objects[self.path("deployments", slot)]
            config = self.api.objects.get(self.path("configmaps", slot))
            wanted = deployment["spec"]["replicas"]
            if wanted and config is not None:
                self.engines.ensure(slot, Release.model_validate(json.loads(config["data"]["release.json"])), wanted)
                self.engines.scale(slot, wanted)
            else:
                self.engines.scale(slot, 0)
            status = self.engines.status(slot)
            deployment["status"] = {
                "observedGeneration": deployment["metadata"]["generation"],
                "replicas": wanted,
                "updatedReplicas": wanted,
                "availableReplicas": status.ready,
            }
            item = self.engines._slots[slot]
            endpoints: list[Object] = []
            for replica in [*item.running.values(), *item.leaving]:
                meta = dict(deployment["spec"]["template"]["metadata"])
                if replica in item.leaving:
                    meta["deletionTimestamp"] = _NOW
                name = f"{replica.digest[7:12]}-{replica.index}"
                self._pod(name, meta, replica)
                endpoints.append({"targetRef": {"name": name}, "conditions": {"ready": replica.ready}})
            labels = {"kubernetes.io/service-name": f"llm-{slot}"}
            slices = f"/apis/discovery.k8s.io/v1/{NAMESPACE}/endpointslices/llm-{slot}-x"
            self.api.put(slices, {"metadata": {"labels": labels}, "endpoints": endpoints})

    def _pod(self, name: str, meta: Object, replica: Any) -> None:
        code = replica.child.returncode
        state: Object = {"running": {"startedAt": _NOW}}
        if code is not None:
            said = "\n".join(tail(replica.child.log))
            state = {"terminated": {"exitCode": code, "message": said, "startedAt": _NOW}}
        condition = {"type": "Ready", "status": "True" if replica.ready else "False", "lastTransitionTime": _NOW}
        status = {
            "phase": "Running",
            "conditions": [condition],
            "containerStatuses": [{"name": "engine", "restartCount": 0, "state": state}],
        }
        path = f"/api/v1/{NAMESPACE}/pods/{name}"
        self.api.put(path, {"metadata": {**meta, "name": name, "namespace": "llm"}, "spec": {}, "status": status})
