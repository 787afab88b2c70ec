"""cosign, for what needs it: registries, keyless signatures, keys it alone can read. One process per call, no shell."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from servegate.errors import ConfigError, InfrastructureError
from servegate.gates.bundle import Bundle
from servegate.gates.statement import PREDICATE
from servegate.gates.trust import Signer
from servegate.release import Image
from servegate.report.format import clean

TIMEOUT = 180.0
# What cosign signs with when no service is to be asked: no certificate authority, no log, no timestamps.
_NO_SERVICES = {
    "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
    "rekorTlogConfig": {},
    "tsaConfig": {},
}


@dataclass(frozen=True)
class Cosign:
    """How cosign is called.

    Attributes:
        program: its path or name.
        plain_http: talk to registries without TLS; for tests and registries on the same machine.
    """

    program: str = "cosign"
    plain_http: bool = False

    def sign(self, statement: bytes, *, key: str | None, signing_config: Path | None) -> bytes:
        """Sign a statement; the bundle as JSON.

        Args:
            key: what cosign takes as a key; None: keyless, with the identity the surroundings give (OIDC).
            signing_config: services to use; None: with a key none at all, keyless the public Sigstore.

        Raises:
            ConfigError: there is no cosign.
            InfrastructureError: it failed; its message.
        """
        with tempfile.TemporaryDirectory(prefix="servegate-") as name:
            folder = Path(name)
            (folder / "statement.json").write_bytes(statement)
            command = ["attest-blob", "--yes", "--statement", str(folder / "statement.json")]
            command += ["--bundle", str(folder / "bundle.json")]
            if key is not None:
                command += ["--key", key]
                if signing_config is None:
                    signing_config = folder / "no-services.json"
                    signing_config.write_text(json.dumps(_NO_SERVICES), "utf-8")
            if signing_config is not None:
                command += ["--signing-config", str(signing_config)]
            self._must(command, "signing")
            return (folder / "bundle.json").read_bytes()

    def attach(self, bundle: bytes, image: Image) -> None:
        """Attach a bundle to an image in its registry. Raises ConfigError, InfrastructureError."""
        with tempfile.TemporaryDirectory(prefix="servegate-") as name:
            path = Path(name) / "bundle.json"
            path.write_bytes(bundle)
            self._must(
                ["attach", "attestation", "--attestation", str(path), *self._registry(), _at(image)], "attaching"
            )

    def attached(self, image: Image) -> list[str]:
        """The bundles attached to an image.

        Raises:
            ConfigError: there is no cosign.
            InfrastructureError: the registry cannot be asked, or has no such image.
        """
        ended = self._must(["download", "attestation", *self._registry(), _at(image)], "asking the registry")
        return [line for line in ended.splitlines() if line.strip()]

    def verifies(self, bundle: Bundle, signer: Signer, digest: str) -> str | None:
        """Why a bundle is not by a signer; None when it is.

        Args:
            digest: one of the statement's subjects, `sha256:…`.

        Raises:
            ConfigError: there is no cosign.
        """
        with tempfile.TemporaryDirectory(prefix="servegate-") as name:
            path = Path(name) / "bundle.json"
            path.write_text(bundle.text, "utf-8")
            command = ["verify-blob-attestation", "--bundle", str(path), "--type", PREDICATE]
            command += ["--digest", digest.removeprefix("sha256:"), "--digestAlg", "sha256"]
            if signer.key is not None:
                command += ["--key", signer.key, "--insecure-ignore-tlog=true"]
            else:
                command += ["--certificate-identity-regexp", signer.pattern]
                command += ["--certificate-oidc-issuer", signer.issuer or ""]
            if signer.trusted_root is not None:
                command += ["--trusted-root", signer.trusted_root]
            if not signer.transparency_log:
                command += ["--insecure-ignore-tlog=true", "--insecure-ignore-sct=true"]
            ended = self._run(command)
        return None if ended.returncode == 0 else _message(ended.stderr)

    def _registry(self) -> Sequence[str]:
        return ("--allow-http-registry", "--allow-insecure-registry") if self.plain_http else ()

    def _must(self, arguments: Sequence[str], doing: str) -> str:
        ended = self._run(arguments)
        if ended.returncode != 0:
            raise InfrastructureError(f"cosign: {doing} failed: {_message(ended.stderr)}")
        return ended.stdout

    def _run(self, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        program = shutil.which(self.program)
        if program is None:
            raise ConfigError(f"{self.program}: not found; registries and keyless signatures need cosign 3 or newer")
        try:
            return subprocess.run(
                [program, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=TIMEOUT,
                check=False,
                env={**os.environ, "COSIGN_YES": "true"},
            )
        except subprocess.TimeoutExpired as error:
            raise InfrastructureError(f"cosign: no end after {TIMEOUT:.0f} s") from error
        except OSError as error:
            raise InfrastructureError(f"cosign: cannot be started: {error.strerror}") from error


def _at(image: Image) -> str:
    return f"{image.repository}@{image.digest}"


def _message(text: str) -> str:
    """The one line of cosign's output that says what is wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line.removeprefix("Error: ") for line in lines if line.startswith("Error: ")]
    return clean((errors or lines or ["it said nothing"])[-1], 400)
