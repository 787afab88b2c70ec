"""Who built an image, asked as `deploy.yml` asks before anything reaches a cluster: real signatures, a real registry.

The step's own script is run. Its `gh` asks the registry and lets cosign check, with a key in the place of the workflow
that may sign.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from gh_program import write_gh
from registry_desk import Desk
from registry_server import push_image
from verdicts import key_pair

pytestmark = pytest.mark.timeout(900)  # the first test builds cosign, where it is not there yet

DEPLOY = Path(__file__).parents[2] / ".github/workflows/deploy.yml"
PROVENANCE = "https://slsa.dev/provenance/v1"
SERVICES = {
    "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
    "rekorTlogConfig": {},
    "tsaConfig": {},
}


def step(name: str) -> str:
    steps = yaml.safe_load(DEPLOY.read_text("utf-8"))["jobs"]["deploy"]["steps"]
    (found,) = [item["run"] for item in steps if item["name"] == name]
    return str(found)


def image(desk: Desk, name: str, content: str = "one") -> tuple[str, str]:
    repository = f"{desk.registry}/{name}/chat"
    return repository, push_image(f"{repository}:{content}", content, desk.folder / "oci" / content)


def bundle(desk: Desk, repository: str, digest: str, *, key: str = "signer", kind: str = PROVENANCE) -> Path:
    """Sign a statement about an image, as the build does."""
    statement: dict[str, Any] = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": repository, "digest": {"sha256": digest.removeprefix("sha256:")}}],
        "predicateType": kind,
        "predicate": {"buildDefinition": {"buildType": "https://actions.github.io/buildtypes/workflow/v1"}},
    }
    (desk.folder / "statement.json").write_text(json.dumps(statement), "utf-8")
    (desk.folder / "services.json").write_text(json.dumps(SERVICES), "utf-8")
    if not (desk.folder / f"{key}.key").exists():
        private, public = key_pair(desk.folder, f"plain-{key}")
        desk.made("import-key-pair", "--key", str(private), "--output-key-prefix", key)
        public.rename(desk.folder / f"{key}.pub")
    signing = ("--yes", "--key", f"{key}.key", "--signing-config", "services.json", "--statement", "statement.json")
    desk.made("attest-blob", *signing, "--bundle", "made.bundle")
    return desk.folder / "made.bundle"


def attach(desk: Desk, made: Path, repository: str, digest: str) -> None:
    desk.made("attach", "attestation", "--attestation", str(made), f"{repository}@{digest}")


def refusal(desk: Desk, repository: str, digest: str) -> str | None:
    """Run the step: why it ended, or None where it went on."""
    programs = desk.folder / "programs"
    programs.mkdir(exist_ok=True)
    write_gh(programs)
    env = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "GITHUB_REPOSITORY": "team/chat",
        "IMAGE": repository,
        "DIGEST": digest,
        "SIGNER": "team/servegate",
        "STAND_IN_CALLS": str(desk.folder),
        "STAND_IN_COSIGN": desk.cosign_program,
        "STAND_IN_SIGNER": str(desk.folder / "signer.pub"),
    }
    shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step("Who built it")]
    done = subprocess.run(shell, env=env, capture_output=True, text=True, check=False, timeout=100)
    return done.stderr if done.returncode else None


def test_what_the_build_signed_may_be_deployed_and_is_asked_for_by_its_workflow(desk: Desk) -> None:
    repository, digest = image(desk, "built")
    made = bundle(desk, repository, digest)
    assert "no matching attestations" in str(refusal(desk, repository, digest))
    attach(desk, made, repository, digest)
    assert refusal(desk, repository, digest) is None
    call = (desk.folder / "gh").read_text("utf-8").splitlines()[-1]
    assert f"oci://{repository}@{digest} --repo team/chat" in call
    assert "--signer-workflow team/servegate/.github/workflows/image.yml" in call


def test_another_signer_counts_for_nothing(desk: Desk) -> None:
    repository, digest = image(desk, "stranger")
    bundle(desk, repository, digest)  # makes the key that counts
    attach(desk, bundle(desk, repository, digest, key="stranger"), repository, digest)
    assert "accepted signatures do not match" in str(refusal(desk, repository, digest))


def test_a_forged_statement_counts_for_nothing(desk: Desk) -> None:
    repository, digest = image(desk, "forged")
    other = image(desk, "forged", "two")[1]
    made = bundle(desk, repository, other)
    document = json.loads(made.read_text("utf-8"))
    envelope = document["dsseEnvelope"]
    payload = base64.b64decode(envelope["payload"]).decode()
    payload = payload.replace(other.removeprefix("sha256:"), digest.removeprefix("sha256:"))
    envelope["payload"] = base64.b64encode(payload.encode()).decode()
    made.write_text(json.dumps(document), "utf-8")
    attach(desk, made, repository, digest)
    assert "accepted signatures do not match" in str(refusal(desk, repository, digest))


def test_the_attestation_of_another_image_counts_for_nothing(desk: Desk) -> None:
    repository, digest = image(desk, "another")
    other = image(desk, "another", "two")[1]
    attach(desk, bundle(desk, repository, other), repository, digest)
    assert "does not match any digest in statement" in str(refusal(desk, repository, digest))


def test_another_kind_of_statement_is_no_provenance(desk: Desk) -> None:
    repository, digest = image(desk, "kind")
    attach(desk, bundle(desk, repository, digest, kind="https://cyclonedx.org/bom"), repository, digest)
    assert "none of the attestations matched the predicate type" in str(refusal(desk, repository, digest))
