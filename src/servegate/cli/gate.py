"""`servegate gate`: judge reports by a policy."""

from __future__ import annotations

from pathlib import Path

import click

from servegate.cli import gate_baseline, gate_verdict


@click.group(help="Judge reports by a policy.")
def command() -> None:
    """Group of the noun."""


command.add_command(gate_baseline.bless)
command.add_command(gate_baseline.baseline)
command.add_command(gate_verdict.attest)
command.add_command(gate_verdict.verify)


@command.command()
@click.option(
    "--policy", required=True, type=click.Path(path_type=Path), help="Policy file, such as gates/release.yaml."
)
@click.option(
    "--baseline",
    "baselines",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Report of the release to compare with, once per report; or a folder of baselines (default: gates/baselines).",
)
@click.option("--release", help="Release file or digest that is judged; default: the one the reports are of.")
@click.option("--output", type=click.Path(path_type=Path), help="Write the verdict there.")
@click.option("--summary", type=click.Path(path_type=Path), help="Write the verdict as Markdown there.")
@click.option("--junit", type=click.Path(path_type=Path), help="Write the verdict as JUnit XML there.")
@click.option("--html", type=click.Path(path_type=Path), help="Write the verdict as a page there.")
@click.option(
    "--github/--no-github",
    default=None,
    help="Write job summary, annotations and step outputs; default: when GitHub Actions runs this.",
)
@click.option("--comment", is_flag=True, help="Write or update a comment on the pull request; needs GITHUB_TOKEN.")
@click.option("--comment-key", help="Tells the comments of several gates apart; default: the policy's file.")
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON.")
@click.argument("reports", metavar="REPORT…", nargs=-1, required=True, type=click.Path(path_type=Path))
def check(
    policy: Path,
    baselines: tuple[Path, ...],
    release: str | None,
    output: Path | None,
    summary: Path | None,
    junit: Path | None,
    html: Path | None,
    github: bool | None,
    comment: bool,
    comment_key: str | None,
    as_json: bool,
    reports: tuple[Path, ...],
) -> int:
    """Judge REPORT files. Exit code: 0 pass, 1 fail, 3 no verdict."""
    import time

    from servegate.cli.actions import log, workflow_run
    from servegate.errors import ServegateError
    from servegate.gates.files import decide
    from servegate.report.views import write_views

    run = workflow_run(github, comment)
    key = (comment_key or policy.stem) if comment else None
    try:
        shown = bool(summary or html or run)
        verdict, backing = decide(policy, reports, baselines, release, now=time.time(), answers=shown)
        if output is not None:
            verdict.write(output)
        write_views(verdict, backing, summary=summary, junit=junit, html=html)
    except ServegateError as error:
        if run is not None:
            from servegate.github.publish import announce_failure

            announce_failure(error, run, key, log)
        raise
    if as_json:
        click.echo(verdict.model_dump_json(indent=1))
    else:
        from rich.console import Console

        from servegate.report.terminal import print_verdict

        print_verdict(verdict, Console())
    if run is not None:
        from servegate.github.publish import announce

        written = {"verdict-path": output, "summary-path": summary, "junit-path": junit, "html-path": html}
        announce(verdict, run, backing, {name: str(path) for name, path in written.items() if path}, key, log)
    return verdict.outcome.exit_code


@command.command()
@click.option("--policy", required=True, type=click.Path(path_type=Path), help="Policy file.")
@click.option(
    "--baseline",
    "baselines",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Report of the model as it is, once per report; or a folder of baselines (default: gates/baselines).",
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
