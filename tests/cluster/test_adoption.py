"""A team's first day: `servegate init`, its pull request, tag, rollback and drill, by act and in the cluster."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from act import Ran, Repository
from cluster_place import Users
from workflow_world import World, call_with, library, made_by_init, team_repository

from cluster import Cluster
from servegate.config import load
from servegate.process import free_ports
from servegate.release import Image, Release
from servegate.rollout.kube import Kube
from servegate.rollout.routers.http_route import HttpRouteRouter

pytestmark = pytest.mark.timeout(900)

CONTROLLER = "servegate.test/controller"
DIGEST = f"sha256:{'0' * 63}"
HOST = "chat.example.com"
PLAN = """
version: 1
name: short
tick: 1s
expect: {requests_per_second: 8}
alpha: 5%
steps:
  - {weight: 10%, min_time: 5s}
  - {weight: 50%, min_time: 20s}
  - {weight: 100%, min_time: 3s}
checks:
  - {kind: errors-vs-stable, name: errors, share: 70%, interval: 2s, odds_ratio: 1.5}
  - {kind: errors-slo, name: slo, share: 10%, at_most: 5%, interval: 2s}
  - {kind: quality, name: answers, share: 20%, suite: evals/suites/support.yaml, items: 88, rate: 2, margin: 5%}
watchdogs: {unready: 30s, no_data: 60s, route: 30s}
rollback: {prove: 4s}
"""
PROFILE = """
version: 1
name: release
arrival: {kind: poisson, rate: 10/s}
warm_up: 1s
duration: 10s
drain: 10s
timeout: 30s
prompts: ../prompts/support.jsonl
max_tokens: 16
seed: 1
"""


class Team:
    """A repository, a cluster with its two namespaces, and users of what is in production."""

    def __init__(self, folder: Path, world: World, cluster: Cluster) -> None:
        self.world, self.cluster = world, cluster
        made = made_by_init(folder / "made", world)
        call_with(made, "ci", engine_port=f'"{free_ports(1)[0]}"')
        _edit(made, world)
        self.repository: Repository = team_repository(folder / "team", made, library(folder / "library"))
        self.kube = Kube("llm", kubeconfig=cluster.kubeconfig)
        self.router = HttpRouteRouter(self.kube, "llm", {"blue": "llm-blue", "green": "llm-green"})

    def act(self, event: str, workflow: str, payload: dict[str, Any], store: str = "llm", **inputs: str) -> Ran:
        """A run, with the variables a team sets and a runner that has a kubeconfig."""
        variables = {
            "SERVEGATE_STORE": f"kubernetes:{store}",
            "SERVEGATE_CONTROLLER_IMAGE": f"{CONTROLLER}@{DIGEST}0",
        }
        options = [word for key, value in variables.items() for word in ("--var", f"{key}={value}")]
        env = {**self.world.env, "KUBECONFIG": str(self.cluster.kubeconfig)}
        return self.repository.act(event, workflow, payload, *options, env=env, inputs=inputs, timeout=800)

    def servegate(self, *arguments: str) -> str:
        """A command at somebody's desk, in the repository."""
        env = {**os.environ, "KUBECONFIG": str(self.cluster.kubeconfig)}
        command = [str(Path(sys.executable).with_name("servegate")), *arguments]
        done = subprocess.run(
            command, cwd=self.repository.folder, env=env, capture_output=True, text=True, check=False, timeout=240
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def tag(self, name: str) -> Ran:
        self.repository.git("tag", name)
        return self.act("push", "release.yml", {"ref": f"refs/tags/{name}", "repository": {"full_name": "other/chat"}})


def _edit(made: Path, world: World) -> None:
    """What a team makes its own: hosts, who signs, what serves now, and less of everything that takes time."""
    for overlay, host in (("production", HOST), ("staging", f"staging.{HOST}")):
        file = made / f"k8s/overlays/{overlay}/kustomization.yaml"
        found = yaml.safe_load(file.read_text("utf-8"))
        operation = json.dumps([{"op": "add", "path": "/spec/hostnames", "value": [host]}])
        found["patches"] = [
            *found.get("patches", ()),
            {"target": {"kind": "HTTPRoute", "name": "llm"}, "patch": operation},
        ]
        file.write_text(yaml.safe_dump(found), "utf-8")
    shutil.copy(world.signer, made / "release.pub")
    (made / "trust.yaml").write_text(
        "version: 1\nname: production\nsigners: [{name: release workflow, key: release.pub}]\n", "utf-8"
    )
    (made / "rollout/canary.yaml").write_text(PLAN, "utf-8")
    (made / "loadtest/profiles/release.yaml").write_text(PROFILE, "utf-8")
    gate = made / "gates/release.yaml"
    gate.write_text(gate.read_text("utf-8").replace("< 500ms", "< 20s").replace("< 100ms", "< 5s"), "utf-8")
    release = load(made / "release.yaml", Release)
    image = Image(repository=f"{world.registry}/other/chat", digest="sha256:" + "a" * 64)
    stable = release.model_copy(update={"name": "v0.0.9", "image": image})
    (made / "stable.yaml").write_text(json.dumps(stable.model_dump(mode="json", exclude_none=True)), "utf-8")


@pytest.fixture(scope="module")
def team(cluster: Cluster, world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """The pipeline in a fresh repository, its manifests applied, what it served before in blue."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    cluster.add_image(CONTROLLER, sys.executable, env={"PATH": path})
    serving = str(Path(__file__).with_name("serving_image.py"))
    cluster.add_image(f"{world.registry}/other/chat", sys.executable, serving)
    made = Team(tmp_path_factory.mktemp("adoption"), world, cluster)
    for overlay in ("production", "staging"):
        folder = made.repository.folder / f"k8s/overlays/{overlay}"
        cluster.kubectl("apply", "--server-side", "--field-manager=git", "-k", str(folder))
    for site in ("kubernetes", "kubernetes-staging"):
        made.servegate("rollout", "stage", "stable.yaml", "--site", f"rollout/{site}.yaml", "--first")
    yield made
    for namespace in ("llm", "llm-staging"):
        cluster.kubectl("delete", "namespace", namespace, "--wait=false")


@pytest.fixture
def users(team: Team) -> Iterator[Users]:
    """Of what is in production."""
    made = Users(team.cluster.gateway_url, HOST)
    yield made
    made.stop()


def test_a_tag_is_rolled_out_by_a_job_of_the_cluster(team: Team, users: Users) -> None:
    began = time.time()
    ran = team.tag("v0.1.0")
    assert set(ran.jobs.values()) == {"success"}, ran.log
    print(f"\ntag: {time.time() - began:.0f} s")
    seen = users.stop()
    assert set(seen) == {"complete"}, (seen, users.bad)
