"""`servegate image`: build the image that serves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from servegate.image.job import Variant


@click.group(help="Build the image that serves.")
def command() -> None:
    """Group of the noun."""


@command.command()
@click.option("--tag", required=True, metavar="REGISTRY/NAME:TAG", help="What the image is called.")
@click.option("--variant", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True, help="For what.")
@click.option("--push", is_flag=True, help="Push it; without, it is built and nothing leaves the machine.")
@click.option("--base", metavar="IMAGE", help="Base instead of the Dockerfile's, such as a mirror's.")
@click.option("--flags-base", metavar="IMAGE", help="Image whose vLLM is asked for its flags; default: --base.")
@click.option("--builder", type=click.Choice(["buildkit", "buildah"]), help="Default: the first that is installed.")
@click.option("--cache", metavar="REGISTRY/NAME:TAG", help="Image in the registry that keeps layers between builds.")
@click.option("--version", help="Version for the image's label; default: the tag.")
@click.option(
    "--epoch", type=click.IntRange(0), envvar="SOURCE_DATE_EPOCH", help="Time of the image, for equal digests."
)
@click.option("--min-free", type=click.FloatRange(0), metavar="GB", help="Disk it needs; default: known per variant.")
@click.option("--plain-http", is_flag=True, help="The registry has no TLS (buildah only).")
@click.option("--dry-run", is_flag=True, help="Print the commands and do nothing.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write digest, size and time there, as JSON.")
@click.option("--summary", type=click.Path(path_type=Path), help="Append a Markdown table there.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def build(
    tag: str,
    variant: Variant,
    push: bool,
    base: str | None,
    flags_base: str | None,
    builder: str | None,
    cache: str | None,
    version: str | None,
    epoch: int | None,
    min_free: float | None,
    plain_http: bool,
    dry_run: bool,
    output: Path | None,
    summary: Path | None,
    as_json: bool,
) -> None:
    """Build the Dockerfile of this folder, or the one that came with servegate.

    Exit codes: 0 built, 2 configuration, 4 no room, no builder, or it failed.
    """
    import json
    import shlex
    import tempfile

    from servegate.contract import write_atomic
    from servegate.image.build import GB, check_room, choose, labels, make_context, markdown
    from servegate.image.build import build as run_build
    from servegate.image.buildah import Buildah
    from servegate.image.buildkit import BuildKit
    from servegate.image.job import Job, bases, repository_of
    from servegate.pipeline.files import find

    repository_of(tag)
    if cache is not None:
        repository_of(cache)
    dockerfile = find("Dockerfile")
    pinned = bases(dockerfile)
    chosen = choose([BuildKit(), Buildah(insecure=plain_http)], builder)
    with tempfile.TemporaryDirectory(prefix="servegate-image-") as folder:
        context, scratch = Path(folder, "context"), Path(folder, "scratch")
        context.mkdir()
        scratch.mkdir()
        make_context(dockerfile, context)
        found_base = base or pinned[variant]
        job = Job(
            context=context,
            tag=tag,
            variant=variant,
            base=found_base,
            flags_base=flags_base or base or pinned["cpu"],
            labels=labels(version or tag.rpartition(":")[2], found_base),
            push=push,
            cache=cache,
            epoch=epoch,
        )
        if dry_run:
            for line in chosen.commands(job, scratch):
                click.echo(shlex.join(line))
            return
        check_room(chosen, variant, None if min_free is None else round(min_free * GB))
        built = run_build(job, chosen, scratch)
    document = json.dumps(built.document(), indent=1)
    if output is not None:
        write_atomic(output, document.encode() + b"\n")
    if summary is not None:
        with summary.open("a", encoding="utf-8") as stream:
            stream.write(markdown(built))
    click.echo(document if as_json else markdown(built), nl=as_json)


@command.command()
@click.argument("image", metavar="REPOSITORY@DIGEST")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("sbom.cdx.json"),
    show_default=True,
    help="Write the list there, CycloneDX as JSON.",
)
@click.option("--size", type=click.IntRange(1), metavar="BYTES", help="What a node pulls: the room is looked at first.")
@click.option("--syft", default="syft", show_default=True, help="Program that lists.")
@click.option("--plain-http", is_flag=True, help="The registry has no TLS.")
@click.option("--summary", type=click.Path(path_type=Path), help="Append a Markdown table there.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def sbom(
    image: str, output: Path, size: int | None, syft: str, plain_http: bool, summary: Path | None, as_json: bool
) -> None:
    """List what the image at DIGEST in its registry holds: a software bill of materials.

    Exit codes: 0 listed, 2 usage, 4 no room, no syft, or it failed.
    """
    import json

    from servegate.image.sbom import check_room, markdown, split, write

    split(image)
    if size is not None:
        check_room(size)
    listed = write(image, output, syft, plain_http)
    if summary is not None:
        with summary.open("a", encoding="utf-8") as stream:
            stream.write(markdown(listed))
    click.echo(json.dumps(listed.document(), indent=1) if as_json else markdown(listed), nl=as_json)
