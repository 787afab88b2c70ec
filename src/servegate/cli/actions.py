"""The workflow run a command is part of."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from servegate.github.run import Run


def workflow_run(wanted: bool | None, needed: bool = False) -> Run | None:
    """The run to write to, or None.

    Args:
        wanted: as the user said; None: if GitHub Actions runs this process.
        needed: something that was asked for cannot be done without it.

    Raises:
        ConfigError: it was asked for, and the environment does not say which run it is.
    """
    from servegate.errors import ConfigError
    from servegate.github.run import from_environment, in_actions

    if wanted is None and not needed and not in_actions(os.environ):
        return None
    if wanted is False:
        if needed:
            raise ConfigError("--comment is for GitHub, and --no-github forbids it")
        return None
    try:
        return from_environment(os.environ)
    except ConfigError as error:
        if wanted or needed:
            raise
        # Some other program sets GITHUB_ACTIONS as well: that must not stop a verdict.
        log(f"servegate: nothing written for GitHub: {error}")
        return None


def log(line: str) -> None:
    """A line for the log of the step; what is printed for people and programs stays whole on standard output."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
