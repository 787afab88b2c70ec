"""`servegate gate`: judge reports by a policy."""

from __future__ import annotations

from pathlib import Path

import click


@click.group(help="Judge reports by a policy.")
def command() -> None:
    """Group of the noun."""


@command.command()
@click.option(
    "--policy", required=True, type=click.Path(path_type=Path), help="Policy file, such as gates/release.yaml."
)
@click.option(
    "--baseline",
    "baselines",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Report of the release to compare with; once per report.",
)
@click.option("--release", help="Release file or digest that is judged; default: the one the reports are of.")
@click.option("--output", type=click.Path(path_type=Path), help="Write the verdict there.")
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON.")
@click.argument("reports", metavar="REPORT…", nargs=-1, required=True, type=click.Path(path_type=Path))
def check(
    policy: Path,
    baselines: tuple[Path, ...],
    release: str | None,
    output: Path | None,
    as_json: bool,
    reports: tuple[Path, ...],
) -> int:
    """Judge REPORT files. Exit code: 0 pass, 1 fail, 3 no verdict."""
    import time

    from servegate.gates.files import decide

    verdict = decide(policy, reports, baselines, release, now=time.time())
    if output is not None:
        verdict.write(output)
    if as_json:
        click.echo(verdict.model_dump_json(indent=1))
    else:
        from rich.console import Console

        from servegate.report.terminal import print_verdict

        print_verdict(verdict, Console())
    return verdict.outcome.exit_code


@command.command()
@click.option("--policy", required=True, type=click.Path(path_type=Path), help="Policy file.")
@click.option(
    "--baseline",
    "baselines",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Report of the model as it is; once per report.",
)
@click.option(
    "--again",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Report of a second run of the same model (A/A); once per report.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def plan(policy: Path, baselines: tuple[Path, ...], again: tuple[Path, ...], as_json: bool) -> int:
    """Print what a policy can see before anything runs.

    A check that would not PASS an unchanged model in 99 % of the runs is refused: exit code 2, with the numbers that
    would do.
    """
    import dataclasses
    import json

    from servegate.errors import ExitCode
    from servegate.gates.files import foresee
    from servegate.gates.plan import table

    found = foresee(policy, baselines, again)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(item) for item in found], indent=1))
    else:
        click.echo("\n".join(table(found)))
    return ExitCode.PASS if all(item.accepted for item in found) else ExitCode.USAGE


# The keys of `servegate.gates.adapters.FORMATS`, which is not imported for `--help`.
_TOOLS = ("guidellm", "junit", "lm-eval", "locust", "promptfoo", "vllm-bench")


@command.command("import")
@click.argument("tool", type=click.Choice(_TOOLS))
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Where the report goes.")
@click.option("--name", help="Name of the report in policies (external/NAME); default: the tool.")
@click.option("--release", help="Release file or digest that was measured.")
@click.option("--endpoint", help="URL that was measured, where the file does not name it.")
def import_(tool: str, file: Path, output: Path, name: str | None, release: str | None, endpoint: str | None) -> None:
    """Turn another tool's result FILE into a report the gate can judge."""
    from rich.console import Console

    from servegate.gates.files import adapt
    from servegate.report.terminal import print_report

    print_report(adapt(tool, file, output, name=name, release=release, endpoint=endpoint), Console())
