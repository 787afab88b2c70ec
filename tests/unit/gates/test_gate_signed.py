"""Signed verdicts as files: what counts, what does not and why, and what is written down in an emergency."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from verdicts import IMAGE, NOW, POLICY, key_pair, release, verdict

from servegate.config import validate
from servegate.errors import ConfigError, ExitCode, InfrastructureError
from servegate.gates import bundle as bundles
from servegate.gates import signed
from servegate.gates.audit import AuditLine, write_down
from servegate.gates.cosign import Cosign
from servegate.gates.statement import parse
from servegate.gates.trust import Trust, drills_allowed, load_trust
from servegate.gates.verify import Emergency, Verification
from servegate.release import Release
from servegate.report.verdict import Outcome, Verdict

COSIGN = Cosign("no-such-cosign")
RELEASE = release()


class Desk:
    """A folder with a key, from which verdicts are signed and checked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key, self.public = key_pair(folder)
        self.verdicts = folder / "verdicts"
        self.verdicts.mkdir()

    def sign(self, what: Verdict, of: Release = RELEASE, *, key: Path | None = None, drill: str | None = None) -> Path:
        path = self.verdicts / f"{len(list(self.verdicts.iterdir()))}.json"
        text = signed.attest(what, of, key=str(key or self.key), drill=drill, now=NOW, by="test", cosign=COSIGN)
        path.write_bytes(text)
        return path

    def trust(self, **more: Any) -> Trust:
        document = {"version": 1, "name": "t", "signers": [{"name": "release", "key": str(self.public)}], **more}
        return validate(document, Trust, "trust")

    def check(
        self, of: Release | str = RELEASE, *, now: float = NOW, drills: bool = False,
        emergency: Emergency | None = None, registry: bool = False, **rules: Any,
    ) -> Verification:  # fmt: skip
        places = signed.Places((self.verdicts,), registry)
        return signed.check(
            of, places, self.trust(**rules), now=now, cosign=COSIGN, drills=drills, emergency=emergency
        )[0]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_pass_by_an_accepted_signer_counts_and_says_by_whom(desk: Desk) -> None:
    given = verdict(RELEASE)
    path = desk.sign(given)
    found = desk.check(policies=[{"name": "release", "sha256": POLICY}], max_age="2h")
    assert (found.accepted, found.exit_code) == (True, ExitCode.PASS)
    assert (found.verdict, found.policy, found.policy_current) == (given.identity(), "release", True)
    assert (found.age, found.decided_by, found.source) == (3600, "acme/chat release #7", str(path))
    assert found.signer is not None
    assert found.signer.key == bundles.fingerprint(bundles.public_key(desk.public.read_bytes(), "k"))
    assert desk.check(RELEASE.identity()).accepted  # the digest is enough where the files are


def test_the_signature_is_what_openssl_calls_valid(desk: Desk, tmp_path: Path) -> None:
    document = json.loads(desk.sign(verdict(RELEASE)).read_text())
    payload = base64.b64decode(document["dsseEnvelope"]["payload"])
    kind = document["dsseEnvelope"]["payloadType"]
    (tmp_path / "signed").write_bytes(f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload)
    (tmp_path / "signature").write_bytes(base64.b64decode(document["dsseEnvelope"]["signatures"][0]["sig"]))
    command = ["openssl", "dgst", "-sha256", "-verify", str(desk.public), "-signature", "signature", "signed"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0
    statement = json.loads(payload)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert [item["digest"]["sha256"] for item in statement["subject"]] == [IMAGE[7:], RELEASE.identity()[7:]]


def test_a_verdict_that_was_tampered_with_does_not_count(desk: Desk) -> None:
    path = desk.sign(verdict(RELEASE, Outcome.FAIL))
    document = json.loads(path.read_text())
    envelope = document["dsseEnvelope"]
    payload = base64.b64decode(envelope["payload"]).replace(b'"outcome": "FAIL"', b'"outcome": "PASS"')
    envelope["payload"] = base64.b64encode(payload).decode()
    path.write_text(json.dumps(document))
    found = desk.check()
    assert (found.accepted, found.exit_code, found.outcome) == (False, ExitCode.NO_VERDICT, None)
    assert "signed by no accepted signer (release: the signature does not fit)" in found.reason


def test_another_key_does_not_count(desk: Desk, tmp_path: Path) -> None:
    desk.sign(verdict(RELEASE), key=key_pair(tmp_path, "other")[0])
    assert desk.check().exit_code is ExitCode.NO_VERDICT
    desk.sign(verdict(RELEASE))
    assert desk.check().accepted  # beside one that counts it does no harm


def test_a_verdict_on_another_release_with_the_same_image_does_not_count(desk: Desk) -> None:
    other = release(args=("--max-num-seqs", "8"))
    assert other.image == RELEASE.image
    desk.sign(verdict(other), other)
    found = desk.check()
    assert (found.exit_code, found.other_releases) == (ExitCode.NO_VERDICT, 1)
    assert "on other releases" in found.reason
    assert desk.check(other).accepted
    with pytest.raises(ConfigError, match=r"is on release .*, not on v1.4.0"):
        desk.sign(verdict(other))


def test_a_release_that_names_another_image_is_another_release(desk: Desk) -> None:
    desk.sign(verdict(RELEASE))
    assert desk.check(release(image="sha256:" + "f" * 64)).exit_code is ExitCode.NO_VERDICT


def test_no_verdict_is_no_pass(desk: Desk) -> None:
    found = desk.check()
    assert (found.accepted, found.exit_code) == (False, ExitCode.NO_VERDICT)
    assert found.reason == "no verdict that counts: none was found"
    with pytest.raises(ConfigError, match="the verdict is on no release"):
        desk.sign(verdict(None))


@pytest.mark.parametrize(
    ("outcome", "code"), [(Outcome.FAIL, 1), (Outcome.VOID, 3), (Outcome.INCONCLUSIVE, 3), (Outcome.PASS, 0)]
)
def test_the_exit_code_says_why(desk: Desk, outcome: Outcome, code: int) -> None:
    desk.sign(verdict(RELEASE, outcome))
    assert desk.check().exit_code == code


def test_the_latest_verdict_decides(desk: Desk) -> None:
    desk.sign(verdict(RELEASE, Outcome.FAIL, decided=NOW - 10))
    desk.sign(verdict(RELEASE, decided=NOW - 20))
    assert desk.check().exit_code is ExitCode.GATE_FAILED
    desk.sign(verdict(RELEASE, decided=NOW - 5))
    assert desk.check().accepted


def test_what_is_stale_does_not_count(desk: Desk) -> None:
    desk.sign(verdict(RELEASE))
    changed = desk.check(policies=[{"name": "release", "sha256": "sha256:" + "8" * 64}])
    assert (changed.exit_code, changed.policy_current) == (ExitCode.NO_VERDICT, False)
    assert "policy release was 999999999999 and is 888888888888 now: gate the release again" in changed.reason
    assert "by policy release; accepted: strict" in desk.check(policies=[{"name": "strict"}]).reason
    assert desk.check(policies=[{"name": "strict"}, {"name": "release"}]).accepted
    assert desk.check(max_age="59min").reason == "the verdict is 1 h 0 min old; at most 59min counts"
    assert desk.check(max_age="1h").accepted
    assert "in the future: a clock is wrong" in desk.check(now=NOW - 7200).reason


def test_a_drill_counts_only_where_drills_are_allowed(desk: Desk) -> None:
    desk.sign(verdict(RELEASE), drill="game day")
    found = desk.check()
    assert found.exit_code is ExitCode.NO_VERDICT
    assert "a drill's verdict (game day); it counts only in a namespace for drills" in found.reason
    assert desk.check(drills=True).drill == "game day"
    hurried = desk.check(emergency=Emergency(by="kim", reason="5xx"))
    assert hurried.exit_code is ExitCode.NO_VERDICT
    assert [drills_allowed(labels) for labels in (
        {}, {"servegate.dev/drills": "allowed"}, {"servegate.dev/drills": "true"}
    )] == [False, True, False]  # fmt: skip


def test_an_emergency_needs_only_a_pass_under_the_policy_of_its_time(desk: Desk) -> None:
    desk.sign(verdict(RELEASE, decided=NOW - 400 * 86400))
    desk.sign(verdict(RELEASE, Outcome.FAIL, decided=NOW - 60))
    rules: dict[str, Any] = {
        "policies": [{"name": "release", "sha256": "sha256:" + "8" * 64}],
        "max_age": "1d",
    }
    assert not desk.check(**rules).accepted
    found = desk.check(**rules, emergency=Emergency(by="kim", reason="5xx"))
    assert found.accepted
    assert found.reason == "emergency: passed policy release of 2032-04-13 03:33:20 UTC"


def test_without_a_pass_only_a_written_override_goes_on(desk: Desk, tmp_path: Path) -> None:
    desk.sign(verdict(RELEASE, Outcome.FAIL))
    refused = desk.check(emergency=Emergency(by="kim", reason="5xx"))
    assert refused.exit_code is ExitCode.GATE_FAILED
    found = desk.check(emergency=Emergency(by="kim", reason="5xx", override=True), registry=True)
    assert found.accepted
    assert found.overridden == "no verdict was a pass; the latest is FAIL by policy release"
    assert any("no-such-cosign: not found" in item.reason for item in found.left_out)  # told, and not in the way
    audit = tmp_path / "audit.jsonl"
    audit.write_text('{"half')
    write_down(audit, refused)
    write_down(audit, found)
    first, *lines = audit.read_text().splitlines()
    assert first == '{"half'
    events = [AuditLine.model_validate_json(line) for line in lines]
    assert [(item.event, item.accepted, item.by, item.reason) for item in events] == [
        ("emergency", False, "kim", "5xx"),
        ("override", True, "kim", "5xx"),
    ]
    assert events[1].said == found.overridden
    with pytest.raises(InfrastructureError, match="what cannot be written down is not done"):
        write_down(tmp_path, found)


def test_a_registry_that_cannot_be_asked_is_no_answer(desk: Desk) -> None:
    desk.sign(verdict(RELEASE))
    with pytest.raises(ConfigError, match="no-such-cosign: not found"):
        desk.check(registry=True)
    with pytest.raises(ConfigError, match="names no image"):
        desk.check(release(image=None), registry=True)


def test_many_bundles_in_one_file_and_other_files_beside_them(desk: Desk) -> None:
    lines = [desk.sign(verdict(RELEASE, decided=NOW - age)).read_text().strip() for age in (50, 40)]
    for path in desk.verdicts.iterdir():
        path.unlink()
    verdict(RELEASE).write(desk.verdicts / "verdict.json")
    (desk.verdicts / "github.jsonl").write_text("\n".join(lines) + "\n")
    found = desk.check()
    assert (found.age, found.source) == (40, f"{desk.verdicts}/github.jsonl:2")
    assert found.left_out == ()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is no Sigstore bundle"),
        ("[]", "is no Sigstore bundle"),
        ('{"dsseEnvelope": 1}', "is no Sigstore bundle"),
        ('{"dsseEnvelope": {"payloadType": "text"}}', "holds no in-toto statement"),
        ("[" * 100_000, "is no Sigstore bundle"),
    ],
)
def test_what_is_no_bundle_is_said_and_left_out(desk: Desk, text: str, says: str) -> None:
    path = desk.folder / "x.json"
    path.write_text(text)
    found, _ = signed.check(RELEASE, signed.Places((path,)), desk.trust(), now=NOW, cosign=COSIGN)
    assert says in found.left_out[0].reason
    assert found.exit_code is ExitCode.NO_VERDICT


@given(st.binary(max_size=300) | st.builds(lambda x: json.dumps(x).encode(), st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["_type", "predicateType", "predicate", "subject", "digest", "verdict"]), inner, max_size=4
    ),
)))  # fmt: skip
def test_no_payload_is_too_strange(payload: bytes) -> None:
    assert isinstance(parse(payload), str)


@given(st.text(max_size=300))
def test_no_file_is_too_strange(text: str) -> None:
    assert isinstance(bundles.read(text, "x"), str)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["openssl", "genpkey", "-algorithm", "RSA"], "must be an ECDSA key on the curve P-256"),
        (["openssl", "ecparam", "-genkey", "-noout", "-name", "secp384r1"], "must be an ECDSA key on the curve P-256"),
        (["echo", "hello"], "is no private key in PEM"),
    ],
)
def test_other_keys_are_refused(desk: Desk, command: list[str], says: str) -> None:
    other = desk.folder / "other.key"
    other.write_bytes(subprocess.run(command, capture_output=True, check=True).stdout)
    with pytest.raises(ConfigError, match=says):
        desk.sign(verdict(RELEASE), key=other)
    with pytest.raises(ConfigError, match="is a private key; verifying wants the public one"):
        bundles.public_key(desk.key.read_bytes(), "x")


def test_an_encrypted_key_needs_its_password(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    locked = desk.folder / "locked.key"
    subprocess.run(
        ["openssl", "pkcs8", "-topk8", "-in", desk.key, "-out", locked, "-passout", "pass:secret"], check=True
    )
    with pytest.raises(ConfigError, match="is encrypted: put its password into SERVEGATE_KEY_PASSWORD"):
        desk.sign(verdict(RELEASE), key=locked)
    monkeypatch.setenv("SERVEGATE_KEY_PASSWORD", "wrong")
    with pytest.raises(ConfigError, match="the password is another"):
        desk.sign(verdict(RELEASE), key=locked)
    monkeypatch.setenv("SERVEGATE_KEY_PASSWORD", "secret")
    desk.sign(verdict(RELEASE), key=locked)
    assert desk.check().accepted


TRUST = """
version: 1
name: production
signers:
  - {name: desk, key: release.pub}
policies:
  - {name: release, file: p.yaml}
"""
RULES = "version: 1\nname: release\nchecks:\n- {id: a, report: eval, expect: accuracy >= %s}\n"


def test_a_trust_file_follows_the_policy_file(desk: Desk) -> None:
    from servegate.gates.files import load_policy

    path, rules = desk.folder / "trust.yaml", desk.folder / "p.yaml"
    path.write_text(TRUST)
    rules.write_text(RULES % "80%")
    desk.sign(verdict(RELEASE, policy_sha256=load_policy(rules).identity()))
    places = signed.Places((desk.verdicts,))
    assert signed.check(RELEASE, places, load_trust(path), now=NOW, cosign=COSIGN)[0].accepted
    rules.write_text(RULES % "90%")
    assert "is stale" in signed.check(RELEASE, places, load_trust(path), now=NOW, cosign=COSIGN)[0].reason
    rules.write_text(rules.read_text().replace("name: release", "name: other"))
    with pytest.raises(ConfigError, match=r"p.yaml is policy 'other', not 'release'"):
        load_trust(path)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("signers:", "signer:", "signer: unknown key; did you mean 'signers'"),
        ("key: release.pub", "key: release.pub, issuer: x", "belong to an `identity`"),
        ("key: release.pub", "identity: x", "could be anybody's"),
        ("key: release.pub", "identity: '*', issuer: x", "would accept everybody"),
        ("key: release.pub", "identity: x, issuer: y, transparency_log: false", "only a Sigstore of your own"),
        ("file: p.yaml", "file: p.yaml, sha256: 'sha256:" + "1" * 64 + "'", "not both"),
        ("name: production", "name: production\nmax_age: 3 weeks", "max_age"),
    ],
)
def test_mistakes_in_a_trust_file_are_named(desk: Desk, old: str, new: str, says: str) -> None:
    path = desk.folder / "trust.yaml"
    path.write_text(TRUST.replace(old, new))
    (desk.folder / "p.yaml").write_text(RULES % "80%")
    with pytest.raises(ConfigError, match=says) as error:
        load_trust(path)
    assert str(error.value).startswith(f"{path}:")


def test_an_identity_is_matched_as_a_whole() -> None:
    import re

    from servegate.gates.trust import Signer

    signer = Signer(name="w", identity="https://github.com/acme/chat/.github/workflows/r.yml@refs/tags/v*", issuer="i")
    good = "https://github.com/acme/chat/.github/workflows/r.yml@refs/tags/v1.4.0"
    assert re.match(signer.pattern, good)
    assert not re.match(signer.pattern, good.replace("r.yml", "rxyml"))
    assert not re.match(signer.pattern, "https://evil.test/?" + good)
    assert not re.match(signer.pattern, good.replace("tags", "heads"))
