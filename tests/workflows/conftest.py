"""A registry, a base image and a copy of the repository whose tag can be released."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import registry_server
from act import Repository
from image_base import push_base, release_storage, storage
from verdicts import key_pair

from servegate.process import free_ports

# GitHub's own: attestations are those that were made in this run, environments those that a test configured.
_GH = """#!/bin/sh
echo "$@" >> "$STAND_IN_CALLS/gh"
case "$1 $2" in
  "release view") exit 1 ;;
  "attestation verify")
    grep --quiet --fixed-strings "${3#oci://}" "$STAND_IN_CALLS/attest" || { echo "no attestation" >&2; exit 1; } ;;
  "api repos/"*/environments/*)
    case " $GH_ENVIRONMENTS " in
      *" ${2##*/}:reviewed "*) echo "required_reviewers branch_policy" ;;
      *" ${2##*/} "*) ;;
      *) echo "Not Found (HTTP 404)" >&2; exit 1 ;;
    esac ;;
esac
"""


@dataclass(frozen=True)
class World:
    """What the workflows meet."""

    registry: str
    base: str
    signer: Path
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
        private, public = key_pair(folder)
        own |= {"STAND_IN_KEY": str(private), "GH_ENVIRONMENTS": "staging production:reviewed"}
        (programs / "kubectl").symlink_to(Path(sys.executable).with_name("kubectl"))
        own |= {"HOME": str(home), "PATH": f"{programs}:{os.environ['PATH']}"}
        yield World(registry, base, public, own)


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    found = Repository(tmp_path / "repository")
    found.git("update-ref", "refs/remotes/origin/main", "HEAD")
    yield found
    shutil.rmtree(found.folder)


@pytest.fixture
def port() -> str:
    return str(free_ports(1)[0])
