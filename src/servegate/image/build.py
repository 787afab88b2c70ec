"""From a Dockerfile to a digest: room, context, commands, figures."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from servegate import serving
from servegate.errors import ConfigError, InfrastructureError
from servegate.image.job import Builder, Job, Pushed, Variant, repository_of
from servegate.image.program import follow

GB = 10**9

# What a build needs on an empty machine. BuildKit keeps the compressed layers (CUDA 12 GB, CPU 2 GB) and unpacks only
# the CPU image (5 GB), in which the flags are asked for; buildah unpacks both (CUDA 29 GB).
_NEED = {
    ("buildkit", "cuda"): 22 * GB,
    ("buildkit", "cpu"): 10 * GB,
    ("buildah", "cuda"): 50 * GB,
    ("buildah", "cpu"): 12 * GB,
}


@dataclass(frozen=True)
class Built:
    """What came out: digest and size are absent when nothing was pushed."""

    repository: str
    tag: str
    digest: str | None
    size: int | None
    seconds: float
    builder: str
    variant: Variant
    base: str

    def document(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def choose(builders: Sequence[Builder], name: str | None) -> Builder:
    """The builder of that name, or the first that is installed.

    Raises:
        InfrastructureError: none is there.
    """
    for builder in builders:
        if name in (None, builder.name) and builder.available():
            return builder
    wanted = name or " or ".join(builder.name for builder in builders)
    raise InfrastructureError(
        f"{wanted} is not installed; BuildKit comes with Docker (docker buildx), buildah with most distributions "
        "(apt-get install buildah skopeo)"
    )


def check_room(builder: Builder, variant: Variant, need: int | None) -> None:
    """Look at the disk before anything is pulled.

    Raises:
        InfrastructureError: too little room; how much, where, and what to do.
    """
    needed = _NEED[builder.name, variant] if need is None else need
    place = builder.storage()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed:
        raise InfrastructureError(
            f"the {variant} image needs {needed / GB:.0f} GB of disk at {place}, found {free / GB:.1f} GB; "
            "make room there, or take a larger runner"
        )


def make_context(dockerfile: Path, folder: Path) -> None:
    """Fill a folder with the Dockerfile and what it copies: the entry point that came with this servegate.

    Raises:
        ConfigError: the Dockerfile cannot be read.
    """
    target = folder / "src" / "servegate" / "serving"
    target.mkdir(parents=True)
    try:
        shutil.copyfile(dockerfile, folder / "Dockerfile")
    except OSError as error:
        raise ConfigError(f"{dockerfile}: cannot be read: {error.strerror}") from error
    for file in sorted(Path(serving.__file__).parent.glob("*.py")):
        shutil.copyfile(file, target / file.name)
    for path in (folder, *folder.rglob("*")):  # whatever the umask is
        path.chmod(0o755 if path.is_dir() else 0o644)


def build(job: Job, builder: Builder, scratch: Path, clock: Callable[[], float] = time.monotonic) -> Built:
    """Run the builder's commands and say what came out.

    Raises:
        InfrastructureError: a command failed.
    """
    begin = clock()
    # BuildKit reads the time from here; buildah is told on the command line.
    environ = {} if job.epoch is None else {"SOURCE_DATE_EPOCH": str(job.epoch)}
    for command in builder.commands(job, scratch):
        follow(command, environ)
    pushed: Pushed | None = builder.pushed(job, scratch) if job.push else None
    return Built(
        repository=repository_of(job.tag),
        tag=job.tag,
        digest=pushed.digest if pushed else None,
        size=pushed.size if pushed else None,
        seconds=round(clock() - begin, 1),
        builder=builder.name,
        variant=job.variant,
        base=job.base,
    )


def markdown(built: Built) -> str:
    """A table for a job summary."""
    rows = {
        "image": f"`{built.repository}@{built.digest}`" if built.digest else f"`{built.tag}`, not pushed",
        "tag": f"`{built.tag}`",
        "base": f"`{built.base}`",
        "to pull": f"{built.size / GB:.2f} GB" if built.size else "—",
        "build": f"{built.seconds:.0f} s with {built.builder}",
    }
    lines = ["### Image", "", "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]
    return "\n".join([*lines, ""])


def labels(version: str | None, base_image: str, environ: dict[str, str] | None = None) -> dict[str, str]:
    """Labels that differ from build to build; commit and source are GitHub's where it runs there."""
    env = os.environ if environ is None else environ
    base, _, digest = base_image.partition("@")
    found = {
        "org.opencontainers.image.version": version,
        "org.opencontainers.image.revision": env.get("GITHUB_SHA"),
        "org.opencontainers.image.source": _source(env),
        "org.opencontainers.image.base.name": base,
        "org.opencontainers.image.base.digest": digest,
    }
    return {name: value for name, value in found.items() if value}


def _source(env: os._Environ[str] | dict[str, str]) -> str | None:
    server, repository = env.get("GITHUB_SERVER_URL"), env.get("GITHUB_REPOSITORY")
    return f"{server}/{repository}" if server and repository else None
