"""Releases, verdicts and keys for tests of verdicts that travel."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from servegate.gates.cosign import Cosign
from servegate.gates.signed import attest
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


def signed(what: Verdict, of: Release, key: Path, drill: str | None = None) -> bytes:
    """The verdict as a bundle signed with the key of a file."""
    return attest(what, of, key=str(key), drill=drill, now=NOW, by="test", cosign=Cosign("no-such-cosign"))


def key_pair(folder: Path, name: str = "release") -> tuple[Path, Path]:
    """Files of a new private key and its public key."""
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = folder / f"{name}.key", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


class Authority:
    """A certificate authority of our own: what a workflow's certificate says, without Fulcio and without a network."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority of the tests")])
        usage = _usage(key_cert_sign=True, crl_sign=True)
        own = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        certificate = self._builder(self._name, self._key.public_key(), timedelta(days=365))
        certificate = certificate.add_extension(x509.BasicConstraints(True, None), True)
        certificate = certificate.add_extension(usage, True).add_extension(own, False)
        self.certificate = folder / "authority.pem"
        self.certificate.write_bytes(self._signed(certificate))

    def issue(
        self, name: str, identity: str, *, lasts: timedelta = timedelta(minutes=10), **says: str
    ) -> tuple[Path, Path]:
        """Files of a private key and its certificate.

        Args:
            says: numbers of Fulcio's extensions, as `oid_5="acme/chat"`.
        """
        private, _ = key_pair(self.folder, name)
        key = serialization.load_pem_private_key(private.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        certificate = self._builder(x509.Name([]), key.public_key(), lasts)
        alternative = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity)])
        certificate = certificate.add_extension(alternative, True).add_extension(_usage(digital_signature=True), True)
        signing = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        certificate = certificate.add_extension(signing, False).add_extension(issuer, False)
        for number, text in says.items():
            oid = x509.ObjectIdentifier(f"1.3.6.1.4.1.57264.1.{number.removeprefix('oid_')}")
            data = text.encode()
            # From number 8 on the values are DER.
            value = data if int(number.removeprefix("oid_")) < 8 else b"\x0c" + bytes([len(data)]) + data
            certificate = certificate.add_extension(x509.UnrecognizedExtension(oid, value), False)
        path = self.folder / f"{name}.pem"
        path.write_bytes(self._signed(certificate))
        return private, path

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey, lasts: timedelta) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(subject_name=subject, issuer_name=self._name, public_key=key)
        builder = builder.serial_number(x509.random_serial_number())
        return builder.not_valid_before(min(now, now + lasts) - timedelta(hours=1)).not_valid_after(now + lasts)

    def _signed(self, certificate: x509.CertificateBuilder) -> bytes:
        return certificate.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)


def _usage(**given: bool) -> x509.KeyUsage:
    names = ["digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"]
    names += ["key_cert_sign", "crl_sign", "encipher_only", "decipher_only"]
    return x509.KeyUsage(**{name: given.get(name, False) for name in names})
