"""A team's first day: `servegate init`, its pull request, tag, rollback and drill, by act and in the cluster."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import plans
import pytest
import yaml
from act import Ran, Repository
from cluster_place import Users
from verdicts import signed, verdict
from workflow_world import World, call_with, library, made_by_init, team_repository

from cluster import Cluster
from servegate.config import load
from servegate.process import free_ports
from servegate.release import Image, Release
from servegate.rollout.kube import Kube
from servegate.rollout.routers.http_route import HttpRouteRouter

pytestmark = pytest.mark.timeout(900)

CONTROLLER = "servegate.test/controller"
DIGEST = f"sha256:{'0' * 64}"
HOST = "chat.example.com"
ASKED = (
    "  - {kind: quality, name: answers, share: 20%, suite: evals/suites/support.yaml, items: 88, rate: 2, margin: 5%}"
)
FAULT = "errors:rate=0.5"
"""Of the drill's release, made in front of its engine by component drill: users meet it, and no test before traffic."""
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


def plan(half: str) -> str:
    """With live questions; `half`: least time at 50 %."""
    return plans.short(share="70%", checks=ASKED, half=half, watchdogs="unready: 30s, no_data: 60s, route: 30s")


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

    def act(
        self,
        event: str,
        workflow: str,
        payload: dict[str, Any],
        *,
        store: str = "llm",
        kubeconfig: Path | None = None,
        inputs: dict[str, str] | None = None,
    ) -> Ran:
        """A run, with the variables a team sets and a runner that has a kubeconfig."""
        variables = {
            "SERVEGATE_STORE": f"kubernetes:{store}",
            "SERVEGATE_CONTROLLER_IMAGE": f"{CONTROLLER}@{DIGEST}",
            "SERVEGATE_DRILL_RELEASE": "drill/release.json",
            "SERVEGATE_DRILL_VERDICT": "drill/verdict.json",
            "SERVEGATE_DRILL_SITE": "rollout/kubernetes-staging.yaml",
            "SERVEGATE_STAGING_URL": self.cluster.gateway_url,
        }
        options = [word for key, value in variables.items() for word in ("--var", f"{key}={value}")]
        env = {**self.world.env, "KUBECONFIG": str(kubeconfig or self.cluster.kubeconfig)}
        return self.repository.act(event, workflow, payload, *options, env=env, inputs=inputs, timeout=800)

    def leader(self) -> Path:
        """A kubeconfig of the account that may lead a rollout, and do nothing else."""
        config = json.loads(self.cluster.kubectl("config", "view", "--raw", "--flatten", "-o", "json"))
        token = self.cluster.kubectl("-n", "llm", "create", "token", "servegate-controller").strip()
        config["users"][0]["user"] = {"token": token}
        path = self.repository.folder.parent / "leader.kubeconfig"
        path.write_text(json.dumps(config))
        return path

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
    """What a team makes its own: a host, who signs, what serves now, and less of everything that takes time."""
    file = made / "k8s/overlays/production/kustomization.yaml"
    found = yaml.safe_load(file.read_text("utf-8"))
    hosts = json.dumps([{"op": "add", "path": "/spec/hostnames", "value": [HOST]}])
    found["patches"] = [{"target": {"kind": "HTTPRoute", "name": "llm"}, "patch": hosts}]
    file.write_text(yaml.safe_dump(found), "utf-8")
    staging = made / "k8s/overlays/staging/kustomization.yaml"
    found = yaml.safe_load(staging.read_text("utf-8"))
    found["components"] = ["../../components/drill"]
    found["images"] = [{"name": "example.invalid/servegate", "newName": CONTROLLER, "digest": DIGEST}]
    staging.write_text(yaml.safe_dump(found), "utf-8")
    shutil.copy(world.signer, made / "release.pub")
    (made / "trust.yaml").write_text(
        "version: 1\nname: production\nsigners: [{name: release workflow, key: release.pub}]\n", "utf-8"
    )
    (made / "rollout/canary.yaml").write_text(plan(half="20s"), "utf-8")
    (made / "loadtest/profiles/release.yaml").write_text(PROFILE, "utf-8")
    gate = made / "gates/release.yaml"
    gate.write_text(gate.read_text("utf-8").replace("< 500ms", "< 20s").replace("< 100ms", "< 5s"), "utf-8")
    release = load(made / "release.yaml", Release)
    image = Image(repository=f"{world.registry}/other/chat", digest="sha256:" + "a" * 64)
    stable = release.model_copy(update={"name": "v0.0.9", "image": image})
    stable.write(made / "stable.yaml")
    (made / "rollout/drill.yaml").write_text(plan(half="60s"), "utf-8")
    caller = made / ".github/workflows/rollback-drill.yml"
    caller.write_text(caller.read_text("utf-8").replace("rollout/canary.yaml", "rollout/drill.yaml"), "utf-8")
    faulty = stable.model_copy(update={"name": "drill", "env": {"SERVEGATE_FAULT": FAULT}})
    (made / "drill").mkdir()
    faulty.write(made / "drill/release.json")
    key = Path(world.env["STAND_IN_KEY"])
    bundle = signed(verdict(faulty, decided=time.time()), faulty, key, drill="weekly drill")
    (made / "drill/verdict.json").write_bytes(bundle)


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
    for namespace in ("llm", "llm-staging"):  # nobody uses the engines any more: their draining is not waited for
        cluster.kubectl("-n", namespace, "delete", "deployments,jobs,cronjobs", "--all")
        cluster.kubectl("-n", namespace, "delete", "pods", "--all", "--grace-period=1")
    # Their end is waited for: other tests apply the overlays there too.
    cluster.kubectl("delete", "namespace", "llm", "llm-staging", "--timeout=150s")


@pytest.fixture
def users(team: Team) -> Iterator[Users]:
    """Of what is in production."""
    made = Users(team.cluster.gateway_url, HOST)
    yield made
    made.stop()


def test_a_pull_request_is_checked(team: Team) -> None:
    began = time.monotonic()
    pull = {
        "number": 5,
        "title": "A change",
        "head": {"sha": "a" * 40, "ref": "feature", "repo": {"full_name": "other/chat"}},
        "base": {"repo": {"full_name": "other/chat"}},
    }
    ran = team.act("pull_request", "ci.yml", {"pull_request": pull, "repository": {"full_name": "other/chat"}})
    assert set(ran.jobs) == {"Configuration", "Lint, types, unit", "Smoke, evals, gate", "Image builds"}
    assert set(ran.jobs.values()) == {"success"}, ran.log
    image = ran.seconds("Build without pushing")
    print(f"\npull request: {time.monotonic() - began - image:.0f} s, and {image:.0f} s for the image")


def test_a_tag_is_rolled_out_by_a_job_and_taken_back_from_a_button(team: Team, users: Users) -> None:
    began = time.time()
    ran = team.tag("v0.1.0")
    assert set(ran.jobs.values()) == {"success"}, ran.log
    whole = time.time() - began
    status = json.loads((ran.artifacts / "rollout-production/status.json").read_text("utf-8"))
    assert (status["phase"], status["stable"], status["slots"]["green"]["name"]) == ("PROMOTED", "green", "v0.1.0")
    history = json.loads((ran.artifacts / "rollout-production/history.json").read_text("utf-8"))
    first = next(line["at"] for line in history if line["weights"].get("green", 0) > 0)
    waited = ran.seconds("Into the idle slot", "Smoke", "Evals", "Load") + first - history[0]["at"]
    print(
        f"\nrelease: {whole:.0f} s from the tag to the GitHub release, {first - began:.0f} s to the first traffic, "
        f"{first - began - waited:.0f} s of them neither loading a model nor testing it"
    )
    assert {item["reason"] for item in team.cluster.get("-n", "llm", "events")["items"]} >= {"Step", "Promoted"}
    assert team.router.read() == {"blue": 0.0, "green": 100.0}
    given = {"environment": "production", "target": "", "reason": "users complain", "confirm": "production"}
    began = time.time()
    ran = team.act("workflow_dispatch", "rollback.yml", {"inputs": given}, kubeconfig=team.leader(), inputs=given)
    assert ran.jobs == {"Roll back": "success"}, ran.log
    assert team.router.read() == {"blue": 100.0, "green": 0.0}
    history = json.loads((ran.artifacts / "rollback/history.json").read_text("utf-8"))
    safe = next(line["at"] for line in history if line["at"] > began and line["weights"].get("blue") == 100)
    print(f"rollback: {safe - began:.1f} s from the dispatch until the weights were effective")
    seen = users.stop()
    assert set(seen) == {"complete"}, (seen, users.bad)


def test_a_drill_finds_the_net_whole(team: Team) -> None:
    ran = team.act("workflow_dispatch", "rollback-drill.yml", {"inputs": {}}, store="llm-staging")
    assert ran.jobs == {"Drill": "success"}, ran.log
    said = re.search(r"the net held: ([0-9.]+) s until users were safe, (\d+) of \d+ requests hurt", ran.log)
    assert said is not None
    print(f"\ndrill: {said[0]}")
