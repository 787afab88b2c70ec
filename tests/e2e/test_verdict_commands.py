"""Verdicts that travel, through the command, and what docs/verdicts.md tells people to type."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from verdicts import release, verdict

from servegate.gates.files import load_policy
from servegate.report.verdict import Verdict

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A working folder with a release and a verdict on it by the policy of the repository."""
    shutil.copytree(ROOT / "gates", tmp_path / "gates")
    of = release(image=None)
    (tmp_path / "release.yaml").write_text(yaml.safe_dump(of.model_dump(mode="json")))
    policy = load_policy(tmp_path / "gates" / "release.yaml").identity()
    verdict(of, decided=time.time() - 60, policy_sha256=policy).write(tmp_path / "verdict.json")
    return tmp_path


def shell(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    path = {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder, env={**os.environ, **path}, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def gate(folder: Path, arguments: str) -> subprocess.CompletedProcess[str]:
    return shell(folder, f"servegate gate {arguments}")


def typed() -> str:
    text = (ROOT / "docs" / "verdicts.md").read_text("utf-8")
    return "".join(re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE))


def test_what_the_docs_say_works(desk: Path) -> None:
    ended = shell(desk, typed())
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "ACCEPTED  v1.4.0" in ended.stdout
    assert "as it is now), on 1 report\n" in ended.stdout
    assert "emergency: passed policy release" in ended.stdout
    (line,) = (desk / "servegate-audit.jsonl").read_text().splitlines()
    assert json.loads(line)["reason"] == "5xx since 10:02"


def test_the_trust_file_of_the_docs_is_a_valid_one(desk: Path) -> None:
    text = (ROOT / "docs" / "verdicts.md").read_text("utf-8")
    (trust,) = re.findall(r"^```yaml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    (desk / "trust.yaml").write_text(trust)
    missing = gate(desk, "verify release.yaml --verdict . --trust trust.yaml")
    assert (missing.returncode, missing.stdout) == (2, "")
    assert "keys/desk.pub: cannot be read" in missing.stderr


def test_a_refusal_is_told_in_words_and_in_json(desk: Path) -> None:
    assert shell(desk, typed()).returncode == 0
    changed = desk / "gates" / "release.yaml"
    changed.write_text(re.sub(r"expect: accuracy >= \d+%", "expect: accuracy >= 99%", changed.read_text("utf-8")))
    arguments = "verify release.yaml --verdict . --key release.pub --policy gates/release.yaml"
    refused = gate(desk, arguments)
    assert (refused.returncode, refused.stderr) == (3, "")
    assert refused.stdout.startswith("REFUSED  v1.4.0")
    assert "which has changed since" in refused.stdout
    told = json.loads(gate(desk, f"{arguments} --json").stdout)
    assert (told["accepted"], told["exit_code"], told["policy_current"]) == (False, 3, False)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("verify release.yaml --verdict .", "whose verdicts count"),
        ("verify release.yaml --verdict . --identity x", "without its `issuer`"),
        ("verify release.yaml --verdict . --key verdict.json", "is no public key"),
        ("verify release.yaml --verdict none.json --key verdict.json", "cannot be read|no such file|no public key"),
        ("verify none.yaml --verdict . --key release.pub", "none.yaml: cannot be read"),
        ("verify release.yaml --verdict . --key k --trust t", "stand in the --trust file"),
        ("verify release.yaml --verdict . --key k --emergency", "needs --reason"),
        ("verify release.yaml --verdict . --key k --override", "go with --emergency"),
        ("attest verdict.json --release release.yaml", "give one of --key"),
        ("attest verdict.json --release release.yaml --key k --keyless", "not --key and --keyless"),
        ("attest verdict.json --release release.yaml --key k", "where to"),
        ("attest verdict.json --release release.yaml --key k --registry", "names no image"),
        ("attest release.yaml --release release.yaml --key k --output x", "is not a valid Verdict"),
        ("attest verdict.json --release release.yaml --keyless --cosign nope --output x", "nope: not found"),
    ],
)
def test_mistakes_of_the_call_are_usage_errors(desk: Path, arguments: str, says: str) -> None:
    ended = gate(desk, arguments)
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert re.search(says, ended.stderr), ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_namespace_says_whether_drills_count(desk: Path) -> None:
    assert shell(desk, typed().splitlines()[0]).returncode == 0
    shell(desk, "openssl ec -in release.key -pubout -out release.pub")
    assert gate(
        desk, "attest verdict.json --release release.yaml --key release.key --output d.json --drill 'game day'"
    ).stdout.count("a drill's")
    kubectl = desk / "bin" / "kubectl"
    kubectl.parent.mkdir()
    kubectl.write_text(
        "#!/bin/sh\n"
        '[ "$1 $2" = "get namespace" ] || exit 9\n'
        'case "$3" in\n'
        '  games) echo \'{"metadata": {"labels": {"servegate.dev/drills": "allowed"}}}\' ;;\n'
        "  llm) echo '{\"metadata\": {}}' ;;\n"
        '  *) echo "Error from server (NotFound): namespaces \\"$3\\" not found" >&2; exit 1 ;;\n'
        "esac\n"
    )
    kubectl.chmod(0o755)
    verify = "PATH=$PWD/bin:$PATH servegate gate verify release.yaml --verdict d.json --key release.pub"
    assert shell(desk, verify).returncode == 3
    assert shell(desk, f"{verify} --namespace llm").returncode == 3
    there = shell(desk, f"{verify} --namespace games")
    assert there.returncode == 0
    assert "drill     game day" in there.stdout
    nowhere = shell(desk, f"{verify} --namespace moon")
    assert nowhere.returncode == 4
    assert 'namespaces "moon" not found' in nowhere.stderr


def test_what_another_tool_is_to_sign(desk: Path) -> None:
    ended = gate(desk, "attest verdict.json --release release.yaml --predicate predicate.json")
    assert ended.returncode == 0
    assert "https://servegate.dev/verdict/v1" in ended.stdout
    predicate = json.loads((desk / "predicate.json").read_text())
    assert Verdict.model_validate_json(json.dumps(predicate["verdict"])) == Verdict.read(desk / "verdict.json")
