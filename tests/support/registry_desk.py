"""Where verdicts go to a registry and come back: cosign's keys, servegate's commands."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from servegate.gates.statement import PREDICATE
from servegate.release import Release
from servegate.report.verdict import Verdict


@dataclass
class Desk:
    """A working folder with cosign's keys, from which verdicts go to a registry and come back."""

    folder: Path
    registry: str
    cosign_program: str
    env: dict[str, str] = field(default_factory=dict)

    def run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.folder, env={**os.environ, "COSIGN_PASSWORD": "tests", **self.env},
            capture_output=True, text=True, check=False, timeout=100,
        )  # fmt: skip

    def gate(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        servegate = str(Path(sys.executable).with_name("servegate"))
        cosign = ["--cosign", self.cosign_program, "--plain-http"]
        return self.run([servegate, "gate", command, *arguments, *cosign])

    def cosign(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        plain = ["--allow-http-registry", "--allow-insecure-registry"]
        local = arguments[0] in (
            "attest-blob",
            "signing-config",
            "generate-key-pair",
            "trusted-root",
            "import-key-pair",
        )
        return self.run([self.cosign_program, *arguments, *([] if local else plain)])

    def made(self, *arguments: str) -> str:
        ended = self.cosign(*arguments)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def release(self, release: Release) -> str:
        path = self.folder / f"{release.id}.yaml"
        path.write_text(yaml.safe_dump(release.model_dump(mode="json")))
        return path.name

    def attach(self, verdict: Verdict, release: Release, *arguments: str, key: str = "cosign.key") -> None:
        """Sign a verdict and attach it to the release's image."""
        verdict.write(self.folder / "verdict.json")
        of = ("--release", self.release(release), "--registry")
        ended = self.gate("attest", "verdict.json", *of, "--key", key, *arguments)
        assert ended.returncode == 0, ended.stderr

    def verify(self, release: Release, *arguments: str, key: str = "cosign.pub") -> subprocess.CompletedProcess[str]:
        return self.gate("verify", self.release(release), "--key", key, *arguments)

    def cosign_verifies(self, release: Release, key: str = "cosign.pub") -> bool:
        """What cosign alone says of the image."""
        assert release.image is not None
        image = f"{release.image.repository}@{release.image.digest}"
        keys = ("--key", key, "--insecure-ignore-tlog=true", "--type", PREDICATE)
        return self.cosign("verify-attestation", *keys, image).returncode == 0
