"""A tag on its whole way: image, staging, verdict, production, GitHub release; with real images, engines and users."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from act import Ran, Repository
from workflow_world import push_tag

from terminals import Site, site_in

pytestmark = pytest.mark.timeout(900)

SUITE = """
version: 1
name: quick
dataset: quick.jsonl
max_unanswered: 0.9
scorer: {kind: exact}
"""
PROFILE = """
version: 1
name: quick
arrival: {kind: poisson, rate: 10/s}
warm_up: 1s
duration: 5s
drain: 5s
timeout: 10s
prompts: quick-prompts.jsonl
max_tokens: 8
seed: 1
"""
POLICY = """
version: 1
name: quick
require: [{report: smoke}, {report: eval}, {report: load}]
checks:
  - {id: smoke, report: smoke, no_findings: error}
  - {id: errors, report: load, expect: error_rate <= 5%, judge: value}
"""
RELEASE = """
name: unreleased
model: {uri: "builtin://knowledge", served_name: m}
engine: {name: simulator, version: 0.1.0}
args: [@ARGS@]
"""


@pytest.fixture
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    yield from site_in(tmp_path_factory.mktemp("s"))


def tag(repository: Repository, world: Any, site: Site, name: str, args: str = "", **env: str) -> Ran:
    folder = repository.folder
    files = {
        "quick-suite.yaml": SUITE,
        "quick.jsonl": "".join(json.dumps({"id": f"q{n}", "input": f"{n}?", "target": ["1"]}) + "\n" for n in range(8)),
        "quick-profile.yaml": PROFILE,
        "quick-prompts.jsonl": "".join(json.dumps({"id": f"p{n}", "prompt": f"hello {n}"}) + "\n" for n in range(8)),
        "quick-policy.yaml": POLICY,
        "quick-release.yaml": RELEASE.replace("@ARGS@", args),
        "quick-trust.yaml": f"version: 1\nname: t\nsigners: [{{name: workflow, key: {world.signer}}}]\n",
    }
    for path, text in files.items():
        (folder / path).write_text(text, "utf-8")
    inputs = {
        "release": "quick-release.yaml",
        "staging-overlay": "",
        "staging-namespace": "",
        "staging-site": f"{site.folder}/site.yaml",
        "site": f"{site.folder}/site.yaml",
        "store": str(site.store),
        "plan": f"{site.folder}/plan.yaml",
        "stable": f"{site.folder}/v1.json",
        "mode": "runner",
        "suite": "quick-suite.yaml",
        "profile": "quick-profile.yaml",
        "policy": "quick-policy.yaml",
        "trust": "quick-trust.yaml",
    }
    return push_tag(repository, world, name, inputs, env=env)


def slots(site: Site) -> dict[str, Any]:
    """What serves, by the store; empty before the first rollout."""
    code, out = site.run("status", "--json")
    assert code == 0, out
    found: dict[str, Any] = json.loads(out)
    return found


def test_a_tag_goes_all_the_way(repository: Repository, world: Any, site: Site) -> None:
    began = time.monotonic()
    ran = tag(repository, world, site, "v2.0.0")
    assert set(ran.jobs.values()) == {"success"}, ran.log
    took = time.monotonic() - began
    status = json.loads((ran.artifacts / "rollout-production/status.json").read_text("utf-8"))
    assert (status["phase"], status["slots"][status["stable"]]["name"]) == ("PROMOTED", "v2.0.0")
    # What production took is what was built, tested and signed: one digest, one release.
    release = json.loads((ran.artifacts / "evidence/release.json").read_text("utf-8"))
    image = f"{release['image']['repository']}@{release['image']['digest']}"
    assert sorted(ran.called("attest")) == [
        f"{image} push=true",
        f"{image} push=true https://cyclonedx.org/bom",
        f"{image} push=true https://servegate.dev/verdict/v1",
        "out/release.json push=false",
    ]
    verified = next(line for line in ran.called("gh") if line.startswith("attestation verify"))
    assert verified.startswith(f"attestation verify oci://{image} --repo team/chat")
    uploaded = next(line for line in ran.called("gh") if line.startswith("release upload"))
    for name in ("provenance.bundle.json", "sbom.cdx.json", "sbom.bundle.json"):
        assert f"out/{name}" in uploaded
    for name in ("release.json", "verdict.bundle.json", "report-smoke.json", "report-evals.json", "report-load.json"):
        assert f"out/{name}" in uploaded
    print(f"\nrelease: {took:.0f} s from the tag to the GitHub release, rollout of 20 s and tests included")


def test_a_release_that_fails_its_gate_leaves_staging_as_it_was(repository: Repository, world: Any, site: Site) -> None:
    ran = tag(repository, world, site, "v2.0.1", args='--fault, "errors:rate=0.4"')
    assert ran.jobs["Smoke, evals, load, gate"] == "failure", ran.log
    assert ran.jobs["Staging as it was"] == "success"
    assert "Roll out" not in ran.jobs
    assert "GitHub release" not in ran.jobs
    assert not [line for line in ran.called("attest") if "verdict" in line]
    assert not [line for line in ran.called("gh") if line.startswith("release")]
    assert slots(site) == {}
    assert {name for name in site.seen if name.endswith(" 200")} == {"blue 200"}


@pytest.mark.parametrize(
    ("environments", "said"),
    [
        ("staging", "environment production is not configured"),
        ("staging production", "environment production has no required reviewers"),
    ],
)
def test_production_that_nobody_approves_is_refused_before_anything_is_built(
    repository: Repository, world: Any, tmp_path: Path, environments: str, said: str
) -> None:
    nowhere: Any = type("Nowhere", (), {"folder": tmp_path, "store": tmp_path / "store"})()
    ran = tag(repository, world, nowhere, "v2.0.2", GH_ENVIRONMENTS=environments)
    assert list(ran.jobs.values()) == ["failure"], ran.log
    assert said in ran.log
    assert not ran.called("attest")


DEPLOYER = """
name: Deployer
on: [push]
permissions: {{}}
jobs:
  deploy:
    name: Deploy
    uses: ./.github/workflows/deploy.yml
    permissions:
      contents: read
      packages: read
      attestations: read
      id-token: write
    with:
      environment: staging
      release: quick.json
      digest: {digest}
      overlay: ""
      namespace: ""
      site: nowhere.yaml
"""


@pytest.mark.parametrize(
    ("digest", "said"),
    [
        ('""', "the digest is missing"),
        ("v1.4.0", "a tag will not do"),
        (json.dumps("sha256:" + "a" * 63 + '"; touch /tmp/servegate-pwned; "'), "the digest is missing, or is none"),
        ("sha256:" + "b" * 64, "the release names another image"),
        ("sha256:" + "a" * 64, "no matching attestations"),
    ],
)
def test_what_is_not_attested_by_digest_is_not_deployed(
    repository: Repository, world: Any, digest: str, said: str
) -> None:
    release = {
        "schema_version": 1, "name": "v1",
        "image": {"repository": f"{world.registry}/team/none", "digest": "sha256:" + "a" * 64},
        "model": {"uri": "hf://a/b", "served_name": "m"}, "engine": {"name": "vllm", "version": "0.33.0"},
    }  # fmt: skip
    (repository.folder / "quick.json").write_text(json.dumps(release), "utf-8")
    (repository.folder / ".github/workflows/deployer.yml").write_text(DEPLOYER.format(digest=digest), "utf-8")
    repository.commit("deployer")
    ran = repository.act("push", "deployer.yml", {}, env=world.env)
    assert ran.jobs == {"Deploy": "failure"}
    assert said in ran.log, ran.log[-3000:]
    assert not Path("/tmp/servegate-pwned").exists()
