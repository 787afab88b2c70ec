"""A real simulator process per module that wants one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from simulator_process import Simulator, start


@pytest.fixture(scope="module")
def launch() -> Iterator[Callable[..., Simulator]]:
    """Start servers that end with the module."""
    started: list[Simulator] = []

    def launcher(*flags: str) -> Simulator:
        started.append(start(*flags))
        return started[-1]

    yield launcher
    for simulator in started:
        simulator.process.kill()
        simulator.process.communicate(timeout=10)


@pytest.fixture(scope="module")
def simulator(launch: Callable[..., Simulator]) -> Simulator:
    """A healthy server, quick enough for tests."""
    return launch("--input-ms", "1", "--decode-step-ms", "1", "--max-model-len", "2048")
