"""The four ports of a rollout. One file per implementation, one contract test run against all.

The controller is the only caller. It writes state before it causes an effect, and it may die between any two
instructions: so every effect here is idempotent, and every effect that could undo another's carries the fencing
epoch of the lease under which it was decided.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from servegate.errors import InfrastructureError, ServegateError
from servegate.release import Release

Weights = Mapping[str, float]
"""Percent of traffic per slot; sums to 100."""


class FencedError(ServegateError):
    """An effect came from an older epoch than its target has seen: another controller has taken over."""


class ConflictError(ServegateError):
    """The stored state is not the one that was read: another controller wrote in between."""


class LeaseLostError(ServegateError):
    """The lease is held by somebody else."""


@dataclass(frozen=True)
class Sticky:
    """Users keep their slot while it has traffic, also when weights change.

    Args:
        by: cookie: the router gives every user a cookie with the slot; header: a hash of the header's value decides.
        name: of the cookie or the header.
        salt: tells one experiment's cookies from another's.
    """

    by: Literal["cookie", "header"]
    name: str
    salt: str = ""


@dataclass(frozen=True)
class Arrangement:
    """How requests find their slot, beyond weights.

    Args:
        mirror: slot → percent of all requests of which it gets a copy; what it answers is thrown away.
        sticky: None: every request is drawn anew.
    """

    mirror: Weights = field(default_factory=dict)
    sticky: Sticky | None = None


@dataclass(frozen=True)
class RouteStatus:
    """What the data plane says of the weights.

    Args:
        accepted: the data plane serves by `weights`.
        weights: percent per slot as the data plane has them.
        message: why it does not, for people.
        arrangement: None where the router knows only weights.
    """

    accepted: bool
    weights: Weights
    message: str = ""
    arrangement: Arrangement | None = None


class Router(Protocol):
    """Moves traffic between slots."""

    def read(self) -> Weights:
        """Weights as last written; raises InfrastructureError when they cannot be read."""

    def write(self, weights: Weights, epoch: int) -> None:
        """Make `weights` the wanted ones. Writing the same again changes nothing.

        Raises:
            FencedError: the target has seen a higher epoch.
            InfrastructureError: the target cannot be reached.
        """

    def verify(self) -> RouteStatus:
        """Whether the data plane really uses the weights last written."""


@runtime_checkable
class Arranging(Protocol):
    """A router that can mirror, and perhaps keep users where they are."""

    @property
    def sticky_by(self) -> frozenset[str]:
        """By what it can keep users where they are: values of Sticky.by."""

    def arrange(self, arrangement: Arrangement, epoch: int) -> None:
        """Make it the wanted one; the weights stay. The same again changes nothing. Raises as Router.write does."""


@dataclass(frozen=True)
class Histogram:
    """Cumulative Prometheus buckets: `counts[i]` values are at most `edges[i]`; the last edge is infinity."""

    edges: tuple[float, ...]
    counts: tuple[float, ...]
    sum: float


@dataclass(frozen=True)
class PodSample:
    """Counters of one pod (or of the gateway's view of one endpoint) at one moment, as they stand.

    Args:
        pod: stable identity of the series; a restarted process is told by `started` or by falling counters.
        slot: the slot it belongs to.
        release: digest of the release it serves, where known.
        at: when it was read, seconds since the epoch.
        counters: running totals by our names (metrics/names.py); a name that is missing was not exported.
        histograms: running histograms by our names.
        gauges: values of now by our names.
        started: process start, seconds since the epoch, where known.
    """

    pod: str
    slot: str
    at: float
    counters: Mapping[str, float]
    histograms: Mapping[str, Histogram] = field(default_factory=dict)
    gauges: Mapping[str, float] = field(default_factory=dict)
    release: str | None = None
    started: float | None = None


Fault = Literal["down", "stale"]
"""Why a pod is missing: `down`, it was asked and did not answer; `stale`, it was read before, and nothing new comes."""


@dataclass(frozen=True)
class Observed:
    """One reading of all pods.

    Args:
        at: the evaluation time, one for all.
        pods: those that answered.
        missing: those that were asked and did not answer, with the reason. Missing is not zero.
        faults: of the missing ones, what kind of reason it is; none: nothing came, whatever the reason.
    """

    at: float
    pods: tuple[PodSample, ...]
    missing: Mapping[str, str] = field(default_factory=dict)
    faults: Mapping[str, Fault] = field(default_factory=dict)


class Source(Protocol):
    """Reads the counters of every pod. Bounded in time; never raises for a pod that does not answer."""

    def observe(self, at: float) -> Observed:
        """Read all pods as of `at` (seconds since the epoch)."""


@dataclass(frozen=True)
class Reclaimed:
    """A pod that the platform takes away: an eviction, a spot instance that goes, a node that is shut down.

    Args:
        pod: its name.
        why: as the platform says it, for people.
        at: when that was decided, seconds since the epoch.
        gone: when the pod is gone at the latest, where that is known.
    """

    pod: str
    why: str
    at: float
    gone: float | None = None


@dataclass(frozen=True)
class SlotStatus:
    """What runs in a slot.

    Args:
        release: digest of the release in the slot, None when it is empty.
        replicas: wanted.
        ready: replicas that answer.
        failed: why it cannot become ready without a person, such as "engine ended with status 1; log: …".
        message: what it is doing, for people.
        reclaimed: its pods that the platform takes away, as long as they can be seen.
    """

    release: str | None
    replicas: int
    ready: int
    failed: str | None = None
    message: str = ""
    reclaimed: tuple[Reclaimed, ...] = ()


class Workload(Protocol):
    """Puts releases into slots."""

    def ensure(self, slot: str, release: Release, replicas: int) -> None:
        """Make the slot run `release` with `replicas`; returns at once. The same again changes nothing."""

    def status(self, slot: str) -> SlotStatus:
        """What the slot runs now."""

    def scale(self, slot: str, replicas: int) -> None:
        """Change the replicas of what the slot runs; 0 empties it after a drain."""

    def address(self, slot: str) -> str:
        """URL of the slot itself, past the router: for smoke and warm-up."""


@runtime_checkable
class Hearing(Protocol):
    """A workload that hears of changes, so that what it says of a slot may be a moment old."""

    def look(self) -> None:
        """Ask: what `status` says next is of now. Raises InfrastructureError when nobody answers."""


@dataclass(frozen=True)
class Lease:
    """The right to act. `epoch` grows with every new holder and fences the effects of older ones."""

    holder: str
    epoch: int
    expires: float


@dataclass(frozen=True)
class Intent:
    """What a person (or another program) wants of a running rollout."""

    id: int
    kind: str
    by: str
    at: float
    reason: str = ""
    target: str | None = None


class Store(Protocol):
    """Remembers. State is an opaque JSON document to the store; versions make writing a compare-and-swap."""

    @property
    def pace(self) -> float:
        """Seconds for which a state that no effect rests on may go unsaved, where saving costs others something."""

    def load(self) -> tuple[str | None, int]:
        """The state and its version; (None, 0) before the first."""

    def save(self, state: str, expected_version: int, lease: Lease) -> int:
        """Replace the state and return its new version.

        Raises:
            ConflictError: the version is not `expected_version`.
            LeaseLostError: `lease` is no longer the valid one.
        """

    def append_history(self, line: str) -> None:
        """Add one line of JSON to the history; never changed afterwards."""

    def history(self) -> list[str]:
        """All lines of the history, oldest first."""

    def submit(self, kind: str, by: str, at: float, reason: str = "", target: str | None = None) -> Intent:
        """Leave an intent for the holder of the lease."""

    def intents(self) -> list[Intent]:
        """Intents not yet settled, oldest first."""

    def settle(self, intent: Intent, outcome: str) -> None:
        """Mark an intent as done, with what came of it. The same again changes nothing."""

    def acquire(self, holder: str, now: float, ttl: float) -> Lease:
        """Take the lease when it is free, expired or already ours.

        Raises:
            LeaseLostError: another holder has it.
        """

    def renew(self, lease: Lease, now: float, ttl: float) -> Lease:
        """Extend the lease. Raises LeaseLostError when it is no longer ours."""

    def release(self, lease: Lease) -> None:
        """Give the lease back."""


__all__ = [
    "Arrangement",
    "Arranging",
    "ConflictError",
    "Fault",
    "FencedError",
    "Hearing",
    "Histogram",
    "InfrastructureError",
    "Intent",
    "Lease",
    "LeaseLostError",
    "Observed",
    "PodSample",
    "Reclaimed",
    "RouteStatus",
    "Router",
    "SlotStatus",
    "Source",
    "Sticky",
    "Store",
    "Weights",
    "Workload",
]
