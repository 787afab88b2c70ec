"""For every test: what a workflow sets must not make a test write to that workflow's own summary."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True, scope="session")
def _no_workflow() -> None:
    for name in [name for name in os.environ if name.startswith(("GITHUB_", "GH_", "ACTIONS_", "RUNNER_"))]:
        del os.environ[name]
