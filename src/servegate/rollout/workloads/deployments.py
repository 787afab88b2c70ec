"""Slots as Deployments of a cluster: `<app>-blue` and `<app>-green`, each with a Service and a ConfigMap so named."""

from __future__ import annotations

from typing import ClassVar

from servegate.release import Release
from servegate.rollout.kube import Object, annotations_of, metadata
from servegate.rollout.workloads.pod_problems import Problem, deployment_problem
from servegate.rollout.workloads.pod_template import RELEASE, change
from servegate.rollout.workloads.slots import SlotWorkload


class DeploymentWorkload(SlotWorkload):
    """Fills the Deployments of an app's slots."""

    kind: ClassVar[str] = "Deployment"

    def service(self, slot: str) -> str:
        """Name of the Service that lists the slot's pods: Git makes it beside the Deployment."""
        return self._name(slot)

    def _digest(self, item: Object) -> str | None:
        return annotations_of(item["spec"]["template"]).get(RELEASE)

    def _put(self, item: Object, release: Release) -> list[Object]:
        return change(item, release)

    def _pod_spec(self, item: Object) -> Object:
        return dict(item["spec"]["template"]["spec"])

    def _available(self, item: Object) -> int:
        # A gateway has had time to hear of a pod when it is available (minReadySeconds).
        return int((item.get("status") or {}).get("availableReplicas", 0))

    def _obstacle(self, item: Object) -> Problem | None:
        return deployment_problem(item)

    def _settled(self, item: Object) -> bool:
        status, replicas = item.get("status") or {}, int(item["spec"].get("replicas", 1))
        return status.get("observedGeneration") == metadata(item)["generation"] and all(
            int(status.get(key, 0)) == replicas for key in ("replicas", "updatedReplicas", "availableReplicas")
        )
