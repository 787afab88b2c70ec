"""buildah: builds without a daemon; skopeo reads the registry."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from servegate.errors import InfrastructureError
from servegate.image.job import Job, Pushed, repository_of
from servegate.image.manifest import pulled_size
from servegate.image.program import output


class Buildah:
    """Builds into local storage, then pushes.

    Args:
        insecure: the registry speaks plain HTTP.
    """

    name = "buildah"

    def __init__(self, insecure: bool = False) -> None:
        # Otherwise registries.conf decides.
        self._tls = ["--tls-verify=false"] if insecure else []

    def available(self) -> bool:
        """Both programs are needed."""
        return all(shutil.which(program) is not None for program in ("buildah", "skopeo"))

    def storage(self) -> Path:
        """As buildah is configured (STORAGE_DRIVER, storage.conf)."""
        try:
            return Path(json.loads(output(["buildah", "info"]))["store"]["GraphRoot"])
        except (ValueError, KeyError, TypeError) as error:
            raise InfrastructureError("`buildah info` does not say where its storage is") from error

    def commands(self, job: Job, scratch: Path) -> list[list[str]]:
        """Build, then push where asked."""
        # Docker's format: the other one has no health check.
        build = ["buildah", "build", "--format", "docker", "--layers", *self._tls, "--tag", job.tag]
        for name, value in job.arguments.items():
            build += ["--build-arg", f"{name}={value}"]
        for name, value in job.labels.items():
            build += ["--label", f"{name}={value}"]
        if job.epoch is not None:
            build += ["--timestamp", str(job.epoch)]
        if job.cache is not None:
            repository = job.cache.rpartition(":")[0]
            build += ["--cache-from", repository, *(["--cache-to", repository] if job.push else [])]
        found = [[*build, str(job.context)]]
        if job.push:
            push = ["buildah", "push", "--format", "v2s2", *self._tls, "--digestfile", str(scratch / "digest")]
            found.append([*push, job.tag, f"docker://{job.tag}"])
        return found

    def pushed(self, job: Job, scratch: Path) -> Pushed:
        """From the file that `buildah push` writes, and the registry."""
        try:
            digest = (scratch / "digest").read_text("ascii").strip()
        except OSError as error:
            raise InfrastructureError(f"buildah did not say which digest it pushed: {error}") from error
        return Pushed(digest, pulled_size(self._raw, repository_of(job.tag), digest))

    def _raw(self, reference: str) -> str:
        return output(["skopeo", "inspect", "--raw", *self._tls, f"docker://{reference}"])
