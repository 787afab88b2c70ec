"""Who takes a pod away: what the pod says, else the taints of its node, where they may be read."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from servegate.rollout.kube import Kube, KubeError, Object
from servegate.rollout.ports import Reclaimed
from servegate.rollout.workloads.pod_reclaims import reclaimed, suspicious

FRESH = 5.0
"""Seconds for which one reading of a node's taints serves."""


class Takers:
    """Asks for a node only where a pod of it looks taken.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, kube: Kube, clock: Callable[[], float]) -> None:
        self.kube, self.clock = kube, clock
        self._taints: dict[str, tuple[float, Sequence[Object]]] = {}
        self._may_read_nodes = True

    def reclaimed(self, pod: Object) -> Reclaimed | None:
        """The pod with the platform's reason when the platform takes it away; None when nobody says so."""
        said = reclaimed(pod)
        node = (pod.get("spec") or {}).get("nodeName")
        if said is not None or node is None or not suspicious(pod):
            return said
        return reclaimed(pod, self._taints_of(node))

    def _taints_of(self, node: str) -> Sequence[Object]:
        """Taints of a node, read now and then; none where nodes may not be read."""
        known = self._taints.get(node)
        if known is not None and self.clock() - known[0] < FRESH:
            return known[1]
        taints: Sequence[Object] = ()
        if self._may_read_nodes:
            try:
                taints = (self.kube.call("GET", f"/api/v1/nodes/{node}").get("spec") or {}).get("taints") or ()
            except KubeError as error:
                self._may_read_nodes = error.status != 403  # anything else: what the node says is not known
        self._taints = {name: seen for name, seen in self._taints.items() if self.clock() - seen[0] < FRESH}
        self._taints[node] = self.clock(), taints
        return taints
