"""What a canary's report says beyond numbers: the way back and its proof, the watch afterwards, the experiment."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from servegate.contract import Contract, Slot
from servegate.report.records import Count, Epoch, Evidence

Seen = Literal["PASS", "FAIL", "INCONCLUSIVE"]
Share = Annotated[float, Field(ge=0, le=1)]


class ProofPoint(Contract):
    """One thing that a rollback has to show."""

    what: Literal["weights", "answers", "errors"] = Field(
        description="weights: the router serves them; answers: the old release answers; errors: at its normal rate"
    )
    outcome: Seen = Field(description="INCONCLUSIVE: not seen yet, or nothing to see it by")
    found: str


class Proof(Contract):
    """What a rollback rests on, point by point."""

    to: str = Field(description="name of the release that is to serve again")
    slot: Slot
    points: tuple[ProofPoint, ...]
    todo: str = Field("", description="what could not be done or seen, and what a person must do; empty: nothing")


class WayBack(Contract):
    """A rollback from its decision to its proof."""

    decided: Epoch
    why: str
    effective: Epoch | None = Field(None, description="when the router was first seen to serve the old weights")
    ended: Epoch | None = Field(None, description="none: under way")
    proof: Proof


class Guarded(Contract):
    """The watch over a promoted release at one tick."""

    release: str
    slot: Slot
    since: Epoch
    until: Epoch
    ended: bool = False
    evidence: tuple[Evidence, ...] = Field((), description="of the objectives, by the watch's own alpha")


class AlertTaken(Contract):
    """An alert that came during the watch, and what it did."""

    at: Epoch
    kind: Literal["rollback", "freeze", "resolved"]
    text: str
    outcome: str


class Watch(Contract):
    """The watch over a promoted release, from its beginning to what it decided."""

    guarded: Guarded = Field(description="as last seen")
    alerts: tuple[AlertTaken, ...] = ()
    outcome: Seen = Field(description="PASS: the release stays; FAIL: it was taken back; INCONCLUSIVE: not over")
    ended: Epoch | None = None
    decision: str


class MetricSeen(Contract):
    """A metric of an experiment: candidate minus stable, per user."""

    name: str
    primary: bool
    better: Literal["higher", "lower"]
    bound: float = Field(description="primary: the smallest effect worth finding; guardrail: the margin")
    stable: float | None = Field(None, description="mean per user; none: not looked at, or no value yet")
    candidate: float | None = None
    effect: float | None = None
    low: float | None = Field(None, description="of the interval; none: too few users")
    high: float | None = None
    level: Share = Field(description="confidence of the interval")
    outcome: Seen = Field(description="primary: better, worse, or not shown; guardrail: kept, breached, or not shown")


class SampleRatio(Contract):
    """Whether users arrive in the shares that were planned."""

    planned: Share = Field(description="of users in the candidate's arm")
    found: Share | None = None
    outcome: Seen
    text: str


class Trial(Contract):
    """An experiment (A/B): what was to be found out, and what was."""

    hypothesis: str
    horizon: Literal["fixed", "sequential"]
    users: dict[Slot, Count]
    wanted: Count = Field(description="users in both arms after which it ends")
    ratio: SampleRatio
    metrics: tuple[MetricSeen, ...] = Field(description="the primary one first")
    outcome: Seen = Field(description="PASS: the candidate is better; FAIL: worse, or it did harm")
    decision: str


class CanaryStory(Contract):
    """What there is of the three; none: it did not take place."""

    way_back: WayBack | None = None
    watch: Watch | None = None
    experiment: Trial | None = None
