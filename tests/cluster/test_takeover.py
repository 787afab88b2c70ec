"""Two controllers of one rollout in a cluster: one sleeps past its lease, the other takes over."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from cluster_place import Place

from cluster import Cluster

pytestmark = pytest.mark.timeout(400)


def test_a_controller_that_slept_and_a_route_that_somebody_edits(cluster: Cluster, tmp_path: Path) -> None:
    """The edit is taken back; the sleeper wakes up to a lease that is another's and can do nothing."""
    place = Place(cluster, tmp_path)
    users = place.serve()
    try:
        first = place.terminal(*place.started("v2"))
        place.until("half of the traffic", lambda state: state["step"] == 1)
        place.kube.patch(
            "HTTPRoute", "llm", [{"op": "replace", "path": "/spec/rules/0/backendRefs/1/weight", "value": 7}]
        )
        cluster.until("the edit to be taken back", lambda: place.router.read() == {"blue": 50.0, "green": 50.0}, 20)
        first.send_signal(signal.SIGSTOP)
        code, out = place.run("watch")
        assert code == 0, out
        assert "taking over" in out
        first.send_signal(signal.SIGCONT)
        said, _ = first.communicate(timeout=60)
        assert first.returncode not in (0, 1), said
        assert "lease" in said
        assert place.state()["phase"] == "PROMOTED"
        assert place.router.read() == {"blue": 0.0, "green": 100.0}
        seen = users.stop()
        assert set(seen) == {"complete"}, (seen, users.bad)
    finally:
        users.stop()
        place.close()
