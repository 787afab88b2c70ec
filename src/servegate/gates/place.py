"""Where the checks of a policy stand in its file, so that a failed one can be shown there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from servegate.config import Lines
from servegate.report.verdict import Verdict


def place(verdict: Verdict, policy: Path, lines: Mapping[str, int]) -> Verdict:
    """The verdict with the policy's file and the line of each check.

    Args:
        verdict: of that policy.
        policy: its file.
        lines: of its checks, from `lines_of`.
    """
    results = tuple(result.model_copy(update={"line": lines.get(result.check)}) for result in verdict.results)
    return verdict.model_copy(update={"results": results, "policy_file": _in_repository(policy)})


def lines_of(data: object, lines: Lines) -> dict[str, int]:
    """Line of each check and requirement of a parsed policy, by its name in a verdict."""
    found: dict[str, int] = {}
    for section, key, name in (("require", "report", "require:{}"), ("checks", "id", "{}")):
        rows = data.get(section) if isinstance(data, dict) else None
        for index, row in enumerate(rows if isinstance(rows, list) else ()):
            if isinstance(row, dict) and (section, index) in lines:
                found[name.format(row.get(key))] = lines[section, index][0]
    return found


def _in_repository(policy: Path) -> str:
    """The path from the top of the repository the file lies in; from the working directory where there is none."""
    whole = policy.resolve()
    tops = [folder for folder in whole.parents if (folder / ".git").exists()]
    for top in (*tops[:1], Path.cwd()):
        if whole.is_relative_to(top):
            return whole.relative_to(top).as_posix()
    return whole.name
