"""Why a pod does not get ready, in one sentence, from what its kubelet and the scheduler write into it. Pure.

Two kinds are told apart. What a person must mend (a wrong image, an engine that ends, a missing secret) fails the slot
at once: waiting for a deadline would only hide it. What may pass by itself (no room yet, a volume on its way) is said,
and fails the slot when it has lasted too long.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from servegate.rollout.kube import Object, metadata
from servegate.rollout.workloads.pod_template import ENGINE, MAIN

HOPELESS = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "ErrImageNeverPull",
        "InvalidImageName",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
    }
)
"""Reasons a container waits for that do not pass by themselves."""
RESTARTS = 3
"""Restarts of an engine that was ready once, from which on it is a crash loop and no accident."""


@dataclass(frozen=True)
class Problem:
    """What is wrong with a pod.

    Attributes:
        message: one sentence.
        final: it does not pass by itself.
        since: when it began, seconds since the epoch; for those that may pass.
    """

    message: str
    final: bool
    since: float | None = None


def is_ready(pod: Object) -> bool:
    """The pod answers and is not on its way out."""
    return metadata(pod).get("deletionTimestamp") is None and answers(pod)


def answers(pod: Object) -> bool:
    """The pod's readiness probe succeeds, also while it is on its way out."""
    return _condition(pod, "Ready").get("status") == "True"


def problem(pod: Object) -> Problem | None:
    """What is wrong with a pod that is not ready; None when it is only not there yet."""
    name = f"pod {metadata(pod)['name']}"
    status = pod.get("status") or {}
    if status.get("phase") == "Failed":  # evicted, node gone
        return Problem(f"{name} failed: {status.get('reason', '')} {_line(status.get('message'))}".rstrip(), False)
    statuses = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    for container in statuses:
        found = _container(pod, name, container)
        if found is not None:
            return found
    scheduled = _condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        return Problem(f"{name} has no node: {_line(scheduled.get('message'))}", False, _time(scheduled))
    return None


def deployment_problem(deployment: Object) -> Problem | None:
    """Why the Deployment cannot even make pods: quota, a namespace on its way out, a policy."""
    for condition in (deployment.get("status") or {}).get("conditions") or ():
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            return Problem(f"no pod can be made: {_line(condition.get('message'))}", True)
    return None


def worst(problems: Iterable[Problem | None]) -> Problem | None:
    """The first that does not pass by itself, else the first."""
    found = [item for item in problems if item is not None]
    return next((item for item in found if item.final), found[0] if found else None)


def _container(pod: Object, name: str, container: Object) -> Problem | None:
    state, last = container.get("state") or {}, container.get("lastState") or {}
    waiting = state.get("waiting") or {}
    reason = waiting.get("reason", "")
    what = f"{name}: {container['name']}"
    if reason in HOPELESS:
        return Problem(f"{what} does not start: {reason}: {_line(waiting.get('message'))}", True)
    ended = state.get("terminated") or last.get("terminated")
    if not ended or (ended.get("exitCode") == 0 and container["name"] not in (ENGINE, MAIN)):
        return None
    how = "ran out of memory" if ended.get("reason") == "OOMKilled" else f"ended with status {ended.get('exitCode')}"
    said = _line(ended.get("message"))
    again = "" if state.get("terminated") else " --previous"
    logs = (
        f"log: kubectl logs -n {metadata(pod).get('namespace')} {metadata(pod)['name']} -c {container['name']}{again}"
    )
    # An engine that was ready once may have met an accident, and the kubelet starts it again.
    looping = not _was_ready(pod, ended) or int(container.get("restartCount", 0)) >= RESTARTS
    return Problem(f"{what} {how}{f'; it said: {said}' if said else ''}; {logs}", looping)


def _was_ready(pod: Object, ended: Object) -> bool:
    """Whether the pod was ready in the life of the container that `ended`: then it has been made unready since."""
    changed, started = _time(_condition(pod, "Ready")), _seconds(ended.get("startedAt"))
    return changed is not None and started is not None and changed > started


def _condition(pod: Object, kind: str) -> Object:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return next((dict(item) for item in conditions if item.get("type") == kind), {})


def _time(condition: Object) -> float | None:
    return _seconds(condition.get("lastTransitionTime"))


def _seconds(text: object) -> float | None:
    return None if text is None else datetime.fromisoformat(str(text)).timestamp()


def _line(text: object) -> str:
    """Text of others as part of a sentence: its last line that says something, printable, not too long."""
    lines = [line.strip() for line in str(text or "").splitlines() if line.strip()]
    return "".join(char if char.isprintable() else "�" for char in lines[-1])[:300] if lines else ""
