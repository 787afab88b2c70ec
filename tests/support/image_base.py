"""A base image in the place of the official vLLM image, made without a container engine and kept between runs.

Debian (debootstrap), the simulator's packages, and on top the simulator as `vllm`. The lower part takes a minute and
is kept as an OCI layout under the cache folder; the upper part is made anew in seconds, so that it is never stale.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster.binaries import install_go

ROOT = Path(__file__).parents[2]
STAND_IN = ROOT / "tests" / "image" / "stand_in"
SUITE, PYTHON = "bookworm", "3.11"  # the Python that Debian's suite has
_PACKAGES: tuple[str, ...] = (
    "aiohappyeyeballs",
    "aiohttp",
    "aiosignal",
    "attrs",
    "frozenlist",
    "idna",
    "multidict",
    "orjson",
    "propcache",
)
_PACKAGES += ("pyyaml", "typing-extensions", "uvloop", "yarl")


def cache_dir() -> Path:
    """Where what is expensive stays between runs."""
    base = (
        os.environ.get("SERVEGATE_CACHE")
        or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "servegate"
    )
    return Path(base)


@dataclass
class Machine:
    """What the tests build with."""

    registry: str
    base: str
    env: dict[str, str]
    folder: Path

    def servegate(self, *arguments: str, timeout: float = 110) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).with_name("servegate")), "image", "build", *arguments]
        return subprocess.run(
            command, env=self.env, cwd=self.folder, capture_output=True, text=True, check=False, timeout=timeout
        )

    def config(self, reference: str) -> dict[str, object]:
        """The configuration of an image in the registry."""
        skopeo = ["skopeo", "inspect", "--config", "--raw", "--tls-verify=false", f"docker://{reference}"]
        found: dict[str, object] = json.loads(subprocess.run(skopeo, capture_output=True, check=True).stdout)
        return found


def run(command: Sequence[str], env: Mapping[str, str]) -> str:
    done = subprocess.run(command, env=dict(env), capture_output=True, text=True, check=False, timeout=550)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def storage() -> tuple[dict[str, str], Path]:
    """An environment in which buildah keeps its images in a folder of its own: overlay where it can, else copies.

    Not in pytest's folder: what a killed run leaves mounted must not be in the way of the next one.
    """
    folder = Path(tempfile.mkdtemp(prefix="servegate-image-test-"))
    env = {**os.environ, "BUILDAH_ISOLATION": "chroot", "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf")}
    for driver in ("overlay", "vfs"):
        (folder / "storage.conf").write_text(
            f'[storage]\ndriver = "{driver}"\ngraphroot = "{folder}/{driver}"\nrunroot = "{folder}/run"\n', "utf-8"
        )
        if subprocess.run(["buildah", "info"], env=env, capture_output=True, check=False).returncode == 0:
            return env, folder
    raise AssertionError("buildah has no storage driver here")


def release_storage(folder: Path, env: Mapping[str, str]) -> None:
    """Unmount and remove."""
    subprocess.run(["buildah", "umount", "--all"], env=dict(env), check=True, capture_output=True)
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text("utf-8").splitlines()]
    for mount in sorted((mount for mount in mounts if mount.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", mount], check=True)
    shutil.rmtree(folder)


def push_base(repository: str, env: Mapping[str, str]) -> str:
    """Build the base, push it to a registry without TLS; its reference by digest."""
    lower = _lower(env)
    run(["skopeo", "copy", "-q", f"oci:{lower}:base", "containers-storage:localhost/lower:base"], env)
    container = run(["buildah", "from", "localhost/lower:base"], env).strip()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        packages = folder / "usr" / "lib" / "python3" / "dist-packages"
        shutil.copytree(STAND_IN / "vllm", packages / "vllm", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copyfile(
            ROOT / "tests" / "fixtures" / "vllm-0.32.0-flags.json", packages / "vllm/entrypoints/cli/flags.json"
        )
        info = packages / "vllm-0.32.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n", "utf-8")
        # Only the simulator: the entry point must not find the rest of servegate in the base.
        simulator = ROOT / "src" / "servegate" / "simulator"
        shutil.copytree(simulator, packages / "servegate/simulator", ignore=shutil.ignore_patterns("__pycache__"))
        command = folder / "usr" / "local" / "bin" / "vllm"
        command.parent.mkdir(parents=True)
        shutil.copyfile(STAND_IN / "vllm-command", command)
        for path in folder.rglob("*"):
            path.chmod(0o755 if path.is_dir() or path == command else 0o644)
        run(["buildah", "copy", "-q", container, str(folder), "/"], env)
    run(["buildah", "config", "--entrypoint", '["vllm", "serve"]', container], env)
    run(["buildah", "commit", "-q", "--rm", "--format", "docker", container, "stand-in"], env)
    digest_file = Path(env["CONTAINERS_STORAGE_CONF"]).with_name("base-digest")
    push = ["buildah", "push", "-q", "--tls-verify=false", "--digestfile", str(digest_file)]
    run([*push, "stand-in", f"docker://{repository}:stand-in"], env)
    return f"{repository}@{digest_file.read_text('ascii').strip()}"


def _lower(env: Mapping[str, str]) -> Path:
    """The OCI layout with Debian and packages; made where it is not there yet."""
    pins = _pins()
    key = hashlib.sha256(json.dumps([SUITE, PYTHON, pins]).encode()).hexdigest()[:16]
    layout = cache_dir() / "image-base" / key
    layout.parent.mkdir(parents=True, exist_ok=True)
    with _alone(layout.with_suffix(".lock")):
        if not layout.is_dir():
            with tempfile.TemporaryDirectory(prefix=f"{key}.partial-", dir=layout.parent) as name:
                _make_lower(Path(name), layout, pins, env)
    return layout


def _make_lower(folder: Path, layout: Path, pins: str, env: Mapping[str, str]) -> None:
    root = folder / "root"
    run(["debootstrap", "--variant=minbase", "--include=python3", SUITE, str(root)], env)
    for leftover in ("var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale"):
        shutil.rmtree(root / leftover, ignore_errors=True)
    (folder / "requirements.txt").write_text(pins, "utf-8")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    pip += ["--require-hashes", "--only-binary", ":all:", "--python-version", PYTHON, "--implementation", "cp"]
    target = ["--target", str(root / "usr/lib/python3/dist-packages")]
    run([*pip, *target, "-r", str(folder / "requirements.txt")], env)
    container = run(["buildah", "from", "scratch"], env).strip()
    run(["buildah", "copy", "-q", container, str(root), "/"], env)
    run(["buildah", "config", "--env", "PATH=/usr/local/bin:/usr/bin:/bin", container], env)
    run(["buildah", "commit", "-q", "--rm", container, f"oci:{folder / 'layout'}:base"], env)
    (folder / "layout").rename(layout)


def _pins() -> str:
    """The lock's entries of the simulator's packages."""
    text = (ROOT / "requirements.lock").read_text("utf-8")
    entries = re.split(r"\n(?=[A-Za-z0-9])", text)
    wanted = [entry for entry in entries if entry.partition("==")[0].strip().lower() in _PACKAGES]
    # The markers are about the machine the lock is for; this one is known.
    return "\n".join(re.sub(r" ;[^\\\n]*", " ", entry) for entry in wanted) + "\n"


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def go_tools(module: Path) -> Path:
    """The programs that a go.mod lists as its tools, built once per go.sum; the folder they are in."""
    sums = (module / "go.sum").read_bytes()
    folder = cache_dir() / "go-tools" / hashlib.sha256(sums).hexdigest()[:16]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _alone(folder.with_suffix(".lock")):
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(prefix=f"{folder.name}.partial-", dir=folder.parent) as name:
                env = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly"}
                made = Path(name) / "bin"
                command = [
                    shutil.which("go") or install_go(),
                    "build",
                    "-C",
                    str(module),
                    "-trimpath",
                    "-ldflags=-s -w",
                    "-o",
                    f"{made}/",
                    "tool",
                ]
                run(command, env)
                made.rename(folder)
    return folder
