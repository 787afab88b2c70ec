"""What a plan judges: its checks, each with its margin and its share of the error budget."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from servegate.config import Config
from servegate.units import Duration, Fraction, percent, seconds

TTFT_EDGES = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
)  # fmt: skip
"""Bucket edges of vllm:time_to_first_token_seconds (vLLM 0.32), in seconds."""

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


class TtftVsStable(_Check):
    """Is the candidate's time to first token longer than the stable slot's?

    Null hypothesis: a candidate's request is slower than a stable one of the same interval in at most `slower` of all
    comparisons (equal counts half; 50% is no difference).
    """

    kind: Literal["ttft-vs-stable"]
    slower: Fraction = share_field("60%", "share of comparisons still accepted")
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


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:g}ms" if seconds < 1 else f"{seconds:g}s"
