"""The Dockerfile, really built: by buildah and by BuildKit, on a stand-in for the official image."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from entry_point import Container
from image_base import Machine, go_tools

from servegate.endpoint import Endpoint
from servegate.errors import InfrastructureError
from servegate.process import Child, free_ports

# The base is made and BuildKit compiled the first time.
pytestmark = pytest.mark.timeout(600)


def build(machine: Machine, tag: str, *more: str, base: str | None = None) -> dict[str, Any]:
    done = machine.servegate(
        *("--tag", f"{machine.registry}/{tag}", "--base", base or machine.base, "--push", "--plain-http", "--json"),
        *("--epoch", "1700000000", "--min-free", "1", *more),
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def built(machine: Machine) -> dict[str, Any]:
    return build(machine, "app/chat:v1.4.0", "--builder", "buildah")


def reference(document: dict[str, Any]) -> str:
    return f"{document['repository']}@{document['digest']}"


def check_config(config: Any, base: str) -> None:
    settings = config["config"]
    assert settings["User"] == "2000:0"
    assert settings["Entrypoint"] == ["python3", "-m", "servegate.serving"]
    assert not settings.get("Cmd")
    assert settings["StopSignal"] == "SIGTERM"
    assert settings["Healthcheck"]["Test"] == ["CMD", "python3", "-m", "servegate.serving.health"]
    assert settings["WorkingDir"] == "/home/vllm"
    assert "VLLM_NO_USAGE_STATS=1" in settings["Env"]
    labels = settings["Labels"]
    assert labels["dev.servegate.variant"] == "cuda"
    assert labels["org.opencontainers.image.base.digest"] == base.partition("@")[2]
    assert labels["org.opencontainers.image.title"]


def test_buildah_pushes_what_it_says(machine: Machine, built: dict[str, Any]) -> None:
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", built["digest"])
    assert built["builder"] == "buildah"
    config: Any = machine.config(reference(built))
    check_config(config, machine.base)
    labels = config["config"]["Labels"]
    assert labels["org.opencontainers.image.version"] == "v1.4.0"


def test_the_layer_on_the_base_is_thin(machine: Machine, built: dict[str, Any]) -> None:
    raw = ["skopeo", "inspect", "--raw", "--tls-verify=false"]
    sizes = []
    for name in (machine.base, reference(built)):
        manifest = json.loads(subprocess.run([*raw, f"docker://{name}"], capture_output=True, check=True).stdout)
        sizes.append(sum(layer["size"] for layer in manifest["layers"]))
    assert 0 < sizes[1] - sizes[0] < 100_000
    assert sizes[1] <= built["size"] < sizes[1] + 20_000


def test_the_same_input_gives_the_same_digest(machine: Machine, built: dict[str, Any]) -> None:
    again = build(machine, "app/chat:again", "--builder", "buildah", "--version", "v1.4.0")
    assert again["digest"] == built["digest"]


def test_the_cpu_variant_comes_from_the_same_file(machine: Machine) -> None:
    cpu = build(machine, "app/chat:cpu", "--builder", "buildah", "--variant", "cpu")
    config: Any = machine.config(reference(cpu))
    assert config["config"]["Labels"]["dev.servegate.variant"] == "cpu"


def test_buildkit_builds_the_same_file(buildkit: Machine, tmp_path: Path) -> None:
    cache = ("--cache", f"{buildkit.registry}/app/chat:buildcache")
    summary = tmp_path / "summary.md"
    document = build(buildkit, "app/chat:bk", "--builder", "buildkit", "--summary", str(summary), *cache)
    assert document["builder"] == "buildkit"
    check_config(buildkit.config(reference(document)), buildkit.base)
    table = summary.read_text("utf-8")
    assert reference(document) in table
    assert re.search(r"\| to pull \| \d+\.\d\d GB \|", table)
    assert re.search(r"\| build \| \d+ s with buildkit \|", table)
    # The index carries where the image comes from.
    raw = ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{reference(document)}"]
    index = json.loads(subprocess.run(raw, capture_output=True, check=True).stdout)
    kinds = {item.get("annotations", {}).get("vnd.docker.reference.type") for item in index["manifests"]}
    assert kinds == {None, "attestation-manifest"}


@pytest.mark.parametrize("builder", ["buildah", "buildkit"])
def test_what_an_image_holds_is_listed_by_its_digest(buildkit: Machine, tmp_path: Path, builder: str) -> None:
    document = build(buildkit, f"app/listed:{builder}", "--builder", builder)
    syft = go_tools(Path(__file__).parents[2] / ".github/actions/sbom") / "syft"
    servegate = str(Path(sys.executable).with_name("servegate"))
    sbom = [servegate, "image", "sbom", reference(document), "--syft", str(syft), "--size", str(document["size"])]
    done = subprocess.run(
        [*sbom, "--plain-http", "--output", str(tmp_path / "sbom.json"), "--json"],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    listed = json.loads(done.stdout)
    assert (listed["digest"], listed["engine"]) == (document["digest"], "0.32.0+cpu")
    assert listed["packages"]["deb"] > 80
    assert listed["packages"]["pypi"] >= 10
    names = {item["name"] for item in json.loads((tmp_path / "sbom.json").read_text("utf-8"))["components"]}
    assert {"vllm", "aiohttp", "libc6"} <= names


def test_buildkit_without_a_push_leaves_nothing(buildkit: Machine) -> None:
    tag = f"{buildkit.registry}/app/nothing:v1"
    done = buildkit.servegate(
        "--tag", tag, "--base", buildkit.base, "--builder", "buildkit", "--min-free", "1", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["digest"] is None
    skopeo = ["skopeo", "inspect", "--tls-verify=false", f"docker://{tag}"]
    assert subprocess.run(skopeo, capture_output=True, check=False).returncode != 0


def run_in(machine: Machine, built: dict[str, Any], environ: dict[str, str], *arguments: str) -> list[str]:
    """The command that runs something in the image's files, as the image says: user, environment, folder.

    A change of root, because `buildah run` answers a SIGTERM by killing what it runs.
    """
    pull = ["buildah", "from", "--tls-verify=false", "-q", reference(built)]
    container = subprocess.run(pull, env=machine.env, capture_output=True, text=True, check=True).stdout.strip()
    mount = ["buildah", "mount", container]
    root = subprocess.run(mount, env=machine.env, capture_output=True, text=True, check=True).stdout.strip()
    settings: Any = machine.config(reference(built))
    settings = settings["config"]
    env = [*settings["Env"], *(f"{name}={value}" for name, value in environ.items())]
    script = 'cd "$0" && exec "$@"'
    as_said = ["chroot", f"--userspec={settings['User']}", "--groups=0", root, "/usr/bin/env", "-i", *env]
    return [*as_said, "/bin/sh", "-c", script, settings["WorkingDir"], *arguments]


ENTRY = ("python3", "-m", "servegate.serving")


def test_a_wrong_flag_ends_the_container_at_once(machine: Machine, built: dict[str, Any]) -> None:
    command = run_in(machine, built, {"SERVE_ARG_MAX_MODEL_LENGTH": "5"}, *ENTRY, "tiny")
    done = subprocess.run(command, env=machine.env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "vLLM 0.32.0+cpu has no flag --max-model-length; did you mean SERVE_ARG_MAX_MODEL_LEN?" in done.stderr


def test_it_is_not_root_and_can_write_its_home_only(machine: Machine, built: dict[str, Any]) -> None:
    script = "id -u; id -g; touch $HOME/.cache/x && echo home; touch /opt/servegate/x || echo sealed"
    command = run_in(machine, built, {}, "sh", "-c", script)
    done = subprocess.run(command, env=machine.env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2000", "0", "home", "sealed"]


def test_it_serves_and_stops(machine: Machine, built: dict[str, Any], tmp_path: Path) -> None:
    (port,) = free_ports(1)
    environ = {"SERVE_MODEL": "tiny", "SERVE_ARG_PORT": str(port), "SERVE_DRAIN_QUIET_SECONDS": "1"}
    command = run_in(machine, built, environ, *ENTRY)
    log = tmp_path / "log"
    child = Child("container", command, log, env=machine.env)
    try:
        deadline = time.monotonic() + 60
        while True:
            child.check()
            assert time.monotonic() < deadline, log.read_text("utf-8")
            try:
                Endpoint(f"http://127.0.0.1:{port}").describe(timeout=1)
                break
            except InfrastructureError:
                child.wait(0.1)
        servegate = str(Path(sys.executable).with_name("servegate"))
        smoke = [servegate, "smoke", "run", "--base-url", f"http://127.0.0.1:{port}"]
        assert subprocess.run(smoke, capture_output=True, check=False).returncode == 0
        child.send(signal.SIGTERM)
        assert child.wait(30) == 0, log.read_text("utf-8")
    finally:
        child.stop()
    assert "0 requests aborted" in log.read_text("utf-8")


def test_as_process_1_it_gets_its_signals(tmp_path: Path) -> None:
    # The kernel keeps signals from process 1 of a namespace, which a container's is, unless it asks for them.
    around = ("unshare", "--pid", "--fork", "--kill-child", "--")
    container = Container(tmp_path, around=around, SERVE_MODEL="tiny")
    try:
        container.wait_ready()
        (first,) = (
            Path(f"/proc/{container.process.pid}/task/{container.process.pid}/children").read_text("ascii").split()
        )
        os.kill(int(first), signal.SIGTERM)
        assert container.end() == 0
    finally:
        container.process.kill()
    assert "0 requests aborted" in container.log.read_text("utf-8")


@pytest.mark.parametrize("builder", ["buildah", "buildkit"])
def test_a_registry_that_is_down_is_infrastructure(buildkit: Machine, builder: str) -> None:
    (port,) = free_ports(1)
    done = buildkit.servegate(
        *("--tag", f"127.0.0.1:{port}/app/chat:v1", "--base", buildkit.base, "--push", "--plain-http"),
        *("--builder", builder, "--min-free", "1"),
    )
    assert done.returncode == 4
    assert "ended with status" in done.stderr.splitlines()[-1]


def test_a_base_without_vllm_fails_the_build_and_says_why(machine: Machine) -> None:
    scratch = ["buildah", "from", "localhost/lower:base"]
    container = subprocess.run(scratch, env=machine.env, capture_output=True, text=True, check=True).stdout.strip()
    image = f"{machine.registry}/base/plain:1"
    subprocess.run(["buildah", "commit", "-q", container, image], env=machine.env, check=True, capture_output=True)
    push = ["buildah", "push", "-q", "--tls-verify=false", image]
    subprocess.run(push, env=machine.env, check=True, capture_output=True)
    done = machine.servegate(
        *("--tag", f"{machine.registry}/app/chat:v2", "--base", image, "--plain-http", "--builder", "buildah"),
        *("--min-free", "1"),
    )
    assert done.returncode == 4
    assert "the base image's vLLM does not say which flags it has: No module named 'vllm'" in done.stderr


def test_too_little_disk_is_said_before_anything_is_pulled(machine: Machine) -> None:
    done = machine.servegate("--tag", "registry.example/app/chat:v1", "--builder", "buildah", "--min-free", "1e9")
    assert done.returncode == 4
    assert re.fullmatch(
        r"servegate: the cuda image needs 1000000000 GB of disk at \S+, found \d+\.\d GB; make room there, "
        r"or take a larger runner\n",
        done.stderr,
    )
