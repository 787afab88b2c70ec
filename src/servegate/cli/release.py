"""`servegate release`: describe and hash what a slot serves."""

from __future__ import annotations

from pathlib import Path

import click


@click.group(help="Describe and hash what a slot serves.")
def command() -> None:
    """Group of the noun."""


@command.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the whole release as JSON.")
def show(file: Path, as_json: bool) -> None:
    """Print a release FILE (YAML or JSON) and the identity it has."""
    from servegate.config import load
    from servegate.release import Release

    release = load(file, Release)
    if as_json:
        click.echo(release.model_dump_json(indent=1))
        return
    click.echo(f"{release.name}  {release.identity()}")
    click.echo(f"  engine  {release.engine.name} {release.engine.version}")
    click.echo(f"  model   {release.model.served_name} from {release.model.uri}")
    if release.args:
        click.echo(f"  args    {' '.join(release.args)}")


@command.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--image", required=True, metavar="REPOSITORY@sha256:…", help="The image, by digest.")
@click.option("--tag", required=True, metavar="vX.Y.Z", help="Git tag; becomes the release's name.")
@click.option("--commit", metavar="HASH", help="Full hash of the tagged commit.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Where the release goes, as JSON.")
def pin(file: Path, image: str, tag: str, commit: str | None, output: Path) -> None:
    """Make the release that is deployed of FILE: with its image by digest, and where it comes from."""
    from servegate.config import load
    from servegate.release import Release, pinned

    release = pinned(load(file, Release), image=image, tag=tag, commit=commit)
    release.write(output)
    click.echo(f"{release.name}  {release.identity()}")
