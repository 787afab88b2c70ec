"""The edge of verdicts that travel: signs them, finds them in files and registries, checks who signed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from servegate.errors import ConfigError, ServegateError
from servegate.gates import bundle as bundles
from servegate.gates import certificate
from servegate.gates.bundle import Bundle
from servegate.gates.cosign import Cosign
from servegate.gates.statement import Attested, parse, predicate, statement
from servegate.gates.trust import Signer, Trust
from servegate.gates.verify import Emergency, LeftOut, Signed, SignedBy, Verification, verify
from servegate.release import Release
from servegate.report.verdict import Verdict

PASSWORD = "SERVEGATE_KEY_PASSWORD"  # noqa: S105  the name of a variable
_COSIGN_KEYS = (b"ENCRYPTED SIGSTORE PRIVATE KEY", b"ENCRYPTED COSIGN PRIVATE KEY")
_MAX_FILES = 10_000
_MAX_BUNDLES = 1000


@dataclass(frozen=True)
class Places:
    """Where verdicts are looked for.

    Attributes:
        files: bundles (one per file, or one per line in .jsonl), or folders of them.
        registry: also ask the registry of the release's image.
    """

    files: tuple[Path, ...] = ()
    registry: bool = False


def attest(
    verdict: Verdict,
    release: Release,
    *,
    key: str | None,
    drill: str | None,
    now: float,
    by: str,
    cosign: Cosign,
    signing_config: Path | None = None,
) -> bytes:
    """Sign a verdict on a release; the bundle as JSON.

    Args:
        key: private key: a file in PEM, or what cosign takes; None: keyless.
        drill: why this is a drill; None: it is none.
        now: seconds since the Unix epoch.
        by: who asks for it.
        signing_config: services cosign uses.

    Raises:
        ConfigError: the verdict is not on the release, or the key is none.
        InfrastructureError: cosign failed.
    """
    payload = statement(predicate(verdict, release, drill=drill, now=now, by=by), release)
    if key is None or "://" in key or _cosigns(Path(key)):
        return cosign.sign(payload, key=key, signing_config=signing_config)
    return bundles.signed(payload, bundles.private_key(Path(key), os.environ.get(PASSWORD)))


def _cosigns(path: Path) -> bool:
    data = bundles.read_file(path)
    return any(head in data for head in _COSIGN_KEYS)


def check(
    release: Release | str,
    places: Places,
    trust: Trust,
    *,
    now: float,
    cosign: Cosign,
    drills: bool = False,
    emergency: Emergency | None = None,
) -> tuple[Verification, Verdict | None]:
    """Find the verdicts on a release and decide whether it may be rolled out; the answer, and the verdict that decided.

    Args:
        release: the release, or its digest alone.
        trust: as `load_trust` gives it.
        now: seconds since the Unix epoch.
        drills: whether this is a place for drills.
        emergency: of a rollback that cannot wait.

    Raises:
        ConfigError: a key cannot be read, a registry is to be asked and the release names no image, no cosign.
        InfrastructureError: the registry cannot be asked.
    """
    digest = release.identity() if isinstance(release, Release) else release
    image = release.image if isinstance(release, Release) else None
    if places.registry and image is None:
        raise ConfigError("the release names no image: there is no registry to ask; give --verdict")
    found: list[Signed] = []
    left_out: list[LeftOut] = []
    checker = _Checker(trust, cosign)
    texts = list(_in_files(places.files))
    if places.registry and image is not None:
        where = f"{image.repository}@{image.digest}"
        try:
            texts += [
                (f"{where} attestation {number}", text)
                for number, text in enumerate(cosign.attached(image)[:_MAX_BUNDLES], 1)
            ]
        except ServegateError as error:
            if emergency is None:
                raise
            left_out.append(LeftOut(source=where, reason=str(error)))
    for source, text in texts:
        bundle = bundles.read(text, source)
        if isinstance(bundle, str):
            left_out.append(LeftOut(source=source, reason=bundle))
            continue
        result = checker.check(bundle)
        if isinstance(result, str):
            left_out.append(LeftOut(source=source, reason=result))
        else:
            found.append(result)
    return verify(
        found,
        left_out,
        trust,
        release=digest,
        name=release.name if isinstance(release, Release) else None,
        image=None if image is None else image.digest,
        now=now,
        drills=drills,
        emergency=emergency,
    )


def _in_files(files: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """(where, text) of everything that may be a bundle."""
    for given in files:
        if not given.exists():
            raise ConfigError(f"{given}: no such file or folder")
        paths = sorted(given.rglob("*.json*"))[:_MAX_FILES] if given.is_dir() else [given]
        for path in paths:
            if not path.is_file():
                continue
            text = bundles.read_file(path).decode("utf-8", "replace")
            if given.is_dir() and "dsseEnvelope" not in text:
                continue  # reports and verdicts may lie in the same folder
            lines = [line for line in text.splitlines() if line.strip()] if path.suffix == ".jsonl" else [text]
            for number, line in enumerate(lines[:_MAX_BUNDLES], 1):
                yield (f"{path}:{number}" if len(lines) > 1 else str(path)), line


class _Checker:
    """Whose is a bundle? Keys are read once."""

    def __init__(self, trust: Trust, cosign: Cosign) -> None:
        self._cosign, self._signers = cosign, trust.signers
        self._keys = {
            signer.name: bundles.public_key(bundles.read_file(Path(signer.key)), signer.key)
            for signer in trust.signers
            if signer.key is not None and "://" not in signer.key
        }

    def check(self, bundle: Bundle) -> Signed | str:
        read = parse(bundle.payload)
        if isinstance(read, str):
            return read
        attested, subjects = read
        reasons = []
        for signer in self._signers:
            by = self._by(bundle, signer, attested, subjects)
            if isinstance(by, SignedBy):
                return Signed(bundle.source, attested, subjects, by)
            if by:
                reasons.append(f"{signer.name}: {by}")
        return "signed by no accepted signer" + (f" ({'; '.join(reasons)})" if reasons else "")

    def _by(self, bundle: Bundle, signer: Signer, attested: Attested, subjects: frozenset[str]) -> SignedBy | str:
        if (signer.identity is None) is (bundle.certificate is not None):
            return ""  # a key and a certificate have nothing to say to each other
        if signer.name in self._keys:
            key = self._keys[signer.name]
            if not bundles.signed_by(bundle, key):
                return "the signature does not fit"
            return SignedBy(kind="key", name=signer.name, key=bundles.fingerprint(key))
        subject = attested.image or attested.verdict.release
        if subject is None or subject not in subjects:
            return "the statement is about neither the release nor its image"
        problem = self._cosign.verifies(bundle, signer, subject)
        if problem is not None:
            return problem
        if bundle.certificate is None:
            return SignedBy(kind="key", name=signer.name, key=signer.key)
        return SignedBy(kind="identity", name=signer.name, **certificate.facts(bundle.certificate))
