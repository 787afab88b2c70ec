"""What is seen at one tick: deltas of counters, states of slots, the router, intents. Plain data, no clock."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from servegate.contract import Contract, Sha256, Slot
from servegate.report.records import Count, Epoch
from servegate.rollout.experiment import ExperimentSeen
from servegate.rollout.ports import Fault, Intent, RouteStatus, SlotStatus

Amount = Annotated[float, Field(ge=0)]


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


_ENDED = ("finished_stop", "finished_length", "finished_abort", "finished_error")


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
    faults: dict[str, Fault] = Field(
        default_factory=dict, description="why there is no reading: down, it did not answer; stale, none that is new"
    )
    reclaimed: dict[str, str] = Field(
        default_factory=dict,
        description="pods the platform took away of late (eviction, spot reclaim), with its reason",
    )
    set_apart: Amount = Field(0.0, description="failures that this explains: they are in no count of failures")

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
        """Failed requests without those rejected and those set apart; None when requests are not known."""
        requests = self.requests
        if requests is None:
            return None
        count, answered = self.counters.get, self._answered_5xx
        rejected = min(count("rejected", 0.0), answered, requests)
        resets = count("gateway_resets", 0.0) if self.gateway else 0.0
        lost = answered - rejected + resets + count("finished_error", 0.0)
        return max(0.0, min(lost, requests - rejected) - self.set_apart)

    @property
    def unread_because(self) -> Literal["no-data", "stale", "target-down"]:
        """What to call it when the slot could not be read."""
        kinds = self.faults.values()
        return "target-down" if "down" in kinds else "stale" if "stale" in kinds else "no-data"

    @property
    def unchanged(self) -> bool | None:
        """The engines count nothing though the gateway has good answers of them; None when that says nothing."""
        engines = {name: value for name, value in self.counters.items() if not name.startswith("gateway_")}
        if any(engines.values()) or not (engines and self.gateway):
            return False
        good = (self.requests or 0.0) - (self.failures or 0.0) - self.set_apart - (self.rejected or 0.0)
        return True if good > 0 else None

    def event(self, name: str) -> tuple[float, float] | None:
        """How often something happened, and to how many requests it could have; None when it is not measured."""
        count = self.counters.get
        happened: float | None
        base: float | None = None
        for ended in _ENDED:
            if (value := count(ended)) is not None:
                base = (base or 0.0) + value
        match name:
            case "aborts":
                happened = count("finished_abort")
            case "truncation":
                happened = count("finished_length")
            case "preemptions":
                happened = count("preemptions")
            case "tokens":
                happened = count("generation_tokens")
            case "rejections":
                happened, base = self.rejected if "rejected" in self.counters else None, self.requests
            case _:
                lost = [count("gateway_timeouts"), count("gateway_resets")] if self.gateway else []
                known = any(value is not None for value in lost)
                happened = max(0.0, sum(value or 0.0 for value in lost) - self.set_apart) if known else None
                base = self.requests
        return None if happened is None or base is None else (happened, base)

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


class OutputsSeen(Contract):
    """Answers of both slots to the same prompts."""

    asked: Count
    same: Count = Field(description="equal but for blanks and case")
    similarity: float = Field(description="mean share of text in common, 0 to 1")
    failed: Count = Field(0, description="prompts that a slot did not answer; they are left out")
    examples: tuple[str, ...] = Field((), description="ids of the prompts whose answers differ most")


class Asked(Contract):
    """One item of a suite that was asked of both slots. A score is in [0, 1]; none: the slot gave no answer."""

    check: str = Field(description="name of the check that it was asked for")
    suite: Sha256 = Field(description="of the suite: positions in another one are not comparable")
    position: Count = Field(description="in the suite's random order, fixed beforehand; asked again it keeps it")
    item: str = Field("", description="id of the item")
    candidate: Annotated[float, Field(ge=0, le=1)] | None = None
    stable: Annotated[float, Field(ge=0, le=1)] | None = None
    candidate_error: str = Field("", description="why there is no score; untrusted text")
    stable_error: str = ""


class Observation(Contract):
    """Everything that is seen at one tick."""

    at: Epoch
    slots: dict[Slot, SlotDelta] = Field(default_factory=dict, description="deltas since the observation before")
    status: dict[Slot, SlotStatus] = Field(default_factory=dict, description="a slot that is absent is not known")
    route: RouteStatus | None = Field(None, description="none: the router could not be asked")
    intents: tuple[Intent, ...] = Field((), description="not yet settled, oldest first")
    preparation: Preparation = Preparation()
    asked: tuple[Asked, ...] = Field((), description="items of live evaluation since the observation before")
    verified: dict[Sha256, str] = Field(
        default_factory=dict, description="releases that may be rolled back to, with their names"
    )
    experiment: ExperimentSeen | None = Field(None, description="what the plan's experiment says now")
    outputs: OutputsSeen | None = Field(None, description="answers of both slots compared, for a shadow")
    delivered: tuple[Count, ...] = Field((), description="ids of messages that need not be sent any more")
    readings: Readings | None = Field(None, description="what the next deltas are taken against; none: keep the last")
