"""The workflows that move traffic, executed: real engines, a real Envoy, users, controllers that live and die."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from act import Ran, Repository

from terminals import Site, site_in

pytestmark = pytest.mark.timeout(900)

HOSTILE = '$(touch /tmp/servegate-pwned)"; touch /tmp/servegate-pwned\n::set-output name=phase::PROMOTED'


@pytest.fixture
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    yield from site_in(tmp_path_factory.mktemp("s"))


def caller(repository: Repository, site: Site, name: str, on_cancel: str = "rollback") -> None:
    repository.roller(site.folder, name, **{"mode": "runner", "on-cancel": on_cancel, "store": str(site.store)})


def roll_out(repository: Repository, world: Any, site: Site, name: str) -> Ran:
    caller(repository, site, name)
    return repository.act("push", "roller.yml", {}, env=world.env)


def roll_back(repository: Repository, world: Any, site: Site, **inputs: str) -> Ran:
    given = {"environment": "production", "reason": "users complain", "confirm": "production", **inputs}
    variable = ("--var", f"SERVEGATE_STORE={site.store}")
    return repository.act(
        "workflow_dispatch", "rollback.yml", {"inputs": given}, *variable, env=world.env, inputs=given
    )


def after(ran: Ran, artifact: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ran.artifacts / artifact / "status.json").read_text("utf-8"))
    return found


def test_a_release_is_promoted_and_taken_back(repository: Repository, world: Any, site: Site) -> None:
    ran = roll_out(repository, world, site, "v2")
    assert ran.jobs == {"Roll out": "success"}, ran.log
    status = after(ran, "rollout-production")
    assert status["phase"] == "PROMOTED"
    assert status["slots"][status["stable"]]["name"] == "v2"
    # What the environment's name says is not enough.
    ran = roll_back(repository, world, site, confirm="yes")
    assert ran.jobs == {"Roll back": "failure"}
    assert "to roll production back, type production into confirm" in ran.log
    assert site.status()["phase"] == "PROMOTED"
    # A release nobody verified is refused with those that are.
    ran = roll_back(repository, world, site, target=HOSTILE)
    assert ran.jobs == {"Roll back": "failure"}
    assert "no verified release is called" in ran.log
    assert not Path("/tmp/servegate-pwned").exists()
    began = time.time()
    ran = roll_back(repository, world, site, reason=HOSTILE)
    assert ran.jobs == {"Roll back": "success"}, ran.log
    status = after(ran, "rollback")
    assert status["slots"][status["stable"]]["name"] == "v1"
    assert status["weights"][status["stable"]] == 100
    assert not Path("/tmp/servegate-pwned").exists()
    effective = next(
        line["at"] for line in history(ran) if line["weights"][status["stable"]] == 100 and line["at"] > began
    )
    print(f"\nrollback: {effective - began:.1f} s from the dispatch until the weights were effective")


def history(ran: Ran) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((ran.artifacts / "rollback/history.json").read_text("utf-8"))
    return found


def test_a_rollout_under_way_is_stopped_by_whoever_leads_it(repository: Repository, world: Any, site: Site) -> None:
    controller = site.start("v2")
    site.until("phase", "STEP")
    ran = roll_back(repository, world, site)
    assert ran.jobs == {"Roll back": "success"}, ran.log
    assert after(ran, "rollback")["phase"] == "ROLLED_BACK"
    assert controller.wait(20) == 1


def test_a_rollout_that_nobody_leads_any_more_is_taken_over(repository: Repository, world: Any, site: Site) -> None:
    controller = site.start("v2")
    site.until("phase", "STEP")
    controller.kill()
    controller.wait()
    ran = roll_back(repository, world, site)
    assert ran.jobs == {"Roll back": "success"}, ran.log
    status = after(ran, "rollback")
    assert (status["phase"], status["weights"][status["stable"]]) == ("ROLLED_BACK", 100)


@pytest.mark.parametrize(("on_cancel", "phase"), [("rollback", "ROLLED_BACK"), ("leave", "STEP")])
def test_cancelling_does_what_was_said(
    repository: Repository, world: Any, site: Site, on_cancel: str, phase: str
) -> None:
    caller(repository, site, "v2", on_cancel)
    with repository.acting("push", "roller.yml", {}, env=world.env) as running:
        site.until("phase", "STEP", timeout=120)
        running.process.send_signal(signal.SIGINT)
        ran = running.ended(120)
    assert ran.status != 0
    assert site.status()["phase"] == phase, ran.log


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"reason": " \n"}, "a reason is needed"),
        ({"environment": 'x"; touch /tmp/servegate-pwned; "'}, "the environment's name is not one word"),
    ],
)
def test_what_is_not_a_request_is_refused(
    repository: Repository, world: Any, inputs: dict[str, str], said: str
) -> None:
    given = {"environment": "staging", "reason": "r", **inputs}
    ran = repository.act("workflow_dispatch", "rollback.yml", {"inputs": given}, env=world.env, inputs=given)
    assert ran.jobs == {"Roll back": "failure"}
    assert said in ran.log
    assert not Path("/tmp/servegate-pwned").exists()


def test_an_environment_that_is_not_configured_is_told(repository: Repository, world: Any) -> None:
    given = {"environment": "staging", "reason": "r"}
    ran = repository.act("workflow_dispatch", "rollback.yml", {"inputs": given}, env=world.env, inputs=given)
    assert "set the variable SERVEGATE_STORE in environment staging-rollback" in ran.log


@pytest.mark.parametrize(
    ("environments", "said"),
    [
        ("staging production", "environment production has no required reviewers: nobody was asked before users"),
        ("staging", "who approves environment production cannot be seen from here"),
        ("production:reviewed", ""),
    ],
)
def test_a_rollout_that_nobody_was_asked_about_says_so(
    repository: Repository, world: Any, tmp_path: Path, environments: str, said: str
) -> None:
    """By itself it is told and goes on, here as far as its release, which is missing."""
    nowhere: Any = type("Nowhere", (), {"folder": tmp_path, "store": tmp_path / "store"})()
    caller(repository, nowhere, "v2")
    ran = repository.act("push", "roller.yml", {}, env={**world.env, "GH_ENVIRONMENTS": environments})
    assert ran.jobs == {"Roll out": "failure"}
    assert "Success - Main Who was asked" in ran.log, ran.log
    warnings = [line for line in ran.log.splitlines() if "::warning title=servegate::" in line]
    assert [said in line for line in warnings] == ([True] if said else []), ran.log


DRILLER = """
name: Driller
on: [push]
permissions: {{}}
jobs:
  drill:
    name: Drill
    uses: ./.github/workflows/rollback-drill.yml
    permissions:
      contents: read
      packages: read
      id-token: write
    with:
      release: {folder}/{name}.json
      verdict: {folder}/{name}.verdict.json
      trust: {folder}/trust.yaml
      stable: {folder}/v1.json
      site: {folder}/site.yaml
      plan: {folder}/plan.yaml
      store: {store}
      base-url: {url}
      profile: loadtest/profiles/drill.yaml
"""


def driller(repository: Repository, site: Site, name: str) -> None:
    text = DRILLER.format(folder=site.folder, store=site.store, url=site.url, name=name)
    (repository.folder / ".github/workflows/driller.yml").write_text(text, "utf-8")
    repository.commit("driller")


def drill(repository: Repository, world: Any, site: Site, name: str) -> Ran:
    driller(repository, site, name)
    return repository.act("push", "driller.yml", {}, env=world.env)


def test_a_drill_finds_the_net_whole_and_says_what_it_cost(repository: Repository, world: Any, site: Site) -> None:
    ran = drill(repository, world, site, "v3")
    assert ran.jobs == {"Drill": "success"}, ran.log
    said = re.search(r"the net held: ([0-9.]+) s until users were safe, (\d+) of (\d+) requests hurt", ran.log)
    assert said is not None
    assert 0 < int(said[2]) < int(said[3])
    found = json.loads((ran.artifacts / "drill/drill/drill.json").read_text("utf-8"))
    assert (found["release"], found["hole"]) == ("v3", None)
    # What a workflow that calls this one is handed on.
    assert f"set-output:: seconds-to-safe={float(said[1]):g}" in ran.log
    assert f"set-output:: hurt={said[2]}" in ran.log
    assert (ran.artifacts / "drill/drill/records.jsonl").exists()
    print(f"\ndrill: {said[0]}")


def test_a_drill_that_promotes_its_fault_fails_loudly(repository: Repository, world: Any, site: Site) -> None:
    ran = drill(repository, world, site, "v2")  # nothing in it that the plan could find
    assert ran.jobs == {"Drill": "failure"}
    assert "THE NET HAS A HOLE: a release with a fault in it was promoted" in ran.log
    assert "### Drill: THE NET HAS A HOLE" in ran.log


def test_a_cancelled_drill_takes_its_release_back(repository: Repository, world: Any, site: Site) -> None:
    driller(repository, site, "v2")  # which nothing but the cancelling ends early
    with repository.acting("push", "driller.yml", {}, env=world.env) as running:
        site.until("phase", "STEP", timeout=120)
        running.process.send_signal(signal.SIGINT)
        ran = running.ended(120)
    assert ran.status != 0
    status = site.status()
    assert (status["phase"], status["weights"][status["stable"]]) == ("ROLLED_BACK", 100), ran.log


def test_a_drill_that_could_not_be_done_says_nothing_about_the_net(
    repository: Repository, world: Any, site: Site
) -> None:
    """A drill that cannot begin must not look like a net that held, nor like one with a hole."""
    (site.folder / "v3.verdict.json").write_text("{}", "utf-8")
    ran = drill(repository, world, site, "v3")
    assert ran.jobs == {"Drill": "failure"}
    assert "the drill was not carried out: it says nothing about the net" in ran.log
    assert "NET HAS A HOLE" not in ran.log
    assert "set-output:: hurt=" not in ran.log


def test_a_drill_without_a_faulty_release_says_what_to_set(repository: Repository, world: Any) -> None:
    nothing = repository.act("schedule", "rollback-drill.yml", {}, env=world.env)
    assert (nothing.status, nothing.jobs) == (0, {})
    ran = repository.act("workflow_dispatch", "rollback-drill.yml", {"inputs": {}}, env=world.env)
    assert ran.jobs == {"Drill": "failure"}
    assert "set the variable SERVEGATE_DRILL_RELEASE" in ran.log
