"""The Jobs of components `evals` and `load` as they are shipped: a slot is measured through its Service."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster_place import Place
from manifests import Object

from cluster import Cluster

ROOT = Path(__file__).parents[2]
TOOLS = "servegate.test/tools"


def changed(item: Object) -> Object:
    """With an image whose working folder has the repository's suites and profiles, as the component wants it."""
    found: Object = json.loads(json.dumps(item).replace("example.invalid/servegate", TOOLS))
    return found


@pytest.fixture(scope="module")
def place(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """v1 in blue, and nothing in green."""
    env = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    cluster.add_image(TOOLS, sys.executable, env=env, folder=ROOT)
    made = Place(cluster, tmp_path_factory.mktemp("jobs"), "evals", "load", changed=changed)
    made.fill("blue", "v1")
    yield made
    made.close()


def begin(place: Place, name: str, job: str, slot: str | None = None) -> None:
    """What the head of the manifest says."""
    kubectl, create = place.cluster.kubectl, ("-n", place.namespace, "create", "job", f"--from=cronjob/{name}", job)
    if slot is None:
        kubectl(*create)
        return
    made = kubectl(*create, "--dry-run=client", "-o", "json")
    made = kubectl("set", "env", "--local", "-f", "-", f"SLOT={slot}", "-o", "json", stdin=made)
    kubectl("-n", place.namespace, "apply", "-f", "-", stdin=made)


def measured(said: str) -> dict[str, dict[str, Any]]:
    """Measures of the report that is the last thing in the log, by name and statistic."""
    report, _ = json.JSONDecoder().raw_decode(said[said.index("\n{\n") + 1 :])
    return {f"{each['name']} {each['statistic']}": each for each in report["measures"] if not each["slice"]}


def test_answers_and_load_of_a_slot_are_measured_in_the_cluster(place: Place) -> None:
    """A slot without a pod is no measurement: that Job fails, and says who did not answer."""
    begin(place, "servegate-evals", "evals-1")
    begin(place, "servegate-load", "load-1")
    begin(place, "servegate-evals", "evals-2", slot="green")
    status, said = place.ended("evals-2")
    assert status == "Failed", said
    assert "http://llm-green:8000" in said
    status, said = place.ended("evals-1")
    assert status == "Complete", said
    accuracy = measured(said)["accuracy mean"]
    assert accuracy["n"] == accuracy["attempted"] == 88
    assert accuracy["value"] > 0.8
    status, said = place.ended("load-1")
    assert status == "Complete", said
    rate = measured(said)["request_rate mean"]
    assert rate["n"] > 300
    assert abs(rate["value"] - 20) < 4
