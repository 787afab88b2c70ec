"""A Job of the watchdog, now instead of at its next minute: for what somebody wants done who may not do it himself."""

from __future__ import annotations

from http import HTTPStatus

from servegate.errors import ConfigError
from servegate.rollout.kube import Kube, KubeError, Object

CRON_JOB = "servegate-watchdog"
"""As k8s/components/watchdog makes it."""


def start(kube: Kube, key: int) -> str:
    """Make a Job from the watchdog's CronJob; what to tell a person.

    Args:
        key: whose Job this is; the same again makes no second one.

    Raises:
        ConfigError: the watchdog is not installed.
        InfrastructureError: the API server cannot be asked.
    """
    jobs = f"/apis/batch/v1/namespaces/{kube.namespace}"
    name = f"{CRON_JOB}-intent-{key}"
    try:
        template = kube.call("GET", f"{jobs}/cronjobs/{CRON_JOB}")["spec"]["jobTemplate"]
        kube.call("POST", f"{jobs}/jobs", _job(template, name))
    except KubeError as error:
        if error.status == HTTPStatus.NOT_FOUND:
            raise ConfigError(
                f"there is no CronJob {CRON_JOB} in {kube.namespace}: add components/watchdog to the overlay"
            ) from error
        if error.status == HTTPStatus.FORBIDDEN:
            return f"may not start a Job ({error}); the watchdog looks by itself every minute"
        if not error.conflict:
            raise
    return f"job {name}"


def _job(template: Object, name: str) -> Object:
    metadata = template.get("metadata") or {}
    kept = {key: metadata[key] for key in ("labels", "annotations") if metadata.get(key)}
    spec = {"ttlSecondsAfterFinished": 86400, **template["spec"]}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, **kept}, "spec": spec}
