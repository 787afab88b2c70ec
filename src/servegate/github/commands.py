"""Workflow commands: annotations on the line of the policy that did not hold.

A runner obeys what stands on a line after `::`. Foreign text is cleaned of control characters and then escaped as the
runner's own toolkit does, so that it can neither end the command nor add a property to it.
https://docs.github.com/actions/reference/workflow-commands-for-github-actions
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Literal

from servegate.report.format import clean, plural
from servegate.report.rows import by_weight, notable, outcome_words
from servegate.report.verdict import Outcome, Verdict

Level = Literal["error", "warning", "notice"]

MOST = 10
"""GitHub shows so many annotations of a level and step, and drops the others."""


def command(
    level: Level, message: str, *, title: str = "servegate", file: str | None = None, line: int | None = None
) -> str:
    """One annotation as a line for the log.

    Args:
        file: from the top of the repository, with `/`.
        line: from 1.
    """
    properties = {"file": file, "line": None if file is None else line, "title": clean(title, 200)}
    shown = ",".join(f"{name}={_property(str(value))}" for name, value in properties.items() if value is not None)
    return f"::{level} {shown}::{_data(clean(message, 2000))}"


def annotate(verdict: Verdict, workspace: Path) -> list[str]:
    """The checks that are not a plain pass, the most serious first, at most ten of a level.

    Args:
        workspace: where the repository is checked out.
    """
    file = _in_workspace(verdict.policy_file, workspace)
    rows: dict[Level, list[str]] = {"error": [], "warning": []}
    for result in by_weight(notable(verdict.results)):
        level: Level = "warning" if result.effect is Outcome.PASS else "error"
        title = f"{clean(result.check, 80)}: {outcome_words(result)}"
        rows[level].append(command(level, result.message, title=title, file=file, line=result.line))
    return [line for level, found in rows.items() for line in _at_most(level, found)]


def _at_most(level: Level, lines: list[str]) -> list[str]:
    if len(lines) <= MOST:
        return lines
    more = f"{plural(len(lines) - MOST + 1, 'further check')} did not pass; the job summary has all of them"
    return [*lines[: MOST - 1], command(level, more)]


def _in_workspace(file: str | None, workspace: Path) -> str | None:
    """The policy's path if it is one inside the repository; a verdict may come from anywhere."""
    if file is None:
        return None
    path = PurePosixPath(file)
    if path.is_absolute() or ".." in path.parts or "\\" in file or not (workspace / path).is_file():
        return None
    return str(path)


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
