"""Puts a verdict where people look: the step's summary, the policy's line, the pull request.

Nothing here decides or changes the exit code: what cannot be written is said in the log, because a verdict must not
turn on whether GitHub had a bad minute.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence

from servegate.errors import InfrastructureError, ServegateError
from servegate.github.api import Client, RefusedError
from servegate.github.commands import MOST, annotate, command
from servegate.github.comment import MovedError, find_pull, upsert
from servegate.github.files import append_outputs, append_summary
from servegate.github.run import Run
from servegate.report.backing import Backing
from servegate.report.markdown import COMMENT_BYTES, escape, verdict_markdown
from servegate.report.verdict import Verdict

Say = Callable[[str], None]

_PLACE = re.compile(r"(?P<file>[^:]+):(?P<line>\d+)(?::\d+)?: (?P<what>.+)", re.DOTALL)
_MARKER_BYTES = 200


def write_step(verdict: Verdict, run: Run, backing: Backing, paths: Mapping[str, str], say: Say) -> None:
    """Summary, outputs and annotations of this step. What cannot be written becomes a warning.

    Args:
        paths: further outputs, such as `verdict-path`.
        say: writes a line to the log.
    """
    _summary(run, lambda room: verdict_markdown(verdict, room, backing, notes(run)), say)
    outcomes = {result.check: str(result.outcome) for result in verdict.results}
    _outputs(
        run,
        {
            "verdict": str(verdict.outcome),
            "exit-code": str(int(verdict.outcome.exit_code)),
            "release": verdict.release or "",
            "outcomes": json.dumps(outcomes),
            **paths,
        },
        say,
    )
    for line in annotate(verdict, run.workspace):
        say(line)


def write_failure(error: ServegateError, run: Run, say: Say) -> None:
    """What the step could not decide, and why: summary, outputs and annotations on the lines that are wrong."""
    text = failure_markdown(error, run)
    _summary(run, lambda room: text if len(text.encode()) < room else "", say)
    _outputs(run, {"verdict": "", "exit-code": str(int(error.exit_code))}, say)
    for problem in str(error).splitlines()[:MOST]:
        place = _PLACE.fullmatch(problem)
        inside = place is not None and not place["file"].startswith(("/", "..")) and "\\" not in place["file"]
        if place is not None and inside:
            say(command("error", place["what"], file=place["file"], line=int(place["line"])))
        else:
            say(command("error", problem))


def failure_markdown(error: ServegateError, run: Run) -> str:
    """Why there is no verdict, for a summary or a comment."""
    problems = [f"> - {escape(problem)}" for problem in str(error).splitlines()[:MOST]]
    foot = "<br>".join(f"<sub>{note}</sub>" for note in notes(run))
    return "\n".join(
        ["> [!WARNING]", "> **No verdict, so no traffic: nothing could be judged**", ">", *problems, "", foot]
    )


def post(text: Callable[[int], str], run: Run, key: str, say: Say, client: Client | None = None) -> None:
    """Write or update this gate's comment on the pull request, and say where it is.

    Args:
        text: makes the text from the bytes it may have.
        key: of the gate; several gates have a comment each.
        client: to ask GitHub with; None: one with the run's token.

    Raises:
        InfrastructureError: GitHub does not answer, or the token may not write although nothing explains it. That
            there is nothing to comment on, or that a fork's token may only read, is said and is no error.
    """
    if run.pull is None:
        say(command("notice", f"no comment: the event {run.event or '?'} belongs to no pull request"))
        return
    if run.pull.fork and run.event == "pull_request":
        say(command("notice", "no comment: the token of a pull request from a fork may only read; see the job summary"))
        return
    if client is None and run.token is None:
        raise InfrastructureError("no comment: set GITHUB_TOKEN to the job's token (${{ github.token }})")
    client = client or Client(run.api, run.graphql, run.token or "")
    try:
        number = find_pull(client, run.repository, run.pull)
        posted = upsert(client, run.repository, number, key, text(COMMENT_BYTES - _MARKER_BYTES))
    except MovedError as error:
        say(command("notice", f"no comment: {error}"))
        return
    except RefusedError as error:
        if not error.denied:
            raise
        hint = "the job needs `permissions: pull-requests: write`"
        if run.pull.fork:
            say(command("notice", f"no comment: {error}; see the job summary"))
            return
        raise InfrastructureError(f"no comment: {error}; {hint}") from error
    say(f"{'Wrote' if posted.created else 'Updated'} the comment {posted.url}")
    _outputs(run, {"comment-url": posted.url}, say)


def announce(
    verdict: Verdict, run: Run, backing: Backing, paths: Mapping[str, str], comment: str | None, say: Say
) -> None:
    """Everything at once, for a process whose exit code says something else: all trouble becomes a warning.

    Args:
        comment: key of the comment; None: no comment.
    """
    write_step(verdict, run, backing, paths, say)
    if comment is not None:
        _try_to_post(lambda room: verdict_markdown(verdict, room, backing, notes(run)), run, comment, say)


def announce_failure(error: ServegateError, run: Run, comment: str | None, say: Say) -> None:
    """The same where there is no verdict: a comment that still says PASS would be the worst of answers."""
    write_failure(error, run, say)
    if comment is not None:
        _try_to_post(lambda _: failure_markdown(error, run), run, comment, say)


def _try_to_post(text: Callable[[int], str], run: Run, key: str, say: Say) -> None:
    try:
        post(text, run, key, say)
    except ServegateError as error:
        say(command("warning", str(error)))


def notes(run: Run) -> Sequence[str]:
    """What the run is about, as Markdown for the foot."""
    parts = []
    if run.commit:
        parts.append(f"commit <code>{run.commit[:12]}</code>")
    if run.url:
        parts.append(f"[workflow run]({run.url})")
    return [" · ".join(parts)] if parts else []


def _summary(run: Run, text: Callable[[int], str], say: Say) -> None:
    if run.summary is None:
        return
    try:
        if not append_summary(run.summary, text):
            say(command("warning", "the job summary of this step is full; the verdict is in the log"))
    except InfrastructureError as error:
        say(command("warning", str(error)))


def _outputs(run: Run, outputs: Mapping[str, str], say: Say) -> None:
    if run.output is None:
        return
    try:
        append_outputs(run.output, outputs)
    except InfrastructureError as error:
        say(command("warning", str(error)))
