"""`servegate rollout replay`: make every decision of an audit trail again."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from servegate.cli.rollout.common import json_option


@click.command(short_help="Make every decision of an audit trail again.")
@click.argument("trail", type=click.Path(path_type=Path))
@click.option("--report", type=click.Path(path_type=Path, dir_okay=False), help="Write the canary's report here.")
@json_option
def replay(trail: Path, report: Path | None, as_json: bool) -> None:
    """Make every decision of the audit TRAIL (audit.jsonl) again and compare.

    Exit codes: 0 all are the same, 1 one is not, 2 it is no such trail.
    """
    from servegate.errors import ExitCode
    from servegate.rollout import audit, describe
    from servegate.rollout.canary_report import canary_report

    ticks = audit.read_trail(trail)
    found = audit.replay(ticks)
    if report is not None:
        canary_report(trail, report).write(report)
    if as_json:
        click.echo(json.dumps(asdict(found), ensure_ascii=False))
    else:
        for tick in ticks:
            if tick.reason:
                click.echo(f"{describe.clock(tick.at)}  {tick.phase:<12} {describe.plain(tick.reason)}")
                for action, effect in zip(tick.actions, tick.effects or (), strict=False):
                    if effect != "done":
                        click.echo(f"  {action.kind} {describe.plain(effect)}")
        click.echo(f"{', '.join(found.rollouts)}: {found.ticks} ticks, {found.changes} changes")
        if found.lost:
            click.echo(f"  at {found.lost} of them a controller was killed: what became of its effects is not known")
        for difference in found.differences:
            click.echo(
                f"  line {difference.number} ({describe.clock(difference.at)}): {describe.plain(difference.message)}"
            )
        if not found.differences:
            click.echo("  every decision was made again, and was the same")
    if found.differences:
        raise SystemExit(ExitCode.GATE_FAILED)
