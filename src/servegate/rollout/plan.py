"""The plan: how traffic moves to a new release, and what sends it back.

A plan is judged before it is used. Steps that shrink, an error budget spent twice, an SLO at a latency the engine's
buckets cannot resolve, or checks that could not reach their limits with the traffic at hand are refused here, with the
numbers that would do: a canary that cannot decide is worse than none, because it looks like one.
"""

from __future__ import annotations

import math
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from servegate.config import Config, load
from servegate.contract import canonical_json, sha256
from servegate.errors import ConfigError
from servegate.rollout import feasibility
from servegate.units import Duration, Fraction, Percent, percent, seconds

TTFT_EDGES = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
)  # fmt: skip
"""Bucket edges of vllm:time_to_first_token_seconds (vLLM 0.32), in seconds."""

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,40}$")]


def _time(default: str, description: str) -> Any:
    """A field of seconds with a default that the schema shows as it is written."""
    return Field(seconds(default), description=description, json_schema_extra={"default": default})


def _share(default: str, description: str) -> Any:
    """A field of a fraction with a default that the schema shows as it is written."""
    return Field(percent(default) / 100, description=description, json_schema_extra={"default": default})


class Step(Config):
    """One share of traffic, and how long it lasts at least."""

    weight: Percent = Field(description="percent of traffic on the candidate")
    min_time: Duration = Field(description="counted from when the router serves this weight")
    min_requests: int = Field(0, ge=0, description="requests the candidate must have completed in this step")


class _Check(Config):
    name: Name = Field(description="what reports and reasons call this check")
    share: Fraction = Field(
        description="share of the plan's alpha that this check may spend; all together at most 100%"
    )
    interval: Duration = _time(
        "5s",
        "length of one interval of evidence: everything inside counts as one observation, so make it as long as the "
        "bursts that happen to a healthy service",
    )
    min_requests: int = Field(
        4, ge=1, description="an interval is extended until each slot that it needs has completed this many requests"
    )


class ErrorsVsStable(_Check):
    """Does the candidate fail more often than the stable slot?

    Null hypothesis: within an interval, the odds of failing are at most `odds_ratio` times those on stable.
    """

    kind: Literal["errors-vs-stable"]
    odds_ratio: Annotated[float, Field(ge=1, le=10)] = Field(
        1.2, description="odds of failing, relative to stable, that are still accepted"
    )


class TtftVsStable(_Check):
    """Is the candidate's time to first token longer than the stable slot's?

    Null hypothesis: a candidate's request is slower than a stable one of the same interval in at most `slower` of all
    comparisons (equal counts half; 50% is no difference).
    """

    kind: Literal["ttft-vs-stable"]
    slower: Fraction = _share("60%", "share of comparisons still accepted")
    promote_slower: Fraction | None = Field(
        None,
        description="before the last step there must be evidence that the candidate is slower in less than this share "
        "of comparisons; without it this check does not hold a promotion up",
    )
    load_ratio: Annotated[float, Field(ge=1, le=10)] = Field(
        1.5,
        description="latency counts against the candidate only while its load per replica is at most this "
        "multiple of stable's, and for it only while stable's is at most this multiple of its own",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not 0.5 <= self.slower < 1:
            raise ValueError("slower is at least 50% (no difference) and below 100%")
        if self.promote_slower is not None and not 0.5 < self.promote_slower < 1:
            raise ValueError("promote_slower is above 50% (no difference) and below 100%")
        return self


class ErrorsSlo(_Check):
    """Does the candidate fail more often than users are promised?

    Null hypothesis: the failing fraction of an interval is at most `at_most`.
    """

    kind: Literal["errors-slo"]
    at_most: Fraction = Field(description="fraction of requests that may fail")
    promote_at_most: Fraction | None = Field(
        None,
        description="before the last step there must be evidence that the candidate fails less often than this; "
        "without it this check does not hold a promotion up",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not 0 < self.at_most < 1:
            raise ValueError("at_most is between 0% and 100%")
        if self.promote_at_most is not None and not self.at_most <= self.promote_at_most < 1:
            raise ValueError("promote_at_most is at least at_most and below 100%")
        return self


class TtftSlo(_Check):
    """Do more of the candidate's requests wait for their first token than users are promised?

    Null hypothesis: the fraction of an interval's requests above `over` is at most `at_most`.
    """

    kind: Literal["ttft-slo"]
    over: Duration = Field(description="a time to first token; one of the engine's bucket edges")
    at_most: Fraction = Field(description="fraction of requests that may take longer than that")

    @model_validator(mode="after")
    def _resolvable(self) -> Self:
        if self.over not in TTFT_EDGES:
            near = sorted(sorted(TTFT_EDGES, key=lambda edge: abs(math.log(edge / max(self.over, 1e-9))))[:2])
            raise ValueError(
                f"over {_ms(self.over)} is not an edge of vLLM's time-to-first-token buckets, so the share above it "
                f"cannot be known; the nearest are {_ms(near[0])} and {_ms(near[1])}"
            )
        if not 0 < self.at_most < 1:
            raise ValueError("at_most is between 0% and 100%")
        return self


Check = Annotated[ErrorsVsStable | TtftVsStable | ErrorsSlo | TtftSlo, Field(discriminator="kind")]


class Expect(Config):
    """The traffic the plan is made for."""

    requests_per_second: Annotated[float, Field(gt=0)] = Field(description="on both slots together, at a quiet hour")


class Watchdogs(Config):
    """Faults that need no statistics, and how long each may last."""

    unready: Duration = _time("3s", "candidate without a ready replica: roll back; stable: hold")
    no_data: Duration = _time(
        "15s",
        "candidate carries traffic and nothing can be read of it, or it completes nothing although it should have: "
        "roll back; nothing can be read of stable: hold",
    )
    route: Duration = _time("10s", "router does not serve the wanted weights: hold")


class Limits(Config):
    """How long each part may take."""

    prepare: Duration = _time("10m", "waiting for the verdict; then start, smoke and warm-up together")
    step: Duration = _time("30m", "one step; then see on_inconclusive")
    held: Duration = _time("1h", "standing still; then roll back")


class Plan(Config):
    """How a release gets its traffic."""

    version: Literal[1]
    name: Name = Field(description="what reports call this plan")
    tick: Duration = _time("5s", "time between observations")
    expect: Expect
    replicas: Annotated[int, Field(ge=1, le=1000)] = Field(1, description="replicas of the candidate")
    alpha: Fraction = Field(
        description="probability that a healthy release is rolled back, at most: whole run, all checks together"
    )
    promote_alpha: Fraction = _share("5%", "probability that a release beyond a promotion margin is promoted, at most")
    steps: Annotated[tuple[Step, ...], Field(min_length=1, max_length=100)] = Field(
        description="shares of traffic, rising, the last 100%"
    )
    checks: Annotated[tuple[Check, ...], Field(min_length=1, max_length=20)] = Field(description="what is judged")
    watchdogs: Watchdogs = Watchdogs()
    limits: Limits = Limits()
    on_inconclusive: Literal["hold", "rollback"] = Field(
        "hold", description="when a step's time limit has passed without enough requests or evidence"
    )
    warmup_requests: int = Field(
        10, ge=0, description="first requests of a fresh candidate whose latency does not count: caches are cold"
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if not 0 < self.alpha < 0.5 or not 0 < self.promote_alpha < 0.5:
            raise ValueError("alpha and promote_alpha are above 0% and below 50%")
        weights = [step.weight for step in self.steps]
        for earlier, later in pairwise(weights):
            if later <= earlier:
                raise ValueError(f"steps must rise: {later:g}% follows {earlier:g}%")
        if weights[0] < 0.01:
            raise ValueError(f"the first step has weight {weights[0]:g}%; 0.01% is the least that a router divides")
        if weights[-1] != 100:
            raise ValueError(f"the last step must be 100%, not {weights[-1]:g}%")
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
        problem = feasibility.problem(self)
        if problem:
            raise ValueError(problem)
        return self

    def identity(self) -> str:
        """`sha256:…` of the plan as it was understood, defaults included."""
        return self._identity

    @cached_property
    def _identity(self) -> str:
        return sha256(canonical_json(self.model_dump(mode="json")))

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
        """Intervals over which late starts of evidence are spread: all that fit into the plan's time limits."""
        longest = self.limits.step * len(self.steps) + self.limits.held
        return max(1, math.ceil(longest / check.interval))


def load_plan(path: Path) -> Plan:
    """Read a plan.

    Raises:
        ConfigError: with every problem found, one line each, as `file:line:column: key: what is wrong`.
    """
    return load(path, Plan)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:g}ms" if seconds < 1 else f"{seconds:g}s"


__all__ = ["Check", "ConfigError", "Plan", "Step", "load_plan"]
