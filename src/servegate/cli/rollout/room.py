"""The last look before a rollout begins: is there room, and, in a dry run, what would happen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from servegate.pipeline.site import Place, Site
    from servegate.release import Release
    from servegate.rollout.memory import Memory
    from servegate.rollout.plan import Plan


def looked_for_room(
    site: Site,
    place: Place,
    before: Memory | None,
    plan: Plan,
    release: Release,
    stable: Release | None,
    order: str | None,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Refuse to begin where the replicas would find no node; ends a dry run, having said what would happen.

    Args:
        before: what the store remembers.

    Raises:
        ConfigError: this rollout cannot begin here.
        InfrastructureError: there is too little room, or the cluster cannot be asked.
    """
    import json
    import time
    from dataclasses import asdict

    from servegate.errors import ExitCode
    from servegate.pipeline import room
    from servegate.rollout import beginning

    begun = beginning.begin(
        before, release, stable, plan=plan, slots=place.slots, workload=place.workload, site=None, now=time.time(),
        run=order,
    )  # fmt: skip
    state, space = begun.state, None
    if begun is not before:
        space = room.look(plan, state, place.workload)
        if space is not None and (space.fits is None or (space.short and _added(site))):
            click.echo(space.text(), err=True)
    short = space is not None and space.short and not _added(site)
    if dry_run:
        slots = {name: item.name for name, item in state.slots.items()}
        said = f"{release.label()} would go into {state.candidate}, beside {slots[state.stable]} in {state.stable}"
        if begun is before:
            said = f"{state.rollout} is at {state.phase}: it would go on"
        if as_json:
            found = {"begins": begun is not before, "slots": slots, "stable": state.stable}
            click.echo(json.dumps({**found, "room": None if space is None else asdict(space)}))
        else:
            click.echo(said)
            if space is not None and space.fits is not None:
                click.echo(space.text())
        raise SystemExit(int(ExitCode.INFRASTRUCTURE if short else ExitCode.PASS))
    if short:
        room.require(space)


def _added(site: Site) -> bool:
    """Whether nodes come for pods that wait."""
    from servegate.pipeline.site import ClusterSite

    return isinstance(site, ClusterSite) and site.nodes == "added"
