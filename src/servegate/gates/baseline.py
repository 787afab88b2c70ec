"""Baselines: the reports that candidates are compared with, blessed by a person, with the reason kept.

A folder that git and artifacts carry well: small JSON documents, each report once under its own digest.

    baseline.json            the blessing in force; replaced in one rename
    blessings/ID.json        every blessing there was; each names the one before it
    reports/ID/report.json   what was blessed, with its answers beside it

A blessing is the whole set of baselines after it, so one rename changes everything or nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field

from servegate.contract import Contract, Sha256
from servegate.errors import ConfigError
from servegate.gates.fingerprint import differences
from servegate.gates.noise import Noise, of_report
from servegate.gates.pairs import Answers
from servegate.gates.select import label
from servegate.report.format import clean, short_hash
from servegate.report.model import Report
from servegate.report.records import Epoch

Words = Annotated[str, Field(min_length=1, max_length=1000)]


class Blessed(Contract):
    """One report that candidates are compared with."""

    report: Sha256
    release: Sha256 | None = Field(None, description="that was measured")
    release_name: str | None = None
    measured_at: Epoch
    again: Sha256 | None = Field(None, description="the report of a second run of the same model (A/A)")
    noise: tuple[Noise, ...] = Field((), description="how much the model differs from itself, per measure")
    blessed_at: Epoch
    author: Words
    reason: Words
    allowed: tuple[str, ...] = Field((), description="conditions that were allowed to differ from the baseline before")

    @property
    def folder(self) -> str:
        """Where the report is, below `reports`."""
        return folder_of(self.report)


class Blessing(Contract):
    """What one call of `servegate gate bless` made the baselines, and the call before it."""

    schema_version: Literal[1] = 1
    at: Epoch
    author: Words
    reason: Words
    reports: dict[str, Blessed] = Field(description="kind/name → the baseline in force for it")
    changed: tuple[str, ...] = Field(description="those that this call changed")
    previous: Sha256 | None = Field(None, description="digest of the blessing before")


def folder_of(digest: str) -> str:
    """Name of a folder for a digest."""
    return digest.removeprefix("sha256:")[:16]


def bless(
    reports: Sequence[Report],
    again: Sequence[Report],
    before: Blessing | None,
    old: Mapping[str, Report],
    answers: Answers,
    *,
    author: str,
    reason: str,
    allow: Collection[str] = (),
    now: float,
) -> Blessing:
    """Make reports the baselines of their kind and name. Pure.

    Args:
        reports: what was measured.
        again: second runs of the same models, measured the same way.
        before: the blessing in force; None: the first.
        old: the reports in force, by kind/name, for comparing conditions.
        answers: records behind `reports` and `again`, by digest of the sidecar.
        allow: conditions that may differ from the baseline that is replaced, by name.
        now: seconds since the Unix epoch.

    Raises:
        ConfigError: a report is void, measured nothing, is in force already or stands twice; conditions differ that
            are not allowed to; a second run is of nothing that is blessed, or was not measured alike.
    """
    if not author.strip() or not reason.strip():
        raise ConfigError("a blessing needs an author and a reason")
    seconds = _named(again, "second run")
    entries: dict[str, Blessed] = {}
    for name, report in _named(reports, "report").items():
        _valid(report)
        twin = seconds.pop(name, None)
        if twin is not None:
            _alike(report, twin)
        if name in old:
            _comparable(name, report, old[name], allow)
        entry = Blessed(
            report=report.identity(),
            release=report.subject.release,
            release_name=report.subject.name,
            measured_at=report.finished,
            again=None if twin is None else twin.identity(),
            noise=of_report(report, twin, answers),
            blessed_at=now,
            author=author.strip(),
            reason=reason.strip(),
            allowed=tuple(sorted(allow)) if name in old else (),
        )
        present = None if before is None else before.reports.get(name)
        if present is not None and (present.report, present.again) == (entry.report, entry.again):
            raise ConfigError(f"{name}: {short_hash(entry.report)} is the baseline already")
        entries[name] = entry
    if seconds:
        raise ConfigError(f"second run of {', '.join(seconds)}: no such report is blessed with it")
    return Blessing(
        at=now,
        author=author.strip(),
        reason=reason.strip(),
        reports={**(before.reports if before else {}), **entries},
        changed=tuple(entries),
        previous=None if before is None else before.identity(),
    )


def _named(reports: Sequence[Report], what: str) -> dict[str, Report]:
    found: dict[str, Report] = {}
    for report in reports:
        name = label(report)
        if name in found:
            raise ConfigError(f"two {what}s are {name}: a baseline is one")
        found[name] = report
    return found


def _valid(report: Report) -> None:
    void = report.void
    if void is not None:
        raise ConfigError(f"{label(report)} is void and cannot be blessed: {void.code}: {clean(void.message, 300)}")
    if all(measure.value is None or measure.n == 0 for measure in report.measures):
        raise ConfigError(f"{label(report)} measured nothing and cannot be blessed")


def _alike(report: Report, twin: Report) -> None:
    if twin.void is not None:
        raise ConfigError(f"the second run of {label(report)} is void: {twin.void.code}")
    if twin.identity() == report.identity():
        raise ConfigError(f"the second run of {label(report)} is the first")
    if twin.subject.release != report.subject.release:
        of = short_hash(twin.subject.release)
        raise ConfigError(f"the second run of {label(report)} is of another release, {of}: that is no A/A run")
    unlike = differences(twin, report)
    if unlike:
        raise ConfigError(f"the second run of {label(report)} was not measured alike: {'; '.join(unlike)}")


def _comparable(name: str, report: Report, old: Report, allow: Collection[str]) -> None:
    unlike = differences(report, old, allow)
    if unlike:
        raise ConfigError(
            f"{name}: not measured like the baseline it replaces ({'; '.join(unlike)}); "
            "if that is meant, allow each by name: " + " ".join(f"--allow {item.partition(':')[0]}" for item in unlike)
        )
