"""What a rollout in a cluster leaves behind: audit trail and report, where they survive the pod that wrote them."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from servegate.contract import sha256, write_atomic
from servegate.errors import ConfigError, InfrastructureError, ServegateError
from servegate.report.model import Finding, Report, Samples
from servegate.report.records import CanaryTick
from servegate.rollout.canary_report import canary_report
from servegate.rollout.stores.config_map import ConfigMapStore
from servegate.rollout.stores.sqlite import SqliteStore

TRAIL, REPORT = "audit.jsonl", "report.json"
ROOM = 900_000
"""Bytes of the compressed trail; a ConfigMap takes 1 MiB."""
LARGEST = 256 * 2**20
"""Bytes of a trail; ROOM of them compressed are about 20 MB."""
EVERY = 60.0
"""Seconds after which the trail is kept although nothing was decided."""


class Keeper:
    """Keeps the trail of a rollout in its store: at every decision, and once a minute; the report at the end.

    Args:
        folder: where the trail is written.
        say: (level, message) for people: what cannot be kept ends no rollout.
    """

    def __init__(self, store: ConfigMapStore, folder: Path, say: Callable[[str, str], None]) -> None:
        self.store, self.folder, self.say = store, folder, say
        self._last = 0.0

    def restore(self, rollout: str) -> None:
        """Go on with the trail that a controller before us has kept; one that is here already stays."""
        path = self.folder / TRAIL
        if path.exists():
            return
        try:
            whose, files = self.store.kept()
            if whose == rollout and TRAIL in files:
                write_atomic(path, unpacked(files[TRAIL]))
        except ServegateError as error:
            self.say("warning", f"the audit trail of the controller before could not be read: {error}")

    def __call__(self, rollout: str, tick: CanaryTick) -> None:
        """After a tick: keep what is to be kept."""
        if tick.reason or tick.at >= self._last + EVERY:
            self.keep(rollout)
            self._last = tick.at

    def keep(self, rollout: str, *, ended: bool = False) -> None:
        """Keep the trail, and with `ended` the report."""
        try:
            trail = of(rollout, (self.folder / TRAIL).read_bytes())
            packed, whole = fitting(trail)
            files = {TRAIL: packed}
            if ended:
                report = self._report(trail, whole)
                files |= {} if report is None else {REPORT: gzip.compress(report.model_dump_json().encode(), mtime=0)}
            self.store.keep(rollout, files)
        except (ServegateError, OSError) as error:
            self.say("warning", f"the audit trail is not kept in the cluster: {error}")

    def _report(self, trail: bytes, whole: bool) -> Report | None:
        try:
            made = canary_report(self.folder / TRAIL, self.folder / REPORT)
        except ConfigError as error:  # the trail begins in the middle
            self.say("warning", f"no report: {error}")
            return None
        if not whole:
            return cut(made)
        samples = Samples(path=TRAIL, sha256=sha256(trail), record="AuditTick", n=trail.count(b"\n"))
        return made.model_copy(update={"samples": (samples,)})


def of(rollout: str, trail: bytes) -> bytes:
    """The lines of one rollout, in a trail that may have those of earlier ones too."""
    mark = f'"rollout":{json.dumps(rollout)}'.encode()
    return b"".join(line for line in trail.splitlines(keepends=True) if mark in line)


def fitting(trail: bytes, room: int = ROOM) -> tuple[bytes, bool]:
    """The trail compressed so that it fits, and whether it is whole. Its first line stays: it has plan and state."""
    packed = gzip.compress(trail, mtime=0)
    if len(packed) <= room:
        return packed, True
    first, *lines = trail.splitlines(keepends=True)
    while len(packed) > room and lines:
        del lines[: max(1, len(lines) // 8)]
        packed = gzip.compress(b"".join([first, *lines]), mtime=0)
    return packed, False


def unpacked(data: bytes) -> bytes:
    """What was compressed. Raises InfrastructureError when it is damaged, or far more than a rollout can leave."""
    reader = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        text = reader.decompress(data, LARGEST)
    except zlib.error as error:
        raise InfrastructureError(f"what the rollout has left is damaged: {error}") from error
    if not reader.eof:
        raise InfrastructureError("what the rollout has left is damaged: it breaks off, or is too large to be a trail")
    return text


def cut(report: Report) -> Report:
    """The report of a trail that is not kept whole: of all ticks, without the file they could be counted again from."""
    said = Finding(
        severity="warning",
        code="trail-cut",
        message="the audit trail did not fit into the store: its middle is missing, and it cannot be replayed",
    )
    return report.model_copy(update={"samples": (), "findings": (*report.findings, said)})


@dataclass(frozen=True)
class Left:
    """What a rollout has left: its id where that is known, trail and report as text; None: there is none."""

    rollout: str | None
    trail: bytes | None
    report: bytes | None


def left(store: ConfigMapStore | SqliteStore) -> Left:
    """What the last rollout has left.

    Raises:
        ConfigError: nothing.
        InfrastructureError: it cannot be read, or is damaged.
    """
    if isinstance(store, SqliteStore):
        found = Left(None, _read(store.path.with_name(TRAIL)), _read(store.path.with_name(REPORT)))
    else:
        rollout, files = store.kept()
        texts = {name: unpacked(data) for name, data in files.items()}
        found = Left(rollout, texts.get(TRAIL), texts.get(REPORT))
    if found.trail is None and found.report is None:
        raise ConfigError("no rollout has left a report here")
    return found


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InfrastructureError(f"{path}: cannot be read: {error.strerror}") from error
