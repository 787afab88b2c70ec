"""What was done past the rules is written down before it is done: who, when, why, and what the rules had said."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field

from servegate.contract import Contract, Sha256, canonical_json
from servegate.errors import InfrastructureError
from servegate.gates.verify import Verification
from servegate.report.records import Epoch


class AuditLine(Contract):
    """One line of the audit file."""

    schema_version: Literal[1] = 1
    at: Epoch
    event: Literal["emergency", "override"]
    by: str
    reason: str
    release: Sha256
    release_name: str | None = None
    accepted: bool
    verdict: Sha256 | None = Field(None, description="the verdict it rests on; none: there was none that counts")
    said: str = Field(description="what the rules said")


def write_down(path: Path, found: Verification) -> None:
    """Append a verification in an emergency to the audit file, and wait until it is on the disk.

    Raises:
        InfrastructureError: it cannot be written; then nothing may be done.
    """
    asked = found.emergency
    assert asked is not None
    line = AuditLine(
        at=found.checked_at,
        event="emergency" if found.overridden is None else "override",
        by=asked.by,
        reason=asked.reason,
        release=found.release,
        release_name=found.release_name,
        accepted=found.accepted,
        verdict=found.verdict,
        said=found.overridden or found.reason,
    )
    data = canonical_json(line.model_dump(mode="json")) + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as stream:
            end = stream.seek(0, os.SEEK_END)
            if end:
                stream.seek(end - 1)
                if stream.read(1) != b"\n":  # a writer that was killed left half a line: it stays, and ends here
                    data = b"\n" + data
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise InfrastructureError(
            f"{path}: cannot be written: {error.strerror}; what cannot be written down is not done"
        ) from error
