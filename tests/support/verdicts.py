"""Releases, verdicts and keys for tests of verdicts that travel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from servegate.release import Engine, Image, Model, Release
from servegate.report.verdict import CheckResult, Outcome, Verdict

NOW = 2_000_000_000.0
POLICY = "sha256:" + "9" * 64
IMAGE = "sha256:" + "e" * 64


def release(
    name: str = "v1.4.0", *, image: str | None = IMAGE, repository: str = "r.test/chat", **more: Any
) -> Release:
    return Release(
        name=name,
        image=None if image is None else Image(repository=repository, digest=image),
        model=Model(uri="hf://org/model", served_name="chat"),
        engine=Engine(name="vllm", version="0.32.0"),
        **more,
    )


def verdict(
    of: Release | str | None, outcome: Outcome = Outcome.PASS, *, decided: float = NOW - 3600, **more: Any
) -> Verdict:
    digest = of.identity() if isinstance(of, Release) else of
    result = CheckResult(check="accuracy", outcome=outcome, effect=outcome, message="as it is")
    return Verdict(
        **{
            "outcome": outcome,
            "release": digest,
            "release_name": of.name if isinstance(of, Release) else None,
            "policy": "release",
            "policy_sha256": POLICY,
            "reports": ("sha256:" + "1" * 64,),
            "results": (result,),
            "decided_at": decided,
            "decided_by": "acme/chat release #7",
            "tool": "servegate",
            **more,
        }
    )


def key_pair(folder: Path, name: str = "release") -> tuple[Path, Path]:
    """Files of a new private key and its public key."""
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = folder / f"{name}.key", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public
