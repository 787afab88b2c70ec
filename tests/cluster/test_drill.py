"""Does the net hold? A defect in front of the engine, a load of the drill's own, and nobody's help."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_place import Place
from controllers import with_image
from manifests import Object

from cluster import Cluster

pytestmark = pytest.mark.timeout(400)
PROMPTS = Path(__file__).parents[2] / "loadtest/prompts/support.jsonl"
PROFILE = """
version: 1
name: drill
arrival: {kind: poisson, rate: 8/s}
timeout: 30s
prompts: prompts.jsonl
max_tokens: 12
"""
FILES = ("plan.yaml", "site.yaml", "trust.yaml", "release.pub", "profile.yaml", "prompts.jsonl")


@pytest.fixture(scope="module")
def place(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """v1 in blue, in a namespace for drills."""

    def changed(item: Object) -> Object:
        item = with_image(item)
        if item["kind"] == "Deployment":
            for container in item["spec"]["template"]["spec"]["containers"]:
                container["lifecycle"]["preStop"]["sleep"]["seconds"] = 2
        if item["kind"] == "CronJob":
            aliases = [{"ip": cluster.addresses.inside, "hostnames": [f"{item['metadata']['namespace']}.test"]}]
            item["spec"]["jobTemplate"]["spec"]["template"]["spec"]["hostAliases"] = aliases
        return item

    folder = tmp_path_factory.mktemp("drill")
    made = Place(cluster, folder, "drill", changed=changed)
    shutil.copy(PROMPTS, folder / "prompts.jsonl")
    (folder / "profile.yaml").write_text(PROFILE)
    made.serve().stop()
    yield made
    made.close()


def cost(said: str) -> tuple[float, int]:
    """Seconds to safe and requests hurt, of a net that held."""
    found = re.search(r"the net held: ([0-9.]+) s until users were safe, (\d+) of (\d+) requests hurt", said)
    assert found is not None, said
    assert int(found[2]) < int(found[3])
    print(f"\ndrill: {found[0]}")
    return float(found[1]), int(found[2])


def test_a_drill_from_a_terminal(place: Place) -> None:
    """The verdict is a drill's, which counts in this namespace: its label comes with the component."""
    load = ("--base-url", place.url, "--profile", "profile.yaml", "--output", "drill")
    code, out = place.run("drill", *place.started("v7")[1:], *load)
    assert code == 0, out
    seconds, hurt = cost(out)
    assert seconds > 0
    assert hurt > 0
    assert place.router.read() == {"blue": 100.0, "green": 0.0}
    assert place.state()["cause"] in ("errors", "slo"), place.told()
    assert json.loads((place.folder / "drill/drill.json").read_text())["hole"] is None


def test_a_drill_from_inside_the_cluster(place: Place) -> None:
    cluster, namespace = place.cluster, place.namespace
    names = {"release.json": "v7.json", "verdict.json": "v7.verdict.json", "stable.json": "v1.json"}
    names |= {file: file for file in FILES}
    files = [f"--from-file={key}={place.folder / file}" for key, file in names.items()]
    files.append(f"--from-literal=base-url={place.url}")
    cluster.kubectl("-n", namespace, "create", "configmap", "servegate-drill", *files)
    cluster.kubectl("-n", namespace, "create", "job", "--from=cronjob/servegate-drill", "drill-1")
    status, said = place.ended("drill-1")
    assert status == "Complete", said
    cost(said)
    assert place.router.read() == {"blue": 100.0, "green": 0.0}


def test_a_net_with_a_hole_fails_loudly(place: Place) -> None:
    """A release without a fault that a plan could find: it is promoted, and a drill must never be."""
    load = ("--base-url", place.url, "--profile", "profile.yaml", "--output", "drill")
    code, out = place.run("drill", *place.started("v2")[1:], *load)
    assert code == 1, out
    assert "THE NET HAS A HOLE: a release with a fault in it was promoted" in out
