"""Several sources as one: Prometheus for what engines say, and the gateway's own counts beside it."""

from __future__ import annotations

from typing import Protocol

from servegate.rollout.ports import Fault, Observed, PodSample, Source


class Closable(Source, Protocol):
    """A source that is closed at its end."""

    def close(self) -> None:
        """Stop asking."""


class CombinedSource:
    """Reads one source after the other. No two may have the same pods, nor a slot's gateway twice."""

    def __init__(self, *sources: Closable) -> None:
        self.sources = sources

    def observe(self, at: float) -> Observed:
        """Everything that the sources read as of `at`; takes as long as all of them."""
        pods: list[PodSample] = []
        missing: dict[str, str] = {}
        faults: dict[str, Fault] = {}
        for source in self.sources:
            seen = source.observe(at)
            pods += seen.pods
            missing.update(seen.missing)
            faults.update(seen.faults)
        return Observed(at=at, pods=tuple(pods), missing=missing, faults=faults)

    def close(self) -> None:
        """Stop asking."""
        for source in self.sources:
            source.close()
