"""Rollouts in the cluster as a person runs them, under streaming traffic through the real gateway."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_place import Place, Users

from cluster import Cluster

pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def place(cluster: Cluster, tmp_path: Path) -> Iterator[Place]:
    made = Place(cluster, tmp_path)
    yield made
    made.close()


def test_a_release_is_promoted_and_rolled_back_from_a_terminal(place: Place, users: Users) -> None:
    """Git is applied in the middle and after the promotion, as Argo CD does it: it takes nothing back."""
    terminal = place.terminal(*place.started("v2"))
    place.until("the first traffic", lambda state: state["phase"] == "STEP")
    place.apply_git()
    out, _ = terminal.communicate(timeout=120)
    assert terminal.returncode == 0, out
    assert "PROMOTED" in out
    place.apply_git()
    assert place.router.read() == {"blue": 0.0, "green": 100.0}
    assert [place.workload.status(slot).ready for slot in ("blue", "green")] == [1, 1]
    code, out = place.run("status", "--json")
    assert json.loads(out)["stable"] == "green"
    code, out = place.run("rollback", "--reason", "drill")
    assert code == 0, out
    assert place.router.read() == {"blue": 100.0, "green": 0.0}
    assert "drill" in place.run("history")[1]
    seen = users.stop()
    assert set(seen) == {"complete"}, (seen, users.bad, out)


def test_a_bad_release_is_rolled_back_by_itself(place: Place, users: Users) -> None:
    code, out = place.start("v3")
    assert code == 1, out
    assert "ROLLED_BACK" in out
    assert place.router.read() == {"blue": 100.0, "green": 0.0}
    seen = users.stop()
    assert set(seen) <= {"complete", "HTTP 500"}, (seen, users.bad)
    assert seen["HTTP 500"] < 0.2 * seen.total()


def test_a_release_that_does_not_start_never_gets_traffic(place: Place, users: Users) -> None:
    code, out = place.start("v4")
    assert code in (1, 3), out
    assert "ended with status 2" in out
    assert "kubectl logs" in out
    assert set(users.stop()) == {"complete"}
