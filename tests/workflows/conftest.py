"""A registry, a base image and a copy of the repository whose tag can be released."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import registry_server
from act import Repository
from image_base import push_base, release_storage, storage

from servegate.process import free_ports

_GH = """#!/bin/sh
echo "$@" >> "$STAND_IN_CALLS/gh"
case "$1 $2" in "release view") exit 1;; esac
"""


@dataclass(frozen=True)
class World:
    """What the workflows meet."""

    registry: str
    base: str
    env: dict[str, str]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    env, images = storage()
    with registry_server.registry(folder) as registry, contextlib.ExitStack() as after:
        after.callback(release_storage, images, env)
        base = push_base(f"{registry}/base/vllm", env)
        programs = folder / "bin"
        programs.mkdir()
        (programs / "gh").write_text(_GH, "utf-8")
        (programs / "gh").chmod(0o755)
        # No TLS at the test's registry; everywhere else it stays. The programs look for this in the home folder.
        home = folder / "home"
        settings = home / ".config/containers/registries.conf"
        settings.parent.mkdir(parents=True)
        settings.write_text(f'[[registry]]\nlocation = "{registry}"\ninsecure = true\n', "utf-8")
        (home / ".cache").symlink_to(Path.home() / ".cache")
        own = {key: env[key] for key in ("BUILDAH_ISOLATION", "CONTAINERS_STORAGE_CONF")}
        own |= {"HOME": str(home), "PATH": f"{programs}:{os.environ['PATH']}"}
        yield World(registry, base, own)


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    found = Repository(tmp_path / "repository")
    found.git("update-ref", "refs/remotes/origin/main", "HEAD")
    yield found
    shutil.rmtree(found.folder)


@pytest.fixture
def port() -> str:
    return str(free_ports(1)[0])
