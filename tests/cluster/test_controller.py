"""The controller as a Job and the watchdog as a CronJob of the cluster: real pods, that are killed like real ones."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import plans
import pytest
from cluster_place import Place, Users
from controllers import component, order, pods, whole

from cluster import Cluster
from servegate.contract import sha256_file
from servegate.report.model import Report

pytestmark = pytest.mark.timeout(400)
UNWATCHED = plans.short(half="30s", watchdogs=f"lease: 30s, {plans.WATCHDOGS}")
"""For the test that is about running out of it."""


@pytest.fixture
def place(cluster: Cluster, tmp_path: Path) -> Iterator[Place]:
    made = Place(cluster, tmp_path, plan=plans.short(half="30s"))
    yield made
    made.close()


def evict(place: Place, pod: str) -> None:
    """What `kubectl drain` asks for."""
    path = f"/api/v1/namespaces/{place.namespace}/pods/{pod}"
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": place.namespace}}
    place.kube.call("POST", f"{path}/eviction", body)


def test_a_job_promotes_whatever_dies_on_the_way_and_another_takes_it_back(place: Place, users: Users) -> None:
    """Its pod evicted and killed, the API server, etcd and the gateway's control plane killed: no request is lost. The
    way back, asked for by somebody who may not touch traffic, ends with proof."""
    cluster = place.cluster
    order(place, "v2")
    place.until("the first traffic", lambda state: state["phase"] == "STEP")
    (first,) = pods(place)
    evict(place, first)
    cluster.until("another pod", lambda: (now := pods(place)) and first not in now, timeout=60)
    place.until("half of the traffic", lambda state: state["step"] == 1)
    cluster.restart("etcd")
    cluster.restart("kube-apiserver")
    route = ["-n", place.namespace, "get", "httproute", "llm", "-o", "name"]
    cluster.until("API server", lambda: cluster.kubectl(*route, check=False).startswith("httproute"))
    cluster.restart("envoy-gateway")
    cluster.kubectl("-n", place.namespace, "delete", "pod", pods(place)[0], "--grace-period=0", "--force")
    place.until("the promotion", lambda state: state["phase"] == "PROMOTED", timeout=150)
    cluster.wait("Complete", "-n", place.namespace, "job/servegate-rollout")
    assert place.router.read() == {"blue": 0.0, "green": 100.0}
    events = cluster.get("-n", place.namespace, "events", "--field-selector=source=servegate")["items"]
    assert {"Step", "Promoted"} <= {event["reason"] for event in events}
    cluster.apply(*whole("watchdog", place.namespace))
    asked = ("rollback", "--in-cluster", "--reason", "odd answers")
    code, out = place.run(*asked, kubeconfig=place.account("servegate-starter"))
    assert code == 0, out
    assert "proof" in out
    assert place.state()["proven"]
    code, out = place.run("report", "--json", kubeconfig=place.account("servegate-operator"))
    assert code == 0, out
    assert json.loads(out)["subject"]["name"] == "v2"
    assert place.router.read() == {"blue": 100.0, "green": 0.0}
    seen = users.stop()
    assert set(seen) == {"complete"}, (seen, users.bad)


def test_a_job_rolls_back_on_its_own_and_does_not_try_again(place: Place, users: Users) -> None:
    order(place, "v3")
    place.until("the way back", lambda state: state["phase"] == "ROLLED_BACK", timeout=120)
    place.cluster.wait("Failed", "-n", place.namespace, "job/servegate-rollout")
    assert place.router.read() == {"blue": 100.0, "green": 0.0}
    assert len(pods(place)) == 1
    # Where the machine is slow the fault, which begins after 12 s, meets the smoke test already.
    assert place.state()["cause"] in ("errors", "slo", "smoke"), place.told()
    # What the pod has found outlives it.
    place.cluster.kubectl("-n", place.namespace, "delete", "job", "servegate-rollout", "--cascade=foreground", "--wait")
    assert not pods(place)
    code, out = place.run("report", "--output", "left", kubeconfig=place.account("servegate-operator"))
    assert code == 0, out
    assert "rolled-back" in out
    report = Report.read(place.folder / "left/report.json")
    (sample,) = report.samples
    assert sample.sha256 == sha256_file(place.folder / "left/audit.jsonl")
    code, out = place.run("replay", "left/audit.jsonl")
    assert code == 0, out
    assert "every decision was made again" in out


def test_the_watchdog_takes_traffic_back_that_nobody_watches(place: Place, users: Users) -> None:
    cluster, namespace = place.cluster, place.namespace
    cluster.apply(component("watchdog", "cron-job.yaml", namespace))
    watch = ["-n", namespace, "create", "job", "--from=cronjob/servegate-watchdog"]
    (place.folder / "plan.yaml").write_text(UNWATCHED)
    child = place.terminal(*place.started("v2"))
    place.until("the first traffic", lambda state: state["phase"] == "STEP")
    cluster.kubectl(*watch, "early")
    cluster.wait("Complete", "-n", namespace, "job/early")
    assert "is at work on it" in cluster.pod_log(pods(place, "early")[0])
    child.kill()
    child.communicate()
    assert place.router.read()["green"] > 0
    place.until("the limit", lambda state: time.time() - state["updated"] > 31)
    cluster.kubectl(*watch, "late")
    place.until("the way back", lambda state: state["phase"] == "ROLLED_BACK", timeout=60)
    cluster.wait("Complete", "-n", namespace, "job/late")
    assert place.state()["cause"] == "unwatched"
    assert place.router.read() == {"blue": 100.0, "green": 0.0}
    seen = users.stop()
    assert set(seen) == {"complete"}, (seen, users.bad)


def test_people_steer_a_job_with_the_rights_of_an_operator(place: Place, users: Users) -> None:
    """Pause, resume and abort are intents: whoever may leave one need not be able to touch traffic."""
    order(place, "v2")
    place.until("the first traffic", lambda state: state["phase"] == "STEP")
    operator = place.account("servegate-operator")
    code, out = place.run("pause", "--reason", "a look at the answers", kubeconfig=operator)
    assert (code, place.state()["phase"]) == (0, "HELD"), out
    code, out = place.run("resume", "--reason", "they are fine", kubeconfig=operator)
    assert code == 0, out
    place.until("going on", lambda state: state["phase"] in ("STEP", "BAKING"))
    code, out = place.run("abort", "--reason", "a drill", kubeconfig=operator)
    assert code == 0, out
    place.cluster.wait("Failed", "-n", place.namespace, "job/servegate-rollout")
    assert place.router.read() == {"blue": 100.0, "green": 0.0}
    assert all(
        said in place.run("history", kubeconfig=operator)[1]
        for said in ("a look at the answers", "they are fine", "a drill")
    )
    seen = users.stop()
    assert set(seen) == {"complete"}, (seen, users.bad)
