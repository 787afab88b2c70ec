"""`servegate rollout report`: what the last rollout has left, from wherever it ran."""

from __future__ import annotations

from pathlib import Path

import click

from servegate.cli.rollout import common
from servegate.cli.rollout.common import json_option, store_option


@click.command(short_help="Report and audit trail of the last rollout, wherever it ran.")
@store_option
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("out/rollout-report"),
    show_default=True,
    help="Folder for report.json and audit.jsonl.",
)
@json_option
def report(file: Path, output: Path, as_json: bool) -> None:
    """Fetch the report and the audit trail of the last rollout from the store: also of a Job whose pods are gone.

    `servegate report show` and `servegate rollout replay` read them. While a rollout is under way its report is made
    from the trail until now.
    """
    from servegate.contract import write_atomic
    from servegate.pipeline import kept
    from servegate.report.model import Report
    from servegate.rollout.canary_report import canary_report
    from servegate.rollout.describe import plain

    store = common.open_store(file)
    try:
        found = kept.left(store)
    finally:
        store.close()
    output.mkdir(parents=True, exist_ok=True)
    if found.trail is not None:
        write_atomic(output / kept.TRAIL, found.trail)
    if found.report is not None:
        made = Report.model_validate_json(found.report)
    else:
        made = canary_report(output / kept.TRAIL, output / kept.REPORT)
    made.write(output / kept.REPORT)
    if as_json:
        click.echo(made.model_dump_json(indent=1))
        return
    for finding in made.findings:
        click.echo(f"{finding.severity}: {finding.code}: {plain(finding.message)}")
    ticks = (found.trail or b"").count(b"\n")
    click.echo(f"{made.name}: {output / kept.REPORT}, {ticks} ticks in {kept.TRAIL}")
