"""The policy: what must hold before a release may carry traffic, as a file a team edits.

The file keeps people's words (`expect: ttft p95 < 500ms`); they are parsed while it is read, so that a wrong unit or
a check that can never fail is an error with file and line, not a surprise in the middle of a release.
"""

from __future__ import annotations

import difflib
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from servegate.config import Config
from servegate.contract import Sha256, canonical_json, sha256
from servegate.gates.checks import Check, ReportName, age
from servegate.gates.prices import Prices
from servegate.gates.units import seconds


class Requirement(Config):
    """A report that must be there for any verdict to be given."""

    report: ReportName
    younger_than: Annotated[str, AfterValidator(age)] | None = Field(
        None, description="greatest age since it finished", examples=["30min", "12h", "7d"]
    )
    of_release: bool = Field(True, description="it must be of the release that is judged")
    image: Sha256 | None = Field(None, description="digest of the image of the release that is judged")
    dataset: Sha256 | None = Field(None, description="digest of the data set it was measured on")

    @property
    def id(self) -> str:
        """How it is named in a verdict."""
        return f"require:{self.report}"

    @property
    def max_age(self) -> float | None:
        """Greatest age in seconds."""
        return None if self.younger_than is None else seconds(self.younger_than)


class Group(Config):
    """Checks of a kind, such as one per language, whose false alarms are counted together."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
    checks: tuple[str, ...] = Field(description="ids of checks against a baseline")
    correction: Literal["holm", "benjamini-hochberg"] = Field(
        "holm",
        description="holm: any false FAIL in the group happens in at most 1 − confidence of the runs; "
        "benjamini-hochberg: of all FAILs at most that share is false",
    )


class Policy(Config):
    """What must hold before a release may carry traffic."""

    version: Literal[1]
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
    description: str = Field("", max_length=2000)
    require: tuple[Requirement, ...] = ()
    prices: Prices | None = Field(None, description="what turns tokens and time into cost, for checks of cost")
    # The length is checked below: pydantic would count a check with a mistake as missing and say so as well.
    checks: Annotated[tuple[Check, ...], Field(json_schema_extra={"minItems": 1, "maxItems": 500})]

    groups: tuple[Group, ...] = ()

    @model_validator(mode="after")
    def _can_fail(self) -> Policy:
        if not 1 <= len(self.checks) <= 500:
            raise ValueError(f"a policy has 1 to 500 checks, not {len(self.checks)}")
        for what, names in (
            ("check id", [check.id for check in self.checks]),
            ("requirement", [requirement.report for requirement in self.require]),
            ("group", [group.id for group in self.groups]),
            ("check in groups", [name for group in self.groups for name in group.checks]),
        ):
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise ValueError(f"{what} {twice!r} stands twice")
        if all(check.severity == "warn" for check in self.checks):
            raise ValueError("every check only warns: this policy could never fail")
        for group in self.groups:
            self._check_group(group)
        return self

    def _check_group(self, group: Group) -> None:
        checks = {check.id: check for check in self.checks}
        if len(group.checks) < 2:
            raise ValueError(f"group {group.id!r} has {len(group.checks)} checks; there is nothing to correct")
        alphas = set()
        for name in group.checks:
            if name not in checks:
                near = difflib.get_close_matches(name, checks, n=1)
                raise ValueError(
                    f"group {group.id!r}: no check {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")
                )
            baseline = checks[name].baseline
            if baseline is None:
                raise ValueError(f"group {group.id!r}: check {name!r} is not against a baseline")
            if baseline.looks is not None:
                raise ValueError(f"group {group.id!r}: check {name!r} has looks; corrections and looks do not combine")
            alphas.add(baseline.alpha)
        if len(alphas) > 1:
            raise ValueError(f"group {group.id!r}: its checks have different confidences")

    def identity(self) -> str:
        """`sha256:…` of what it says; blanks, comments, the order of keys and spelled-out defaults do not count."""
        return sha256(canonical_json(self.model_dump(mode="json", exclude_defaults=True)))
