"""What a controller keeps in the Store: the state, and the releases the state names by digest.

With both in one document a controller that starts again needs nothing from the one before. The role of a slot (stable
or candidate) stands nowhere else, so the next rollout begins from this document too.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from servegate.contract import Contract, Sha256, Slot
from servegate.errors import ConfigError, InfrastructureError
from servegate.release import Release
from servegate.report.records import Epoch
from servegate.rollout.model import State
from servegate.rollout.ports import Store


class Memory(Contract):
    """The document in the Store."""

    schema_version: Literal[1] = 1
    state: State
    releases: dict[Sha256, Release]

    def release_in(self, slot: str) -> Release:
        """The release that belongs into a slot."""
        return self.releases[self.state.slots[slot].release]


class HistoryLine(Contract):
    """One line of the history: what was decided when, and why."""

    schema_version: Literal[1] = 1
    at: Epoch
    rollout: str
    release: str = ""
    phase: str
    weights: dict[Slot, float]
    reason: str


def load(store: Store) -> tuple[Memory | None, int]:
    """The document and its version; (None, 0) before the first rollout.

    Raises:
        InfrastructureError: the store cannot be read, or what stands in it is not such a document.
    """
    text, version = store.load()
    if text is None:
        return None, version
    try:
        return Memory.model_validate_json(text), version
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InfrastructureError(
            f"the state in the store is damaged or of another version of servegate: {where}: {first['msg']}"
        ) from error


def history(store: Store) -> list[HistoryLine]:
    """All decisions, oldest first.

    Raises:
        ConfigError: a line is not one of ours.
    """
    lines = []
    for number, text in enumerate(store.history(), 1):
        try:
            lines.append(HistoryLine.model_validate_json(text))
        except ValidationError as error:
            raise ConfigError(f"line {number} of the history is not a decision") from error
    return lines


def append_line(path: Path, line: str) -> None:
    """Append one whole line to a JSON Lines file; half a line that a killed writer left is removed first.

    Raises:
        InfrastructureError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as stream:
            end = stream.seek(0, os.SEEK_END)
            if end:
                stream.seek(end - 1)
                if stream.read(1) != b"\n":
                    stream.seek(0)
                    stream.truncate(stream.read().rfind(b"\n") + 1)
            stream.write(line.encode())
    except OSError as error:
        raise InfrastructureError(f"{path}: cannot be written: {error.strerror}") from error
