"""The contract Release: everything that decides how a slot answers, in one immutable document.

"Rollback to v1.3.2" means to a Release, not to an image tag: a tag moves, and the same image with other arguments,
another chat template or another model revision is another service. The digest of the document is the release's
name in verdicts, pods, metrics and history.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from servegate.contract import Contract, Sha256, canonical_json, sha256, sha256_file
from servegate.errors import ConfigError

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TAG = re.compile(
    r"v(0|[1-9]\d{0,8})(\.(0|[1-9]\d{0,8})){2}(-(0|[1-9]\d*|\d*[A-Za-z-][0-9A-Za-z-]*)(\.(0|[1-9]\d*|\d*[A-Za-z-][0-9A-Za-z-]*))*)?"
)

Text = Annotated[str, Field(min_length=1, max_length=4096)]


class Git(Contract):
    """Where the release comes from."""

    tag: Text | None = Field(None, description="Git tag, such as v1.4.0")
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = Field(None, description="full commit hash")


class Image(Contract):
    """The serving image, by digest only."""

    repository: Text = Field(description="image name without tag or digest")
    digest: Sha256


class Model(Contract):
    """The weights."""

    uri: Text = Field(description="where the weights are, such as hf://org/name, s3://bucket/path, pvc://claim/path")
    revision: Text | None = Field(None, description="revision of the weights at that place")
    served_name: Text = Field(description="name clients put into the request's `model`")


class Engine(Contract):
    """What runs the model."""

    name: Literal["vllm", "simulator"]
    version: Text


class File(Contract):
    """A file whose content decides answers. Its place is for finding it again and is not part of the identity."""

    sha256: Sha256
    path: Text | None = Field(None, description="where the content was read; not hashed")


class Release(Contract):
    """An immutable, hashed description of what a slot serves."""

    schema_version: Literal[1] = 1
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,62}$")] = Field(
        description="what people call it: usually the Git tag"
    )
    git: Git | None = None
    image: Image | None = Field(None, description="none where the engine is a local process")
    model: Model
    engine: Engine
    args: tuple[str, ...] = Field((), description="arguments of the engine, in order")
    env: dict[str, str] = Field(default_factory=dict, description="environment of the engine; never a secret")
    chat_template: File | None = None
    system_prompt: File | None = None

    @model_validator(mode="before")
    @classmethod
    def _no_secret_in_env(cls, data: Any) -> Any:
        # A release is printed, hashed and attached to images: what must stay secret has no place in it.
        env = data.get("env") if isinstance(data, dict) else None
        for key in env if isinstance(env, dict) else ():
            if any(word in str(key).upper() for word in ("SECRET", "PASSWORD", "API_KEY", "_TOKEN")):
                raise ValueError(f"env: {key} looks like a secret; reference it from the workload instead")
        return data

    def canonical(self) -> bytes:
        """The identity: everything but the places where files were found."""
        data = self.model_dump(mode="json")
        for key in ("chat_template", "system_prompt"):
            if data[key] is not None:
                del data[key]["path"]
        return canonical_json(data)

    @property
    def id(self) -> str:
        """The first 12 hex digits of the digest: enough for labels and people."""
        return self.identity().removeprefix("sha256:")[:12]

    def label(self) -> str:
        """`name (id)`, for people."""
        return f"{self.name} ({self.id})"


def pinned(release: Release, *, image: str, tag: str, commit: str | None) -> Release:
    """The release a tag stands for: its image by digest, named after the tag.

    Args:
        image: `repository@sha256:…`.
        tag: `v` and a semantic version (https://semver.org, without build metadata: an image tag cannot have a plus).

    Raises:
        ConfigError: not a digest, or no semantic version.
    """
    repository, at, digest = image.partition("@")
    if not repository or not at or not _DIGEST.fullmatch(digest):
        raise ConfigError(f"--image: {image!r} is not REPOSITORY@sha256:…; a tag moves, a digest does not")
    if len(tag) > 63 or not _TAG.fullmatch(tag):
        raise ConfigError(f"--tag: {tag!r} is not v and a semantic version, such as v1.4.0 or v1.4.0-rc.1")
    if commit is not None and not _COMMIT.fullmatch(commit):
        raise ConfigError(f"--commit: {commit!r} is not a full commit hash")
    changed = {"name": tag, "git": Git(tag=tag, commit=commit), "image": Image(repository=repository, digest=digest)}
    return release.model_copy(update=changed)


def file_of(path: Path, shown: str | None = None) -> File:
    """Hash a file for a Release. Raises ConfigError when it cannot be read."""
    return File(sha256=sha256_file(path), path=shown or str(path))


def verify_file(file: File, content: bytes) -> None:
    """Refuse content that is not what the release names.

    Raises:
        ConfigError: the content has another digest.
    """
    found = sha256(content)
    if found != file.sha256:
        raise ConfigError(f"{file.path or 'file'}: content is {found}, but the release names {file.sha256}")
