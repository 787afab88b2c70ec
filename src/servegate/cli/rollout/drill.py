"""`servegate rollout drill`: does the net hold?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from servegate.cli.rollout import common
from servegate.cli.rollout.common import json_option, registry_option, trust_option, verdict_option
from servegate.cli.rollout.conduct import conducted

if TYPE_CHECKING:
    from servegate.pipeline.drill import Drill

RESULT = "drill.json"


@click.command(short_help="Roll a faulty release out under load; does the net hold?")
@click.argument("release", type=click.Path(path_type=Path))
@click.option("--site", type=click.Path(path_type=Path), required=True, help="File that says where.")
@click.option("--namespace", metavar="NAME", help="Of the cluster; instead of the one in the --site file.")
@click.option("--plan", type=click.Path(path_type=Path), required=True, help="File of the plan.")
@click.option("--base-url", required=True, help="Where users connect, without /v1; the load goes there.")
@click.option(
    "--profile",
    type=click.Path(path_type=Path),
    default=Path("loadtest/profiles/drill.yaml"),
    show_default=True,
    help="The load; it must last longer than the rollout.",
)
@verdict_option
@registry_option
@trust_option
@click.option("--stable", type=click.Path(path_type=Path), help="File of the release that serves, the first time.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("out/drill"),
    show_default=True,
    help=f"Folder for {RESULT} and the records of the load.",
)
@json_option
def drill(
    release: Path,
    site: Path,
    namespace: str | None,
    plan: Path,
    base_url: str,
    profile: Path,
    verdict: tuple[Path, ...],
    registry: bool,
    trust: Path | None,
    stable: Path | None,
    output: Path,
    as_json: bool,
) -> None:
    """Roll the RELEASE file, which has a fault in it, out under a load of the drill's own. It must be taken back
    without anybody's help; how long that took and how many requests it hurt is measured.

    Exit codes: 0 the net held, 1 it has a hole, 2 configuration, 3 no verdict that counts, 4 could not be done.
    """
    from servegate.cli.target import resolve
    from servegate.contract import write_atomic
    from servegate.errors import ExitCode
    from servegate.loadtest import load_profile, traffic
    from servegate.pipeline.drill import judged
    from servegate.pipeline.site import load_site, opened
    from servegate.rollout import memory

    loaded, where = load_profile(profile), load_site(site, namespace)
    endpoint, _, _ = resolve(base_url, None, None)
    output.mkdir(parents=True, exist_ok=True)
    with traffic(loaded, endpoint, output) as users:
        click.echo(f"load: {loaded.profile.arrival.rate:g} requests/s to {base_url}", err=True)
        state = conducted(
            release, site, plan, namespace=namespace, verdict=verdict, registry=registry, trust=trust, stable=stable,
            quiet=as_json,
        )  # fmt: skip
        counts = users.stop()
    with opened(where) as place:
        found = judged(state, memory.history(place.store), counts)
    text = found.model_dump_json(indent=1)
    write_atomic(output / RESULT, f"{text}\n".encode())
    if as_json:
        click.echo(text)
    else:
        common.print_end(state)
        _show(found)
    if found.hole is not None:
        raise SystemExit(ExitCode.GATE_FAILED)


def _show(found: Drill) -> None:
    from servegate.rollout.describe import plain

    hurt = f"{found.hurt} of {found.requests} requests hurt"
    if found.hole is not None:
        click.echo(f"THE NET HAS A HOLE: {plain(found.hole)} ({hurt})")
    else:
        click.echo(f"the net held: {found.seconds_to_safe:.1f} s until users were safe, {hurt}")
