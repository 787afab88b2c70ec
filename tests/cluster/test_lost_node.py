"""A machine is gone from one moment to the next, with the controller and the candidate on it."""

from __future__ import annotations

import time
from pathlib import Path

import plans
import pytest
from cluster_place import Place
from controllers import order, pods

from cluster import Cluster

pytestmark = pytest.mark.timeout(400)


def test_controller_and_candidate_go_with_their_node_and_the_rollout_goes_on(cluster: Cluster, tmp_path: Path) -> None:
    """The Job's next pod takes the lease when it has expired; the candidate's next pod comes up on another node."""
    place = Place(cluster, tmp_path, plan=plans.short(first="15s"))
    users = place.serve()
    others = [item["metadata"]["name"] for item in cluster.get("nodes")["items"]]
    node = cluster.add_node(7, gpus=1)
    try:
        cluster.kubectl("cordon", *others)
        order(place, "v2")
        place.until("the first traffic", lambda state: state["phase"] == "STEP")
        cluster.kubectl("uncordon", *others)
        (first,) = pods(place)
        found = cluster.get("-n", place.namespace, "pods", "--field-selector", f"spec.nodeName={node}")["items"]
        kinds = {item["metadata"]["labels"]["app.kubernetes.io/component"] for item in found}
        assert len(found) == len(kinds) == 2, found
        began = time.time()
        cluster.lose_node(node)
        # The garbage collector of pods does this too, when the node has been gone for 40 s.
        names = [item["metadata"]["name"] for item in found]
        cluster.kubectl("-n", place.namespace, "delete", "pod", "--force", "--grace-period=0", *names)
        place.until("the promotion", lambda state: state["phase"] == "PROMOTED", timeout=150)
        status, said = place.ended("servegate-rollout")
        assert status == "Complete", said
        assert first not in pods(place)
        assert place.router.read() == {"blue": 0.0, "green": 100.0}
    finally:
        cluster.kubectl("uncordon", *others)
        seen = users.stop()
        place.close()
    # The candidate had a tenth of the traffic, and no pod until its next one was ready.
    assert [bad for bad in users.bad if not began <= bad[0] <= began + 30] == [], users.bad
    assert seen["complete"] > 0.8 * seen.total(), seen
