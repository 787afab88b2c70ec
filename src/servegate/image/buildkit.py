"""BuildKit, through buildx: `docker buildx`, or the `buildx` program where there is no Docker."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from servegate.errors import InfrastructureError
from servegate.image.job import Job, Pushed, repository_of
from servegate.image.manifest import pulled_size
from servegate.image.program import output


class BuildKit:
    """Pushes from the builder; the image never enters Docker's own storage."""

    name = "buildkit"

    def available(self) -> bool:
        """Docker with its plugin, or buildx alone."""
        return self._buildx() is not None

    def storage(self) -> Path:
        """The builder's container keeps its layers in Docker's folder."""
        return Path("/var/lib/docker")

    def commands(self, job: Job, scratch: Path) -> list[list[str]]:
        """One command."""
        command = [*(self._buildx() or ["docker", "buildx"]), "build", "--progress", "plain", "--tag", job.tag]
        command += ["--platform", "linux/amd64", "--metadata-file", str(scratch / "metadata.json")]
        for name, value in job.arguments.items():
            command += ["--build-arg", f"{name}={value}"]
        for name, value in job.labels.items():
            command += ["--label", f"{name}={value}"]
        if job.cache is not None:
            command += ["--cache-from", f"type=registry,ref={job.cache}"]
            if job.push:
                # A cache that cannot be written must not fail a release.
                command += ["--cache-to", f"type=registry,ref={job.cache},mode=max,ignore-error=true"]
        if job.push:
            # Provenance of the build itself travels with the image.
            command += ["--provenance", "mode=max", "--output", "type=image,push=true,rewrite-timestamp=true"]
        else:
            command += ["--output", "type=cacheonly"]
        return [[*command, str(job.context)]]

    def pushed(self, job: Job, scratch: Path) -> Pushed:
        """From the metadata that buildx writes, and the registry."""
        try:
            metadata = json.loads((scratch / "metadata.json").read_text("utf-8"))
            digest = str(metadata["containerimage.digest"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InfrastructureError(f"buildx did not say which digest it pushed: {error}") from error
        return Pushed(digest, pulled_size(self._raw, repository_of(job.tag), digest))

    def _raw(self, reference: str) -> str:
        return output([*(self._buildx() or ["docker", "buildx"]), "imagetools", "inspect", "--raw", reference])

    def _buildx(self) -> list[str] | None:
        for command in (["docker", "buildx"], ["buildx"]):
            if shutil.which(command[0]) is not None:
                try:
                    output([*command, "version"])
                except InfrastructureError:  # Docker without the plugin
                    continue
                return command
        return None
