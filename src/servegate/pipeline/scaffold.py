"""The pipeline in another repository: which files, with which content, and what is there already."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources
from pathlib import Path

import servegate
from servegate.contract import write_atomic
from servegate.errors import ConfigError
from servegate.image.job import bases
from servegate.pipeline.files import FOLDERS

WORKFLOWS = ("ci.yml", "release.yml", "model-eval.yml", "rollback.yml", "rollback-drill.yml")

_SOURCE = re.compile(r"(?P<repository>[A-Za-z0-9-]+/[A-Za-z0-9._-]+)@(?P<commit>[0-9a-f]{40})")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,94}")
_URI = re.compile(r"(hf|s3|gs|pvc|oci|https)://[A-Za-z0-9][A-Za-z0-9._/@:-]*")
_IMAGE = re.compile(r"[a-z0-9.-]+(:[0-9]{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+")
_NAMESPACE = re.compile(r"[a-z]([-a-z0-9]{0,53}[a-z0-9])?")
_GPU = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_VERSION = re.compile(r":v(\d+\.\d+\.\d+)")
# For this project's own demonstrations.
_LEFT_OUT = re.compile(r"(^|/)vllm-cpu[^/]*$|(^|/)machine\.yaml$|(^|/)support-small\.yaml$|\.pyc$")
CLOUDS = ("aws", "google", "azure", "none")
NAMESPACE = "llm"
"""Namespace of production in our files; staging's is the same with `-staging`."""
# Files with a line that names one of the two.
_PLACED = re.compile(
    r"k8s/overlays/(production|staging|eks)/\w+\.yaml|k8s/gitops/argocd\.yaml|rollout/kubernetes[\w-]*\.yaml"
)
_GPU_PATCH = """\
  # A label of the nodes that NVIDIA's GPU feature discovery writes.
  - target: {{kind: Deployment, labelSelector: app.kubernetes.io/component=engine}}
    patch: |-
      apiVersion: apps/v1
      kind: Deployment
      metadata:
        name: any
      spec:
        template:
          spec:
            nodeSelector:
              nvidia.com/gpu.product: {gpu}
"""


@dataclass(frozen=True)
class Settings:
    """What a team says about its service.

    Attributes:
        model: where the weights are, such as hf://org/name.
        revision: of the weights.
        served_name: name clients put into requests.
        image: name of the serving image; empty: ghcr.io and the repository.
        workflows: `OWNER/REPOSITORY@COMMIT` whose workflows are called; None: no workflows.
        namespace: of production; staging's is the same with `-staging`.
        gpu: the product that engines need, as the node label nvidia.com/gpu.product has it; None: any GPU.
        cloud: one of CLOUDS; None: not said.
    """

    model: str
    served_name: str
    revision: str | None = None
    image: str = ""
    workflows: str | None = None
    namespace: str = NAMESPACE
    gpu: str | None = None
    cloud: str | None = None

    def check(self) -> None:
        """Raise ConfigError for what would not be one word in a YAML file."""
        for option, value, pattern, example in (
            ("--model", self.model, _URI, "hf://Qwen/Qwen3-8B"),
            ("--served-name", self.served_name, _NAME, "support"),
            ("--revision", self.revision or "main", _NAME, "a commit of the model's repository"),
            ("--image", self.image or "ghcr.io/team/chat", _IMAGE, "ghcr.io/team/chat"),
            ("--namespace", self.namespace, _NAMESPACE, "llm"),
            ("--gpu", self.gpu or "any", _GPU, "NVIDIA-H100-80GB-HBM3"),
            ("--workflows", self.workflows or f"a/b@{'0' * 40}", _SOURCE, "OWNER/servegate@40-digit-commit"),
        ):
            if not pattern.fullmatch(value):
                raise ConfigError(f"{option}: {value!r} is not such as {example}")


class State(StrEnum):
    """What a file means for the target."""

    NEW = "new"
    SAME = "same"
    DIFFERS = "differs"


@dataclass(frozen=True)
class File:
    """A file of the pipeline and what the target has in its place."""

    path: str
    content: bytes
    state: State


def plan(settings: Settings, target: Path) -> list[File]:
    """Every file the pipeline needs, compared with the target.

    Raises:
        ConfigError: a setting is not usable, or something in the target is in the way.
    """
    settings.check()
    wanted = {path: _fitted(path, content, settings) for path, content in _folders(_source(), settings.cloud)}
    wanted["Dockerfile"] = (_source() / "Dockerfile").read_bytes()
    wanted["release.yaml"] = _release(settings).encode()
    if settings.workflows is not None:
        match = _SOURCE.fullmatch(settings.workflows)
        assert match is not None  # checked above
        for name in WORKFLOWS:
            text = (resources.files("servegate.pipeline") / "callers" / name).read_text("utf-8")
            for mark, value in (
                ("@REPOSITORY@", match["repository"]),
                ("@COMMIT@", match["commit"]),
                ("@VERSION@", f"v{servegate.__version__}"),
                ("@SERVED_NAME@", json.dumps(settings.served_name)),
                ("@IMAGE@", json.dumps(settings.image)),
                ("@NAMESPACE@", settings.namespace),
            ):
                text = text.replace(mark, value)
            wanted[f".github/workflows/{name}"] = text.encode()
    return [File(path, content, _state(target, path, content)) for path, content in sorted(wanted.items())]


def write(target: Path, file: File) -> None:
    """Write one file. Raises InfrastructureError when it cannot be written."""
    write_atomic(target / file.path, file.content)


def _state(target: Path, path: str, content: bytes) -> State:
    place = target / path
    if not place.resolve().is_relative_to(target.resolve()):
        raise ConfigError(f"{place}: leads out of {target}; remove the link")
    if place.is_dir():
        raise ConfigError(f"{place}: is a folder, and a file must be there")
    try:
        found = place.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return State.NEW
    except OSError as error:
        raise ConfigError(f"{place}: cannot be read: {error.strerror}") from error
    return State.SAME if found == content else State.DIFFERS


def _source() -> Path:
    package = Path(servegate.__file__).parent
    # A wheel has the folders as its scaffold, an editable checkout beside src.
    scaffold = package / "scaffold"
    return scaffold if scaffold.is_dir() else package.parent.parent


def _folders(source: Path, cloud: str | None) -> Iterator[tuple[str, bytes]]:
    for folder in (*FOLDERS, "k8s"):
        for path in sorted((source / folder).rglob("*")):
            name = path.relative_to(source).as_posix()
            elsewhere = name.startswith("k8s/overlays/eks/") and cloud not in (None, "aws")
            if path.is_file() and not _LEFT_OUT.search(name) and not elsewhere:
                yield name, path.read_bytes()


def _fitted(path: str, content: bytes, settings: Settings) -> bytes:
    """A file with the team's namespace and GPUs in it."""
    if not _PLACED.fullmatch(path):
        return content
    key = "name" if path.endswith("/namespace.yaml") else "namespace"
    ours = re.compile(rf"^( *{key}: ){NAMESPACE}(-staging)?$", re.MULTILINE)
    text = ours.sub(rf"\g<1>{settings.namespace}\g<2>", content.decode())
    if settings.gpu is not None and path.endswith("/kustomization.yaml"):
        # The patches are the last part of an overlay that has some.
        text += ("" if "\npatches:\n" in text else "patches:\n") + _GPU_PATCH.format(gpu=json.dumps(settings.gpu))
    return text.encode()


def _release(settings: Settings) -> str:
    version = _VERSION.search(bases(_source() / "Dockerfile")["cuda"])
    if version is None:
        raise ConfigError(f"{_source() / 'Dockerfile'}: the base of stage cuda has no version in its tag")
    revision = f"  revision: {json.dumps(settings.revision)}\n" if settings.revision else ""
    return (
        "# What a slot serves. A tag adds its image by digest and becomes the name; everything else is said here.\n"
        "# `servegate release show release.yaml` prints the identity it has.\n"
        "name: unreleased\n"
        "model:\n"
        f"  uri: {json.dumps(settings.model)}\n"
        f"{revision}"
        f"  served_name: {json.dumps(settings.served_name)}\n"
        "engine:\n"
        "  name: vllm\n"
        f"  version: {version[1]}\n"
        "args: []\n"
    )
