"""A registry, a base image and a copy of the repository whose tag can be released."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from act import Repository
from workflow_world import World, world_in

from servegate.process import free_ports


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world_in(tmp_path_factory.mktemp("world")) as made:
        yield made


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    found = Repository(tmp_path / "repository")
    found.git("update-ref", "refs/remotes/origin/main", "HEAD")
    yield found
    shutil.rmtree(found.folder)


@pytest.fixture
def port() -> str:
    return str(free_ports(1)[0])
