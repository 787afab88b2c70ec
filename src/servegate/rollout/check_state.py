"""What a check has gathered: a few floats to go on from after a kill. Plain data that survives JSON exactly."""

from __future__ import annotations

from pydantic import Field

from servegate.contract import Contract, Sha256, Slot
from servegate.report.records import Count, Epoch
from servegate.rollout.seen import Amount, Buckets


class Wealth(Contract):
    """An e-process: wealth of each bet as a natural logarithm (stats/eprocess.py)."""

    n: Count = Field(0, description="intervals bet on")
    log_wealth: tuple[float, ...] = ()
    calls: Count = Field(0, description="calls upon the reserve")


class SlotInterval(Contract):
    """What one slot did in a check's open interval of evidence."""

    requests: Amount = Field(0.0, description="requests, or what an event is counted per")
    bad: Amount = Field(0.0, description="failures or other events that are counted")
    rejected: Amount = 0.0
    buckets: Buckets | None = Field(None, description="of checks on latency")
    waiting: Amount = Field(0.0, description="most requests that waited per ready replica")
    running: Amount = Field(0.0, description="requests in work per ready replica at the last tick")
    cache_hits: Amount = 0.0
    cache_queries: Amount = 0.0


class Shift(Contract):
    """State of a filter that looks for a lasting shift of latency (stats/shift.py); logarithms throughout."""

    at: Epoch = Field(description="end of the last interval")
    n: Count
    last: float = Field(description="log ratio in the last interval, less the margin, and its variance")
    last_noise: float
    moved: float = Field(description="squared moves over their variance, and how many")
    moves: float
    level: tuple[float, ...] = Field(description="like answer, variance and fit: one per weather")
    answer: tuple[float, ...]
    variance: tuple[float, ...]
    fit: tuple[float, ...]
    wealth: tuple[float, ...] = Field(description="one per weather and size")
    log_e: float = Field(description="of the e-value")


class CheckState(Contract):
    """What one check has gathered."""

    since: Epoch | None = Field(None, description="start of the open interval")
    open: dict[Slot, SlotInterval] = Field(default_factory=dict)
    served: dict[Slot, Amount] = Field(default_factory=dict, description="requests at these weights, closed intervals")
    stable_queued: Epoch | None = Field(None, description="when stable last queued")
    last_bad: Amount = Field(0.0, description="fraction of the candidate's requests that were bad in the last interval")
    last_end: Epoch | None = Field(None, description="end of that interval")
    outage: Count = Field(0, description="intervals that an outage had lasted by then")
    against: Wealth = Field(Wealth(), description="evidence against the candidate")
    shift: Shift | None = Field(None, description="the same, of checks on latency against stable")
    stable: Wealth | None = Field(None, description="the same evidence about the stable slot, for an SLO")
    promote: Wealth | None = Field(None, description="evidence that the candidate is not worse")
    shift_for: Shift | None = Field(None, description="the same, of checks on latency against stable")
    promote_reached: bool = Field(False, description="the evidence for promotion has once reached its limit")
    reference: Buckets | None = Field(None, description="stable's latency, older intervals fading")
    grew: Epoch | None = Field(None, description="when the evidence against the candidate last grew")
    intervals: Count = Field(0, description="intervals judged")
    compared: Count = Field(0, description="intervals in which latency could count against the candidate")
    skipped: Count = Field(0, description="intervals that could not be judged")
    skipped_because: str = ""
    observed: float = Field(0.0, description="sum of the statistic over the intervals bet on, for its mean")
    bound: float = Field(0.0, description="sum of its largest mean under the null hypothesis over these intervals")
    bad: dict[Slot, Amount] = Field(default_factory=dict, description="recent bad requests, older ones fading")
    seen: dict[Slot, Amount] = Field(default_factory=dict, description="recent requests, older ones fading")
    asked: Count = Field(0, description="position in the suite up to which items count")
    suite: Sha256 | None = Field(None, description="the suite these positions belong to")
    judged: Count = Field(0, description="items that both slots answered")
    worse: Amount = Field(0.0, description="sum of (1 - difference of scores) / 2 over them")
    worse_items: tuple[str, ...] = Field((), description="ids of items lately answered worse than by stable")


__all__ = ["CheckState", "Shift", "SlotInterval", "Wealth"]
