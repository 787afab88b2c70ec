"""The edge of the gate: policies, reports and releases come from files here, and only here."""

from __future__ import annotations

import getpass
import os
import re
from collections.abc import Sequence
from pathlib import Path

from servegate.config import load
from servegate.errors import ConfigError
from servegate.gates.policy import Policy
from servegate.release import Release
from servegate.report.model import Report

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def load_policy(path: Path) -> Policy:
    """Read a policy. Raises ConfigError with file, line and the nearest key."""
    return load(path, Policy)


def load_reports(paths: Sequence[Path]) -> list[Report]:
    """Read reports. Raises ConfigError naming the file that is not one."""
    return [Report.read(path) for path in paths]


def load_release(text: str) -> Release | str:
    """A release file, or a digest `sha256:…` as it is.

    Raises:
        ConfigError: neither.
    """
    if _DIGEST.fullmatch(text):
        return text
    if text.startswith("sha256:"):
        raise ConfigError(f"{text[:80]!r} is not a digest: sha256: and 64 hex digits")
    return load(Path(text), Release)


def decider() -> str:
    """Who runs the gate, for the verdict: the workflow run where there is one, else the user."""
    env = os.environ
    if env.get("GITHUB_ACTIONS") == "true":
        return f"{env.get('GITHUB_REPOSITORY', '?')} {env.get('GITHUB_WORKFLOW', '?')} #{env.get('GITHUB_RUN_ID', '?')}"
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return f"uid {os.getuid()}"
