"""`servegate loadtest`: send a profile of traffic and measure what users would see."""

from __future__ import annotations

from pathlib import Path

import click

from servegate.cli.target import resolve, target_options


@click.group(help="Send a profile of traffic and measure what users would see.")
def command() -> None:
    """Group of the noun."""


@command.command()
@click.argument("profile", type=click.Path(path_type=Path))
@target_options
@click.option("--output", type=click.Path(path_type=Path), help="Folder for the report; default: out/loadtest/NAME.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def run(
    profile: Path, base_url: str, model: str | None, release: Path | None, output: Path | None, as_json: bool
) -> None:
    """Send PROFILE and measure latency, errors and throughput.

    An API key is taken from SERVEGATE_API_KEY. Exit codes: 0 measured, 2 configuration, 3 the measurement is void,
    4 the endpoint or the machine failed.
    """
    from servegate.errors import NoVerdictError
    from servegate.loadtest import load_profile
    from servegate.loadtest import run as run_profile
    from servegate.loadtest.view import show, shown_progress

    loaded = load_profile(profile)
    endpoint, subject, _ = resolve(base_url, model, release)
    folder = output or Path("out/loadtest") / loaded.profile.name
    try:
        with shown_progress(loaded.profile.name) as progress:
            report = run_profile(loaded, endpoint, folder, subject=subject, progress=progress)
    except KeyboardInterrupt:
        click.echo(f"The requests sent until now are in {folder / 'records.jsonl'}", err=True)
        raise
    if as_json:
        click.echo(report.model_dump_json(indent=1))
    else:
        show(report, folder)
    if report.void is not None:
        raise NoVerdictError(f"the measurement is void: {report.void.message}")


@command.command()
@click.argument("profile", type=click.Path(path_type=Path))
def check(profile: Path) -> None:
    """Validate PROFILE and say what it would send."""
    from servegate.loadtest import load_profile
    from servegate.loadtest.view import describe

    for line in describe(load_profile(profile)):
        click.echo(line)
