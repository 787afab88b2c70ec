"""What the load process says about itself, in a file others may read at any time.

The numbers of a load test are only as good as the client that took them, so the client's own health is part of the
result: how late it was, how much of its core it used, and whether its loop stayed open.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from servegate.contract import Contract, Sha256
from servegate.errors import InfrastructureError
from servegate.report.records import Count, Epoch, Seconds


class ClientStatus(Contract):
    """State of the load process.

    `stopped`: ended by a signal; `gave-up`: the endpoint refused every connection for seconds; `failed`: see reason.
    """

    state: Literal["running", "finished", "stopped", "gave-up", "failed"]
    pid: Count
    client: str = Field(description="programs that send, with versions")
    profile_sha256: Sha256
    prompts_sha256: Sha256
    started: Epoch = Field(description="offset 0 of the schedule")
    updated: Epoch
    sent: Count = 0
    finished: Count = Field(0, description="outcome known, good or bad")
    failed: Count = 0
    in_flight: Count = 0
    most_in_flight: Count = 0
    blocked: Count = Field(0, description="requests that waited because max_in_flight were open")
    blocked_seconds: Seconds = 0.0
    pool_waits: Count = Field(0, description="requests that waited for a connection of the pool")
    connections: Count = Field(0, description="opened")
    cpu_seconds: Seconds | None = Field(None, description="of this process while it was measured")
    cpu_window: Seconds | None = Field(None, description="wall time of the same")
    details: dict[str, Annotated[str, Field(max_length=400)]] = Field(
        default_factory=dict, description="kind of failure → what the first one said, untrusted"
    )
    reason: str = ""

    @property
    def cpu(self) -> float | None:
        """Share of one core used while measuring."""
        return self.cpu_seconds / self.cpu_window if self.cpu_seconds is not None and self.cpu_window else None


def read_status(path: Path) -> ClientStatus | None:
    """The last state written; None before the first.

    Raises:
        InfrastructureError: the file is not such a document.
    """
    try:
        return ClientStatus.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise InfrastructureError(f"{path}: is not the state of a load process") from error


def write_status(path: Path, status: ClientStatus) -> None:
    """Replace the state whole. Not flushed to disk: it is for readers of now, and must not stall the senders.

    Raises:
        InfrastructureError: no space, no permission.
    """
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.write_text(status.model_dump_json() + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise InfrastructureError(f"{path}: cannot be written: {error.strerror}") from error
