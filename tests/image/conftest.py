"""A registry, a base image and a builder of each kind: real ones, without a container engine."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import registry_server
from image_base import Machine, go_tools, push_base, release_storage, storage

from servegate.process import Child


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with registry_server.registry(tmp_path_factory.mktemp("registry")) as address:
        yield address


@pytest.fixture(scope="session")
def machine(registry: str) -> Iterator[Machine]:
    env, folder = storage()
    try:
        yield Machine(registry, push_base(f"{registry}/base/vllm", env), env, folder)
    finally:
        release_storage(folder, env)


@pytest.fixture(scope="session")
def buildkit(machine: Machine, registry: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """The same machine with a BuildKit daemon, and buildx talking to it."""
    folder = tmp_path_factory.mktemp("buildkit")
    tools = go_tools(Path(__file__).parent / "tools")
    config = folder / "buildkitd.toml"
    config.write_text(f'[registry."{registry}"]\nhttp = true\n', "utf-8")
    socket = f"unix://{folder}/socket"
    command = [str(tools / "buildkitd"), "--config", str(config), "--root", str(folder / "root"), "--addr", socket]
    command += ["--oci-worker=true", "--containerd-worker=false", "--oci-worker-binary=runc", "--oci-worker-net=host"]
    path = {"PATH": f"{tools}:{os.environ['PATH']}", "BUILDX_CONFIG": str(folder / "buildx")}
    daemon = Child("buildkitd", command, folder / "log", env=path)
    try:
        deadline = time.monotonic() + 60
        while not (folder / "socket").exists():
            daemon.check()
            assert time.monotonic() < deadline, (folder / "log").read_text("utf-8")
            daemon.wait(0.1)
        create = [str(tools / "buildx"), "create", "--name", "tests", "--driver", "remote", "--use", socket]
        subprocess.run(create, env={**os.environ, **path}, check=True, capture_output=True)
        yield Machine(machine.registry, machine.base, {**machine.env, **path}, machine.folder)
    finally:
        daemon.stop()
