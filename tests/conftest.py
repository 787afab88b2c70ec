"""For every test: nothing is written to the summary of a workflow that runs them, and no property is timed."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# Time is measured by benchmarks; a busy machine is no falsified property.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(autouse=True, scope="session")
def _no_workflow() -> None:
    for name in [name for name in os.environ if name.startswith(("GITHUB_", "GH_", "ACTIONS_", "RUNNER_"))]:
        del os.environ[name]
