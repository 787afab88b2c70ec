"""What a Kubernetes namespace says of itself."""

from __future__ import annotations

import json
import shutil
import subprocess

from servegate.errors import ConfigError, InfrastructureError
from servegate.report.format import clean

TIMEOUT = 30.0


def labels_of(namespace: str) -> dict[str, str]:
    """Labels of a namespace in the cluster that kubectl talks to.

    Raises:
        ConfigError: there is no kubectl, or the name is none.
        InfrastructureError: the cluster cannot be asked, or has no such namespace.
    """
    if not namespace or namespace.startswith("-"):
        raise ConfigError(f"{namespace!r} is no name of a namespace")
    program = shutil.which("kubectl")
    if program is None:
        raise ConfigError("kubectl: not found; the labels of a namespace are asked of the cluster")
    try:
        ended = subprocess.run(
            [program, "get", "namespace", namespace, "--output=json", f"--request-timeout={TIMEOUT:.0f}s"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT + 10, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InfrastructureError(f"kubectl: {error}") from error
    if ended.returncode != 0:
        raise InfrastructureError(f"namespace {namespace}: {clean(ended.stderr.strip(), 400)}")
    try:
        labels = json.loads(ended.stdout)["metadata"].get("labels") or {}
        return {str(key): str(value) for key, value in labels.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InfrastructureError(f"namespace {namespace}: kubectl gave no namespace") from error
