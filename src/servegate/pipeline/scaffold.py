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
_VERSION = re.compile(r":v(\d+\.\d+\.\d+)")
# For this project's own demonstrations.
_LEFT_OUT = re.compile(r"(^|/)vllm-cpu[^/]*$|(^|/)machine\.yaml$|(^|/)support-small\.yaml$|\.pyc$")


@dataclass(frozen=True)
class Settings:
    """What a team says about its service.

    Attributes:
        model: where the weights are, such as hf://org/name.
        revision: of the weights.
        served_name: name clients put into requests.
        image: name of the serving image; empty: ghcr.io and the repository.
        workflows: `OWNER/REPOSITORY@COMMIT` whose workflows are called; None: no workflows.
    """

    model: str
    served_name: str
    revision: str | None = None
    image: str = ""
    workflows: str | None = None

    def check(self) -> None:
        """Raise ConfigError for what would not be one word in a YAML file."""
        for option, value, pattern, example in (
            ("--model", self.model, _URI, "hf://Qwen/Qwen3-8B"),
            ("--served-name", self.served_name, _NAME, "support"),
            ("--revision", self.revision or "main", _NAME, "a commit of the model's repository"),
            ("--image", self.image or "ghcr.io/team/chat", _IMAGE, "ghcr.io/team/chat"),
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
    wanted = dict(_folders(_source()))
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


def _folders(source: Path) -> Iterator[tuple[str, bytes]]:
    for folder in (*FOLDERS, "k8s"):
        for path in sorted((source / folder).rglob("*")):
            name = path.relative_to(source).as_posix()
            if path.is_file() and not _LEFT_OUT.search(name):
                yield name, path.read_bytes()


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
