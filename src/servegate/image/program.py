"""Calls of other programs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

from servegate.errors import InfrastructureError


def output(command: Sequence[str]) -> str:
    """What a program prints. Raises InfrastructureError when it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InfrastructureError(f"{command[0]}: {error}") from error
    if done.returncode:
        raise InfrastructureError(f"{' '.join(command[:3])}…: {done.stderr.strip() or done.returncode}")
    return done.stdout


def follow(command: Sequence[str], environ: Mapping[str, str]) -> None:
    """Run a program; what it says goes to stderr as it comes. Raises InfrastructureError when it fails."""
    try:
        done = subprocess.run(command, stdout=sys.stderr, env={**os.environ, **environ}, check=False)
    except OSError as error:
        raise InfrastructureError(f"{command[0]}: cannot be started: {error.strerror}") from error
    if done.returncode:
        raise InfrastructureError(f"`{' '.join(command[:3])} …` ended with status {done.returncode}; see above")
