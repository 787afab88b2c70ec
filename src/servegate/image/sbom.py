"""What an image holds: its SBOM by syft, in CycloneDX, checked to be of that image."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from servegate.contract import write_atomic
from servegate.errors import ConfigError, InfrastructureError
from servegate.image.program import follow
from servegate.report.markdown import escape

GB = 10**9
_REFERENCE = re.compile(
    r"(?P<repository>[a-z0-9]+([.-][a-z0-9]+)*(:[0-9]{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+)"
    r"@(?P<digest>sha256:[0-9a-f]{64})"
)
# The official images unpack to 2.4 and 2.7 times of what is pulled (docs/image.md).
_UNPACKED = 3
# 1.6 is what most readers know. Without single files: a list of packages stays below what an attestation may hold.
_FORMAT = "cyclonedx-json@1.6"
_ENVIRON = {"SYFT_CHECK_FOR_APP_UPDATE": "false", "SYFT_FILE_METADATA_SELECTION": "none"}


@dataclass(frozen=True)
class Listed:
    """What was found.

    Attributes:
        packages: number of packages by kind, as their package URLs say: deb, pypi, golang …
        engine: version of vLLM; None where the image has none.
        tool: program and version that looked.
    """

    repository: str
    digest: str
    packages: dict[str, int]
    engine: str | None
    tool: str

    def document(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def split(reference: str) -> tuple[str, str]:
    """Repository and digest. Raises ConfigError for a tag, which may be another image tomorrow, and anything else."""
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise ConfigError(
            f"{reference!r} is not REPOSITORY@sha256:… ; an image is listed by its digest, a tag may move"
        )
    return match["repository"], match["digest"]


def check_room(size: int, folder: Path | None = None) -> None:
    """Look at the disk before the image is pulled and unpacked into the folder for temporary files.

    Args:
        size: bytes a node pulls.

    Raises:
        InfrastructureError: too little room.
    """
    place = Path(tempfile.gettempdir()) if folder is None else folder
    free, needed = shutil.disk_usage(place).free, size * _UNPACKED
    if free < needed:
        raise InfrastructureError(
            f"the unpacked image needs {needed / GB:.1f} GB of disk at {place}, found {free / GB:.1f} GB; "
            "make room there, set TMPDIR, or take a larger runner"
        )


def write(reference: str, output: Path, syft: str, plain_http: bool = False) -> Listed:
    """List the image in its registry and write the document.

    Raises:
        ConfigError: the image is named by no digest.
        InfrastructureError: syft is not there or fails, or what it says is no list of this image.
    """
    repository, digest = split(reference)
    if shutil.which(syft) is None:
        raise InfrastructureError(
            f"{syft} is not installed; with Go: go install github.com/anchore/syft/cmd/syft@latest, or --syft PROGRAM"
        )
    environ = {**_ENVIRON, **({"SYFT_REGISTRY_INSECURE_USE_HTTP": "true"} if plain_http else {})}
    with tempfile.TemporaryDirectory(prefix="servegate-sbom-") as folder:
        made = Path(folder, "sbom.json")
        follow([syft, "scan", f"registry:{reference}", "--quiet", "--output", f"{_FORMAT}={made}"], environ)
        try:
            data = made.read_bytes()
        except OSError as error:
            raise InfrastructureError(f"{syft} wrote no list: {error.strerror}") from error
    listed = read(data, repository, digest)
    write_atomic(output, data)
    return listed


def read(data: bytes, repository: str, digest: str) -> Listed:
    """What a CycloneDX document says of an image.

    Raises:
        InfrastructureError: it is none, of another image, or empty.
    """
    try:
        document: Any = json.loads(data)
        subject = document["metadata"]["component"]
        tool = document["metadata"]["tools"]["components"][0]
        components = [item for item in document.get("components", []) if str(item.get("purl", "")).startswith("pkg:")]
        said = (document["bomFormat"], subject["version"])
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise InfrastructureError("the list of the image is no CycloneDX document") from error
    if said != ("CycloneDX", digest):
        raise InfrastructureError(f"the list is one of {subject['version']}, and not of {digest}")
    if not components:
        raise InfrastructureError(f"{repository}@{digest}: no package was found in it; that is no list of an image")
    kinds = Counter(str(item["purl"]).removeprefix("pkg:").partition("/")[0] for item in components)
    engines = [str(item.get("version")) for item in components if str(item["purl"]).startswith("pkg:pypi/vllm@")]
    return Listed(
        repository=repository,
        digest=digest,
        packages=dict(sorted(kinds.items())),
        engine=engines[0] if engines else None,
        tool=f"{tool.get('name')} {tool.get('version')}",
    )


def markdown(listed: Listed) -> str:
    """A table for a job summary. Kinds and versions are what somebody wrote into an image."""
    packages = ", ".join(f"{number} {kind}" for kind, number in listed.packages.items())
    rows: Mapping[str, str] = {
        "image": f"`{listed.repository}@{listed.digest}`",
        "packages": escape(packages),
        "vLLM": escape(listed.engine or "none"),
        "listed by": escape(listed.tool),
    }
    lines = ["### What it holds", "", "| | |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {value} |" for name, value in rows.items()), ""])
