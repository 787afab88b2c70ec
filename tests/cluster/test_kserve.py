"""A rollout between two LLMInferenceServices, with the rights that component kserve ships, under streaming traffic.

What KServe would make of them the test makes (tests/support/kserve_stand_in.py); pods, gateway and traffic are real.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from apply import Applier
from cluster_place import NAMES, Place
from kserve_stand_in import StandIn, quick
from manifests import Object

from cluster import Cluster
from servegate.release import Model
from servegate.rollout.kube import Kube
from servegate.rollout.routers.kserve import KServeRouter
from servegate.rollout.workloads.kserve import KServeWorkload

pytestmark = pytest.mark.timeout(400)


def slot(item: Object) -> Object:
    """The gateway of the test cluster serves no InferencePool: without a scheduler KServe routes to Services."""
    if item["kind"] == "LLMInferenceService":
        del quick(item)["spec"]["router"]["scheduler"]
    return item


@pytest.fixture
def place(cluster: Cluster, applier: Applier, tmp_path: Path) -> Iterator[Place]:
    made = Place(cluster, tmp_path, "kserve", changed=slot, model=Model(uri="hf://example/m", served_name="support"))
    made.router = KServeRouter(made.kube, NAMES, "llm")
    made.workload = KServeWorkload(made.kube, "llm", patience=2.0)
    with (tmp_path / "site.yaml").open("a") as site:
        site.write("backends: LLMInferenceService\n")
    host = f"{made.namespace}.test"
    stand_in = StandIn(Kube(made.namespace, kubeconfig=cluster.kubeconfig), *NAMES.values(), host=host)
    yield made
    stand_in.close()
    made.close()


def test_a_release_is_promoted_taken_back_and_its_bad_successor_refused(place: Place) -> None:
    users = place.serve()
    try:
        controller = place.account("servegate-controller")
        code, out = place.run(*place.started("v2"), kubeconfig=controller)
        assert code == 0, out
        assert "PROMOTED" in out
        assert place.router.read() == {"blue": 0.0, "green": 100.0}
        code, out = place.run("rollback", "--reason", "drill", kubeconfig=controller)
        assert code == 0, out
        assert place.router.read() == {"blue": 100.0, "green": 0.0}
        assert set(users.seen) == {"complete"}, (users.seen, users.bad)
        code, out = place.run(*place.started("v3"), kubeconfig=controller)
        assert code == 1, out
        assert "ROLLED_BACK" in out
        assert place.router.read() == {"blue": 100.0, "green": 0.0}
    finally:
        seen = users.stop()
    assert set(seen) <= {"complete", "HTTP 500"}, (seen, users.bad)
    assert seen["HTTP 500"] < 0.2 * seen.total()
