"""The records of a run while it runs: appended as they come, so that whatever ends the run, what was paid for is kept.

A folder holds `run.json` (what is being asked of whom), `records.jsonl` and, in the end, `report.json`. Resuming is
allowed only where nothing that could change a number differs; a line torn by a kill is dropped.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from io import FileIO
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from servegate.contract import Contract, Sha256
from servegate.errors import ConfigError, InfrastructureError
from servegate.report.model import Conditions
from servegate.report.records import EvalRecord, to_line, write_records

RUN, RECORDS, REPORT = "run.json", "records.jsonl", "report.json"
Key = tuple[str, int, str]
# How much is asked: what an extension may change.
_AMOUNT = frozenset(("limit", "repeats"))


class RunState(Contract):
    """What must be the same for a run to go on."""

    schema_version: Literal[1] = 1
    suite: str
    conditions: Conditions
    release: Sha256 | None = None
    model: str | None = None
    engine_version: str | None = None


class Journal:
    """Records of one run, in the order they came.

    Attributes:
        records: everything measured so far, also by the run that is resumed.
    """

    def __init__(self, folder: Path, stream: FileIO, records: list[EvalRecord]) -> None:
        self.folder, self.records = folder, records
        self._stream = stream

    @property
    def done(self) -> set[Key]:
        """Items and repeats that need not be asked again."""
        return {key_of(record) for record in self.records}

    def append(self, record: EvalRecord) -> None:
        """Keep a record, in memory and on disk. Raises InfrastructureError when the disk refuses."""
        self.records.append(record)
        line = to_line(record).encode()
        try:
            written = self._stream.write(line)
        except OSError as error:
            raise InfrastructureError(f"{self.folder / RECORDS}: cannot be written: {error.strerror}") from error
        if written != len(line):
            raise InfrastructureError(f"{self.folder / RECORDS}: cannot be written: no space left")

    def finish(self, order: Sequence[Key]) -> str:
        """Put the records in the order of the dataset and return the digest of the file."""
        place = {key: index for index, key in enumerate(order)}
        self.records.sort(key=lambda record: place.get(key_of(record), len(place)))
        return write_records(self.folder / RECORDS, self.records)


def key_of(record: EvalRecord) -> Key:
    """What names a record within a run."""
    return (record.id, record.repeat, record.item_sha256)


@contextlib.contextmanager
def opened(folder: Path, state: RunState, resume: bool, extend: bool = False) -> Iterator[Journal]:
    """Begin a run in a folder, or go on with the one that is there; `extend`: with more items or repeats than it had.

    A report of an earlier run is removed first: a folder never holds records of one run and the report of another.

    Raises:
        ConfigError: another run is writing there, or there is nothing to resume, or it was another run.
        InfrastructureError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A folder of its own is locked, not a file: files are replaced.
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise InfrastructureError(f"{folder}: cannot be written: {error.strerror}") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"{folder}: another run is writing there; choose another --output") from error
        records = _resumed(folder, state, _AMOUNT if extend else frozenset()) if resume or extend else []
        try:
            (folder / REPORT).unlink(missing_ok=True)
            # Rewritten whole: a torn last line is gone, and so is what will be asked again.
            write_records(folder / RECORDS, records)
            state.write(folder / RUN)
            # Without a buffer: what is appended is with the system, and a full disk is told once.
            stream = (folder / RECORDS).open("ab", buffering=0)
        except OSError as error:
            raise InfrastructureError(f"{folder}: cannot be written: {error.strerror}") from error
        with stream:
            yield Journal(folder, stream, records)
    finally:
        os.close(handle)


def _resumed(folder: Path, state: RunState, free: frozenset[str]) -> list[EvalRecord]:
    if not (folder / RUN).exists():
        raise ConfigError(f"{folder}: holds no run to resume")
    before = RunState.read(folder / RUN)
    old, new = _flat(before), _flat(state)
    changed = sorted(key for key in (old.keys() | new.keys()) - free if old.get(key) != new.get(key))
    if changed:
        what = "; ".join(f"{key}: {old.get(key)} there, {new.get(key)} now" for key in changed)
        raise ConfigError(f"{folder}: the run there is another one and cannot be resumed: {what}")
    if free and not _within(old, new):
        raise ConfigError(f"{folder}: the run there asks for more already; choose another --output or a larger number")
    # What has no score was not measured, so it is asked again.
    return [record for record in _readable(folder / RECORDS) if record.score is not None]


def _within(old: dict[str, object], new: dict[str, object]) -> bool:
    """Whether a run asks for nothing that the other does not."""
    (old_limit, old_repeats), (new_limit, new_repeats) = (
        [float(str(run.get(key, "inf"))) for key in ("limit", "repeats")] for run in (old, new)
    )
    return old_limit <= new_limit and old_repeats <= new_repeats


def _flat(state: RunState) -> dict[str, object]:
    data = state.model_dump(mode="json")
    conditions = data.pop("conditions")
    return {**data, **conditions.pop("other"), **conditions}


def _readable(path: Path) -> Iterator[EvalRecord]:
    """Records of a file whose last line may be torn.

    Raises:
        ConfigError: the file cannot be read, or another line than the last is no record.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        if line:
            try:
                record = EvalRecord.model_validate_json(line)
            except ValidationError as error:
                if number == len(lines):  # torn: the writer was killed
                    return
                raise ConfigError(f"{path}:{number}: not an EvalRecord") from error
            yield record
