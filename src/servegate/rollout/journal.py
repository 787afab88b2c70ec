"""JSON Lines files that are appended to while their writers may be killed: whole lines or none."""

from __future__ import annotations

import os
from pathlib import Path

from servegate.errors import InfrastructureError

_BLOCK = 65536


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


def last_line(path: Path) -> str | None:
    """The last whole line of such a file; None when there is none.

    Raises:
        InfrastructureError: the file cannot be read.
    """
    try:
        with path.open("rb") as stream:
            end = stream.seek(0, os.SEEK_END)
            found = b""
            while end > 0:
                start = max(0, end - _BLOCK)
                stream.seek(start)
                found = stream.read(end - start) + found
                lines = found.split(b"\n")
                if len(lines) > 2 or start == 0:
                    whole = [line for line in lines[:-1] if line]
                    return whole[-1].decode("utf-8", "replace") if whole else None
                end = start
    except FileNotFoundError:  # nothing was written yet
        return None
    except OSError as error:
        raise InfrastructureError(f"{path}: cannot be read: {error.strerror}") from error
    return None
