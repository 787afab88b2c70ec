"""Workflows run by act on this machine, without containers: a copy of a repository, stand-ins for others' actions.

act knows no `$/`, so the copy says `./`. It ignores permissions, concurrency, environments and OIDC: those are read
from the files by tests/unit/workflows.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
STAND_INS = ROOT / "tests" / "workflows" / "stand_ins"
_USES = re.compile(r"uses: ([\w.-]+/[\w.-]+)@([0-9a-f]{40})")

_OWN = re.compile(r"uses: \$/(\S+)")
_STEP = re.compile(r"- Main (.+) \[([0-9a-zµ.]+)\]$", re.MULTILINE)
_DURATION = re.compile(r"([0-9.]+)(h|ms|m|s|µs|ns)")
# act reads a step's output from a terminal that it closes as soon as the step has failed, whether it has read the rest
# or not: in one failure of a hundred the message is lost. A failing step gives it time to read.
_BASH = """#!/bin/sh
/bin/bash "$@"
status=$?
[ $status -eq 0 ] || sleep 0.3
exit $status
"""
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9}


@dataclass(frozen=True)
class Ran:
    """What came of a run."""

    status: int
    log: str
    jobs: dict[str, str]
    artifacts: Path
    calls: Path

    def seconds(self, *steps: str) -> float:
        """Time that steps of these names took together, in all jobs."""
        found = _STEP.findall(self.log)
        return sum(_seconds(took) for name, took in found if name in steps)

    def called(self, program: str) -> list[str]:
        """Arguments of each call of a program that was stood in for."""
        file = self.calls / program
        return file.read_text("utf-8").splitlines() if file.exists() else []


@dataclass(frozen=True)
class Running:
    """A run that has not ended yet."""

    process: subprocess.Popen[bytes]
    log: Path
    artifacts: Path
    calls: Path

    def ended(self, timeout: float) -> Ran:
        """Wait for its end. Raises subprocess.TimeoutExpired."""
        status = self.process.wait(timeout)
        return Ran(status, *_read(self.log.read_text("utf-8", "replace")), self.artifacts, self.calls)


class Repository:
    """A copy of this repository, or of another folder, that workflows run in.

    Args:
        folder: where the copy goes; must not exist.
        source: what is copied: the files Git knows or would add.
        called_as: `OWNER/NAME@COMMIT` under which other repositories call it; then its own parts are named so too.
        calls: a repository whose workflows this one calls.
    """

    def __init__(
        self, folder: Path, source: Path = ROOT, called_as: str | None = None, calls: Repository | None = None
    ) -> None:
        self.folder, self.called_as, self.calls = folder, called_as, calls
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=source,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for name in filter(None, listed.split("\0")):
            if (source / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source / name, folder / name)
        for file in (folder / ".github").rglob("*.yml"):
            file.write_text(_OWN.sub(self._own, file.read_text("utf-8")), "utf-8")
        self.git("init", "-q", "-b", "main")
        self.git("config", "user.email", "tests@servegate.example")
        self.git("config", "user.name", "tests")
        self.git("remote", "add", "origin", "https://github.com/team/chat.git")
        self.commit("initial")

    def _own(self, match: re.Match[str]) -> str:
        if self.called_as is None:
            return f"uses: ./{match[1]}"
        name, _, commit = self.called_as.partition("@")
        return f"uses: {name}/{match[1]}@{commit}"

    def git(self, *arguments: str) -> str:
        """Run git in the copy."""
        done = subprocess.run(["git", *arguments], cwd=self.folder, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def commit(self, message: str) -> str:
        """Commit everything; the commit's hash."""
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD")

    def roller(self, folder: Path, name: str, **given: str) -> None:
        """Commit a workflow roller.yml that calls rollout.yml.

        Args:
            folder: has NAME.json, NAME.verdict.json, trust.yaml, site.yaml, plan.yaml and v1.json, which serves.
            given: further inputs.
        """
        inputs = {
            "environment": "production",
            "release": f"{folder}/{name}.json",
            "verdict": f"{folder}/{name}.verdict.json",
            "trust": f"{folder}/trust.yaml",
            "stable": f"{folder}/v1.json",
            "site": f"{folder}/site.yaml",
            "plan": f"{folder}/plan.yaml",
            **given,
        }
        permissions = {"actions": "read", "contents": "read", "packages": "read", "id-token": "write"}
        job = {
            "name": "Rollout",
            "uses": "./.github/workflows/rollout.yml",
            "permissions": permissions,
            "with": inputs,
        }
        caller = {"name": "Roller", "on": ["push"], "permissions": {}, "jobs": {"rollout": job}}
        (self.folder / ".github/workflows/roller.yml").write_text(json.dumps(caller), "utf-8")
        self.commit("roller")

    def act(
        self,
        event: str,
        workflow: str,
        payload: Mapping[str, Any],
        *options: str,
        env: Mapping[str, str] | None = None,
        inputs: Mapping[str, str] | None = None,
        timeout: float = 500,
    ) -> Ran:
        """Run one workflow for one event."""
        with self.acting(event, workflow, payload, *options, env=env, inputs=inputs) as running:
            return running.ended(timeout)

    @contextmanager
    def acting(
        self,
        event: str,
        workflow: str,
        payload: Mapping[str, Any],
        *options: str,
        env: Mapping[str, str] | None = None,
        inputs: Mapping[str, str] | None = None,
    ) -> Iterator[Running]:
        """A run that can be watched and interrupted; ended with the context."""
        scratch = self.folder.parent / f"{self.folder.name}-run"
        shutil.rmtree(scratch, ignore_errors=True)
        artifacts, calls = scratch / "artifacts", scratch / "calls"
        artifacts.mkdir(parents=True)
        calls.mkdir()
        programs = scratch / "bin"
        programs.mkdir()
        (programs / "bash").write_text(_BASH, "utf-8")
        (programs / "bash").chmod(0o755)
        event_file = scratch / "event.json"
        event_file.write_text(json.dumps(payload), "utf-8")
        command = [str(Path(sys.executable).with_name("act")), event, "-W", f".github/workflows/{workflow}"]
        command += ["-P", "ubuntu-24.04=-self-hosted", "--json", "--action-offline-mode", "--no-cache-server"]
        command += ["-e", str(event_file), "-s", "GITHUB_TOKEN=not-a-token"]
        for name, pin in self._pins():
            command += ["--local-repository", f"{name}@{pin}={STAND_INS / name.replace('/', '-')}"]
        if self.calls is not None:
            command += ["--local-repository", f"{self.calls.called_as}={self.calls.folder}"]
        own = {"STAND_IN_ARTIFACTS": str(artifacts), "STAND_IN_CALLS": str(calls), **(env or {})}
        own["PATH"] = f"{programs}:{own.get('PATH', os.environ['PATH'])}"
        for key, value in own.items():
            command += ["--env", f"{key}={value}"]
        for key, value in (inputs or {}).items():
            command += ["--input", f"{key}={value}"]
        home = {"XDG_CACHE_HOME": str(scratch / "cache"), "DOCKER_HOST": "unix:///nowhere"}
        with (scratch / "log").open("w") as log:
            process = subprocess.Popen(
                # Whoever runs tests in the background ignores SIGINT, and so would act, which is to be cancelled.
                ["env", "--default-signal=INT", *command, *options],
                cwd=self.folder,
                env={**os.environ, **home, **own},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            try:
                yield Running(process, scratch / "log", artifacts, calls)
            finally:
                if process.poll() is None:
                    process.kill()
                process.wait()

    def _pins(self) -> set[tuple[str, str]]:
        text = "".join(file.read_text("utf-8") for file in (self.folder / ".github").rglob("*.yml"))
        pins = {(name, pin) for name, pin in _USES.findall(text) if (STAND_INS / name.replace("/", "-")).is_dir()}
        return pins | (self.calls._pins() if self.calls is not None else set())


def _seconds(duration: str) -> float:
    """Seconds of a duration as Go writes it, such as 1m2.5s."""
    return sum(float(number) * _UNITS[unit] for number, unit in _DURATION.findall(duration))


def _read(output: str) -> tuple[str, dict[str, str]]:
    """act's lines of JSON as a log, and the result of each job."""
    lines, jobs = [], {}
    for line in output.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            lines.append(line)
            continue
        lines.append(f"[{entry.get('job', '')}] {entry.get('msg', '').rstrip()}")
        if "jobResult" in entry:
            jobs[entry["job"].rpartition("/")[2].strip()] = entry["jobResult"]
    return "\n".join(lines), jobs
