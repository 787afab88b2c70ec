"""Rollouts from a workflow, by act, in the cluster: who leads when the runner dies, is cancelled, or asks twice."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import plans
import pytest
from act import ROOT, Ran, Repository
from cluster_place import Place, Users
from controllers import IMAGE, component
from workflow_world import World

from cluster import Cluster
from servegate.rollout import memory
from servegate.rollout.plan import load_plan
from servegate.rollout.stores.config_map import ConfigMapStore

pytestmark = pytest.mark.timeout(590)

HELD = "limits: {held: 10m}"
LONGER = plans.short(half="60s", watchdogs=f"lease: 30s, {plans.WATCHDOGS}", more=HELD)


@pytest.fixture
def place(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    made = Place(cluster, tmp_path_factory.mktemp("place"), "workflow", plan=LONGER)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    cluster.add_image(IMAGE, sys.executable, env={"PATH": path})
    yield made
    made.close()


@pytest.fixture
def users(place: Place) -> Iterator[Users]:
    """Traffic on v1 in blue."""
    made = place.serve()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return Repository(tmp_path_factory.mktemp("workflows") / "repository")


class Runner:
    """Somebody's runner, whose workflow has the rights of component workflow and no more; calls it for a place.

    In mode runner it leads itself, and is the controller's account.
    """

    def __init__(self, repository: Repository, world: World, place: Place) -> None:
        self.repository, self.place, self.world = repository, place, world
        self.env = self.as_account("servegate-workflow")

    def as_account(self, name: str) -> dict[str, str]:
        return {**self.world.env, "KUBECONFIG": str(self.place.account(name))}

    def caller(self, name: str, mode: str = "job", namespace: str | None = None, **files: str) -> None:
        where = namespace or self.place.namespace
        image = f"{IMAGE}@sha256:{'0' * 64}"
        given = {"mode": mode, "store": f"kubernetes:{where}", "namespace": where, "controller-image": image}
        self.repository.roller(self.place.folder, name, **given, **files)

    def acting(self, name: str, mode: str = "job", **files: str) -> Any:
        self.caller(name, mode, **files)
        env = self.env if mode == "job" else self.as_account("servegate-controller")
        return self.repository.acting("push", "roller.yml", {}, env=env)

    def act(self, name: str, namespace: str | None = None, **env: str) -> Ran:
        self.caller(name, namespace=namespace)
        return self.repository.act("push", "roller.yml", {}, env={**self.env, **env})


@pytest.fixture
def runner(repository: Repository, world: World, place: Place) -> Runner:
    return Runner(repository, world, place)


def dies(process: Any) -> None:
    """A runner that is gone: act and all it has started, without a word."""
    family = [process.pid]
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, parent = int(stat.parent.name), int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended meanwhile
            continue
        parents.setdefault(parent, []).append(pid)
    for pid in family:
        family += parents.get(pid, [])
    for pid in family:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


def test_the_job_goes_on_when_the_runner_dies_and_another_run_follows_it(
    runner: Runner, place: Place, users: Users
) -> None:
    (place.folder / "plan.yaml").write_text(plans.short(more=HELD))
    with runner.acting("v2") as running:
        place.until("the first traffic", lambda state: state["phase"] == "STEP")
        # It stands still while runners come and go, however slow the machine is.
        code, out = place.run("pause", "--reason", "a look")
        assert code == 0, out
        dies(running.process)
    # Another release has to wait, and is told for whom.
    ran = runner.act("v3")
    assert ran.jobs == {"Roll out": "failure"}
    assert f"a controller is at work in {place.namespace} already (Job servegate-rollout), on v2" in ran.log, ran.log
    assert place.state()["phase"] == "HELD"
    with runner.acting("v2") as running:
        said = "the controller of this release is at work already (Job servegate-rollout): it is followed"
        place.cluster.until("the second run", lambda: said in running.log.read_text("utf-8"))
        code, out = place.run("resume", "--reason", "they are fine")
        assert code == 0, out
        ran = running.ended(200)
    assert ran.jobs == {"Roll out": "success"}, ran.log
    assert "set-output:: phase=PROMOTED" in ran.log
    assert place.router.read() == {"blue": 0.0, "green": 100.0}
    seen = users.stop()
    assert set(seen) == {"complete"}, (seen, users.bad)


def test_a_runner_that_led_itself_and_died_is_followed_by_the_watchdog(
    runner: Runner, place: Place, users: Users
) -> None:
    cluster, namespace = place.cluster, place.namespace
    cluster.apply(component("watchdog", "cron-job.yaml", namespace))
    cluster.kubectl("-n", namespace, "patch", "cronjob/servegate-watchdog", "-p", '{"spec": {"suspend": true}}')
    with runner.acting("v2", mode="runner") as running:
        cluster.until("traffic on green", lambda: place.router.read()["green"] > 0)
        dies(running.process)
    assert place.router.read()["green"] > 0
    # Its schedule is every minute; the test does not wait for that.
    place.until("the limit", lambda state: time.time() - state["updated"] > 31)
    cluster.kubectl("-n", namespace, "create", "job", "--from=cronjob/servegate-watchdog", "look")
    place.until("the way back", lambda state: state["phase"] == "ROLLED_BACK")
    assert place.state()["cause"] == "unwatched"
    assert place.router.read() == {"blue": 100.0, "green": 0.0}
    seen = users.stop()
    assert set(seen) == {"complete"}, (seen, users.bad)


def test_the_shipped_plan_and_site_are_started_by_a_job(runner: Runner, place: Place, users: Users) -> None:
    """As they are in the repository, the quality check with its suite and all. Begun, and ended by hand: its limits are
    for a machine that does nothing else, and a canary of the shipped length is what `make demo` shows.
    """
    store = ConfigMapStore(place.kube)
    # What an earlier rollout has left is replaced.
    before = component("controller", "job.yaml", place.namespace)
    pod = before["spec"]["template"]["spec"]
    pod["containers"][0]["args"], pod["volumes"][0]["configMap"]["optional"] = ["--version"], True
    place.cluster.apply(before)
    place.cluster.wait("Complete", "-n", place.namespace, "job/servegate-rollout")
    with runner.acting("v2", plan="rollout/canary.yaml", site="rollout/kubernetes.yaml") as running:
        place.until("traffic", lambda _: any(line.weights.get("green") for line in memory.history(store)), 120)
        place.run("abort", "--reason", "seen enough")
        ran = running.ended(200)
    assert ran.jobs == {"Roll out": "failure"}, ran.log
    assert "set-output:: phase=ROLLED_BACK" in ran.log
    found, _ = memory.load(store)
    assert found is not None
    assert found.plan is not None
    assert found.site is not None
    shipped = load_plan(ROOT / "rollout/canary.yaml").model_dump(mode="json")
    (quality,) = (check for check in found.plan["checks"] if check["kind"] == "quality")
    suite = quality.pop("suite")
    assert str(suite).startswith("/etc/rollout/")  # in the pod there is no checkout
    for check in shipped["checks"]:
        check.pop("suite", None)
    assert found.plan == shipped
    assert (found.site["namespace"], found.site["patience"]) == (place.namespace, "60s")
    assert found.release_in("green").name == "v2"
    assert place.router.read() == {"blue": 100.0, "green": 0.0}


def test_cancelling_the_workflow_rolls_the_job_back(runner: Runner, place: Place, users: Users) -> None:
    with runner.acting("v2") as running:
        place.until("the first traffic", lambda state: state["phase"] == "STEP")
        place.cluster.until("somebody who follows", lambda: "Run Main Follow" in running.log.read_text("utf-8"))
        began = time.monotonic()
        running.process.send_signal(signal.SIGINT)
        place.until("the way back", lambda state: state["weights"].get("blue") == 100)
        took = time.monotonic() - began
        ran = running.ended(120)
    assert ran.status != 0
    assert (place.state()["phase"], place.state()["cause"]) == ("ROLLED_BACK", "abort"), ran.log
    place.cluster.wait("Failed", "-n", place.namespace, "job/servegate-rollout")
    assert place.router.read() == {"blue": 100.0, "green": 0.0}
    print(f"\ncancelled: {took:.1f} s until the weights were effective")


def test_a_cluster_that_is_not_reached_and_a_namespace_that_is_missing_are_told(
    runner: Runner, place: Place, tmp_path: Path
) -> None:
    away = tmp_path / "kubeconfig"
    text = place.cluster.kubeconfig.read_text()
    away.write_text(re.sub(r"server: \S+", "server: https://127.0.0.1:1", text))
    ran = runner.act("v2", KUBECONFIG=str(away))
    assert ran.jobs == {"Roll out": "failure"}
    assert f"namespace {place.namespace}:" in ran.log
    assert "is the API server reachable from this runner, and does it trust this job?" in ran.log, ran.log
    ran = runner.act("v2", namespace="nowhere")  # it has rights in its own namespace alone
    assert ran.jobs == {"Roll out": "failure"}
    assert "its account may not read this namespace, or there is none" in ran.log, ran.log
    ran = runner.act("v2", namespace="nowhere", KUBECONFIG=str(place.cluster.kubeconfig))
    assert ran.jobs == {"Roll out": "failure"}
    assert "namespace nowhere: " in ran.log
    assert "make it first: kubectl apply --server-side --field-manager=git -k k8s/overlays/" in ran.log, ran.log
