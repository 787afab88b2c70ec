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
