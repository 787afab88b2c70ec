"""What a controller keeps in the Store: the state, and the releases the state names by digest.

With both in one document a controller that starts again needs nothing from the one before. The role of a slot (stable
or candidate) stands nowhere else, so the next rollout begins from this document too.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationError

from servegate.contract import Contract, Sha256, Slot
from servegate.errors import ConfigError, InfrastructureError
from servegate.release import Release
from servegate.report.records import Epoch
from servegate.rollout.audit import AuditTick
from servegate.rollout.model import Phase, State
from servegate.rollout.ports import Store

KEPT_RELEASES = 20
"""Releases that are remembered, to be rolled back to by name."""


class Memory(Contract):
    """The document in the Store."""

    schema_version: Literal[1] = 1
    state: State
    releases: dict[Sha256, Release]
    verified: tuple[Sha256, ...] = Field((), description="releases that may be rolled back to, oldest first")
    plan: dict[str, Any] | None = Field(None, description="the plan, as it was understood")
    site: dict[str, Any] | None = Field(None, description="where the rollout happens; for whoever takes over")
    run: str | None = Field(None, max_length=200, description="whose order this rollout is, where that was said")
    earlier: tuple[AuditTick, ...] = Field((), description="decisions before it that were not saved one by one")
    last: AuditTick | None = Field(None, description="the decision that led to this state; for the audit trail")

    def release_in(self, slot: str) -> Release:
        """The release that belongs into a slot."""
        return self.releases[self.state.slots[slot].release]

    def names(self) -> dict[str, str]:
        """Digest → name of the releases that may be rolled back to."""
        return {digest: self.releases[digest].name for digest in self.verified if digest in self.releases}

    def with_state(self, state: State) -> Memory:
        """The document with another state; what its verdict and its end say of a release is kept."""
        verified = list(self.verified)
        about = state.slots[state.candidate].release
        if state.phase is Phase.PREPARING and state.verdict is not None and about not in verified:
            verified.append(about)
        if state.phase is Phase.ROLLED_BACK and state.cause not in BLAMELESS and about in verified:
            verified.remove(about)
        return self.model_copy(update={"state": state, "verified": tuple(verified)})

    def with_release(self, release: Release) -> Memory:
        """The document with one more release that may be rolled back to; the oldest that are in no slot go."""
        digest = release.identity()
        verified = [*(item for item in self.verified if item != digest), digest][-KEPT_RELEASES:]
        needed = {*verified, *(item.release for item in self.state.slots.values())}
        releases = {key: item for key, item in {**self.releases, digest: release}.items() if key in needed}
        return self.model_copy(update={"releases": releases, "verified": tuple(verified)})


BLAMELESS = ("abort", "rollback", "held", "inconclusive", "unwatched", "prepare")
"""Causes of a rollback that say nothing about the release."""


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
