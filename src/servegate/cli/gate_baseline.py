"""`servegate gate bless` and `servegate gate baseline`: what candidates are compared with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from servegate.gates.baseline import Blessing

folder_option = click.option(
    "--baselines",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("gates/baselines"),
    show_default=True,
    help="Folder of the baselines.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command()
@folder_option
@click.option(
    "--again",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Report of a second run of the same model (A/A); once per report.",
)
@click.option("--reason", required=True, help="Why these numbers are what later releases are held to.")
@click.option("--author", help="Who says so; default: the user, or who started the workflow.")
@click.option(
    "--allow",
    multiple=True,
    metavar="CONDITION",
    help="Condition that may differ from the baseline before, such as engine_version; once per condition.",
)
@json_option
@click.argument("reports", metavar="REPORT…", nargs=-1, required=True, type=click.Path(path_type=Path))
def bless(
    folder: Path,
    again: tuple[Path, ...],
    reason: str,
    author: str | None,
    allow: tuple[str, ...],
    as_json: bool,
    reports: tuple[Path, ...],
) -> None:
    """Make REPORTs the baselines of their kind and name: all of them, or none."""
    import time

    from servegate.gates import baseline_files
    from servegate.gates.files import asker

    blessing = baseline_files.bless(
        folder, reports, again, author=author or asker(), reason=reason, allow=allow, now=time.time()
    )
    if as_json:
        click.echo(blessing.model_dump_json(indent=1))
        return
    for name in blessing.changed:
        click.echo("\n".join(_shown(name, blessing)))
    click.echo(f"kept in {folder}; commit it, or upload it as an artifact")


@click.group(help="Show the baselines that candidates are compared with.")
def baseline() -> None:
    """Group of the commands."""


@baseline.command()
@folder_option
@json_option
def show(folder: Path, as_json: bool) -> None:
    """Show the baselines in force, with the noise of their model."""
    from servegate.errors import ConfigError
    from servegate.gates import baseline_files

    blessing = baseline_files.current(folder)
    if blessing is None:
        raise ConfigError(f"{folder}: no baselines there: `servegate gate bless` writes the first")
    if as_json:
        click.echo(blessing.model_dump_json(indent=1))
        return
    for name in sorted(blessing.reports):
        click.echo("\n".join(_shown(name, blessing)))


@baseline.command("list")
@folder_option
@json_option
def list_(folder: Path, as_json: bool) -> None:
    """List all blessings, the latest first: who, when, why, and what came before."""
    from servegate.gates import baseline_files
    from servegate.report.format import clean, date, short_hash

    blessings = baseline_files.history(folder)
    if as_json:
        click.echo(json.dumps([item.model_dump(mode="json") for item in blessings], indent=1, ensure_ascii=False))
        return
    if not blessings:
        click.echo("no baselines yet")
    for item in blessings:
        click.echo(
            f"{date(item.at)}  {short_hash(item.identity())}  {clean(item.author, 80)}: {clean(item.reason, 300)}"
        )
        for name in item.changed:
            entry = item.reports[name]
            click.echo(
                f"  {name}  report {short_hash(entry.report)} of {clean(entry.release_name or 'no release', 80)}"
            )


def _shown(name: str, blessing: Blessing) -> list[str]:
    from servegate.gates.noise import shown
    from servegate.report.format import clean, date, short_hash

    item = blessing.reports[name]
    lines = [
        f"{name}  report {short_hash(item.report)} of {clean(item.release_name or 'no release', 80)}",
        f"  measured  {date(item.measured_at)}",
        f"  blessed   {date(item.blessed_at)} by {clean(item.author, 80)}: {clean(item.reason, 300)}",
    ]
    if item.allowed:
        lines.append(f"  differs   {', '.join(item.allowed)} (allowed)")
    lines += [f"  noise     {shown(noise)}" for noise in item.noise]
    if not item.noise:
        lines.append("  noise     not known: bless with a second run (--again), or with repeats in the suite")
    return lines
