"""What workflows meet under act: a registry, a base image, a signer, `gh`, `kubectl`; and a team's repository."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import registry_server
from act import ROOT, Ran, Repository
from cluster.binaries import install_go
from gh_program import write_gh
from image_base import go_tools, push_base, release_storage, run, storage
from verdicts import key_pair

LIBRARY = f"team/servegate@{'0123456789' * 4}"
"""What a team calls our repository as."""


@dataclass(frozen=True)
class World:
    """What the workflows meet."""

    registry: str
    base: str
    signer: Path
    env: dict[str, str]


@contextlib.contextmanager
def world_in(folder: Path) -> Iterator[World]:
    """The world, for as long as the context lasts."""
    env, images = storage()
    with registry_server.registry(folder) as registry, contextlib.ExitStack() as after:
        after.callback(release_storage, images, env)
        base = push_base(f"{registry}/base/vllm", env)
        programs = folder / "bin"
        programs.mkdir()
        write_gh(programs)
        # No TLS at the test's registry; everywhere else it stays. The programs look for this in the home folder.
        home = folder / "home"
        settings = home / ".config/containers/registries.conf"
        settings.parent.mkdir(parents=True)
        settings.write_text(f'[[registry]]\nlocation = "{registry}"\ninsecure = true\n', "utf-8")
        (home / ".cache").symlink_to(Path.home() / ".cache")
        own = {key: env[key] for key in ("BUILDAH_ISOLATION", "CONTAINERS_STORAGE_CONF")}
        private, public = key_pair(folder)
        own |= {"STAND_IN_KEY": str(private), "STAND_IN_SIGNER": str(public)}
        own |= {"STAND_IN_COSIGN": str(go_tools(ROOT / "tests/registry/tools") / "cosign")}
        own |= {"GH_ENVIRONMENTS": "staging production:reviewed"}
        # The release builds its own tool; what was loaded and compiled for it here it finds in Go's caches.
        go_tools(ROOT / ".github/actions/sbom")
        go = shutil.which("go") or install_go()
        caches = run([go, "env", "GOMODCACHE", "GOCACHE"], os.environ).split()
        own |= dict(zip(("GOMODCACHE", "GOCACHE"), caches, strict=True))
        (programs / "kubectl").symlink_to(Path(sys.executable).with_name("kubectl"))
        own |= {"HOME": str(home), "PATH": f"{programs}:{os.environ['PATH']}:{Path(go).parent}"}
        yield World(registry, base, public, own)


RELEASER = """
name: Releaser
on: [push]
permissions: {}
jobs:
  release:
    name: Release
    uses: ./.github/workflows/release.yml
    permissions:
      actions: read
      contents: write
      packages: write
      id-token: write
      attestations: write
    with:
      image-builder: buildah
      image-min-free: "1"
"""


def push_tag(
    repository: Repository,
    world: World,
    name: str,
    inputs: Mapping[str, str],
    *,
    on_main: bool = True,
    env: Mapping[str, str] | None = None,
) -> Ran:
    """Tag what the repository holds and run its release for the tag."""
    given = {"image-name": f"{world.registry}/team/chat", "image-base": world.base, **inputs}
    more = "".join(f"      {key}: {json.dumps(value)}\n" for key, value in given.items())
    (repository.folder / ".github/workflows/releaser.yml").write_text(RELEASER + more, "utf-8")
    commit = repository.commit("releaser")
    if on_main:
        repository.git("update-ref", "refs/remotes/origin/main", commit)
    repository.git("tag", name)
    payload = {"ref": f"refs/tags/{name}", "after": commit, "repository": {"full_name": "team/chat"}}
    return repository.act("push", "releaser.yml", payload, env={**world.env, **(env or {})})


def made_by_init(folder: Path, world: World, *options: str) -> Path:
    """A fresh folder with what `servegate init` writes for a team; bases and builder are this machine's."""
    folder.mkdir()
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    init = [str(Path(sys.executable).with_name("servegate")), "init", str(folder), "--model", "hf://Qwen/Qwen3-8B"]
    init += ["--served-name", "support", "--workflows", LIBRARY, "--image", f"{world.registry}/other/chat", *options]
    subprocess.run(init, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    image = {"image_base": world.base, "image_builder": "buildah", "image_min_free": '"1"'}
    for name in ("ci", "release"):
        call_with(folder, name, **image)
    return folder


def call_with(folder: Path, workflow: str, **inputs: str) -> None:
    """Give a calling workflow, whose last lines are its inputs, more of them."""
    file = folder / f".github/workflows/{workflow}.yml"
    more = "".join(f"      {key.replace('_', '-')}: {value}\n" for key, value in inputs.items())
    file.write_text(file.read_text("utf-8") + more, "utf-8")


def library(folder: Path) -> Repository:
    """Our repository, as it is called from others."""
    return Repository(folder, called_as=LIBRARY)


def team_repository(folder: Path, made: Path, calls: Repository) -> Repository:
    """A team's repository whose main has what was made."""
    found = Repository(folder, source=made, calls=calls)
    found.git("update-ref", "refs/remotes/origin/main", "HEAD")
    return found
