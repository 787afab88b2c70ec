"""kill -9 of the controller in its pod and of the gateway's Envoy, in the middle of a rollout with users on it.

API server, etcd, the gateway's control plane and evictions are in test_controller.py.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import plans
import pytest
from cluster_place import Place, Users
from controllers import order, pods

from cluster import Cluster
from servegate.endpoint import request
from servegate.errors import InfrastructureError

pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def place(cluster: Cluster, tmp_path: Path) -> Iterator[Place]:
    made = Place(cluster, tmp_path, plan=plans.short(half="30s"))
    yield made
    made.close()


def process(pod: str) -> int:
    """Id of the process of a pod's only container."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            inside = f"HOSTNAME={pod}".encode() in (path / "environ").read_bytes().split(b"\0")
            named = (path / "cmdline").read_bytes().split(b"\0")
        except OSError:  # ended meanwhile
            continue
        if inside and b"rollout" in named:
            return int(path.name)
    raise AssertionError(f"no process of pod {pod}")


def served(place: Place) -> bool:
    """Whether the gateway answers."""
    try:
        headers = {"Host": f"{place.namespace}.test"}
        return request("GET", f"{place.cluster.gateway_url}/health", headers=headers, timeout=2)[0] == 200
    except InfrastructureError:
        return False


def test_the_controller_and_the_gateway_are_killed_and_the_release_is_promoted(place: Place, users: Users) -> None:
    """Only what hung on the killed Envoy is lost; the next pod takes the lease when it has expired and goes on."""
    cluster = place.cluster
    order(place, "v2")
    place.until("the first traffic", lambda state: state["phase"] == "STEP")
    (first,) = pods(place)
    os.kill(process(first), signal.SIGKILL)
    cluster.until("another pod", lambda: any(pod != first for pod in pods(place)))
    place.until("half of the traffic", lambda state: state["step"] == 1)
    began = time.time()
    cluster.restart("envoy")
    cluster.until("the gateway to serve", lambda: served(place))
    back = time.time()
    place.until("the promotion", lambda state: state["phase"] == "PROMOTED", timeout=150)
    status, said = place.ended("servegate-rollout")
    assert status == "Complete", said
    assert len(pods(place)) == 2
    assert place.router.read() == {"blue": 0.0, "green": 100.0}
    seen = users.stop()
    assert [bad for bad in users.bad if not began <= bad[0] <= back + 2] == []
    assert seen["complete"] > 0.8 * seen.total(), seen
    code, out = place.run("report")
    assert code == 0, out
    assert "promoted" in out
