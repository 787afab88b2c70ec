"""What a rollout knows, sees and does: State and Decision here, what is seen in `seen`, what is done in `actions`,
what each check has gathered in `check_state`.

All of it is plain data that survives JSON exactly. The controller persists the State before it acts, so whatever is
needed to go on after a kill stands in it: the raw readings deltas are taken against, and the evidence, a few floats
per check. Nothing here reads a clock; every time is seconds since the Unix epoch and comes from outside.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, Self

from pydantic import Field, model_validator

from servegate.contract import Contract, Sha256, Slot
from servegate.report.records import CanaryTick, Count, Epoch
from servegate.rollout.actions import (
    Action,
    Arrange,
    CompareOutputs,
    EnsureSlot,
    Notify,
    Percent,
    RunSmoke,
    ScaleSlot,
    Settle,
    SetWeights,
    Warm,
)
from servegate.rollout.check_state import CheckState, Shift, SlotInterval, Wealth
from servegate.rollout.experiment import ExperimentSeen
from servegate.rollout.seen import (
    Amount,
    Buckets,
    Observation,
    OutputsSeen,
    PodReading,
    Preparation,
    Readings,
    SlotDelta,
)
from servegate.rollout.shadow import ShadowSums


class Phase(StrEnum):
    """Where a rollout stands.

    BAKING is the last step with a control, and the 100 % step after it. GUARDED is PROMOTED with somebody who watches.
    ENDED is the end of an experiment or a shadow: all traffic is on stable, as before.
    """

    PENDING = "PENDING"
    PREPARING = "PREPARING"
    STEP = "STEP"
    BAKING = "BAKING"
    HELD = "HELD"
    ROLLING_BACK = "ROLLING_BACK"
    PROMOTED = "PROMOTED"
    GUARDED = "GUARDED"
    ENDED = "ENDED"
    ROLLED_BACK = "ROLLED_BACK"

    @property
    def finished(self) -> bool:
        """Nothing will happen any more."""
        return self in (Phase.PROMOTED, Phase.ROLLED_BACK, Phase.ENDED)

    @property
    def weighted(self) -> bool:
        """The candidate may be carrying traffic, and is judged."""
        return self in (Phase.STEP, Phase.BAKING, Phase.HELD)


class SlotRelease(Contract):
    """Which release belongs into a slot."""

    release: Sha256
    name: str = Field(description="what people call it")


class Totals(Contract):
    """Sums over the rollout so far."""

    requests: Amount = 0.0
    failures: Amount = 0.0
    rejected: Amount = 0.0
    set_apart: Amount = Field(0.0, description="failures put down to pods that the platform took away")
    reclaimed: tuple[str, ...] = Field((), description="these pods, with the platform's reason")


class Reclaim(Contract):
    """A pod that the platform takes away, while failures may still be its."""

    slot: Slot
    pod: str
    why: str
    until: Epoch = Field(description="failures after this are none of its")
    left: Amount = Field(description="failures that it may still explain")


class ServedShare(Contract):
    """Requests that arrived at each slot since the router serves the present weights."""

    weight: Percent = Field(description="the candidate's")
    since: Epoch
    arrived: dict[Slot, float] = Field(description="ended, and more under way than at the first reading")
    active: dict[Slot, float] | None = Field(
        None, description="under way at the last tick; none: it was not read whole"
    )
    log_e: float = Field(0.0, description="of the e-value that the shares are not those of the weight")


HeldCause = Literal[
    "person", "route", "ratio", "stable", "data", "slo", "inconclusive", "alert", "unwatched", "freeze", "approval"
]


class Held(Contract):
    """Why a rollout stands still, and where it goes on."""

    cause: HeldCause
    since: Epoch
    back_to: Phase
    alert: str = Field("", description="the alert it is held for")


class Restore(Contract):
    """A release that is on its way back into traffic: to the one before, or to a named one."""

    target: SlotRelease
    back_to: Phase = Field(description="where the rollout stands when it cannot be brought back")
    cold: bool | None = Field(None, description="it had no ready replica: started and tested before it gets traffic")
    swapped: bool = Field(False, description="its slot is stable again")


class Proof(Contract):
    """What is seen of the old release since all traffic is back: sums when the present look began."""

    began: Epoch = Field(description="when the first look began")
    since: Epoch = Field(description="when the present look began")
    requests: Amount
    failures: Amount


class Origin(Contract):
    """The rollout that a message is about, when it is told during a later one."""

    rollout: str
    id: Count = Field(description="of the message in that rollout")
    plan_name: str
    release: str = Field(description="name of the release that was rolled out")
    releases: dict[Slot, str] = Field(description="names of what was in the slots")


class Message(Contract):
    """Something that people are to be told; kept until it was delivered."""

    id: Count
    at: Epoch
    level: Literal["info", "warning", "critical"]
    text: str
    phase: Phase
    weights: dict[Slot, Percent]
    origin: Origin | None = Field(None, description="none: the rollout in whose state it stands")


class Guard(Contract):
    """The watch over a promoted release."""

    since: Epoch
    until: Epoch
    checks: dict[str, CheckState] = Field(default_factory=dict)
    ended: bool = False


class State(Contract):
    """Everything the controller persists."""

    schema_version: Literal[1] = 1
    rollout: str = Field(description="id of this rollout")
    plan: Sha256 = Field(description="identity of the plan")
    plan_name: str = ""
    phase: Phase = Phase.PENDING
    step: Count = Field(0, description="index into the plan's steps; meaningful once traffic moves")
    stable: Slot
    candidate: Slot
    slots: dict[Slot, SlotRelease]
    weights: dict[Slot, Percent] = Field(description="wanted percent of traffic per slot")

    created: Epoch
    updated: Epoch = Field(description="time of the last decision")
    phase_since: Epoch
    step_since: Epoch | None = Field(None, description="when this step's weights were wanted")
    step_effective: Epoch | None = Field(None, description="when the router first served this step's weights")
    first_traffic: Epoch | None = Field(None, description="when the candidate first carried traffic")
    finished: Epoch | None = None

    held: Held | None = None
    verdict: Sha256 | None = Field(None, description="the verdict that let the rollout start")
    smoke_ok: bool = False
    warm_ok: bool = False
    ensured: bool = Field(False, description="the candidate's slot was asked to run the release")
    restore: Restore | None = None
    proof: Proof | None = None
    stable_cold: Epoch | None = Field(
        None,
        description="since when stable, which the traffic is to go back to, needs a smoke test: it lost its replicas",
    )
    proven: str = Field("", description="what was seen of the old release after a rollback; empty: not proven")
    unproven: str = Field("", description="what could not be done or seen, and what a person must do")
    guard: Guard | None = None
    shadow: ShadowSums | None = None
    experiment: ExperimentSeen | None = None
    outputs: OutputsSeen | None = None
    approved: tuple[Count, ...] = Field((), description="steps that a person has approved")
    scaled_for: Count = Field(0, description="the step for which replicas are wanted")
    start_took: Amount | None = Field(None, description="seconds the candidate took to be ready")
    warnings: tuple[str, ...] = Field((), description="what was passed over by on_inconclusive")
    outbox: tuple[Message, ...] = Field((), description="messages not yet delivered, oldest first")
    messages: Count = Field(0, description="messages so far; the id of the last")
    alerts: tuple[str, ...] = Field((), description="alerts that have been acted on, `fingerprint@start`, latest last")
    last_intent: Count = Field(0, description="highest id of an intent carried out: none is carried out twice")
    expedited: bool = Field(False, description="a person asked to promote without waiting")

    readings: Readings | None = None
    checks: dict[str, CheckState] = Field(default_factory=dict)
    totals: dict[Slot, Totals] = Field(default_factory=dict)
    step_requests: Amount = Field(0.0, description="candidate's requests in this step")
    warmup_left: Amount = Field(0.0, description="candidate's requests still to be discounted for latency")

    ready: dict[Slot, Count] = Field(default_factory=dict, description="ready replicas as last known")
    unready_since: dict[Slot, Epoch] = Field(default_factory=dict)
    unread_since: dict[Slot, Epoch] = Field(default_factory=dict, description="since when a slot gives no data")
    unchanged_since: dict[Slot, Epoch] = Field(
        default_factory=dict,
        description="since when a slot's engines count nothing though the gateway gets good answers",
    )
    silent_since: Epoch | None = Field(None, description="since when the candidate has completed nothing")
    silent_against: Amount = Field(
        0.0, description="minus the natural logarithm of the chance that none of the requests since then was its"
    )
    at_stake: dict[Slot, Amount] = Field(
        default_factory=dict, description="requests that a replica's loss can break, as lately seen"
    )
    reclaims: tuple[Reclaim, ...] = ()
    served: ServedShare | None = Field(None, description="how requests were divided at the present weights")
    refused_since: Epoch | None = Field(None, description="since when the router does not serve the wanted weights")

    cause: str = Field("", description="what decided: name of a check, of a watchdog, or an intent")
    reason: str = Field("", description="why the phase is what it is, in one sentence")
    waiting: str = Field("", description="what the next move waits for; empty when nothing is waited for")

    @model_validator(mode="after")
    def _roles(self) -> Self:
        if self.stable == self.candidate:
            raise ValueError(f"slot {self.stable} cannot be stable and candidate at once")
        return self


class Decision(Contract):
    """What follows from one observation. Persist `state`, then carry out `actions` in order; each is idempotent."""

    state: State
    actions: tuple[Action, ...] = ()
    tick: CanaryTick
    reason: str = Field("", description="why something changed at this tick; empty when nothing did")


def start(
    *,
    rollout: str,
    plan: str,
    stable: Slot,
    candidate: Slot,
    slots: dict[Slot, SlotRelease],
    now: float,
    plan_name: str = "",
) -> State:
    """The first state of a rollout: all traffic on `stable`.

    Args:
        plan: identity of the plan (`Plan.identity()`).
        slots: the release in each of the two slots.
        now: seconds since the epoch.
    """
    return State(
        rollout=rollout,
        plan=plan,
        plan_name=plan_name,
        stable=stable,
        candidate=candidate,
        slots=slots,
        weights={stable: 100.0, candidate: 0.0},
        created=now,
        updated=now,
        phase_since=now,
    )


__all__ = [
    "Action",
    "Arrange",
    "Buckets",
    "CheckState",
    "CompareOutputs",
    "Decision",
    "EnsureSlot",
    "Guard",
    "Held",
    "HeldCause",
    "Message",
    "Notify",
    "Observation",
    "Origin",
    "OutputsSeen",
    "Phase",
    "PodReading",
    "Preparation",
    "Proof",
    "Readings",
    "Reclaim",
    "Restore",
    "RunSmoke",
    "ScaleSlot",
    "ServedShare",
    "SetWeights",
    "Settle",
    "Shift",
    "SlotDelta",
    "SlotInterval",
    "SlotRelease",
    "State",
    "Totals",
    "Warm",
    "Wealth",
    "start",
]
