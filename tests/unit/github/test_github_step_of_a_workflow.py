"""`servegate gate check` and `servegate report github` as a step of a workflow: first everything is written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from github_server import BOT, STRANGER, TOKEN, GitHub, pull, serve

from servegate.cli import main
from servegate.report.model import Interval, Measure, Report, Subject

RELEASE = "sha256:" + "a" * 64
SHA = "c" * 40
POLICY = """\
version: 1
name: small
checks:
  - {id: accuracy, report: eval, expect: accuracy >= 80%}
"""


@dataclass(frozen=True)
class Ended:
    returncode: int
    stdout: str
    stderr: str


@dataclass
class Step:
    """A step's working directory, and the stand-in it talks to."""

    folder: Path
    github: GitHub
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def run(
        self, *arguments: str, event: str = "pull_request", fork: bool = False, env: dict[str, str] | None = None
    ) -> Ended:
        self.event(event, fork)
        variables = {
            "CI": "true",
            "GITHUB_ACTIONS": "true",
            "GITHUB_REPOSITORY": "o/r",
            "GITHUB_API_URL": self.github.address,
            "GITHUB_GRAPHQL_URL": f"{self.github.address}/graphql",
            "GITHUB_EVENT_NAME": event,
            "GITHUB_EVENT_PATH": str(self.folder / "event.json"),
            "GITHUB_STEP_SUMMARY": str(self.folder / "summary.md"),
            "GITHUB_OUTPUT": str(self.folder / "output"),
            "GITHUB_WORKSPACE": str(self.folder),
            "GITHUB_RUN_ID": "12",
            "GITHUB_TOKEN": TOKEN,
        }
        with self.monkeypatch.context() as patch:
            patch.chdir(self.folder)
            for name, value in (variables | (env or {})).items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as ended:
                main(list(arguments))
        printed = self.capsys.readouterr()
        return Ended(int(ended.value.code or 0), printed.out, printed.err)

    def check(self, *arguments: str, fork: bool = False, **env: str) -> Ended:
        given = ("gate", "check", "--policy", "gates/small.yaml", "eval.json", *arguments)
        return self.run(*given, fork=fork, env=env)

    def event(self, name: str, fork: bool) -> None:
        repository = "mallory/r" if fork else "o/r"
        owner = repository.partition("/")[0]
        payload: dict[str, Any] = {}
        if name == "pull_request":
            payload = {"pull_request": {"number": 7, "head": {"sha": SHA, "repo": {"full_name": repository}}}}
        elif name == "workflow_run":
            head = {"full_name": repository, "owner": {"login": owner}}
            payload = {
                "workflow_run": {"event": "pull_request", "head_sha": SHA, "head_branch": "x", "pull_requests": []}
            }
            payload["workflow_run"]["head_repository"] = head
        (self.folder / "event.json").write_text(json.dumps(payload))

    def report(self, low: float, high: float, name: str = "v1") -> None:
        Report(
            kind="eval",
            name="support",
            subject=Subject(release=RELEASE, name=name),
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
        ).write(self.folder / "eval.json")

    def written(self, name: str) -> str:
        path = self.folder / name
        return path.read_text() if path.exists() else ""


@pytest.fixture
def step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Step]:
    (tmp_path / "gates").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / "gates" / "small.yaml").write_text(POLICY)
    with serve() as github:
        github.pulls = [pull(7, SHA), pull(9, SHA, "mallory")]
        found = Step(tmp_path, github, monkeypatch, capsys)
        found.report(0.5, 0.7)
        yield found


def test_a_failed_gate_is_told_everywhere_before_it_fails(step: Step) -> None:
    ended = step.check("--comment", "--output", "verdict.json", "--junit", "gate.xml", "--html", "gate.html")
    assert ended.returncode == 1
    summary = step.written("summary.md")
    assert summary.startswith("> [!CAUTION]\n> **FAIL: v1 must not serve traffic** (policy small; 1 of 1 check failed)")
    assert "commit <code>cccccccccccc</code> · [workflow run](https://github.com/o/r/actions/runs/12)" in summary
    assert ended.stderr.splitlines()[0].startswith("::error file=gates/small.yaml,line=4,title=accuracy%3A FAIL::")
    output = step.written("output")
    for name, value in {"verdict": "FAIL", "exit-code": "1", "verdict-path": "verdict.json", "junit-path": "gate.xml",
                        "html-path": "gate.html", "outcomes": '{"accuracy": "FAIL"}', "release": RELEASE,
                        "comment-url": step.github.comments[0]["html_url"]}.items():  # fmt: skip
        assert f"{name}<<" in output
        assert f"\n{value}\n" in output
    assert step.github.bodies(BOT)[0].startswith("<!-- servegate verdict small -->\n> [!CAUTION]")
    assert all(step.written(name) for name in ("verdict.json", "gate.xml", "gate.html"))
    assert TOKEN not in ended.stdout + ended.stderr + summary + output


def test_the_next_run_updates_the_comment(step: Step) -> None:
    step.github.write(STRANGER, "<!-- servegate verdict small -->\nPASS")
    assert step.check("--comment").returncode == 1
    step.report(0.85, 0.95, "v2")
    ended = step.check("--comment")
    assert (ended.returncode, ended.stderr) == (0, f"Updated the comment {step.github.comments[1]['html_url']}\n")
    (body,) = step.github.bodies(BOT)
    assert "**PASS: v2 may serve traffic**" in body
    assert "FAIL: v1" not in body


def test_a_fork_gets_the_summary_and_no_failure(step: Step) -> None:
    step.report(0.85, 0.95)
    ended = step.check("--comment", fork=True)
    assert ended.returncode == 0
    assert "::notice title=servegate::no comment: the token of a pull request from a fork may only read" in ended.stderr
    assert "may serve traffic" in step.written("summary.md")
    assert step.github.seen == []


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ((403, {}, {"message": "Resource not accessible by integration"}), "pull-requests: write"),
        ((401, {}, {"message": "Bad credentials"}), "Bad credentials"),
        ((422, {}, {"message": "Validation Failed"}), "status 422: Validation Failed"),
        ((403, {"Retry-After": "9999"}, {}), "rate limit asks to wait 2 h 46 min"),
    ],
)
def test_githubs_trouble_changes_no_verdict(fault: tuple[int, dict[str, str], object], says: str, step: Step) -> None:
    step.github.faults = [("*", fault)]
    step.report(0.85, 0.95)
    ended = step.check("--comment")
    assert ended.returncode == 0
    assert "::warning title=servegate::" in ended.stderr
    assert says in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_token_that_was_forgotten_is_asked_for(step: Step) -> None:
    ended = step.check("--comment", GITHUB_TOKEN="")
    assert ended.returncode == 1
    assert "set GITHUB_TOKEN to the job's token" in ended.stderr


def test_a_run_about_an_older_commit_leaves_the_comment(step: Step) -> None:
    step.github.pulls = [pull(7, "d" * 40)]
    ended = step.check("--comment")
    assert "::notice title=servegate::no comment: the pull request has newer commits" in ended.stderr
    assert step.github.comments == []


def test_without_a_verdict_the_comment_does_not_stay_green(step: Step) -> None:
    step.report(0.85, 0.95)
    assert step.check("--comment").returncode == 0
    (step.folder / "gates" / "small.yaml").write_text(POLICY.replace("80%", "80ms"))
    ended = step.check("--comment")
    assert ended.returncode == 2
    assert "::error file=gates/small.yaml,line=4,title=servegate::" in ended.stderr
    (body,) = step.github.bodies(BOT)
    assert "No verdict, so no traffic: nothing could be judged" in body
    assert "No verdict, so no traffic" in step.written("summary.md")
    assert "exit-code<<" in step.written("output")


def test_json_stays_json_and_what_is_not_wanted_is_not_written(step: Step) -> None:
    ended = step.check("--json")
    assert json.loads(ended.stdout)["outcome"] == "FAIL"
    size = len(step.written("summary.md"))
    assert size
    ended = step.check("--no-github")
    assert (ended.returncode, ended.stderr) == (1, "")
    assert len(step.written("summary.md")) == size
    assert step.check("--no-github", "--comment").returncode == 2


def test_outside_of_github(step: Step) -> None:
    ended = step.check("--comment", GITHUB_ACTIONS="", GITHUB_REPOSITORY="")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "Does this run on GitHub?" in ended.stderr
    ended = step.check(GITHUB_REPOSITORY="")  # some other program sets GITHUB_ACTIONS
    assert ended.returncode == 1
    assert "nothing written for GitHub" in ended.stderr
    ended = step.check("--summary", "verdict.md", GITHUB_ACTIONS="")
    assert (ended.returncode, ended.stderr) == (1, "")
    assert step.written("verdict.md").startswith("> [!CAUTION]")
    assert step.written("summary.md") == ""


def test_another_job_posts_the_verdict_of_a_fork(step: Step) -> None:
    assert step.check("--output", "verdict.json", fork=True).returncode == 1
    arguments = ("report", "github", "verdict.json", "--report", "eval.json", "--comment")
    ended = step.run(*arguments, event="workflow_run", fork=True)
    assert (ended.returncode, ended.stdout) == (0, "")
    assert step.github.seen[0][1].startswith("/repos/o/r/pulls?state=open&head=mallory%3Ax")
    assert ("POST", "/repos/o/r/issues/9/comments") in step.github.seen
    assert "| eval/support |" in step.github.bodies(BOT)[0]


def test_a_forged_verdict_is_only_text(step: Step) -> None:
    assert step.check("--output", "verdict.json").returncode == 1
    evil = "x -->\n<script>alert(1)</script>\n::error::@everyone | `a` https://evil.example </details>"
    verdict = json.loads(step.written("verdict.json"))
    verdict |= {"policy": evil, "policy_file": evil, "release_name": evil, "tool": evil, "decided_by": evil}
    verdict["results"][0] |= {"check": evil, "message": evil, "measure": evil}
    (step.folder / "verdict.json").write_text(json.dumps(verdict))
    ended = step.run("report", "github", "verdict.json", "--comment", "--pull-request", "7", event="workflow_dispatch")
    assert ended.returncode == 0
    commands = [line for line in ended.stderr.splitlines() if line.startswith("::")]
    assert len(commands) == 1
    (body,) = step.github.bodies(BOT)
    first, rest = body.split("\n", 1)
    assert first.startswith("<!-- servegate verdict sha256-")
    for piece in ("<script", "-->", "https://", "@everyone", "\n::"):
        assert piece not in rest.replace("(https://github.com/o/r/actions/runs/12)", "")


def test_a_dry_run_shows_the_comment_and_asks_nobody(step: Step) -> None:
    assert step.check("--output", "verdict.json", "--no-github").returncode == 1
    ended = step.run("report", "github", "verdict.json", "--comment", "--dry-run")
    assert ended.returncode == 0
    assert ended.stdout.startswith("> [!CAUTION]")
    assert step.github.seen == []
    assert step.written("summary.md") == ""


def test_posting_that_fails_is_an_error_of_the_command_whose_purpose_it_is(step: Step) -> None:
    assert step.check("--output", "verdict.json", "--no-github").returncode == 1
    step.github.faults = [("*", (403, {}, {"message": "Resource not accessible by integration"}))]
    ended = step.run("report", "github", "verdict.json", "--comment")
    assert ended.returncode == 4
    assert "permissions: pull-requests: write" in ended.stderr
    assert step.written("summary.md")
