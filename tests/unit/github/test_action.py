"""`action.yml` as the runner executes it: its expressions filled in, its scripts run by bash."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from github_server import BOT, TOKEN, GitHub, pull, serve

from servegate.report.model import Interval, Measure, Report, Subject

ROOT = Path(__file__).parents[3]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
OUTPUTS = ACTION["outputs"]
STEPS = {step["name"]: step for step in ACTION["runs"]["steps"]}
SHA = "c" * 40
OPTION = {"json": "--output", "xml": "--junit", "html": "--html", "md": "--summary"}


def filled(text: str, inputs: dict[str, str]) -> str:
    """The expressions of the action with their values; any other expression is an error."""
    values = {f"inputs.{name}": value for name, value in inputs.items()}
    values |= {"github.action_path": str(ROOT), "github.token": TOKEN}
    return re.sub(r"\$\{\{ (.+?) \}\}", lambda found: values[found[1]], text)


class Runner:
    """A runner in a folder with the repository of somebody who uses the action."""

    def __init__(self, folder: Path, github: GitHub) -> None:
        self.folder, self.github = folder, github
        environment = folder / "temp" / "servegate" / "bin"
        environment.mkdir(parents=True)
        (environment / "servegate").symlink_to(Path(sys.executable).with_name("servegate"))
        head = {"sha": SHA, "repo": {"full_name": "o/r"}}
        (folder / "event.json").write_text(json.dumps({"pull_request": {"number": 7, "head": head}}))

    def run(self, step: str, **inputs: str) -> subprocess.CompletedProcess[str]:
        known = {name: str(spec.get("default", "")) for name, spec in ACTION["inputs"].items()}
        assert set(inputs) <= {name.replace("-", "_") for name in known}
        given = known | {name.replace("_", "-"): value for name, value in inputs.items()}
        script = self.folder / "script.sh"
        script.write_text(STEPS[step]["run"])
        own = {
            name: filled(value, {k: filled(v, {}) for k, v in given.items()})
            for name, value in STEPS[step]["env"].items()
        }
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", script],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.folder),
                "CI": "true",
                "GITHUB_ACTIONS": "true",
                "GITHUB_REPOSITORY": "o/r",
                "GITHUB_API_URL": self.github.address,
                "GITHUB_GRAPHQL_URL": f"{self.github.address}/graphql",
                "GITHUB_EVENT_NAME": "pull_request",
                "GITHUB_EVENT_PATH": str(self.folder / "event.json"),
                "GITHUB_STEP_SUMMARY": str(self.folder / "summary.md"),
                "GITHUB_OUTPUT": str(self.folder / "output"),
                "GITHUB_WORKSPACE": str(self.folder),
                "RUNNER_TEMP": str(self.folder / "temp"),
                **own,
            },
        )


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Runner]:
    with serve() as github:
        github.pulls = [pull(7, SHA)]
        yield Runner(tmp_path, github)


def report(path: Path, name: str, low: float, high: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    interval = Interval(low=low, high=high, level=0.95, method="wilson")
    measure: dict[str, Any] = {"name": "accuracy", "statistic": "mean", "unit": "fraction", "n": 100, "attempted": 100}
    Report(
        kind="eval",
        name=name,
        subject=Subject(release="sha256:" + "a" * 64, name="v1"),
        started=1.0,
        finished=2.0,
        tool="test",
        measures=(Measure(**measure, value=(low + high) / 2, interval=interval),),
    ).write(path)


def policy(folder: Path) -> None:
    (folder / "my gates").mkdir()
    rows = "".join(f"- {{id: {name}, report: eval/{name}, expect: accuracy >= 80%}}\n" for name in ("ko", "en"))
    (folder / "my gates" / "pr.yaml").write_text(f"version: 1\nname: pr\nchecks:\n{rows}")


def test_a_verdict_reaches_the_pull_request_and_the_step_fails(runner: Runner) -> None:
    policy(runner.folder)
    report(runner.folder / "out dir" / "a" / "report.json", "ko", 0.5, 0.7)
    report(runner.folder / "en.json", "en", 0.85, 0.95)
    ended = runner.run(
        "Judge", policy="my gates/pr.yaml", reports="out dir/**/report.json\n\n  en.json\n".replace("  ", "")
    )
    assert ended.returncode == 1, ended.stderr
    assert "FAIL: v1 must not serve traffic" in (runner.folder / "summary.md").read_text()
    assert len(runner.github.bodies(BOT)) == 1
    for name in ("verdict.json", "verdict.xml", "verdict.html", "verdict.md"):
        assert (runner.folder / "servegate-verdict" / name).stat().st_size > 100
    written = set(re.findall(r"^([\w-]+)<<", (runner.folder / "output").read_text(), re.MULTILINE))
    promised = {out["value"].removeprefix("${{ steps.gate.outputs.").removesuffix(" }}") for out in OUTPUTS.values()}
    assert promised == set(OUTPUTS) == written


def test_no_comment_where_none_is_wanted(runner: Runner) -> None:
    policy(runner.folder)
    report(runner.folder / "ko.json", "ko", 0.85, 0.95)
    report(runner.folder / "en.json", "en", 0.85, 0.95)
    ended = runner.run("Judge", policy="my gates/pr.yaml", reports="ko.json\nen.json", comment="false", output="v")
    assert ended.returncode == 0, ended.stderr
    assert runner.github.seen == []


def test_a_report_that_was_never_written_is_no_pass(runner: Runner) -> None:
    policy(runner.folder)
    ended = runner.run("Judge", policy="my gates/pr.yaml", reports="out/**/report.json", comment_key="mine")
    assert ended.returncode == 2
    assert "out/**/report.json: cannot be read" in ended.stderr
    assert "No verdict, so no traffic" in runner.github.bodies(BOT)[0]
    assert runner.github.bodies(BOT)[0].startswith("<!-- servegate verdict mine -->")


EVIL = ["$(touch hacked)", "`touch hacked`", '"; touch hacked; "', "--help", "'; touch hacked #", "a b", "\\"]


@pytest.mark.parametrize("evil", EVIL)
def test_no_input_is_a_command_or_an_option(evil: str, runner: Runner) -> None:
    told = runner.folder / "told"
    command = runner.folder / "temp" / "servegate" / "bin" / "servegate"
    command.unlink()
    command.write_text(f"#!/bin/sh\nprintf '%s\\0' \"$@\" >'{told}'\n")
    command.chmod(0o755)
    names = ("policy", "reports", "baselines", "release", "comment_key", "comment", "output")
    assert runner.run("Judge", **dict.fromkeys(names, evil)).returncode == 0
    files = [part for name in ("json", "xml", "html", "md") for part in (OPTION[name], f"{evil}/verdict.{name}")]
    wanted = ["gate", "check", "--policy", evil, *files, "--baseline", evil, "--release", evil, "--comment-key", evil]
    assert told.read_text().split("\0")[:-1] == [*wanted, "--", evil]
    assert not (runner.folder / "hacked").exists()


def test_an_old_python_is_refused(runner: Runner, tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    ended = runner.run("Install servegate", python=str(old))
    assert ended.returncode == 2
    assert "::error title=servegate::Python 3.11 or newer" in ended.stderr


def test_an_environment_that_is_there_is_used(runner: Runner) -> None:
    assert runner.run("Install servegate", python=sys.executable).returncode == 0


def test_nothing_foreign_stands_in_a_script() -> None:
    for step in STEPS.values():
        assert step["shell"] == "bash"
        assert "${{" not in step["run"]
        assert "uses" not in step
    for spec in [*ACTION["inputs"].values(), *ACTION["outputs"].values()]:
        assert spec["description"].endswith(".")


@pytest.mark.parametrize("tool", [["zizmor", "--offline", "--quiet"], ["actionlint"]])
def test_the_linters_have_nothing_to_say(tool: list[str], tmp_path: Path) -> None:
    target = ROOT / "action.yml"
    if tool[0] == "actionlint":  # reads workflows, and the actions they use
        target = tmp_path / ".github" / "workflows" / "x.yml"
        target.parent.mkdir(parents=True)
        (tmp_path / "action.yml").write_text((ROOT / "action.yml").read_text())
        target.write_text(
            "on: pull_request\njobs:\n  gate:\n    runs-on: ubuntu-latest\n    permissions: {pull-requests: write}\n"
            "    steps:\n      - id: gate\n        uses: ./\n        with: {policy: a, reports: b}\n"
            "      - run: echo \"$VERDICT\"\n        env: {VERDICT: '${{ steps.gate.outputs.verdict }}'}\n"
        )
        (tmp_path / ".git").mkdir()
    binary = Path(sys.executable).with_name(tool[0])
    ended = subprocess.run([binary, *tool[1:], target], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert ended.returncode == 0, ended.stdout
