"""Whose verdicts count, under which policy, and for how long: the file behind `servegate gate verify`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from servegate.config import Config, load
from servegate.contract import Sha256
from servegate.errors import ConfigError
from servegate.gates.checks import age
from servegate.gates.units import seconds

DRILL_LABEL = ("servegate.dev/drills", "allowed")
"""The label of a Kubernetes namespace in which verdicts of drills count."""


class Signer(Config):
    """Somebody whose verdicts count: a key, or whoever a certificate authority says signed (keyless)."""

    name: Annotated[str, Field(min_length=1, max_length=100)] = Field(description="for people")
    key: Annotated[str, Field(min_length=1, max_length=4096)] | None = Field(
        None, description="public key: a file in PEM, relative to this one; or what cosign takes, such as awskms://…"
    )
    identity: Annotated[str, Field(min_length=1, max_length=2048)] | None = Field(
        None,
        description="of the certificate; * stands for anything",
        examples=["https://github.com/acme/chat/.github/workflows/release.yml@refs/tags/v*"],
    )
    issuer: Annotated[str, Field(min_length=1, max_length=2048)] | None = Field(
        None, description="who vouched for the identity", examples=["https://token.actions.githubusercontent.com"]
    )
    trusted_root: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="trusted_root.json of a Sigstore of your own, relative to this file; default: the public one"
    )
    transparency_log: bool = Field(True, description="of an identity: its signatures must be in the transparency log")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.key is None) == (self.identity is None):
            raise ValueError("a signer is either a `key` or an `identity` with its `issuer`")
        if self.key is not None and (self.issuer or self.trusted_root or not self.transparency_log):
            raise ValueError("`issuer`, `trusted_root` and `transparency_log` belong to an `identity`, not to a `key`")
        if self.identity is not None and self.issuer is None:
            raise ValueError("an `identity` without its `issuer` could be anybody's")
        if self.identity is not None and not self.identity.strip("*"):
            raise ValueError("`identity` would accept everybody")
        if not self.transparency_log and self.trusted_root is None:
            raise ValueError("only a Sigstore of your own (`trusted_root`) may do without a transparency log")
        return self

    @property
    def pattern(self) -> str:
        """`identity` as a regular expression that RE2 and Python read alike."""
        return "^" + ".*".join(re.escape(part) for part in (self.identity or "").split("*")) + "$"


class Accepted(Config):
    """A policy under which a verdict counts."""

    name: Annotated[str, Field(min_length=1, max_length=63)]
    sha256: Sha256 | None = Field(None, description="digest of the policy, as a verdict states it")
    file: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="the policy as it is now, relative to this file: verdicts under an earlier text are stale"
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if self.sha256 is not None and self.file is not None:
            raise ValueError("give `sha256` or `file`, not both")
        return self


class Trust(Config):
    """What makes a verdict count."""

    version: Literal[1]
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
    # The length is checked below: pydantic would count a signer with a mistake as missing and say so as well.
    signers: Annotated[tuple[Signer, ...], Field(json_schema_extra={"minItems": 1, "maxItems": 50})]
    policies: Annotated[tuple[Accepted, ...], Field(max_length=50)] = Field(
        (), description="the verdict is under one of these; none: under any"
    )
    max_age: Annotated[str, AfterValidator(age)] | None = Field(
        None, description="greatest age of a verdict; none: any", examples=["24h", "14d"]
    )

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if not 1 <= len(self.signers) <= 50:
            raise ValueError(f"there are 1 to 50 signers, not {len(self.signers)}")
        names = [item.name for item in self.signers]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"signer {twice!r} stands twice")
        return self

    @property
    def max_seconds(self) -> float | None:
        """`max_age` in seconds."""
        return None if self.max_age is None else seconds(self.max_age)


def load_trust(path: Path) -> Trust:
    """Read a trust file; names of files in it become relative to where we are, policies' files become digests.

    Raises:
        ConfigError: with every problem found, one line each.
    """
    from servegate.gates.files import load_policy

    trust = load(path, Trust)
    signers = tuple(
        signer.model_copy(
            update={
                "key": signer.key if signer.key is None or "://" in signer.key else str(path.parent / signer.key),
                "trusted_root": None if signer.trusted_root is None else str(path.parent / signer.trusted_root),
            }
        )
        for signer in trust.signers
    )
    policies = []
    for item in trust.policies:
        policy = None if item.file is None else load_policy(path.parent / item.file)
        if policy is not None and policy.name != item.name:
            raise ConfigError(f"{path}: policies: {item.file} is policy {policy.name!r}, not {item.name!r}")
        policies.append(item if policy is None else Accepted(name=item.name, sha256=policy.identity()))
    return trust.model_copy(update={"signers": signers, "policies": tuple(policies)})


def drills_allowed(labels: Mapping[str, str]) -> bool:
    """Whether a namespace with these labels is for drills."""
    return labels.get(DRILL_LABEL[0]) == DRILL_LABEL[1]
