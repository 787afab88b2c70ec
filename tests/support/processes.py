"""Processes that need not be children of the test."""

from __future__ import annotations

import os
import time


def wait_until_exit(pid: int, timeout: float) -> bool:
    """Whether a process that need not be our child is gone within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False
