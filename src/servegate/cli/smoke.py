"""`servegate smoke`: is it up, is it this release, does it stream, does it refuse nonsense?"""

from __future__ import annotations

from pathlib import Path

import click

from servegate.cli.target import resolve, target_options


@click.group(help="Is it up, is it this release, does it stream, does it refuse nonsense?")
def command() -> None:
    """Group of the noun."""


@command.command()
@target_options
@click.option("--engine-version", help="Version that the engine must say it has.")
@click.option("--deadline", type=click.FloatRange(1, 3600), default=60.0, show_default=True, help="Seconds in all.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File for the report.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def run(
    base_url: str,
    model: str | None,
    release: Path | None,
    engine_version: str | None,
    deadline: float,
    output: Path | None,
    as_json: bool,
) -> None:
    """Check an endpoint with about ten requests.

    An API key is taken from SERVEGATE_API_KEY. Exit codes: 0 all checks hold, 1 a check failed, 2 configuration,
    4 nobody is there.
    """
    import sys

    from rich.console import Console

    from servegate.errors import ExitCode, InfrastructureError
    from servegate.report.terminal import say
    from servegate.smoke.runner import Result
    from servegate.smoke.runner import run as run_checks

    console = Console(stderr=as_json)

    def show(result: Result) -> None:
        mark = {True: "ok", False: "FAILED", None: "-"}[result.ok]
        took = "" if result.ok is None else f"{result.seconds * 1000:,.0f} ms"
        say(console, [f"{mark:<6}  {result.check:<8}  {took:>9}  {result.sentence}"])

    endpoint, subject, _ = resolve(base_url, model, release)
    report = run_checks(endpoint, expect_version=engine_version, deadline=deadline, subject=subject, progress=show)
    if output is not None:
        report.write(output)
    if as_json:
        click.echo(report.model_dump_json(indent=1))
    if report.void is not None:
        raise InfrastructureError(report.void.message)
    if any(finding.severity == "error" for finding in report.findings):
        sys.exit(ExitCode.GATE_FAILED)
