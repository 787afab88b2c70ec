"""What a plan judges: its checks, each with its margin and its share of the error budget."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from servegate.config import Config
from servegate.units import Duration, Fraction, percent, seconds

TTFT_EDGES = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
)  # fmt: skip
"""Bucket edges of vllm:time_to_first_token_seconds (vLLM 0.32), in seconds."""
_GAP_EDGES = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
_REQUEST_EDGES = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
)  # fmt: skip
Latency = Literal["ttft", "itl", "tpot", "e2e_latency", "queue_time"]
EDGES: dict[str, tuple[float, ...]] = {
    "ttft": TTFT_EDGES,
    "itl": _GAP_EDGES,
    "tpot": _GAP_EDGES,
    "e2e_latency": _REQUEST_EDGES,
    "queue_time": _REQUEST_EDGES,
}
"""Bucket edges of the engine's latencies (vLLM 0.32), in seconds."""
Event = Literal["aborts", "unanswered", "truncation", "rejections", "preemptions", "tokens"]

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,40}$")]


def time_field(default: str, description: str) -> Any:
    """A field of seconds with a default that the schema shows as it is written."""
    return Field(seconds(default), description=description, json_schema_extra={"default": default})


def share_field(default: str, description: str) -> Any:
    """A field of a fraction with a default that the schema shows as it is written."""
    return Field(percent(default) / 100, description=description, json_schema_extra={"default": default})


class _Check(Config):
    name: Name = Field(description="what reports and reasons call this check")
    share: Fraction = Field(
        description="share of the plan's alpha that this check may spend; all together at most 100%"
    )
    interval: Duration = time_field(
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
    per_request: bool = Field(
        False,
        description="take every request as a witness of its own: sooner, but a pod that fails for five seconds may "
        "send a healthy release back",
    )


COUNTED_BY: Mapping[Event, str] = {
    "aborts": "finished_abort",
    "truncation": "finished_length",
    "rejections": "rejected",
    "preemptions": "preemptions",
    "tokens": "generation_tokens",
}
"""The engine's counter of an event (metrics/names.py); unanswered requests are the gateway's."""


class EventsVsStable(_Check):
    """Does something else than failing happen more often to the candidate's requests?

    Null hypothesis: within an interval, the candidate's share of the events is on average at most its share of the
    requests at `odds_ratio`.
    """

    kind: Literal["events-vs-stable"]
    event: Event = Field(
        description="aborts: ended by the engine's abort; unanswered: timed out or broken off at the gateway; "
        "truncation: ended by the length limit; rejections: turned away by a full engine; preemptions: put back by the "
        "scheduler; tokens: generated tokens, so longer answers"
    )
    odds_ratio: Annotated[float, Field(ge=1, le=10)] = Field(
        1.2, description="how many times as often as on stable is still accepted"
    )
    direction: Literal["more", "fewer"] = Field("more", description="fewer: shorter answers, with tokens")


class Weather(Config):
    """How far two slots of the same release drift apart for a while: a noisy neighbour, a long prompt."""

    sd: Fraction = share_field("15%", "standard deviation of one slot's latency relative to the other's")
    lasts: Duration = time_field("45s", "time after which a third of it is left")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if not 0 < self.sd <= 1 or self.lasts <= 0:
            raise ValueError("sd is above 0% and at most 100%, lasts above 0s")
        return self


class LatencyVsStable(_Check):
    """Is the candidate slower than the stable slot, for longer than weather lasts?

    Null hypothesis: apart from passing weather, its latency is at most `margin` above that of stable.
    """

    kind: Literal["latency-vs-stable"]
    metric: Latency = Field("ttft", description="which latency, as the engine measures it")
    margin: Fraction = share_field("5%", "how much slower is still accepted")
    promote_margin: Fraction | None = Field(
        None,
        description="before the last step there must be evidence that the candidate is less than this slower; without "
        "it this check does not hold a promotion up",
    )
    weather: Weather = Weather.model_validate({})
    load_ratio: Annotated[float, Field(ge=1, le=100)] = Field(
        1.1,
        description="latency counts against the candidate only while a replica of it is sent at most this multiple of "
        "the requests that a replica of stable is sent, and for it only the other way round",
    )
    cold_cache: Duration = time_field(
        "15m",
        "how long since its first traffic latency does not count while the candidate finds clearly fewer tokens in its "
        "prefix cache than stable; a release that defeats the cache is excused for as long",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.promote_margin is not None and self.promote_margin <= self.margin:
            raise ValueError("promote_margin is above margin")
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


class LatencySlo(_Check):
    """Do more of the candidate's requests wait too long than users are promised?

    Null hypothesis: the fraction of an interval's requests above `over` is at most `at_most`.
    """

    kind: Literal["latency-slo"]
    metric: Latency = Field("ttft", description="which latency, as the engine measures it")
    over: Duration = Field(description="a latency; one of the engine's bucket edges")
    at_most: Fraction = Field(description="fraction of requests that may take longer than that")

    @model_validator(mode="after")
    def _resolvable(self) -> Self:
        edges = EDGES[self.metric]
        if self.over not in edges:
            near = sorted(sorted(edges, key=lambda edge: abs(math.log(edge / max(self.over, 1e-9))))[:2])
            raise ValueError(
                f"over {_ms(self.over)} is not an edge of vLLM's {self.metric} buckets, so the share above it "
                f"cannot be known; the nearest are {_ms(near[0])} and {_ms(near[1])}"
            )
        if not 0 < self.at_most < 1:
            raise ValueError("at_most is between 0% and 100%")
        return self


class Quality(_Check):
    """Does the candidate answer a suite's items worse than the stable slot?

    Items of a suite are asked of both slots during the canary, in a random order that was fixed beforehand. Null
    hypothesis: the mean score over the suite's items (`of: suite`) or over the population they were drawn from (`of:
    population`) is at most `margin` below stable's. An item that is asked again is no new sample.
    """

    kind: Literal["quality"]
    suite: Annotated[str, Field(min_length=1, max_length=1000)] = Field(
        description="file of the suite, such as evals/suites/support.yaml"
    )
    items: Annotated[int, Field(ge=1)] = Field(description="how many items the suite has")
    rate: Annotated[float, Field(gt=0, le=100)] = Field(
        0.2, description="items per second that are asked of both slots, past the router"
    )
    of: Literal["suite", "population"] = Field(
        "suite",
        description="what the statement is about: the items of this suite, or the population they were drawn from one "
        "by one",
    )
    margin: Fraction = share_field("2%", "drop of the mean score that is still accepted")
    promote_margin: Fraction | None = Field(
        None, description="before the last step there must be evidence that the drop is less than this"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not 0 <= self.margin < 1:
            raise ValueError("margin is at least 0% and below 100%")
        if self.promote_margin is not None and not self.margin < self.promote_margin < 1:
            raise ValueError("promote_margin is above margin and below 100%")
        return self


Check = Annotated[
    ErrorsVsStable | EventsVsStable | LatencyVsStable | ErrorsSlo | LatencySlo | Quality, Field(discriminator="kind")
]
Relative = ErrorsVsStable | EventsVsStable | LatencyVsStable | Quality
"""Checks that need the stable slot."""
Objective = ErrorsSlo | LatencySlo
"""Checks of what users are promised."""
OfLatency = LatencyVsStable | LatencySlo
"""Checks that look at a histogram."""
OfFailures = ErrorsVsStable | ErrorsSlo
"""Checks that count failed requests."""


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:g}ms" if seconds < 1 else f"{seconds:g}s"
