"""`servegate gate check` as a person or a workflow runs it: exit codes, messages, files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from servegate.report.model import Interval, Measure, Report, Subject
from servegate.report.verdict import Verdict

RELEASE = "sha256:" + "a" * 64
POLICY = """\
version: 1
name: small
checks:
  - {id: accuracy, report: eval, expect: accuracy >= 80%}
"""


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("servegate"), "gate", "check", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(POLICY)
    return path


def report(folder: Path, low: float, high: float) -> Path:
    path = folder / f"eval-{low}.json"
    Report(
        kind="eval",
        name="support",
        subject=Subject(release=RELEASE, name="v1"),
        started=1.0,
        finished=2.0,
        tool="test",
        measures=(
            Measure(
                name="accuracy",
                statistic="mean",
                value=(low + high) / 2,
                unit="fraction",
                n=100,
                attempted=100,
                interval=Interval(low=low, high=high, level=0.95, method="wilson"),
            ),
        ),
    ).write(path)
    return path


@pytest.mark.parametrize(
    ("low", "high", "status", "word"), [(0.85, 0.95, 0, "PASS"), (0.5, 0.7, 1, "FAIL"), (0.7, 0.9, 1, "INCONCLUSIVE")]
)
def test_the_outcome_is_shown_written_and_returned(
    tmp_path: Path, policy: Path, low: float, high: float, status: int, word: str
) -> None:
    output = tmp_path / "out" / "verdict.json"
    ended = run("--policy", policy, "--output", output, report(tmp_path, low, high))
    assert (ended.returncode, ended.stderr) == (status, "")
    assert word in ended.stdout
    assert Verdict.read(output).results[0].outcome == word


def test_a_verdict_that_cannot_be_given_is_not_a_failure(tmp_path: Path, policy: Path) -> None:
    path = tmp_path / "smoke.json"
    Report(kind="smoke", name="s", subject=Subject(release=RELEASE), started=1.0, finished=2.0, tool="test").write(path)
    ended = run("--policy", policy, "--json", path)
    assert ended.returncode == 3
    assert json.loads(ended.stdout)["outcome"] == "VOID"


@pytest.mark.parametrize(
    "content", ["", "{}", "<html>", "[1]", '{"schema_version": 9}', '{"kind": "eval", "name": NaN}']
)
def test_what_is_not_a_report_is_one_clear_message(tmp_path: Path, policy: Path, content: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(content)
    ended = run("--policy", policy, path)
    assert ended.returncode == 2
    assert str(path) in ended.stderr
    assert "Traceback" not in ended.stderr


def test_mistakes_of_the_call_are_usage_errors(tmp_path: Path, policy: Path) -> None:
    good = report(tmp_path, 0.85, 0.95)
    for arguments, says in (
        (("--policy", policy), "REPORT"),
        (("--policy", tmp_path / "none.yaml", good), "none.yaml: cannot be read"),
        (("--policy", policy, "--release", "sha256:12", good), "is not a digest"),
        (("--policy", policy, "--release", tmp_path / "none.yaml", good), "none.yaml: cannot be read"),
    ):
        ended = run(*arguments)
        assert (ended.returncode, ended.stdout) == (2, "")
        assert says in ended.stderr
        assert "Traceback" not in ended.stderr


def test_another_release_is_not_judged_by_these_reports(tmp_path: Path, policy: Path) -> None:
    ended = run("--policy", policy, "--release", "sha256:" + "b" * 64, report(tmp_path, 0.85, 0.95))
    assert ended.returncode == 3
    assert "is of release aaaaaaaaaaaa, not of bbbbbbbbbbbb" in ended.stdout


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("servegate"), "gate", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_plan_is_printed_and_a_policy_that_cannot_work_is_refused(tmp_path: Path, policy: Path) -> None:
    planned = command("plan", "--policy", policy, "--baseline", report(tmp_path, 0.9, 0.98))
    assert planned.returncode == 0
    assert "PASS unchanged" in planned.stdout
    refused = command("plan", "--policy", policy, "--baseline", report(tmp_path, 0.75, 0.87))
    assert refused.returncode == 2
    assert "REFUSED" in refused.stdout
    assert "would do: n " in refused.stdout
    unknown = command("plan", "--policy", policy, "--json")
    assert unknown.returncode == 2
    assert json.loads(unknown.stdout)[0]["accepted"] is False


def test_another_tools_result_is_imported_and_judged(tmp_path: Path) -> None:
    foreign = Path(__file__).parents[1] / "unit" / "gates" / "foreign" / "vllm-bench.json"
    output = tmp_path / "load.json"
    arguments = ("--release", RELEASE, "--name", "chat", "--output", output)
    assert command("import", "vllm-bench", foreign, *arguments).returncode == 0
    rules = tmp_path / "p.yaml"
    rules.write_text("version: 1\nname: p\nchecks:\n- {id: a, report: external/chat, expect: ttft p50 < 500ms}\n")
    assert run("--policy", rules, output).returncode == 0
    wrong = command("import", "lm-eval", foreign, *arguments)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "is not a result of lm-eval" in wrong.stderr


def test_a_baseline_is_blessed_shown_found_and_listed(tmp_path: Path) -> None:
    folder, old = tmp_path / "baselines", report(tmp_path, 0.85, 0.95)
    arguments = ("--baselines", folder)
    nothing = command("baseline", "show", *arguments)
    assert (nothing.returncode, nothing.stdout) == (2, "")
    assert "servegate gate bless" in nothing.stderr
    assert command("bless", old, *arguments).returncode == 2  # without a reason
    blessed = command("bless", old, *arguments, "--reason", "first", "--author", "kim")
    assert (blessed.returncode, blessed.stderr) == (0, "")
    assert "by kim: first" in blessed.stdout
    assert json.loads(command("baseline", "show", *arguments, "--json").stdout)["reports"]["eval/support"]
    assert "kim: first" in command("baseline", "list", *arguments).stdout
    rules = tmp_path / "p.yaml"
    rules.write_text(
        "version: 1\nname: p\nchecks:\n- {id: a, report: eval, measure: accuracy, baseline: {margin: 10pp}}\n"
    )
    new = tmp_path / "new.json"
    Report.read(old).model_copy(update={"subject": Subject(release="sha256:" + "b" * 64, name="v2")}).write(new)
    judged = run("--policy", rules, "--baseline", folder, "--json", new)
    assert json.loads(judged.stdout)["results"][0]["baseline_report"] == Report.read(old).identity()
