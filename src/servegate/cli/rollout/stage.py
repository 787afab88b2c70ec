"""Commands that put a release beside the one that serves, without traffic, and take it away again."""

from __future__ import annotations

import json
from pathlib import Path

import click

from servegate.cli.rollout.common import json_option

site_option = click.option(
    "--site", type=click.Path(path_type=Path), required=True, help="File that says where.", metavar="FILE"
)


@click.command(short_help="Put a release beside the one that serves, without traffic.")
@click.argument("release", type=click.Path(path_type=Path))
@site_option
@click.option("--replicas", type=click.IntRange(1, 64), default=1, show_default=True, help="How many of it.")
@click.option("--within", default="30min", show_default=True, metavar="TIME", help="It must be ready by then.")
@click.option("--first", is_flag=True, help="Nothing serves here yet, and this shall: it goes where the traffic goes.")
@json_option
def stage(release: Path, site: Path, replicas: int, within: str, first: bool, as_json: bool) -> None:
    """Put the RELEASE file into the idle slot, wait until it is ready, and say its own address: to smoke-test, evaluate
    and load it before it has a verdict. Users notice nothing.

    With --first it is what a place begins with: no rollout was here and nothing runs. Later releases come by `start`.

    Exit codes: 0 it is ready, 2 configuration or a rollout is under way, 4 it did not become ready.
    """
    from servegate.config import load
    from servegate.errors import ConfigError
    from servegate.pipeline import stage as staging
    from servegate.pipeline.site import load_site, opened
    from servegate.release import Release
    from servegate.rollout.describe import plain
    from servegate.units import seconds

    try:
        limit = seconds(within)
    except ValueError as error:
        raise ConfigError(f"--within: {error}") from error
    wanted = load(release, Release)
    with opened(load_site(site), [wanted]) as place:
        slot = staging.stage(
            place, place.slots, wanted, replicas, within=limit, first=first,
            say=lambda line: click.echo(plain(line), err=True),
        )  # fmt: skip
        address = place.workload.address(slot)
    if as_json:
        click.echo(json.dumps({"slot": slot, "release": wanted.identity(), "address": address}))
    else:
        click.echo(f"{wanted.label()} is ready in {slot}: {address}")


@click.command(short_help="Empty the slot that has no traffic.")
@site_option
def unstage(site: Path) -> None:
    """Empty the idle slot. What serves goes on serving."""
    from servegate.pipeline import stage as staging
    from servegate.pipeline.site import load_site, opened

    with opened(load_site(site)) as place:
        slot = staging.unstage(place, place.slots)
    click.echo(f"{slot} is emptied")
