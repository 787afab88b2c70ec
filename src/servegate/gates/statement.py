"""What is signed when a verdict travels: an in-toto statement that binds it to a release.

Statement v1 of the in-toto attestation framework (github.com/in-toto/attestation, spec/v1). Its subjects are the
release, by the digest of its document, and the image, where the release has one: so the statement can be found at the
image in a registry and is still about this release alone. The same image with other arguments is another release.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from servegate.contract import Contract, Sha256
from servegate.errors import ConfigError
from servegate.release import Release
from servegate.report.format import clean, short_hash
from servegate.report.records import Epoch
from servegate.report.verdict import Verdict

STATEMENT = "https://in-toto.io/Statement/v1"
# cosign writes the type before it even where a newer one would do.
_STATEMENTS = (STATEMENT, "https://in-toto.io/Statement/v0.1")
PREDICATE = "https://servegate.dev/verdict/v1"


class Attested(Contract):
    """The predicate: the verdict, and what it was given for."""

    schema_version: Literal[1] = 1
    verdict: Verdict
    image: Sha256 | None = Field(None, description="digest of the image of the release")
    drill: Annotated[str, Field(min_length=1, max_length=1000)] | None = Field(
        None, description="why this verdict is a drill's; it counts only where drills are allowed"
    )
    attested_at: Epoch
    attested_by: str


def predicate(verdict: Verdict, release: Release, *, drill: str | None, now: float, by: str) -> Attested:
    """The predicate for a verdict on a release.

    Raises:
        ConfigError: the verdict is on no release, or on another one.
    """
    if verdict.release is None:
        raise ConfigError("the verdict is on no release: gate reports of a release, or say which with --release")
    if verdict.release != release.identity():
        raise ConfigError(f"the verdict is on release {short_hash(verdict.release)}, not on {release.label()}")
    image = None if release.image is None else release.image.digest
    return Attested(verdict=verdict, image=image, drill=drill, attested_at=now, attested_by=by)


def statement(attested: Attested, release: Release) -> bytes:
    """The statement as JSON."""
    subjects: list[dict[str, Any]] = [_subject(f"release:{release.name}", release.identity())]
    if release.image is not None:
        subjects.insert(0, _subject(release.image.repository, release.image.digest))
    document = {
        "_type": STATEMENT,
        "subject": subjects,
        "predicateType": PREDICATE,
        "predicate": attested.model_dump(mode="json"),
    }
    return json.dumps(document, ensure_ascii=False, allow_nan=False).encode()


def _subject(name: str, digest: str) -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": digest.removeprefix("sha256:")}}


def parse(payload: bytes) -> tuple[Attested, frozenset[str]] | str:
    """Read a signed statement.

    Returns:
        The predicate and the digests of the subjects; or why this is no statement of ours.
    """
    try:
        document = json.loads(payload)
    except (ValueError, RecursionError):
        return "the signed content is not JSON"
    if not isinstance(document, dict) or document.get("_type") not in _STATEMENTS:
        return "the signed content is no in-toto statement"
    if document.get("predicateType") != PREDICATE:
        return f"a statement of another kind: {clean(document.get('predicateType'), 120)}"
    try:
        # By way of JSON, so that the rules for JSON hold: 1.0 is no whole number, a list is a tuple.
        attested = Attested.model_validate_json(json.dumps(document.get("predicate")))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        return f"not a verdict this version of servegate can read: {where}: {first['msg']}"
    return attested, frozenset(_digests(document.get("subject")))


def _digests(subjects: object) -> list[str]:
    found = []
    for subject in subjects if isinstance(subjects, list) else ():
        digest = subject.get("digest") if isinstance(subject, Mapping) else None
        value = digest.get("sha256") if isinstance(digest, Mapping) else None
        if isinstance(value, str):
            found.append(f"sha256:{value}")
    return found
