"""What is built, and what came out of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from servegate.errors import ConfigError

Variant = Literal["cuda", "cpu"]

_FROM = re.compile(
    r"^FROM\s+(?P<image>\S+@sha256:[0-9a-f]{64})\s+AS\s+(?P<stage>[a-z]+)\s*$", re.MULTILINE | re.IGNORECASE
)
_TAG = re.compile(
    r"(?P<repository>[a-z0-9]+([.-][a-z0-9]+)*(:[0-9]{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+)"
    r":(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127})"
)


@dataclass(frozen=True)
class Job:
    """One build.

    Attributes:
        context: folder with `Dockerfile` and what it copies.
        tag: repository and tag of the result.
        base: image it stands on.
        flags_base: image whose vLLM is asked for its flags.
        cache: image in the registry that keeps layers between builds.
        epoch: seconds since 1970 that every file and the image get as their time, so that the same input gives the
            same digest.
    """

    context: Path
    tag: str
    variant: Variant
    base: str
    flags_base: str
    labels: Mapping[str, str]
    push: bool
    cache: str | None = None
    epoch: int | None = None

    @property
    def arguments(self) -> dict[str, str]:
        """Arguments of the Dockerfile."""
        return {"VARIANT": self.variant, "BASE": self.base, "FLAGS_BASE": self.flags_base}


@dataclass(frozen=True)
class Pushed:
    """What the registry has now: digest and size of what a node pulls, in bytes (compressed layers)."""

    digest: str
    size: int


class Builder(Protocol):
    """A program that builds images."""

    name: str

    def available(self) -> bool:
        """Whether it is installed."""

    def storage(self) -> Path:
        """Where it keeps layers."""

    def commands(self, job: Job, scratch: Path) -> list[list[str]]:
        """The command lines, in order; `scratch` is a folder for files between them."""

    def pushed(self, job: Job, scratch: Path) -> Pushed:
        """What was pushed.

        Raises:
            InfrastructureError: the registry does not say.
        """


def bases(dockerfile: Path) -> dict[str, str]:
    """The images a Dockerfile pins, by the name of their stage.

    Raises:
        ConfigError: it cannot be read, or has no stage `cuda` or `cpu` pinned by digest.
    """
    try:
        text = dockerfile.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{dockerfile}: cannot be read: {error}") from error
    found = {match["stage"]: match["image"] for match in _FROM.finditer(text)}
    for stage in ("cuda", "cpu"):
        if stage not in found:
            raise ConfigError(f"{dockerfile}: has no line `FROM IMAGE@sha256:… AS {stage}`")
    return found


def repository_of(tag: str) -> str:
    """The repository of `registry/name:tag`. Raises ConfigError for anything else."""
    match = _TAG.fullmatch(tag)
    if match is None:
        raise ConfigError(f"--tag: {tag!r} is not REGISTRY/NAME:TAG, such as ghcr.io/team/chat:v1.4.0")
    return match["repository"]
