"""Verdicts at the image in a real registry, signed and checked by a real cosign."""

from __future__ import annotations

import base64
import json
import shlex
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from registry_desk import Desk
from registry_server import digest_of, push_image
from verdicts import POLICY, Authority, key_pair, release, verdict

from servegate.gates.statement import PREDICATE
from servegate.release import Release
from servegate.report.verdict import Outcome, Verdict

pytestmark = pytest.mark.timeout(900)  # the first test builds cosign, where it is not there yet


def pushed(desk: Desk, name: str, tag: str = "v1.4.0", content: str = "one", **more: Any) -> Release:
    """A release whose image is in the registry."""
    repository = f"{desk.registry}/{name}/chat"
    digest = push_image(f"{repository}:{tag}", content, desk.folder / "oci" / content)
    return release(tag, image=digest, repository=repository, **more)


def now(of: Release, outcome: Outcome = Outcome.PASS, ago: float = 60.0, **more: Any) -> Verdict:
    return verdict(of, outcome, decided=time.time() - ago, **more)


def test_a_verdict_at_the_image_counts_and_cosign_agrees(desk: Desk) -> None:
    of = pushed(desk, "counts")
    nothing = desk.verify(of)
    assert (nothing.returncode, nothing.stderr) == (3, "")
    assert "no verdict that counts: none was found" in nothing.stdout
    assert not desk.cosign_verifies(of)
    desk.attach(now(of), of)
    found = json.loads(desk.verify(of, "--json").stdout)
    assert found["accepted"]
    assert found["source"].startswith(f"{desk.registry}/counts/chat@sha256:")
    assert found["signer"]["kind"] == "key"
    assert desk.cosign_verifies(of)
    desk.attach(now(of, Outcome.FAIL, ago=30), of)
    assert desk.verify(of).returncode == 1
    desk.attach(now(of, ago=10), of)
    assert desk.verify(of).returncode == 0


def test_what_we_sign_ourselves_cosign_verifies(desk: Desk) -> None:
    of = pushed(desk, "ours")
    key_pair(desk.folder, "plain")
    desk.attach(now(of), of, key="plain.key")
    assert desk.verify(of, key="plain.pub").returncode == 0
    assert desk.cosign_verifies(of, "plain.pub")
    assert not desk.cosign_verifies(of, "cosign.pub")


def test_another_key_does_not_count(desk: Desk) -> None:
    of = pushed(desk, "key")
    key_pair(desk.folder, "other")
    desk.attach(now(of), of, key="other.key")
    refused = desk.verify(of)
    assert refused.returncode == 3
    assert "signed by no accepted signer" in refused.stdout


def test_a_verdict_that_was_tampered_with_does_not_count(desk: Desk) -> None:
    of = pushed(desk, "tampered")
    assert of.image is not None
    now(of, Outcome.FAIL).write(desk.folder / "verdict.json")
    signed = ("--release", desk.release(of), "--key", "cosign.key", "--output", "bundle.json")
    assert desk.gate("attest", "verdict.json", *signed).returncode == 0
    document = json.loads((desk.folder / "bundle.json").read_text())
    envelope = document["dsseEnvelope"]
    payload = base64.b64decode(envelope["payload"])
    envelope["payload"] = base64.b64encode(payload.replace(b'"outcome": "FAIL"', b'"outcome": "PASS"')).decode()
    (desk.folder / "bundle.json").write_text(json.dumps(document))
    image = f"{of.image.repository}@{of.image.digest}"
    desk.made("attach", "attestation", "--attestation", "bundle.json", image)
    refused = desk.verify(of)
    assert refused.returncode == 3
    assert "the signature does not fit" in refused.stdout
    assert not desk.cosign_verifies(of)


def test_another_release_with_the_same_image_has_no_verdict(desk: Desk) -> None:
    of = pushed(desk, "same")
    desk.attach(now(of), of)
    other = of.model_copy(update={"args": ("--max-model-len", "512")})
    refused = desk.verify(other)
    assert refused.returncode == 3
    assert "on other releases" in refused.stdout
    assert desk.cosign_verifies(other)  # cosign looks at the image alone: this is why we look at the release


def test_a_tag_that_was_moved_moves_no_verdict(desk: Desk) -> None:
    of = pushed(desk, "moved")
    desk.attach(now(of), of)
    assert of.image is not None
    reference = f"{of.image.repository}:v1.4.0"
    assert digest_of(reference) == of.image.digest
    moved = pushed(desk, "moved", content="two")
    assert moved.image is not None
    assert digest_of(reference) == moved.image.digest != of.image.digest
    assert desk.verify(of).returncode == 0
    assert desk.verify(moved).returncode == 3


def test_a_stale_policy_and_an_old_verdict_do_not_count(desk: Desk) -> None:
    of = pushed(desk, "stale")
    desk.attach(now(of, ago=7200), of)
    accepted = {"version": 1, "name": "t", "signers": [{"name": "desk", "key": "cosign.pub"}]}
    trust = ("verify", desk.release(of), "--trust", "trust.yaml")

    def told(**more: Any) -> str:
        (desk.folder / "trust.yaml").write_text(yaml.safe_dump({**accepted, **more}))
        ended = desk.gate(*trust)
        assert ended.returncode == (0 if ended.stdout.startswith("ACCEPTED") else 3), ended.stderr
        return ended.stdout

    assert "as it is now" in told(policies=[{"name": "release", "sha256": POLICY}], max_age="3h")
    assert "is stale: policy release was 999999999999" in told(
        policies=[{"name": "release", "sha256": "sha256:" + "8" * 64}]
    )
    assert "2 h 0 min old; at most 1h counts" in told(max_age="1h")


def test_a_drill_does_not_count_in_production(desk: Desk) -> None:
    of = pushed(desk, "drill")
    desk.attach(now(of), of, "--drill", "game day")
    bin_ = desk.folder / "bin"
    bin_.mkdir()
    script = '#!/bin/sh\n[ "$3" = games ] && label=allowed\n'
    script += 'echo "{\\"metadata\\": {\\"labels\\": {\\"servegate.dev/drills\\": \\"$label\\"}}}"\n'
    (bin_ / "kubectl").write_text(script)
    (bin_ / "kubectl").chmod(0o755)
    desk.env["PATH"] = f"{bin_}:/usr/bin:/bin"
    assert desk.verify(of).returncode == 3
    assert desk.verify(of, "--namespace", "llm").returncode == 3
    assert desk.verify(of, "--namespace", "games").returncode == 0


def test_an_emergency_needs_only_a_pass_of_its_time(desk: Desk) -> None:
    of = pushed(desk, "emergency")
    desk.attach(now(of, ago=400 * 86400), of)
    desk.attach(now(of, Outcome.FAIL), of)
    assert desk.verify(of, "--max-age", "14d").returncode == 1
    hurry = ("--emergency", "--reason", "5xx since 10:02", "--by", "kim")
    assert desk.verify(of, "--max-age", "14d", *hurry).returncode == 0
    never = pushed(desk, "emergency", content="never")
    assert desk.verify(never, *hurry).returncode == 3
    assert desk.verify(never, *hurry, "--override").returncode == 0
    assert of.image is not None
    away = of.model_copy(update={"image": of.image.model_copy(update={"repository": "127.0.0.1:9/a/chat"})})
    silent = desk.verify(away)
    assert (silent.returncode, silent.stdout) == (4, "")
    assert "cosign: asking the registry failed" in silent.stderr
    assert desk.verify(away, *hurry).returncode == 3
    assert desk.verify(away, *hurry, "--override").returncode == 0
    lines = [json.loads(line) for line in (desk.folder / "servegate-audit.jsonl").read_text().splitlines()]
    assert [(line["event"], line["accepted"], line["by"]) for line in lines] == [
        ("emergency", True, "kim"), ("emergency", False, "kim"), ("override", True, "kim"),
        ("emergency", False, "kim"), ("override", True, "kim"),
    ]  # fmt: skip


def test_the_predicate_signed_by_another_tool_counts_as_well(desk: Desk) -> None:
    """cosign attest, and GitHub's actions/attest, make the statement themselves: about the image alone."""
    of = pushed(desk, "predicate")
    assert of.image is not None
    now(of).write(desk.folder / "verdict.json")
    written = desk.gate("attest", "verdict.json", "--release", desk.release(of), "--predicate", "predicate.json")
    assert written.returncode == 0, written.stderr
    services = json.dumps({"mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json", "rekorTlogConfig": {},
                           "tsaConfig": {}})  # fmt: skip
    (desk.folder / "services.json").write_text(services)
    image = f"{of.image.repository}@{of.image.digest}"
    made = ("--yes", "--key", "cosign.key", "--signing-config", "services.json", "--predicate", "predicate.json")
    desk.made("attest", *made, "--type", PREDICATE, image)
    assert desk.verify(of).returncode == 0
    assert desk.verify(of.model_copy(update={"args": ("--seed", "1")})).returncode == 3


WORKFLOW = "https://github.com/acme/chat/.github/workflows/release.yml@refs/tags/v1.4.0"
ISSUER = "https://token.actions.githubusercontent.com"
SAYS = {
    "oid_1": ISSUER, "oid_8": ISSUER, "oid_2": "push", "oid_3": "c" * 40, "oid_4": "release", "oid_5": "acme/chat",
    "oid_6": "refs/tags/v1.4.0", "oid_21": "https://github.com/acme/chat/actions/runs/7/attempts/1",
}  # fmt: skip


def certified(desk: Desk, authority: Authority, of: Release, name: str, identity: str, **more: Any) -> str:
    """A verdict signed with a workflow's certificate, as keyless signing ends; the bundle's file."""
    from servegate.gates.statement import predicate, statement

    key, certificate = authority.issue(name, identity, **{**SAYS, **more})
    desk.made("import-key-pair", "--key", str(key), "--output-key-prefix", name)
    signed = statement(predicate(now(of), of, drill=None, now=time.time(), by="workflow"), of)
    (desk.folder / f"{name}.statement").write_bytes(signed)
    services = {"mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json", "rekorTlogConfig": {},
                "tsaConfig": {}}  # fmt: skip
    (desk.folder / "services.json").write_text(json.dumps(services))
    command = f"attest-blob --yes --key {name}.key --certificate {certificate} "
    command += f"--signing-config services.json --statement {name}.statement "
    desk.made(*shlex.split(f"{command} --bundle {name}.bundle"))
    return f"{name}.bundle"


def test_a_workflow_counts_by_its_identity_and_is_named(desk: Desk, tmp_path: Path) -> None:
    of = pushed(desk, "identity")
    assert of.image is not None
    folder = tmp_path / "authority"
    folder.mkdir()
    authority = Authority(folder)
    root = f"trusted-root create --fulcio=url=https://fulcio.test,certificate-chain={authority.certificate}"
    desk.made(*shlex.split(f"{root} --out root.json"))
    signer = {"name": "workflow", "identity": WORKFLOW.replace("v1.4.0", "v*"), "issuer": ISSUER,
              "trusted_root": "root.json", "transparency_log": False}  # fmt: skip

    def verify(*arguments: str, **more: Any) -> dict[str, Any]:
        document = {"version": 1, "name": "t", "signers": [{**signer, **more}]}
        (desk.folder / "trust.yaml").write_text(yaml.safe_dump(document))
        ended = desk.gate("verify", desk.release(of), "--trust", "trust.yaml", "--json", *arguments)
        assert ended.returncode in (0, 3), ended.stderr
        found: dict[str, Any] = json.loads(ended.stdout)
        return found

    good = certified(desk, authority, of, "good", WORKFLOW)
    desk.made("attach", "attestation", "--attestation", good, f"{of.image.repository}@{of.image.digest}")
    for place in ((), ("--verdict", good)):
        found = verify(*place)
        assert found["accepted"], found
        assert {key: value for key, value in found["signer"].items() if value is not None} == {
            "kind": "identity", "name": "workflow", "subject": WORKFLOW, "issuer": ISSUER, "workflow": "release",
            "repository": "acme/chat", "ref": "refs/tags/v1.4.0", "commit": "c" * 40, "trigger": "push",
            "run": "https://github.com/acme/chat/actions/runs/7/attempts/1",
        }  # fmt: skip
    # The same workflow on a branch, another workflow, another issuer, another authority, a certificate of yesterday.
    for name, identity, more in (
        ("branch", WORKFLOW.replace("tags/v1.4.0", "heads/main"), {}),
        ("fork", WORKFLOW.replace("acme", "acme-fork"), {}),
        ("issuer", WORKFLOW, {"oid_1": "https://evil.test", "oid_8": "https://evil.test"}),
        ("expired", WORKFLOW, {"lasts": timedelta(minutes=-30)}),
    ):
        bundle = certified(desk, authority, of, name, identity, **more)
        found = verify("--verdict", bundle)
        assert not found["accepted"], name
        assert "signed by no accepted signer (workflow: " in found["reason"]
    (folder / "other").mkdir()
    stranger = certified(desk, Authority(folder / "other"), of, "stranger", WORKFLOW)
    assert not verify("--verdict", stranger)["accepted"]
