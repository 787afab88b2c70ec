"""Where the checks of a policy stand in its file."""

from __future__ import annotations

from pathlib import Path

import pytest

from servegate.gates import evaluate
from servegate.gates.files import load_placed
from servegate.gates.place import place
from servegate.report.verdict import Verdict

POLICY = """\
version: 1
name: small
require:
  - report: smoke
checks:
  - id: accuracy
    report: eval
    expect: accuracy >= 80%

  - {report: load, id: ttft, expect: ttft p95 < 500ms}
"""


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "top" / "gates" / "small.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(POLICY)
    return path


def placed(policy: Path) -> Verdict:
    rules, lines = load_placed(policy)
    return place(evaluate(rules, [], now=1.0, decided_by="test"), policy, lines)


def test_each_check_knows_its_line(policy: Path) -> None:
    lines = {result.check: result.line for result in placed(policy).results}
    assert lines == {"require:smoke": 4, "accuracy": 6, "ttft": 10}


def test_the_file_is_named_from_the_top_of_its_repository(policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (policy.parents[1] / ".git").touch()  # a worktree has a file there
    monkeypatch.chdir(policy.parent)
    assert placed(Path("small.yaml")).policy_file == "gates/small.yaml"


def test_without_a_repository_from_the_working_directory(policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(policy.parents[2])
    assert placed(policy).policy_file == "top/gates/small.yaml"
    monkeypatch.chdir("/usr")
    assert placed(policy).policy_file == "small.yaml"
