"""`servegate evals`: ask a suite of questions and score the answers."""

from __future__ import annotations

from pathlib import Path

import click

from servegate.cli.target import resolve, target_options


@click.group(help="Ask a suite of questions and score the answers.")
def command() -> None:
    """Group of the noun."""


@command.command()
@click.argument("suite", type=click.Path(path_type=Path))
@target_options
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder for the report; default: out/evals/NAME.")
@click.option("--limit", type=int, metavar="N", help="Ask N items only, drawn by the seed.")
@click.option("--seed", type=int, help="Seed instead of the suite's.")
@click.option("--resume", is_flag=True, help="Keep the scores an interrupted run left in the folder; ask the rest.")
@click.option(
    "--answers",
    type=click.IntRange(1),
    metavar="N",
    help="Ask until there are N: more items first, then repeats. What an earlier run in the folder measured is kept.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def run(
    suite: Path,
    base_url: str,
    model: str | None,
    release: Path | None,
    output: Path | None,
    limit: int | None,
    seed: int | None,
    resume: bool,
    answers: int | None,
    as_json: bool,
) -> None:
    """Ask SUITE and measure how many answers are right.

    An API key is taken from SERVEGATE_API_KEY. Exit codes: 0 measured, 2 configuration, 3 the measurement is void,
    4 the endpoint or the machine failed.
    """
    from rich.console import Console

    from servegate.errors import ConfigError, NoVerdictError
    from servegate.evals.journal import RECORDS, RUN
    from servegate.evals.runner import run as run_suite
    from servegate.evals.suite import load_suite
    from servegate.evals.view import shown_progress, wrong
    from servegate.report.records import EvalRecord, read_records
    from servegate.report.terminal import print_report, say

    loaded = load_suite(suite)
    if seed is not None:
        loaded = loaded.with_seed(seed)
    if limit is not None and answers is not None:
        raise ConfigError("--limit and --answers both say how much is asked: give one")
    if limit is not None:
        loaded = loaded.limited(limit)
    if answers is not None:
        loaded = loaded.answering(answers)
    endpoint, subject, _ = resolve(base_url, model, release)
    folder = output or Path("out/evals") / loaded.config.name
    extend = answers is not None and (folder / RUN).exists()
    try:
        with shown_progress(loaded.config.name) as progress:
            report = run_suite(
                loaded, endpoint, folder, subject=subject, resume=resume, extend=extend, progress=progress
            )
    except KeyboardInterrupt:
        click.echo(f"The answers until now are in {folder}; the same command with --resume goes on.", err=True)
        raise
    if as_json:
        click.echo(report.model_dump_json(indent=1))
    else:
        console = Console()
        print_report(report, console)
        missed = wrong(read_records(folder / RECORDS, EvalRecord))
        if missed:
            say(console, ["", "Not wholly right:", *missed])
        say(console, ["", f"Report: {folder / 'report.json'}"])
    if report.void is not None:
        raise NoVerdictError(f"the measurement is void: {report.void.message}")


@command.command()
@click.argument("suite", type=click.Path(path_type=Path))
def check(suite: Path) -> None:
    """Validate SUITE and its dataset, and count the items per tag and scorer."""
    from servegate.evals.suite import load_suite
    from servegate.evals.view import describe

    for line in describe(load_suite(suite)):
        click.echo(line)


@command.command("list")
@click.argument("suite", type=click.Path(path_type=Path))
def list_(suite: Path) -> None:
    """List the items of SUITE: id, scorer, tags, question."""
    from servegate.evals.suite import load_suite
    from servegate.evals.view import listing

    for line in listing(load_suite(suite)):
        click.echo(line)
