"""What a plan says about traffic: its steps, and the replicas that carry them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from servegate.config import Config
from servegate.units import Duration, Percent

Strategy = Literal["canary", "blue-green", "ab", "shadow"]


class Step(Config):
    """One share of traffic, and how long it lasts at least."""

    weight: Percent = Field(description="percent of traffic on the candidate")
    min_time: Duration = Field(description="counted from when the router serves this weight")
    min_requests: int = Field(0, ge=0, description="requests the candidate must have completed in this step")
    replicas: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        None, description="replicas of the candidate; default: all (surge), or what the weight needs (shift)"
    )
    approval: bool = Field(False, description="a person must say `rollout approve` before this weight is given")


class Expect(Config):
    """The traffic the plan is made for."""

    requests_per_second: Annotated[float, Field(gt=0)] = Field(description="on both slots together, at a quiet hour")
