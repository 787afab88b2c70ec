"""The workflows, executed: by act, with the simulator, a real registry and real image builds."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from act import Ran, Repository
from workflow_world import call_with, library, made_by_init, push_tag, team_repository

from servegate.process import Child, python

# The first run installs servegate as a runner would, and builds what is not there yet.
pytestmark = pytest.mark.timeout(900)

HOSTILE = 'x"; touch /tmp/servegate-pwned; echo "$(touch /tmp/servegate-pwned)\n::set-output name=verdict::PASS\n'
PULL: dict[str, Any] = {
    "pull_request": {
        "number": 5,
        "title": HOSTILE,
        "body": HOSTILE,
        "head": {
            "sha": "a" * 40,
            "ref": "feature/$(touch${IFS}/tmp/servegate-pwned)",
            "repo": {"full_name": "fork/chat"},
        },
        "base": {"repo": {"full_name": "team/chat"}},
    },
    "repository": {"full_name": "team/chat"},
}

# As a team would call it from its own repository.
CALLER = """
name: Caller
on: [pull_request]
permissions: {{}}
jobs:
  pipeline:
    name: Pipeline
    uses: ./.github/workflows/ci.yml
    permissions:
      contents: read
      pull-requests: write
    with:
      code: false
      items: "60"
      engine-port: "{port}"
      engine-arguments: {arguments}
      build-image: {image}
      image-base: {base}
      image-builder: buildah
      image-min-free: "1"
"""


PATCH = """
- target: {kind: Deployment}
  patch: '[{"op": "add", "path": "/spec/template/spec/containers/0/portz", "value": 8000}]'
"""


def call_ci(
    repository: Repository,
    world: Any,
    port: str,
    arguments: str = "",
    image: bool = False,
    base: str | None = None,
    **env: str,
) -> Ran:
    text = CALLER.format(port=port, arguments=json.dumps(arguments), image=str(image).lower(), base=base or world.base)
    (repository.folder / ".github/workflows/caller.yml").write_text(text, "utf-8")
    repository.commit("caller")
    return repository.act("pull_request", "caller.yml", PULL, env={**world.env, **env})


def test_a_pull_request_passes_and_leaves_its_evidence(repository: Repository, world: Any, port: str) -> None:
    ran = call_ci(repository, world, port, image=True)
    assert ran.jobs == {"Configuration": "success", "Smoke, evals, gate": "success", "Image builds": "success"}, ran.log
    verdict = json.loads((ran.artifacts / "evidence/verdict.json").read_text("utf-8"))
    assert verdict["outcome"] == "PASS"
    assert (ran.artifacts / "evidence/evals/records.jsonl").exists()
    # A fork's token may only read: that is said, and is no failure.
    assert "no comment: the token of a pull request from a fork may only read" in ran.log
    assert "### Image" in ran.log
    keys = ran.called("cache")
    assert keys
    assert all(re.fullmatch(r"servegate-Linux-\w+-[0-9a-f]{16}", key) for key in keys)
    assert not Path("/tmp/servegate-pwned").exists()


def test_a_pull_request_from_a_cold_start_and_once_more(
    repository: Repository, world: Any, port: str, tmp_path: Path
) -> None:
    """Printed: with an empty home folder, into which all packages are installed, and with what the first run left.

    An upper bound: the jobs share this machine, which on GitHub have one each.
    """
    home = tmp_path / "home"
    home.mkdir()
    took = []
    for _ in ("cold", "warm"):
        began = time.monotonic()
        ran = call_ci(repository, world, port, HOME=str(home))
        assert set(ran.jobs.values()) == {"success"}, ran.log
        took.append(time.monotonic() - began)
    shutil.rmtree(home)
    print(f"\npull request without image: {took[0]:.0f} s cold, {took[1]:.0f} s warm")


def test_wrong_answers_stop_a_pull_request(repository: Repository, world: Any, port: str) -> None:
    ran = call_ci(repository, world, port, "--fault wrong:rate=0.6")
    assert ran.status != 0
    assert ran.jobs["Smoke, evals, gate"] == "failure", ran.log
    assert ran.jobs["Configuration"] == "success"
    verdict = json.loads((ran.artifacts / "evidence/verdict.json").read_text("utf-8"))
    assert verdict["outcome"] == "FAIL"
    assert re.search(r"set-output:: verdict=FAIL", ran.log)


def test_an_engine_that_does_not_start_is_told_with_its_log(repository: Repository, world: Any, port: str) -> None:
    ran = call_ci(repository, world, port, "--no-such-flag")
    assert ran.jobs["Smoke, evals, gate"] == "failure"
    assert "the engine did not start; its log follows" in ran.log
    assert "unknown argument --no-such-flag" in ran.log


def test_hostile_arguments_are_words_and_nothing_else(repository: Repository, world: Any, port: str) -> None:
    ran = call_ci(repository, world, port, HOSTILE)
    assert ran.jobs["Smoke, evals, gate"] == "failure"
    assert not Path("/tmp/servegate-pwned").exists()


def test_every_wrong_file_is_told(repository: Repository, world: Any, port: str) -> None:
    suite, plan = (repository.folder / name for name in ("evals/suites/support.yaml", "rollout/canary.yaml"))
    suite.write_text(suite.read_text("utf-8").replace("dataset:", "datset:"), "utf-8")
    plan.write_text(plan.read_text("utf-8").replace("alpha:", "alhpa:"), "utf-8")
    ran = call_ci(repository, world, port)
    assert ran.jobs["Configuration"] == "failure"
    assert "datset: unknown key; did you mean 'dataset'?" in ran.log
    assert "alhpa: unknown key; did you mean 'alpha'?" in ran.log


def tag(repository: Repository, world: Any, name: str, registry: str | None = None, on_main: bool = True) -> Ran:
    inputs = {"until": "image"} | ({"image-name": f"{registry}/team/chat"} if registry else {})
    return push_tag(repository, world, name, inputs, on_main=on_main)


def test_a_tag_becomes_an_attested_image_and_a_release(repository: Repository, world: Any) -> None:
    ran = tag(repository, world, "v1.4.0")
    assert set(ran.jobs.values()) == {"success"}, ran.log
    assert len(ran.jobs) == 5  # until the image: neither staging nor production
    release = json.loads((ran.artifacts / "release/release.json").read_text("utf-8"))
    image = release["image"]
    assert release["name"] == release["git"]["tag"] == "v1.4.0"
    assert release["git"]["commit"] == repository.git("rev-parse", "HEAD")
    # What was pushed is what was attested, and what the release names.
    inspect = ["skopeo", "inspect", "--tls-verify=false", f"docker://{world.registry}/team/chat:v1.4.0"]
    pushed = json.loads(subprocess.run(inspect, capture_output=True, check=True).stdout)
    assert image == {"repository": f"{world.registry}/team/chat", "digest": pushed["Digest"]}
    assert pushed["Labels"]["org.opencontainers.image.version"] == "v1.4.0"
    name = f"{image['repository']}@{image['digest']}"
    assert sorted(ran.called("attest")) == [
        f"{name} push=true",
        f"{name} push=true https://cyclonedx.org/bom",
        "out/release.json push=false",
    ]
    # The list is of the image that was pushed, and names what is in it; signed, it hangs at the image.
    bill = json.loads((ran.artifacts / "sbom/sbom.cdx.json").read_text("utf-8"))
    assert bill["metadata"]["component"]["version"] == image["digest"]
    assert {item["name"]: item.get("version") for item in bill["components"]}["vllm"] == "0.32.0+cpu"
    for kind in ("https://cyclonedx.org/bom", "https://slsa.dev/provenance/v1"):
        check = ["gh", "attestation", "verify", f"oci://{name}", "--predicate-type", kind]
        subprocess.run(check, env={**world.env, "STAND_IN_CALLS": str(ran.calls)}, check=True)
    assert set(ran.called("login")) == {world.registry}
    evidence = "out/release.json out/provenance.bundle.json out/sbom.cdx.json out/sbom.bundle.json"
    assert [line for line in ran.called("gh") if line.startswith("release")] == [
        "release view v1.4.0",
        "release create v1.4.0 --verify-tag --generate-notes",
        f"release upload v1.4.0 {evidence} --clobber",
    ]


def test_a_tag_that_is_not_on_main_is_refused_before_anything_is_built(repository: Repository, world: Any) -> None:
    ran = tag(repository, world, "v1.4.1", on_main=False)
    assert list(ran.jobs.values()) == ["failure"], ran.log
    assert "the commit of this tag is not on main" in ran.log
    assert not ran.called("attest")


def test_a_tag_that_is_no_version_is_refused(repository: Repository, world: Any) -> None:
    ran = tag(repository, world, "v1.4")
    assert list(ran.jobs.values()) == ["failure"], ran.log
    assert "'v1.4' is not v and a semantic version" in ran.log


def test_a_registry_that_is_down_ends_the_release(repository: Repository, world: Any, port: str) -> None:
    ran = tag(repository, world, "v1.4.2", registry=f"127.0.0.1:{port}")
    assert "failure" in ran.jobs.values()
    assert not ran.called("attest")
    assert not ran.called("gh")


@pytest.fixture
def server(tmp_path: Path, port: str) -> Any:
    command = python("-m", "servegate.simulator", "--port", port, "--served-model-name", "support")
    child = Child("simulator", command, tmp_path / "simulator.log")
    while "ready at" not in (tmp_path / "simulator.log").read_text("utf-8"):
        child.check()
        child.wait(0.1)
    yield f"http://127.0.0.1:{port}"
    child.stop()


def test_an_evaluation_is_dispatched(repository: Repository, world: Any, server: str) -> None:
    inputs = {"base-url": server, "suite": "evals/suites/support.yaml", "policy": "gates/pull-request.yaml"}
    ran = repository.act("workflow_dispatch", "model-eval.yml", {"inputs": inputs}, env=world.env, inputs=inputs)
    assert ran.jobs == {"Evaluate": "success"}, ran.log
    assert (ran.artifacts / "model-eval/verdict.html").exists()


def test_an_evaluation_is_seen_beside_the_ones_before_it(
    repository: Repository, world: Any, server: str, tmp_path: Path
) -> None:
    """Eleven earlier runs of this branch; and one of a stranger, which counts for nothing."""
    history = tmp_path / "history"
    history.mkdir()
    inputs = {"base-url": server}
    servegate = str(Path(sys.executable).with_name("servegate"))
    evals = ["evals", "run", "evals/suites/support.yaml", "--base-url", server, "--release", "examples/release.yaml"]
    subprocess.run(
        [servegate, *evals, "--output", str(tmp_path / "made/evals")],
        cwd=repository.folder, check=True, capture_output=True,
    )  # fmt: skip
    first = json.loads((tmp_path / "made/evals/report.json").read_text("utf-8"))
    artifacts = []
    for number in range(1, 13):
        first["started"], first["finished"] = 1_700_000_000 + number * 86400, 1_700_000_100 + number * 86400
        (tmp_path / "made/evals/report.json").write_text(json.dumps(first), "utf-8")
        shutil.make_archive(str(history / str(number)), "zip", tmp_path / "made")
        head = 99 if number == 12 else 1
        run = {"head_branch": "main", "head_repository_id": head, "repository_id": 1}
        artifacts.append({"id": number, "expired": False, "workflow_run": run})
    (history / "list.json").write_text(json.dumps({"artifacts": artifacts}), "utf-8")
    env = {**world.env, "GH_ARTIFACTS": str(history)}
    payload = {"inputs": inputs, "repository": {"default_branch": "main"}}
    ran = repository.act("workflow_dispatch", "model-eval.yml", payload, env=env, inputs=inputs)
    assert ran.jobs == {"Evaluate": "success"}, ran.log
    assert (ran.artifacts / "model-eval/trend.html").exists()
    assert "### Trend of support" in ran.log
    assert len([line for line in ran.called("gh") if line.endswith("/zip")]) == 11
    assert "accuracy: no change" in (ran.artifacts / "model-eval/trend.html").read_text("utf-8")


def test_an_evaluation_without_a_server_says_what_to_set(repository: Repository, world: Any) -> None:
    ran = repository.act("workflow_dispatch", "model-eval.yml", {"inputs": {}}, env=world.env)
    assert ran.jobs == {"Evaluate": "failure"}
    assert "set the repository variable SERVEGATE_EVAL_URL, or the input base-url" in ran.log


def test_a_schedule_uses_the_variable_and_without_it_does_nothing(
    repository: Repository, world: Any, server: str
) -> None:
    nothing = repository.act("schedule", "model-eval.yml", {}, env=world.env)
    assert nothing.status == 0
    assert nothing.jobs == {}
    ran = repository.act("schedule", "model-eval.yml", {}, "--var", f"SERVEGATE_EVAL_URL={server}", env=world.env)
    assert ran.jobs == {"Evaluate": "success"}, ran.log


def test_what_passes_on_main_is_blessed_with_a_reason(repository: Repository, world: Any, server: str) -> None:
    inputs = {"base-url": server, "bless-reason": 'v1 serves; "$(touch /tmp/servegate-pwned)"'}
    payload = {"inputs": inputs, "ref": "refs/heads/main", "repository": {"default_branch": "main"}}
    ran = repository.act("workflow_dispatch", "model-eval.yml", payload, env=world.env, inputs=inputs)
    assert ran.jobs == {"Evaluate": "success"}, ran.log
    assert list((ran.artifacts / "baselines").rglob("baseline.json"))
    assert not Path("/tmp/servegate-pwned").exists()
    repository.git("checkout", "-q", "-b", "feature")
    ran = repository.act(
        "workflow_dispatch", "model-eval.yml", {**payload, "ref": "refs/heads/feature"}, env=world.env, inputs=inputs
    )
    assert ran.jobs == {"Evaluate": "failure"}, ran.log
    assert "a baseline is blessed on main, and this is feature" in ran.log


@pytest.fixture
def team(tmp_path: Path, world: Any, port: str) -> Repository:
    """A fresh repository made by `servegate init`, as another team would have it; bases and ports are the test's."""
    made = made_by_init(tmp_path / "made", world)
    call_with(made, "ci", engine_port=f'"{port}"')
    return team_repository(tmp_path / "team", made, library(tmp_path / "library"))


def test_a_repository_made_by_init_passes_its_own_pull_request(team: Repository, world: Any) -> None:
    ran = team.act("pull_request", "ci.yml", PULL, env=world.env)
    assert set(ran.jobs) == {"Configuration", "Lint, types, unit", "Smoke, evals, gate", "Image builds"}
    assert set(ran.jobs.values()) == {"success"}, ran.log


def test_a_team_s_own_code_and_manifests_are_checked(team: Repository, world: Any) -> None:
    """All that is wrong is told in one run: a test that fails, a manifest that is none."""
    folder = team.folder
    (folder / "tests/unit").mkdir(parents=True)
    (folder / "tests/unit/test_own.py").write_text("def test_own() -> None:\n    assert 1 + 1 == 3\n", "utf-8")
    slots = folder / "k8s/base/kustomization.yaml"
    slots.write_text(slots.read_text("utf-8") + "\npatches:\n" + PATCH, "utf-8")
    call_with(folder, "ci", build_image="false")
    team.commit("wrong")
    ran = team.act("pull_request", "ci.yml", PULL, env=world.env)
    assert ran.jobs["Lint, types, unit"] == ran.jobs["Configuration"] == "failure", ran.log
    assert ran.jobs["Smoke, evals, gate"] == "success"
    assert "assert (1 + 1) == 3" in ran.log
    assert "did not validate for resource deployment/llm-blue" in ran.log


def test_a_repository_made_by_init_releases_its_own_tag(team: Repository, world: Any) -> None:
    team.git("tag", "v0.1.0")
    payload = {"ref": "refs/tags/v0.1.0", "repository": {"full_name": "other/chat"}}
    ran = team.act("push", "release.yml", payload, "--var", "SERVEGATE_UNTIL=image", env=world.env)
    assert set(ran.jobs.values()) == {"success"}, ran.log
    release = json.loads((ran.artifacts / "release/release.json").read_text("utf-8"))
    assert release["model"] == {"uri": "hf://Qwen/Qwen3-8B", "revision": None, "served_name": "support"}
    assert release["image"]["repository"] == f"{world.registry}/other/chat"
