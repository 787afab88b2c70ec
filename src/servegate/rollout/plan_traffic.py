"""What a plan says about traffic: its steps, and the replicas that carry them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from servegate.config import Config
from servegate.units import Duration, Percent, plain

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


class Bake(Config):
    """The last look before the promotion: nearly all traffic on the candidate, and a control on stable beside it.

    It is short for a step: a plan that was read has it as the step before the last.
    """

    control: Percent = Field(description="percent of traffic that stays on stable, to compare with; 5% to 50%")
    min_time: Duration = Field(description="as of a step: give it the time that a late regression needs")
    min_requests: int = Field(0, ge=0, description="as of a step")

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if not 5 <= self.control <= 50:
            raise ValueError(
                f"a control of {self.control:g}% is not within 5% and 50%: with less there is no comparison"
            )
        return self

    def step(self) -> dict[str, Any]:
        """The step it stands for, as it would be written."""
        weight, time = plain(100 - self.control), plain(self.min_time)
        return {"weight": f"{weight}%", "min_time": f"{time}s", "min_requests": self.min_requests}


class Expect(Config):
    """The traffic the plan is made for."""

    requests_per_second: Annotated[float, Field(gt=0)] = Field(description="on both slots together, at a quiet hour")
