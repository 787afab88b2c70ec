"""What workflows do in a cluster: overlays that leave a rollout alone, the controller's Job, the doctor's look."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cluster import Cluster
from servegate.pipeline.doctor import State
from servegate.pipeline.doctor_cluster import cluster as look
from servegate.rollout.kube import Kube

ROOT = Path(__file__).parents[2]
NAME = "llm-applied"
IMAGE = f"servegate.test/engine@sha256:{'1' * 64}"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The manifests of a repository, for a namespace of this test's own."""
    shutil.copytree(ROOT / "k8s", tmp_path / "k8s")
    for file in (tmp_path / "k8s/overlays/local").glob("*.yaml"):
        file.write_text(file.read_text("utf-8").replace("llm-local", NAME), "utf-8")
    return tmp_path


def apply(cluster: Cluster, checkout: Path) -> subprocess.CompletedProcess[str]:
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "KUBECONFIG": str(cluster.kubeconfig),
        "RUNNER_TEMP": str(checkout),
        "OVERLAY": "k8s/overlays/local",
    }
    command = [str(ROOT / ".github/actions/apply/apply.sh")]
    return subprocess.run(command, cwd=checkout, env=env, capture_output=True, text=True, check=False)


def test_an_overlay_takes_nothing_back_from_a_rollout(cluster: Cluster, checkout: Path) -> None:
    done = apply(cluster, checkout)
    assert done.returncode == 0, done.stdout + done.stderr
    for target, patch in (
        (("deployment", "llm-green"), [("/spec/template/spec/containers/0/image", IMAGE)]),
        (
            ("httproute", "llm"),
            [("/spec/rules/0/backendRefs/0/weight", 60), ("/spec/rules/0/backendRefs/1/weight", 40)],
        ),
    ):
        body = json.dumps([{"op": "replace", "path": path, "value": value} for path, value in patch])
        cluster.kubectl(
            "--namespace", NAME, "patch", *target, "--type=json", f"--patch={body}", "--field-manager=servegate"
        )
    # Git has something new to say about a slot, and nothing about what the rollout did.
    slot = checkout / "k8s/base/slot/deployment.yaml"
    slot.write_text(slot.read_text("utf-8").replace("revisionHistoryLimit: 2", "revisionHistoryLimit: 3"), "utf-8")
    done = apply(cluster, checkout)
    assert done.returncode == 0, done.stdout + done.stderr
    deployment = cluster.get("--namespace", NAME, "deployment", "llm-green")
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == IMAGE
    assert deployment["spec"]["revisionHistoryLimit"] == 3
    route = cluster.get("--namespace", NAME, "httproute", "llm")
    assert [item["weight"] for item in route["spec"]["rules"][0]["backendRefs"]] == [60, 40]
    kube = Kube(NAME, kubeconfig=cluster.kubeconfig)
    states = {item.what: (item.state, item.found) for item in look(kube, NAME)}
    assert all(state is State.OK for what, (state, _) in states.items() if what != "Gateway"), states


def test_an_image_that_has_only_a_tag_is_not_applied(cluster: Cluster, checkout: Path) -> None:
    slot = checkout / "k8s/base/slot/deployment.yaml"
    text = slot.read_text("utf-8").replace(f"example.invalid/llm@sha256:{'0' * 64}", "example.invalid/llm:latest")
    slot.write_text(text, "utf-8")
    done = apply(cluster, checkout)
    assert done.returncode == 2
    assert "an image is not named by its digest: image: example.invalid/llm:latest" in done.stdout


def test_a_namespace_that_is_missing_is_told(cluster: Cluster) -> None:
    found = list(look(Kube("nowhere", kubeconfig=cluster.kubeconfig), "nowhere"))
    assert [item.state for item in found] == [State.OK, State.MISSING]
    assert 'namespaces "nowhere" not found' in found[1].found
