"""What a rollout knows, sees and does: State, Observation, Action, Decision.

All of it is plain data that survives JSON exactly. The controller persists the State before it acts, so whatever is
needed to go on after a kill stands in it: the raw readings deltas are taken against, and the evidence, a few floats
per check. Nothing here reads a clock; every time is seconds since the Unix epoch and comes from outside.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from servegate.contract import Contract, Sha256, Slot
from servegate.report.records import CanaryTick, Count, Epoch
from servegate.rollout.ports import Intent, RouteStatus, SlotStatus

Percent = Annotated[float, Field(ge=0, le=100)]
Amount = Annotated[float, Field(ge=0)]


class Phase(StrEnum):
    """Where a rollout stands. BAKING is the last step with a control, and the 100 % step after it."""

    PENDING = "PENDING"
    PREPARING = "PREPARING"
    STEP = "STEP"
    BAKING = "BAKING"
    HELD = "HELD"
    ROLLING_BACK = "ROLLING_BACK"
    PROMOTED = "PROMOTED"
    ROLLED_BACK = "ROLLED_BACK"

    @property
    def finished(self) -> bool:
        """Nothing will happen any more."""
        return self in (Phase.PROMOTED, Phase.ROLLED_BACK)

    @property
    def weighted(self) -> bool:
        """The candidate may be carrying traffic, and is judged."""
        return self in (Phase.STEP, Phase.BAKING, Phase.HELD)


# --- what is seen -----------------------------------------------------------------------------------------------------


class Buckets(Contract):
    """A histogram, not cumulative: `counts[i]` values in (edges[i-1], edges[i]]; the last count is above all edges."""

    edges: tuple[float, ...] = Field(description="finite upper edges, rising")
    counts: tuple[Amount, ...] = Field(description="one more than edges")
    sum: float = 0.0

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.counts) != len(self.edges) + 1:
            raise ValueError(f"{len(self.edges)} edges need {len(self.edges) + 1} counts, not {len(self.counts)}")
        return self

    @property
    def total(self) -> float:
        """Number of values."""
        return sum(self.counts)


class PodReading(Contract):
    """Running totals of one pod at its last reading: what the next delta is taken against."""

    slot: Slot
    at: Epoch
    release: str | None = None
    started: float | None = None
    counters: dict[str, float] = Field(default_factory=dict)
    histograms: dict[str, Buckets] = Field(default_factory=dict)


class Readings(Contract):
    """The last reading of every pod that has been seen."""

    at: Epoch
    pods: dict[str, PodReading] = Field(default_factory=dict)


class SlotDelta(Contract):
    """What one slot did since the observation before. A name that is absent was not measured; it is not zero.

    With a gateway (`gateway` is true) a request is one the gateway saw completed, whatever came of it. A failure is
    one it answered with 5xx (a refused connection is answered with 503 and is counted there, once), one whose
    connection broke after the headers, or one that the engine ended with an error inside an answer that had begun
    with 200. Without a gateway both are the engine's own HTTP counts. 4xx are the client's and are no failures.
    Requests turned away because the engine was full (503 of its own) are `rejected` and are not in `failures`.
    """

    gateway: bool = Field(False, description="a gateway counts the requests of this slot")
    pods: Count = Field(0, description="engine pods with a usable reading")
    counters: dict[str, Amount] = Field(default_factory=dict)
    histograms: dict[str, Buckets] = Field(default_factory=dict)
    gauges: dict[str, float] = Field(default_factory=dict, description="summed over pods, kv_cache_usage averaged")
    missing: dict[str, str] = Field(default_factory=dict, description="pods that did not answer, with the reason")

    @property
    def requests(self) -> float | None:
        """Requests completed; None when nothing could be read."""
        return self.counters.get("gateway_requests" if self.gateway else "http_requests")

    @property
    def rejected(self) -> float | None:
        """Requests turned away by a full engine; None when requests are not known."""
        requests = self.requests
        return None if requests is None else min(self.counters.get("rejected", 0.0), self._answered_5xx, requests)

    @property
    def failures(self) -> float | None:
        """Failed requests without the rejected ones; None when requests are not known."""
        requests, rejected = self.requests, self.rejected
        if requests is None or rejected is None:
            return None
        in_stream = self.counters.get("finished_error", 0.0)
        resets = self.counters.get("gateway_resets", 0.0) if self.gateway else 0.0
        return min(self._answered_5xx - rejected + resets + in_stream, requests - rejected)

    @property
    def failures_by_kind(self) -> dict[str, float]:
        """The failures told apart, kinds that happened only; for people, not for judging."""
        known = {
            "connect": self.counters.get("gateway_connect_failures", 0.0) if self.gateway else 0.0,
            "timeout": self.counters.get("gateway_timeouts", 0.0) if self.gateway else 0.0,
            "reset": self.counters.get("gateway_resets", 0.0) if self.gateway else 0.0,
            "stream_error": self.counters.get("finished_error", 0.0),
            "rejected": self.rejected or 0.0,
        }
        known["http_5xx"] = self._answered_5xx - known["connect"] - known["timeout"] - known["rejected"]
        return {kind: count for kind, count in known.items() if count > 0}

    @property
    def _answered_5xx(self) -> float:
        return self.counters.get("gateway_5xx" if self.gateway else "http_5xx", 0.0)


class Preparation(Contract):
    """What came of the things that must hold before traffic. None: not asked yet, or nothing to say yet."""

    verdict: Literal["pass", "fail", "missing"] | None = None
    verdict_hash: Sha256 | None = None
    verdict_message: str = ""
    smoke: Literal["running", "ok", "failed"] | None = None
    smoke_message: str = ""
    warm: Literal["running", "ok", "failed"] | None = None
    warm_message: str = ""


class Observation(Contract):
    """Everything that is seen at one tick."""

    at: Epoch
    slots: dict[Slot, SlotDelta] = Field(default_factory=dict, description="deltas since the observation before")
    status: dict[Slot, SlotStatus] = Field(default_factory=dict, description="a slot that is absent is not known")
    route: RouteStatus | None = Field(None, description="none: the router could not be asked")
    intents: tuple[Intent, ...] = Field((), description="not yet settled, oldest first")
    preparation: Preparation = Preparation()
    readings: Readings | None = Field(None, description="what the next deltas are taken against; none: keep the last")


# --- what is remembered -----------------------------------------------------------------------------------------------


class SlotRelease(Contract):
    """Which release belongs into a slot."""

    release: Sha256
    name: str = Field(description="what people call it")


class Totals(Contract):
    """Sums over the rollout so far."""

    requests: Amount = 0.0
    failures: Amount = 0.0
    rejected: Amount = 0.0


class Wealth(Contract):
    """An e-process: wealth of each bet as a natural logarithm (stats/eprocess.py)."""

    n: Count = Field(0, description="intervals bet on")
    log_wealth: tuple[float, ...] = ()


class SlotInterval(Contract):
    """What one slot did in a check's open interval of evidence."""

    requests: Amount = Field(0.0, description="like failures and rejected: of checks on errors")
    failures: Amount = 0.0
    rejected: Amount = 0.0
    ttft: Buckets | None = Field(None, description="of checks on latency")
    load: Amount = Field(0.0, description="running and waiting requests per ready replica, summed over `ticks`")
    ticks: Count = Field(0, description="ticks whose load is known")


class CheckState(Contract):
    """What one check has gathered."""

    since: Epoch | None = Field(None, description="start of the open interval")
    open: dict[Slot, SlotInterval] = Field(default_factory=dict)
    served: dict[Slot, Amount] = Field(default_factory=dict, description="requests at these weights, closed intervals")
    last_bad: Amount = Field(0.0, description="fraction of the candidate's requests that failed in the interval before")
    against: Wealth = Field(Wealth(), description="evidence against the candidate")
    stable: Wealth | None = Field(None, description="the same evidence about the stable slot, for an SLO")
    promote: Wealth | None = Field(None, description="evidence that the candidate is not worse")
    promote_reached: bool = Field(False, description="the evidence for promotion has once reached its limit")
    grew: Epoch | None = Field(None, description="when the evidence against the candidate last grew")
    intervals: Count = Field(0, description="intervals judged")
    skipped: Count = Field(0, description="intervals that could not be judged")
    skipped_because: str = ""
    observed: Amount = Field(0.0, description="sum of the statistic over the intervals bet on, for its mean")
    bound: Amount = Field(0.0, description="sum of its largest mean under the null hypothesis over these intervals")
    bad: dict[Slot, Amount] = Field(default_factory=dict, description="recent bad requests, older ones fading")
    seen: dict[Slot, Amount] = Field(default_factory=dict, description="recent requests, older ones fading")


HeldCause = Literal["person", "route", "stable", "data", "slo", "inconclusive"]


class Held(Contract):
    """Why a rollout stands still, and where it goes on."""

    cause: HeldCause
    since: Epoch
    back_to: Phase


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
    silent_since: Epoch | None = Field(None, description="since when the candidate has completed nothing")
    silent_expected: Amount = Field(0.0, description="requests it should have completed since then")
    refused_since: Epoch | None = Field(None, description="since when the router does not serve the wanted weights")

    cause: str = Field("", description="what decided: name of a check, of a watchdog, or an intent")
    reason: str = Field("", description="why the phase is what it is, in one sentence")
    waiting: str = Field("", description="what the next move waits for; empty when nothing is waited for")

    @model_validator(mode="after")
    def _roles(self) -> Self:
        if self.stable == self.candidate:
            raise ValueError(f"slot {self.stable} cannot be stable and candidate at once")
        return self


# --- what is done -----------------------------------------------------------------------------------------------------


class SetWeights(Contract):
    """Write these weights to the router."""

    kind: Literal["set-weights"] = "set-weights"
    weights: dict[Slot, Percent]


class EnsureSlot(Contract):
    """Make the slot run this release."""

    kind: Literal["ensure-slot"] = "ensure-slot"
    slot: Slot
    release: Sha256
    replicas: Annotated[int, Field(ge=1)]


class ScaleSlot(Contract):
    """Change the replicas of what the slot runs."""

    kind: Literal["scale-slot"] = "scale-slot"
    slot: Slot
    replicas: Count


class RunSmoke(Contract):
    """Run the smoke test against the slot unless it is running; the result comes with a later observation."""

    kind: Literal["run-smoke"] = "run-smoke"
    slot: Slot
    release: Sha256


class Warm(Contract):
    """Warm the slot up unless that is under way; the result comes with a later observation."""

    kind: Literal["warm"] = "warm"
    slot: Slot
    release: Sha256


class Settle(Contract):
    """Mark an intent as done."""

    kind: Literal["settle"] = "settle"
    intent: Intent
    outcome: str


class Notify(Contract):
    """Tell people."""

    kind: Literal["notify"] = "notify"
    level: Literal["info", "warning", "critical"]
    message: str


Action = Annotated[SetWeights | EnsureSlot | ScaleSlot | RunSmoke | Warm | Settle | Notify, Field(discriminator="kind")]


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
