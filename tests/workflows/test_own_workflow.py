"""`test.yml`, with which this repository tests itself: its jobs and steps, without the hours that its targets take."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from act import Ran, Repository
from workflow_world import World, call_with

pytestmark = pytest.mark.timeout(900)

# Says every command of the target as make itself reads it from the Makefile, and runs none of them.
MAKE = """#!/bin/sh
echo "$@" >> "$STAND_IN_CALLS/make"
if [ "$1" = "$MAKE_FAILS" ]; then exit 2; fi
exec {make} --dry-run --always-make "$@"
"""


@pytest.fixture
def env(world: World, tmp_path: Path) -> dict[str, str]:
    """A runner whose `make` says what it would do."""
    make = shutil.which("make")
    assert make is not None
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "make").write_text(MAKE.format(make=make), "utf-8")
    (programs / "make").chmod(0o755)
    return {**world.env, "PATH": f"{programs}:{world.env['PATH']}", "MAKE_FAILS": ""}


def run(repository: Repository, event: str, *options: str, env: dict[str, str]) -> Ran:
    pull = {"number": 5, "title": "A change", "head": {"sha": "a" * 40, "ref": "change", "repo": {"full_name": "o/r"}}}
    payload = {"pull_request": {**pull, "base": {"repo": {"full_name": "o/r"}}}, "repository": {"full_name": "o/r"}}
    return repository.act(event, "test.yml", payload if event == "pull_request" else {}, *options, env=env)


def test_a_change_of_this_repository_is_tested(
    repository: Repository, world: World, port: str, env: dict[str, str]
) -> None:
    own = {"engine_port": f'"{port}"', "image_base": world.base, "image_builder": "buildah", "image_min_free": '"1"'}
    call_with(repository.folder, "test", **own)
    repository.commit("what this machine has")
    ran = run(repository, "pull_request", env=env)
    assert set(ran.jobs) == {
        *("Lint, types, schemas", "Unit and end to end"),
        *("Configuration", "Smoke, evals, gate", "Image builds"),
    }
    assert set(ran.jobs.values()) == {"success"}, ran.log
    assert sorted(ran.called("make")) == ["check", "test"]
    for command in ("ruff check .", "/mypy", "lint-imports", "pytest -n 2 --dist loadfile tests/unit", "tests/e2e"):
        assert command in ran.log, command


def test_a_target_that_fails_fails_its_job(repository: Repository, env: dict[str, str]) -> None:
    ran = run(repository, "push", "-j", "check", env={**env, "MAKE_FAILS": "check"})
    assert ran.jobs == {"Lint, types, schemas": "failure"}, ran.log
    assert ran.status != 0
