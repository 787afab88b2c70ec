"""`servegate report`: show a report, a verdict, a canary timeline or the trend of several reports."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Collection

    from servegate.report.model import Report
    from servegate.report.records import CanaryTick
    from servegate.report.story import StoryOutcome
    from servegate.report.verdict import Verdict

FORMATS = ("terminal", "markdown", "json", "junit", "html")


@click.group(help="Show a report, a verdict, a canary timeline or a trend.")
def command() -> None:
    """Group of the noun."""


@command.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--format", "shape", type=click.Choice(FORMATS), default="terminal", show_default=True)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file.")
def show(file: Path, shape: str, output: Path | None) -> None:
    """Show a report.json or verdict.json; which of the two it is, is seen from its content."""
    from servegate.contract import write_atomic
    from servegate.errors import ConfigError
    from servegate.report.html import document
    from servegate.report.junit import verdict_junit
    from servegate.report.markdown import report_markdown, verdict_markdown
    from servegate.report.verdict import Verdict

    subject = _read(file)
    if shape == "terminal":
        text = _terminal(subject, output)
    elif shape == "html":
        text = document(subject)
    elif shape == "json":
        text = subject.model_dump_json(indent=1) + "\n"
    elif isinstance(subject, Verdict):
        text = verdict_junit(subject) if shape == "junit" else verdict_markdown(subject)
    elif shape == "markdown":
        text = report_markdown(subject)
    else:
        raise ConfigError(
            f"{file}: is a report; only a verdict can be shown as JUnit XML, because a report judges nothing"
        )
    if output is not None:
        write_atomic(output, text.encode())
    else:
        click.echo(text, nl=False)


@command.command()
@click.argument("verdict", type=click.Path(path_type=Path))
@click.option(
    "--report", "reports", multiple=True, type=click.Path(path_type=Path), help="Report it rests on; once per report."
)
@click.option(
    "--baseline",
    "baselines",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Report it was compared with, once per report; or a folder of baselines.",
)
@click.option("--comment", is_flag=True, help="Write or update a comment on the pull request; needs GITHUB_TOKEN.")
@click.option("--comment-key", help="Tells the comments of several gates apart; default: the policy's file.")
@click.option("--pull-request", type=click.IntRange(min=1), help="Number; default: the one of the workflow's event.")
@click.option("--dry-run", is_flag=True, help="Print what would be written, and write nothing.")
def github(
    verdict: Path,
    reports: tuple[Path, ...],
    baselines: tuple[Path, ...],
    comment: bool,
    comment_key: str | None,
    pull_request: int | None,
    dry_run: bool,
) -> None:
    """Show a verdict another job gave: job summary, annotations, outputs, and a comment.

    Exit code: 0 when it could be shown, whatever the verdict says.
    """
    from servegate.cli.actions import log, workflow_run
    from servegate.gates.files import load_backing
    from servegate.github.publish import notes, post, write_step
    from servegate.report.markdown import COMMENT_BYTES, verdict_markdown
    from servegate.report.verdict import Verdict

    found, backing = Verdict.read(verdict), load_backing(reports, baselines)
    if dry_run:
        run = workflow_run(None)
        click.echo(verdict_markdown(found, COMMENT_BYTES, backing, notes(run) if run else ()), nl=False)
        return
    run = workflow_run(True)
    assert run is not None
    if pull_request is not None:
        run = run.of_pull(pull_request)
    write_step(found, run, backing, {"verdict-path": str(verdict)}, log)
    if comment:
        key = comment_key or Path(found.policy_file or found.policy).stem
        post(lambda room: verdict_markdown(found, room, backing, notes(run)), run, key, log)


@command.command()
@click.argument("reports", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--last", type=click.IntRange(2, 200), default=30, show_default=True, help="Latest runs that are looked at."
)
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write a page with pictures.")
@click.option("--summary", type=click.Path(path_type=Path, dir_okay=False), help="Append a Markdown table there.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def trend(reports: tuple[Path, ...], last: int, html: Path | None, summary: Path | None, as_json: bool) -> None:
    """What became of a suite or profile over its last runs: REPORTS are its report.json files, or folders with them.

    Scores are compared item by item where all runs asked the same. A step or a drift is named when chance alone would
    show one in at most 1 % of such rows; in GitHub Actions one for the worse is a warning as well.

    Exit code: 0, also when something changed.
    """
    import json
    import os

    from servegate.contract import write_atomic
    from servegate.github.commands import command as annotation
    from servegate.report.trend import markdown, read_run, said, text
    from servegate.report.trend import trend as find_trend
    from servegate.report.trend_page import trend_page

    files = [file for path in reports for file in (sorted(path.rglob("report.json")) if path.is_dir() else [path])]
    found = find_trend([read_run(file) for file in files], last)
    if html is not None:
        write_atomic(html, trend_page(found).encode())
    if summary is not None:
        with summary.open("a", encoding="utf-8") as stream:
            stream.write(markdown(found))
    if os.environ.get("GITHUB_ACTIONS") == "true":
        for series in found.series:
            if series.worse:
                click.echo(annotation("warning", said(series, found.runs), title="servegate: trend"), err=as_json)
    click.echo(json.dumps(found.document(), indent=1) if as_json else text(found), nl=as_json)


@command.command()
@click.argument("timeline", type=click.Path(path_type=Path))
@click.option("--records", type=click.Path(path_type=Path), help="RequestRecords of the traffic, JSON Lines.")
@click.option(
    "--report", type=click.Path(path_type=Path), help="Its report.json: way back, guard, experiment and numbers."
)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The page to write.")
def canary(timeline: Path, records: Path | None, report: Path | None, output: Path) -> None:
    """Make a page of a canary from its TIMELINE.jsonl."""
    from servegate.contract import write_atomic
    from servegate.errors import ConfigError
    from servegate.report.html import page
    from servegate.report.model import Report
    from servegate.report.records import CanaryTick, RequestRecord, read_records
    from servegate.report.story import ReleaseStory

    ticks = list(read_records(timeline, CanaryTick))
    if not ticks:
        raise ConfigError(f"{timeline}: holds no tick")
    ticks.sort(key=lambda tick: tick.at)
    requests = list(read_records(records, RequestRecord)) if records is not None else []
    reports = (Report.read(report),) if report is not None else ()
    outcome, reason = _ending(ticks)
    story = ReleaseStory(
        name=timeline.stem, outcome=outcome, reason=reason, ticks=ticks, records=requests, reports=reports
    )
    write_atomic(output, page(f"Canary {timeline.stem}", [story]).encode())
    click.echo(f"{output}")


def _read(file: Path) -> Report | Verdict:
    """Whichever of the two contracts the file holds."""
    import json

    from servegate.errors import ConfigError
    from servegate.report.model import Report
    from servegate.report.verdict import Verdict

    try:
        data = json.loads(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise ConfigError(f"{file}:{error.lineno}:{error.colno}: not JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, a number too long, nested too deeply
        raise ConfigError(f"{file}: not JSON: {type(error).__name__}") from error
    keys = data.keys() if isinstance(data, dict) else ()
    if "policy_sha256" in keys:
        return Verdict.read(file)
    if "kind" in keys and "subject" in keys:
        return Report.read(file)
    raise ConfigError(f"{file}: is neither a report (no `kind` and `subject`) nor a verdict (no `policy_sha256`)")


def _terminal(subject: Report | Verdict, output: Path | None) -> str:
    """Print to a terminal at once; else the plain lines."""
    import io
    import sys

    from rich.console import Console

    from servegate.report.terminal import print_report, print_verdict
    from servegate.report.verdict import Verdict

    buffer = io.StringIO()
    console = Console(file=buffer) if output is not None else Console(file=sys.stdout)
    if isinstance(subject, Verdict):
        print_verdict(subject, console)
    else:
        print_report(subject, console)
    return buffer.getvalue()


def _ending(ticks: list[CanaryTick]) -> tuple[StoryOutcome, str]:
    """How a timeline ended, and the sentence that says why."""
    from servegate.report.story import BACKWARD, FORWARD

    phase = ticks[-1].phase
    endings: tuple[tuple[StoryOutcome, Collection[str]], ...] = (
        ("rolled_back", BACKWARD), ("promoted", FORWARD), ("held", ("HELD",)),
    )  # fmt: skip
    for outcome, phases in endings:
        if phase in phases:
            reasons = [tick.reason for tick in ticks if tick.phase in phases and tick.reason]
            return outcome, reasons[0] if reasons else ""
    return "unfinished", ""
