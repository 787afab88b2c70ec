"""The plan: how traffic moves to a new release, and what sends it back.

A plan is judged before it is used. Steps that shrink, an error budget spent twice, an SLO at a latency the engine's
buckets cannot resolve, or checks that could not reach their limits with the traffic at hand are refused here, with the
numbers that would do: a canary that cannot decide is worse than none, because it looks like one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from servegate.config import Config, load
from servegate.contract import canonical_json, sha256
from servegate.errors import ConfigError
from servegate.rollout import capacity, feasibility
from servegate.rollout.checks import (
    COUNTED_BY,
    TTFT_EDGES,
    Check,
    ErrorsSlo,
    ErrorsVsStable,
    EventsVsStable,
    LatencySlo,
    LatencyVsStable,
    Name,
    Quality,
    share_field,
    time_field,
)
from servegate.rollout.plan_experiment import Experiment, Shadow, StickyRule
from servegate.rollout.plan_people import Freeze, Notification
from servegate.rollout.plan_safety import AlertRule, Guard, Limits, Rollback, Watchdogs
from servegate.rollout.plan_traffic import Bake, Expect, Step, Strategy
from servegate.units import Duration, Fraction, Percent

LEASES_AT_LEAST = 2
"""Leases that must have run out before a rollout counts as unwatched: a restart alone is no reason to roll back."""


class Plan(Config):
    """How a release gets its traffic."""

    version: Literal[1]
    name: Name = Field(description="what reports call this plan")
    tick: Duration = time_field("5s", "time between observations")
    expect: Expect
    strategy: Strategy = Field(
        "canary",
        description="canary: share by share against stable; blue-green: all at once, or after canary steps, with both "
        "slots in full; ab: an experiment on users, never promoted; shadow: copies of requests, no user notices",
    )
    replicas: Annotated[int, Field(ge=1, le=1000)] = Field(1, description="replicas that carry all traffic")
    capacity: Literal["surge", "shift"] = Field(
        "surge", description="surge: both slots run in full; shift: stable gives replicas up as the candidate grows"
    )
    spare: Annotated[int, Field(ge=0, le=1000)] = Field(
        0, description="with shift: replicas beyond `replicas` that both slots together may have"
    )
    replica_carries: Percent | None = Field(
        None, description="percent of all traffic that one replica can carry; default: 100% / replicas"
    )
    alpha: Fraction = Field(
        description="probability that a healthy release is rolled back, at most: whole run, all checks together"
    )
    promote_alpha: Fraction = share_field(
        "5%", "probability that a release beyond a promotion margin is promoted, at most"
    )
    steps: Annotated[tuple[Step, ...], Field(min_length=1, max_length=100)] = Field(
        description="shares of traffic, rising, the last 100%"
    )
    bake: Bake | None = Field(None, description="the step before the last, with a control share on stable")
    checks: Annotated[tuple[Check, ...], Field(max_length=20)] = Field((), description="what is judged")
    sticky: StickyRule | None = Field(None, description="for ab: how users keep their slot")
    experiment: Experiment | None = Field(None, description="for ab: what shall be found out")
    shadow: Shadow | None = Field(None, description="for shadow: what is copied and compared")
    watchdogs: Watchdogs = Watchdogs()
    limits: Limits = Limits()
    rollback: Rollback = Rollback()
    guard: Guard | None = Field(None, description="what `rollout guard` watches after the promotion; none: nothing")
    alerts: tuple[AlertRule, ...] = Field((), max_length=50, description="what alerts of Alertmanager do")
    on_unwatched: Literal["rollback", "hold", "continue"] = Field(
        "rollback",
        description="what whoever takes over does when no controller has looked for watchdogs.lease while the "
        "candidate carried traffic",
    )
    on_inconclusive: Literal["hold", "rollback", "promote-with-warning"] = Field(
        "hold",
        description="when a step's time limit has passed without enough requests or evidence; what speaks against the "
        "candidate, or a slot that is not ready, is never passed over",
    )
    freeze: tuple[Freeze, ...] = Field((), max_length=50, description="when no release gets more traffic")
    notify: tuple[Notification, ...] = Field((), max_length=10, description="who is told")
    warmup_requests: int = Field(
        10, ge=0, description="first requests of a fresh candidate whose latency does not count: caches are cold"
    )

    @model_validator(mode="before")
    @classmethod
    def _baked(cls, data: Any) -> Any:
        """`bake` as the step it stands for. What is wrong with it is said by its own validation."""
        steps, strategy = (data.get("steps"), data.get("strategy", "canary")) if isinstance(data, dict) else (None, "")
        if not isinstance(steps, list | tuple) or not steps or strategy not in ("canary", "blue-green"):
            return data
        try:
            step = Bake.model_validate(data.get("bake")).step()
        except ValidationError:
            return data
        return {**data, "bake": None, "steps": [*steps[:-1], step, steps[-1]]}

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if not 0 < self.alpha < 0.5 or not 0 < self.promote_alpha < 0.5:
            raise ValueError("alpha and promote_alpha are above 0% and below 50%")
        self._rising()
        names = [check.name for check in self.checks]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two checks are called {twice!r}")
        shares = math.fsum(check.share for check in self.checks)
        if shares > 1 + 1e-9:
            raise ValueError(f"the checks' shares of alpha add up to {shares * 100:g}%; 100% is all there is")
        for check in self.checks:
            if check.share <= 0:
                raise ValueError(f"check {check.name}: share is 0%, so it could never fire")
            if check.interval < self.tick:
                raise ValueError(f"check {check.name}: interval {check.interval:g}s is shorter than a tick")
        for step in self.steps:
            if step.min_time > self.limits.step:
                raise ValueError(f"step {step.weight:g}%: min_time {step.min_time:g}s is beyond limits.step")
        least = LEASES_AT_LEAST * self.lease_ttl
        if self.unwatched_after < least:
            raise ValueError(
                f"watchdogs.lease is {self.unwatched_after:g}s; to replace a controller takes up to "
                f"{self.lease_ttl:g}s, its lease, so {least:g}s is the least"
            )
        self._fits_strategy()
        problem = capacity.problem(self)
        if problem is None and self.strategy != "shadow":
            problem = feasibility.problem(self)
        if problem:
            raise ValueError(problem)
        return self

    def _rising(self) -> None:
        weights = [step.weight for step in self.steps]
        if self.strategy in ("ab", "shadow"):
            if len(weights) != 1:
                raise ValueError(f"{self.strategy} has one step, not {len(weights)}")
            if self.strategy == "ab" and not 0.01 <= weights[0] < 100:
                raise ValueError(f"an experiment needs both arms: a weight of {weights[0]:g}% leaves one empty")
            if self.strategy == "shadow" and weights[0] != 0:
                raise ValueError("a shadow gives the candidate no users' traffic: its step has weight 0%")
            return
        for earlier, later in pairwise(weights):
            if later <= earlier:
                raise ValueError(f"steps must rise: {later:g}% follows {earlier:g}%")
        if weights[0] < 0.01:
            raise ValueError(f"the first step has weight {weights[0]:g}%; 0.01% is the least that a router divides")
        if weights[-1] != 100:
            raise ValueError(f"the last step must be 100%, not {weights[-1]:g}%")

    def _fits_strategy(self) -> None:
        for key, strategy in (("shadow", "shadow"), ("experiment", "ab"), ("sticky", "ab")):
            if (getattr(self, key) is not None) != (self.strategy == strategy):
                needed = self.strategy == strategy
                raise ValueError(f"strategy {strategy} needs {key}" if needed else f"{key} is for strategy {strategy}")
        if self.bake is not None:
            raise ValueError(f"bake is for strategies that promote, not for {self.strategy}")
        if not self.checks and self.strategy != "shadow":
            raise ValueError("checks: at least one is needed, or nothing would be judged")
        if self.checks and self.strategy == "shadow":
            raise ValueError("a shadow compares and judges nothing: leave checks out")
        if self.strategy in ("ab", "shadow"):
            return
        if self.replica_carries is not None and self.replica_carries * self.replicas < 100:
            raise ValueError(f"{self.replicas} replicas that carry {self.replica_carries:g}% each do not carry it all")
        if self.spare and self.capacity == "surge":
            raise ValueError("spare is for capacity: shift; with surge both slots run in full")
        if self.strategy == "blue-green" and self.capacity == "shift":
            raise ValueError("blue-green needs both slots in full: capacity must be surge")
        if len(self.steps) > 1:
            return
        if self.strategy == "canary":
            raise ValueError("a canary needs a step below 100%, or there is nothing to compare with: say blue-green")
        relative = [check.name for check in self.checks if not isinstance(check, ErrorsSlo | LatencySlo)]
        if relative:
            raise ValueError(f"check {relative[0]} compares with stable, which has no traffic: add a step below 100%")
        promoting = next((c.name for c in self.checks if isinstance(c, ErrorsSlo) and c.promote_at_most), None)
        if promoting:
            raise ValueError(f"check {promoting}: evidence for promotion is asked before 100%: add a step below 100%")

    def identity(self) -> str:
        """`sha256:…` of the plan as it was understood, defaults included."""
        return self._identity

    @cached_property
    def _identity(self) -> str:
        return sha256(canonical_json(self.model_dump(mode="json")))

    @property
    def carries(self) -> float:
        """Percent of all traffic that one replica can carry."""
        return 100 / self.replicas if self.replica_carries is None else self.replica_carries

    def frozen(self, at: float) -> str | None:
        """Why no release gets more traffic at this moment, in words; None when it may."""
        return next((text for freeze in self.freeze if (text := freeze.active(at)) is not None), None)

    @property
    def lease_ttl(self) -> float:
        """Seconds after which a controller that has not been heard of may be replaced."""
        return max(15.0, 3 * self.tick)

    @property
    def unwatched_after(self) -> float:
        """Seconds without a controller after which the dead-man's rule applies."""
        given = self.watchdogs.lease
        return max(120.0, LEASES_AT_LEAST * self.lease_ttl) if given is None else given

    @property
    def engine_metrics(self) -> frozenset[str]:
        """Names (metrics/names.py) of what engines must count for the plan's checks."""
        latencies = {check.metric for check in self.checks if isinstance(check, LatencyVsStable | LatencySlo)}
        events = {check.event for check in self.checks if isinstance(check, EventsVsStable)}
        return frozenset({*latencies, *(COUNTED_BY[event] for event in events if event in COUNTED_BY)})

    @property
    def normal_errors(self) -> float:
        """Failing fraction at which a release that was rolled back to is called well."""
        if self.rollback.errors_at_most is not None:
            return self.rollback.errors_at_most
        return min((check.at_most for check in self.checks if isinstance(check, ErrorsSlo)), default=0.05)

    def guarded(self) -> Plan | None:
        """The plan as the guard judges by it: objectives alone, over its window, at its own alpha.

        None when there is no guard, or no objective to judge by.
        """
        absolute = [check for check in self.checks if isinstance(check, ErrorsSlo | LatencySlo)]
        if self.guard is None or not absolute:
            return None
        whole = math.fsum(check.share for check in absolute)
        return self.model_copy(
            update={
                "alpha": self.guard.alpha,
                "checks": tuple(check.model_copy(update={"share": check.share / whole}) for check in absolute),
                "steps": self.steps[-1:],
                "limits": self.limits.model_copy(update={"step": self.guard.window, "held": 0.0}),
            }
        )

    def log_limit(self, check: Check) -> float:
        """Natural logarithm of the e-value at which the check fires: 1 / (alpha * share)."""
        return -math.log(self.alpha * check.share)

    @property
    def promote_log_limit(self) -> float:
        """Natural logarithm of the e-value at which a promotion margin is shown.

        Every margin must be shown by itself, so each may use the whole of `promote_alpha`: a release beyond one margin
        is promoted only if that one test errs (intersection-union test, Berger 1982).
        """
        return -math.log(self.promote_alpha)

    def horizon(self, check: Check) -> int:
        """Intervals over which late starts of evidence are spread: all that fit into the plan's time limits.

        Of a check on quality: all items of the suite.
        """
        if isinstance(check, Quality):
            return check.items
        return max(1, math.ceil(self._longest / check.interval))

    @cached_property
    def _longest(self) -> float:
        return self.limits.step * len(self.steps) + self.limits.held

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """As any contract's; what was computed from the fields is computed anew."""
        copied = super().model_copy(update=update, deep=deep)
        for name in ("_identity", "_longest"):
            copied.__dict__.pop(name, None)
        return copied


def load_plan(path: Path) -> Plan:
    """Read a plan.

    Raises:
        ConfigError: with every problem found, one line each, as `file:line:column: key: what is wrong`.
    """
    return load(path, Plan)


__all__ = [
    "TTFT_EDGES",
    "Check",
    "ConfigError",
    "ErrorsSlo",
    "ErrorsVsStable",
    "LatencySlo",
    "Plan",
    "Step",
    "load_plan",
]
