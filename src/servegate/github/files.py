"""The files GitHub reads after a step: its outputs and its part of the job summary."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

from servegate.errors import InfrastructureError
from servegate.report.markdown import SUMMARY_BYTES

_LEAST = 1024


def append_outputs(path: Path, outputs: Mapping[str, str], token: Callable[[], str] = secrets.token_hex) -> None:
    """Append step outputs, each between delimiters nobody can guess.

    Args:
        outputs: name → value, which may have any number of lines.
        token: makes a delimiter.

    Raises:
        InfrastructureError: the file cannot be written.
    """
    entries = []
    for name, value in outputs.items():
        delimiter = f"servegate_{token()}"
        while delimiter in value or delimiter in name:
            delimiter = f"servegate_{token()}"
        entries.append(f"{name}<<{delimiter}\n{value}\n{delimiter}\n")
    _append(path, "".join(entries))


def append_summary(path: Path, text: Callable[[int], str]) -> bool:
    """Append to the step's summary what fits in the room that is left.

    Args:
        text: makes the text from the bytes it may have.

    Returns:
        Whether there was room.

    Raises:
        InfrastructureError: the file cannot be written.
    """
    room = SUMMARY_BYTES - (path.stat().st_size if path.exists() else 0)
    shown = text(room) if room >= _LEAST else ""
    if not shown or len(shown.encode()) + 1 > room:
        return False
    _append(path, shown + "\n")
    return True


def _append(path: Path, text: str) -> None:
    try:
        with path.open("ab") as stream:
            stream.write(text.encode())
    except OSError as error:
        raise InfrastructureError(f"{path}: cannot be written: {error.strerror}") from error
