"""A signed statement as a file: a Sigstore bundle (media type …bundle.v0.3+json) with a DSSE envelope.

The same format is written by cosign and by GitHub's attestations, so one reader serves all three. Signatures by a key
are made and checked here; those by a certificate (keyless) need cosign, see `cosign.py`.

DSSE: github.com/secure-systems-lab/dsse, protocol.md. Bundle: github.com/sigstore/protobuf-specs,
sigstore_bundle.proto.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from servegate.errors import ConfigError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
MAX_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Bundle:
    """One signed statement.

    Attributes:
        source: where it was found, for people.
        text: the bundle as it was found.
        payload: what was signed.
        signatures: of which one is enough.
        certificate: DER of the signer's certificate; None: signed with a key.
    """

    source: str
    text: str
    payload: bytes
    signatures: tuple[bytes, ...]
    certificate: bytes | None


def read(text: str, source: str) -> Bundle | str:
    """Read one bundle; or why it is none. Nothing in it is trusted yet."""
    try:
        document = json.loads(text)
        envelope = document["dsseEnvelope"]
        if envelope["payloadType"] != PAYLOAD_TYPE:
            return "the bundle holds no in-toto statement"
        signatures = tuple(_decoded(item["sig"]) for item in envelope["signatures"])
        material = document["verificationMaterial"]
        return Bundle(source, text, _decoded(envelope["payload"]), signatures, _certificate(material))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return "is no Sigstore bundle with a signed statement"


def _certificate(material: dict[str, Any]) -> bytes | None:
    if "certificate" in material:
        return _decoded(material["certificate"]["rawBytes"])
    if "x509CertificateChain" in material:
        return _decoded(material["x509CertificateChain"]["certificates"][0]["rawBytes"])
    return None


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from error


def signed(payload: bytes, key: EllipticCurvePrivateKey) -> bytes:
    """Sign a statement with a key; the bundle as JSON."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256

    signature = key.sign(_to_sign(payload), ec.ECDSA(SHA256()))
    document = {
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": _hint(key.public_key())}},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(signature).decode()}],
        },
    }
    return json.dumps(document).encode() + b"\n"


def new_key() -> EllipticCurvePrivateKey:
    """A key for as long as a process lives. Raises ConfigError where the package for keys is missing."""
    _needed()
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def public_pem(key: EllipticCurvePrivateKey) -> bytes:
    """Its public key in PEM."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def signed_by(bundle: Bundle, key: EllipticCurvePublicKey) -> bool:
    """Whether one of the signatures is by this key."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256

    for signature in bundle.signatures:
        try:
            key.verify(signature, _to_sign(bundle.payload), ec.ECDSA(SHA256()))
        except InvalidSignature:  # by another key
            continue
        return True
    return False


def _to_sign(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def _hint(key: EllipticCurvePublicKey) -> str:
    return base64.b64encode(hashlib.sha256(_der(key)).digest()).decode()


def fingerprint(key: EllipticCurvePublicKey) -> str:
    """`sha256:…` of a public key (DER of its SubjectPublicKeyInfo)."""
    return "sha256:" + hashlib.sha256(_der(key)).hexdigest()


def _der(key: EllipticCurvePublicKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def public_key(data: bytes, source: str) -> EllipticCurvePublicKey:
    """A public key in PEM.

    Raises:
        ConfigError: not one, or not of the kind cosign makes.
    """
    _needed()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    if b"PRIVATE KEY" in data:
        raise ConfigError(f"{source}: is a private key; verifying wants the public one")
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{source}: is no public key in PEM") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigError(f"{source}: must be an ECDSA key on the curve P-256, as cosign and openssl make them")
    return key


def private_key(path: Path, password: str | None) -> EllipticCurvePrivateKey:
    """A private key in PEM (PKCS #8 or SEC 1).

    Raises:
        ConfigError: not one, another kind, or another password.
    """
    _needed()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data = read_file(path)
    if b"ENCRYPTED" not in data:
        password = None  # a password that is not needed is no mistake of this key
    try:
        key = load_pem_private_key(data, None if password is None else password.encode())
    except TypeError as error:
        raise ConfigError(f"{path}: is encrypted: put its password into SERVEGATE_KEY_PASSWORD") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{path}: is no private key in PEM, or the password is another") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigError(f"{path}: must be an ECDSA key on the curve P-256, as cosign and openssl make them")
    return key


def _needed() -> None:
    if importlib.util.find_spec("cryptography") is None:
        raise ConfigError("keys need the package cryptography: pip install 'servegate[verdicts]'")


def read_file(path: Path) -> bytes:
    """A small file. Raises ConfigError when it cannot be read or is absurdly large."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_BYTES // 2**20} MiB")
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
