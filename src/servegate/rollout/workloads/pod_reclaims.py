"""Whether the platform takes a pod away, from what it writes into the pod and into its node. Pure.

An eviction, a preemption and a node that is shut down are no fault of the release; an engine that crashes, runs out of
memory or is deleted with its Deployment is none of these. Sources: conditions and reasons of a Pod as Kubernetes 1.26
and later write them (`DisruptionTarget`; pod lifecycle, "Pod disruption conditions"), reasons of the kubelet (eviction,
preemption for a critical pod, graceful node shutdown), and the taints by which clouds and autoscalers announce the end
of a node.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from servegate.rollout.kube import Object, metadata
from servegate.rollout.ports import Reclaimed

REASONS = frozenset({"Evicted", "Preempting", "Preempted", "NodeShutdown", "NodeLost", "TerminationByKubelet"})
"""`status.reason` of a pod that its node has given up."""
SHUTDOWN = "Terminated"
"""The same, of a graceful node shutdown; other things are called that too, so the message must say it."""
TAINTS = frozenset(
    {
        "node.kubernetes.io/out-of-service",
        "node.kubernetes.io/unreachable",
        "node.cloudprovider.kubernetes.io/shutdown",
        "ToBeDeletedByClusterAutoscaler",
        "karpenter.sh/disrupted",
        "karpenter.sh/disruption",
        "cloud.google.com/impending-node-termination",
        "aws-node-termination-handler/spot-itn",
        "aws-node-termination-handler/asg-lifecycle-termination",
        "aws-node-termination-handler/scheduled-maintenance",
        "aws-node-termination-handler/rebalance-recommendation",
        "remediator.kubernetes.azure.com/unschedulable",
    }
)
"""Keys of taints of a node that is going away or gone."""


def reclaimed(pod: Object, taints: Iterable[Object] = ()) -> Reclaimed | None:
    """The pod with the platform's reason when the platform takes it away; None when it does not say so.

    Args:
        taints: of the pod's node; a taint counts for a pod that is on its way out or does not answer.
    """
    status = pod.get("status") or {}
    for condition in status.get("conditions") or ():
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            said = condition.get("message") or ""
            return _made(pod, str(condition.get("reason") or "disruption"), said, condition.get("lastTransitionTime"))
    reason, message = str(status.get("reason") or ""), str(status.get("message") or "")
    if reason in REASONS or (reason == SHUTDOWN and "shutdown" in message):
        return _made(pod, "NodeShutdown" if reason == SHUTDOWN else reason, message, _ended(status))
    if not suspicious(pod):
        return None
    for taint in taints:
        if taint.get("key") in TAINTS:
            return _made(pod, f"node taint {taint['key']}", "", taint.get("timeAdded") or _ended(status))
    return None


def suspicious(pod: Object) -> bool:
    """The pod is on its way out or does not answer: its node may say why."""
    conditions = (pod.get("status") or {}).get("conditions") or ()
    ready = any(item.get("type") == "Ready" and item.get("status") == "True" for item in conditions)
    return metadata(pod).get("deletionTimestamp") is not None or not ready


def _made(pod: Object, why: str, said: str, at: object) -> Reclaimed | None:
    # deletionTimestamp is when the grace period ends, not when it began.
    gone = _seconds(metadata(pod).get("deletionTimestamp"))
    when = _seconds(at)
    if when is None:
        when = gone
    if when is None:
        return None  # without a time nobody can say which failures it explains
    line = " ".join("".join(char if char.isprintable() else " " for char in str(said)).split())[:200]
    return Reclaimed(pod=str(metadata(pod)["name"]), why=f"{why}: {line}" if line else why, at=when, gone=gone)


def _ended(status: Object) -> object:
    """When the pod ended or stopped answering, as far as it says so."""
    for container in status.get("containerStatuses") or ():
        finished = ((container.get("state") or {}).get("terminated") or {}).get("finishedAt")
        if finished:
            return finished
    for condition in status.get("conditions") or ():
        if condition.get("type") == "Ready" and condition.get("status") != "True":
            return condition.get("lastTransitionTime")
    return None


def _seconds(text: object) -> float | None:
    return None if text is None else datetime.fromisoformat(str(text)).timestamp()
