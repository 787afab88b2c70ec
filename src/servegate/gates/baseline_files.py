"""Baselines on disk. Every write ends in one rename: a killed `bless` leaves the baselines as they were."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from servegate.errors import ConfigError, InfrastructureError
from servegate.gates import baseline
from servegate.gates.baseline import Blessing, folder_of
from servegate.gates.checks import condition_name
from servegate.gates.noise import Noise
from servegate.gates.select import label
from servegate.report.model import Report

DEFAULT = Path("gates/baselines")
_CURRENT = "baseline.json"


@dataclass(frozen=True)
class Stored:
    """Baselines as they are in force.

    Attributes:
        reports, again: files of the reports and of their second runs.
        noise: by digest of the report.
    """

    reports: tuple[Path, ...]
    again: tuple[Path, ...]
    noise: dict[str, tuple[Noise, ...]]


def current(folder: Path) -> Blessing | None:
    """The blessing in force; None before the first.

    Raises:
        ConfigError: what is there is no blessing.
    """
    path = folder / _CURRENT
    return Blessing.read(path) if path.exists() else None


def stored(folder: Path) -> Stored:
    """The files of the baselines in force.

    Raises:
        ConfigError: the folder holds no baselines, or one of them is missing or was changed.
    """
    blessing = current(folder)
    if blessing is None:
        raise ConfigError(f"{folder}: no baselines there: `servegate gate bless` writes the first")
    reports, again, noise = [], [], {}
    for name, item in sorted(blessing.reports.items()):
        reports.append(_checked(folder, name, item.report))
        if item.again is not None:
            again.append(_checked(folder, name, item.again))
        noise[item.report] = item.noise
    return Stored(tuple(reports), tuple(again), noise)


def _checked(folder: Path, name: str, digest: str) -> Path:
    path = folder / "reports" / folder_of(digest) / "report.json"
    report = Report.read(path)
    if report.identity() != digest or label(report) != name:
        raise ConfigError(f"{path}: is not the {name} that was blessed ({digest})")
    return path


def found(given: Sequence[Path], *, default: Path = DEFAULT) -> Stored:
    """Reports to compare with, from what a person named: files of reports, or a folder of baselines.

    Nothing named: the folder at its usual place, where there is one.

    Raises:
        ConfigError: a folder holds no baselines, or one of them is missing or was changed.
    """
    folders = [path for path in given if path.is_dir()]
    if not given and (default / _CURRENT).exists():
        folders = [default]
    files = [path for path in given if not path.is_dir()]
    again: list[Path] = []
    noise: dict[str, tuple[Noise, ...]] = {}
    for folder in folders:
        kept = stored(folder)
        files += kept.reports
        again += kept.again
        noise |= kept.noise
    return Stored(tuple(files), tuple(again), noise)


def history(folder: Path) -> list[Blessing]:
    """All blessings, the one in force first. Raises ConfigError where one is missing or was changed."""
    lines = []
    blessing = current(folder)
    while blessing is not None:
        lines.append(blessing)
        digest = blessing.previous
        if digest is None:
            break
        path = _document(folder, digest)
        blessing = Blessing.read(path)
        if blessing.identity() != digest:
            raise ConfigError(f"{path}: was changed after it was written: it is not {digest}")
    return lines


def bless(
    folder: Path,
    reports: Sequence[Path],
    again: Sequence[Path],
    *,
    author: str,
    reason: str,
    allow: Collection[str],
    now: float,
) -> Blessing:
    """Make reports the baselines, all of them or none.

    Args:
        folder: of the baselines; made where it is missing.
        reports, again: files of reports and of second runs.
        author, reason, allow, now: see `baseline.bless`.

    Raises:
        ConfigError: see `baseline.bless`.
        InfrastructureError: no space, no permission.
    """
    from servegate.gates.files import load_answers, load_reports

    paths = [*reports, *again]
    given = load_reports(paths)
    answers = load_answers(paths, given)
    first = given[: len(reports)]
    for name in allow:
        try:
            condition_name(name)
        except ValueError as error:
            raise ConfigError(f"--allow: {error}") from error
    with _alone(folder):
        before = current(folder)
        wanted = {label(report) for report in first}
        held = before.reports if before else {}
        old = {name: Report.read(_checked(folder, name, held[name].report)) for name in held if name in wanted}
        blessing = baseline.bless(
            first, given[len(reports) :], before, old, answers, author=author, reason=reason, allow=allow, now=now
        )
        for left in (folder / "reports").glob(".new-*"):  # by a call that was killed; we are alone here
            shutil.rmtree(left, ignore_errors=True)
        for path, report in zip(paths, given, strict=True):
            _keep(folder, path, report)
        blessing.write(_document(folder, blessing.identity()))
        blessing.write(folder / _CURRENT)
    return blessing


def _document(folder: Path, digest: str) -> Path:
    return folder / "blessings" / f"{folder_of(digest)}.json"


def _keep(folder: Path, path: Path, report: Report) -> None:
    """Copy a report and its answers under the report's digest; whole or not at all."""
    place = folder / "reports" / folder_of(report.identity())
    if place.is_dir():
        return
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=place.parent) as name:
            new = Path(name) / "report"
            new.mkdir()
            for samples in report.samples:
                source = path.parent / samples.path
                if samples.record == "EvalRecord" and source.is_file():
                    target = new / samples.path
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(source, target)
            report.write(new / "report.json")
            for file in new.rglob("*"):
                _flush(file)
            new.rename(place)
        _flush(place.parent)
    except OSError as error:
        raise InfrastructureError(f"{place}: cannot be written: {error.strerror}") from error


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two people who bless at once do so one after the other; nothing is left in the folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise InfrastructureError(f"{folder}: cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
