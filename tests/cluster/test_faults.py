"""What goes wrong around a rollout in a cluster: each ends in a declared state, and says what to do about it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import plans
import pytest
from cluster_place import Place
from manifests import placed

from cluster import Cluster

pytestmark = pytest.mark.timeout(400)
IMPATIENT = plans.short(watchdogs="unready: 20s, no_data: 40s, route: 4s", more="limits: {prepare: LIMIT}")
GREEN = "deployment/llm-green"


@pytest.fixture(scope="module")
def place(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """v1 in blue; a plan that waits for nothing long."""
    made = Place(cluster, tmp_path_factory.mktemp("faults"))
    limited(made, "60s")
    site = f"version: 1\nkind: kubernetes\nnamespace: {made.namespace}\nfolder: out\npatience: 3s\nnodes: added\n"
    (made.folder / "site.yaml").write_text(site)
    made.fill("blue", "v1")
    made.weigh(0)
    yield made
    made.close()


def limited(place: Place, prepare: str) -> None:
    """Let the preparation take so long at most."""
    (place.folder / "plan.yaml").write_text(IMPATIENT.replace("LIMIT", prepare))


def original(place: Place, kind: str, name: str) -> None:
    """An object as Git has it."""
    found = [
        item for item in placed("local", place.namespace) if (item["kind"], item["metadata"]["name"]) == (kind, name)
    ]
    place.cluster.apply(*found)


def patched(place: Place, what: str, *patch: dict[str, Any]) -> None:
    """Somebody changes an object by hand."""
    place.cluster.kubectl("-n", place.namespace, "patch", what, "--type=json", "-p", json.dumps(patch))


def no_quota(place: Place) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "full", "namespace": place.namespace}}
    place.cluster.apply({**quota, "spec": {"hard": {"pods": "1"}}})


def no_gpu(place: Place) -> None:
    at = "/spec/template/spec/containers/0/resources"
    many = [{"op": "add", "path": f"{at}/{kind}/nvidia.com~1gpu", "value": "99"} for kind in ("requests", "limits")]
    patched(place, GREEN, *many)


def no_slot(place: Place) -> None:
    place.cluster.kubectl("-n", place.namespace, "delete", GREEN)


def nothing(_place: Place) -> None:
    pass


BEFORE: dict[str, tuple[Callable[[Place], None], str, str]] = {
    "quota exceeded": (no_quota, "v2", r"no pod can be made.*exceeded quota: full"),
    "no GPU": (no_gpu, "v2", r"Insufficient nvidia.com/gpu"),
    "image missing": (nothing, "v6", r"servegate.test/absent.*not found"),
    "out of memory": (nothing, "v8", r"ran out of memory"),
    "crash loop": (nothing, "v4", r"ended with status 2"),
    "ready, but the model answers nothing": (nothing, "v5", r"smoke"),
}


@pytest.mark.parametrize("what", BEFORE)
def test_a_release_that_cannot_run_is_given_up_before_its_first_request(place: Place, what: str) -> None:
    change, name, said = BEFORE[what]
    change(place)
    limited(place, "90s")
    try:
        code, out = place.start(name)
    finally:
        limited(place, "60s")
        place.cluster.kubectl("-n", place.namespace, "delete", "resourcequota", "full", "--ignore-not-found")
        original(place, "Deployment", "llm-green")
    assert code in (1, 3), out
    assert "ROLLED_BACK" in out
    assert re.search(said, out), out
    assert place.router.read() == {"blue": 100.0, "green": 0.0}


def test_into_a_slot_that_is_not_there_nothing_is_begun(place: Place) -> None:
    state = place.kube.get("ConfigMap", "servegate-state")["metadata"]["resourceVersion"]
    no_slot(place)
    try:
        code, out = place.start("v2")
    finally:
        original(place, "Deployment", "llm-green")
    assert code == 4, out
    assert 'deployments.apps "llm-green" not found' in out
    assert place.kube.get("ConfigMap", "servegate-state")["metadata"]["resourceVersion"] == state
    assert place.router.read() == {"blue": 100.0, "green": 0.0}


def test_where_no_node_has_room_nothing_is_begun(place: Place) -> None:
    """Refused with the numbers while nodes may be read; an account that may not leaves it to the scheduler."""
    site = place.folder / "site.yaml"
    before, weights = site.read_text(), place.router.read()
    site.write_text(before.replace("nodes: added\n", ""))
    no_gpu(place)
    try:
        version = place.kube.get("Deployment", "llm-green")["metadata"]["generation"]
        state = place.kube.get("ConfigMap", "servegate-state")["metadata"]["resourceVersion"]
        for more in ((), ("--dry-run",)):
            code, out = place.run(*place.started("v2"), *more)
            assert code == 4, out
            assert "0 of 1 replicas find a node beside what runs; 2 nodes: no more nvidia.com/gpu" in _flat(out), out
        code, out = place.run(*place.started("v2"), "--dry-run", kubeconfig=place.account("servegate-controller"))
        assert code == 0, out
        assert 'cannot list resource "nodes"' in out
        assert place.kube.get("Deployment", "llm-green")["metadata"]["generation"] == version
        assert place.kube.get("ConfigMap", "servegate-state")["metadata"]["resourceVersion"] == state
        assert place.router.read() == weights
    finally:
        site.write_text(before)
        original(place, "Deployment", "llm-green")
    code, out = place.run(*place.started("v2"), "--dry-run")
    assert code == 0, out
    assert "would go into green, beside v1 in blue" in out


def _flat(text: str) -> str:
    return " ".join(text.split())


def no_back_end(place: Place) -> None:
    patched(place, "httproute/llm", {"op": "remove", "path": "/spec/rules/0/backendRefs/1"})


def no_listener(place: Place) -> None:
    patched(place, "httproute/llm", {"op": "add", "path": "/spec/parentRefs/0/sectionName", "value": "https"})


ROUTES: dict[str, tuple[Callable[[Place], None], str]] = {
    "back end removed": (no_back_end, r"no rule has the Services llm-blue and llm-green as back ends"),
    "gateway not accepting": (no_listener, r"gateway gateway says Accepted is False: NoMatchingParent"),
}


@pytest.mark.parametrize("what", ROUTES)
def test_a_route_that_somebody_broke_holds_the_rollout_until_it_is_mended(place: Place, what: str) -> None:
    change, said = ROUTES[what]
    change(place)
    child = place.terminal(*place.started("v2"))
    try:
        place.until("the hold", lambda state: state["phase"] == "HELD")
        assert re.search(said, place.state()["reason"]), place.state()["reason"]
        original(place, "HTTPRoute", "llm")
        place.until("going on", lambda state: state["phase"] == "STEP")
        code, out = place.run("abort", "--reason", "enough")
        assert code == 0, out
    finally:
        original(place, "HTTPRoute", "llm")
        out, _ = child.communicate(timeout=120)
    assert "ROLLED_BACK" in out
    assert place.router.read() == {"blue": 100.0, "green": 0.0}


def test_a_right_that_is_missing_is_named(place: Place) -> None:
    """The rollout runs as its service account, which may no longer change Deployments."""
    config = json.loads(place.cluster.kubectl("config", "view", "--raw", "--flatten", "-o", "json"))
    token = place.cluster.kubectl("-n", place.namespace, "create", "token", "servegate-controller").strip()
    config["users"][0]["user"] = {"token": token}
    path = place.folder / "controller.kubeconfig"
    path.write_text(json.dumps(config))
    patched(place, "role/servegate-controller", {"op": "replace", "path": "/rules/1/verbs", "value": ["get"]})
    try:
        code, out = place.run(*place.started("v2"), kubeconfig=path)
    finally:
        original(place, "Role", "servegate-controller")
    assert code == 1, out
    who = f"system:serviceaccount:{place.namespace}:servegate-controller"
    assert f'User "{who}" cannot patch resource "deployments" in API group "apps"' in out
    assert "ROLLED_BACK" in out


def test_a_namespace_that_goes_away_ends_the_rollout(cluster: Cluster, tmp_path: Path) -> None:
    place = Place(cluster, tmp_path)
    place.fill("blue", "v1")
    place.weigh(0)
    child = place.terminal(*place.started("v2"))
    place.until("the beginning", lambda state: state["phase"] == "PREPARING")
    place.close()
    out, _ = child.communicate(timeout=120)
    assert child.returncode == 4, out
    assert re.search(r'"servegate(-state|-intents)?" not found', out), out
