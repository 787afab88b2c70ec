"""What the demo needs of an engine: three releases, a way to start them, and a defect that only users would notice.

The way through the pipeline is the same for every engine; what differs is in one file each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from servegate.release import Release
from servegate.report.story import Defect
from servegate.rollout.workloads.processes import Launch


@dataclass(frozen=True)
class Files:
    """The pipeline's files for this engine, relative to the repository."""

    suite: str
    load: str
    live: str
    policy: str
    plan: str
    items: int | None = None
    """Items of the suite to ask, drawn by its seed; None: all."""


class DemoEngine(Protocol):
    """One engine the demo can run on."""

    name: str
    files: Files
    start_timeout: float
    """Seconds a slot may take until it is ready."""

    def prepare(self, progress: Callable[[str], None]) -> None:
        """Install what is missing. Raises InfrastructureError."""

    def releases(self) -> tuple[Release, Release, Release]:
        """Stable, healthy, defective."""

    def launch(self, slot: str, release: Release, port: int) -> Launch:
        """Command line and environment of one server."""

    def breaks(self, slot: str) -> None:
        """The defective release in `slot` carries traffic now; its defect may begin. Again: does nothing."""

    def defect(self) -> Defect | None:
        """What the defect is and when it was first felt; None while it was not."""


@dataclass(frozen=True)
class Place:
    """Where a demo writes.

    Attributes:
        root: everything.
        logs: one file per child.
    """

    root: Path

    @property
    def logs(self) -> Path:
        """Folder of the logs."""
        return self.root / "logs"
