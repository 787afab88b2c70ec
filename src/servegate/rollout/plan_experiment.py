"""What a plan says about an experiment (A/B) and about a shadow."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from servegate.config import Config
from servegate.rollout.checks import Name, share_field
from servegate.stats import always_valid
from servegate.units import Fraction, Percent

MetricName = Annotated[str, Field(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]{0,100}$")]
Positive = Annotated[float, Field(gt=0, le=1e12)]


class StickyRule(Config):
    """Users keep their slot while it has traffic, also when weights change."""

    by: Literal["cookie", "header"] = Field(
        description="cookie: the router gives one; header: the hash of a header that clients send, such as a user's id"
    )
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,100}$")] = Field(description="of the cookie or the header")


class Metric(Config):
    """A number per user, by which the two arms are compared."""

    name: Name = Field(description="what reports call it")
    event: MetricName = Field(description="name of the events it is made of")
    kind: Literal["converted", "total", "mean"] = Field(
        description="per user: whether there was such an event (value above 0), the sum of its values, or their mean"
    )
    better: Literal["higher", "lower"] = Field(description="which direction is good")


class Primary(Metric):
    """The metric that decides, with what is expected of it beforehand."""

    baseline: Annotated[float, Field(ge=0, le=1e12)] = Field(description="mean per user as it is now")
    deviation: Positive | None = Field(
        None, description="standard deviation between users; not needed for kind: converted"
    )
    effect: Positive = Field(description="smallest difference worth finding, in units of the metric")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.kind == "converted":
            if self.deviation is not None:
                raise ValueError("deviation is not needed for kind: converted, it follows from the baseline")
            other = self.baseline + (self.effect if self.better == "higher" else -self.effect)
            if not 0 < self.baseline < 1 or not 0 < other < 1:
                raise ValueError("baseline, and the baseline with the effect, must be above 0 and below 1")
        elif self.deviation is None:
            raise ValueError(
                f"deviation is required for kind: {self.kind}: without it no number of users can be planned"
            )
        return self

    @property
    def variance(self) -> float:
        """Of one user's value."""
        return self.baseline * (1 - self.baseline) if self.deviation is None else self.deviation**2


class Guardrail(Metric):
    """A metric that must not get worse by more than a margin."""

    margin: Positive = Field(description="how much worse is still accepted, in units of the metric")


class CsvEvents(Config):
    """A file with the columns `user,slot,event,value`, to which lines are added while the experiment runs.

    Every user who was assigned needs a line with event `exposure`. With a column `at` (seconds since the epoch) lines
    from before the experiment do not count.
    """

    csv: Annotated[str, Field(min_length=1, max_length=4096)] = Field(description="the file")


class CounterEvents(Config):
    """Two Prometheus counters per slot. The unit is the request, not the user; requests are taken as independent."""

    prometheus: Annotated[str, Field(min_length=1, max_length=4096)] = Field(description="file that says which one")
    trials: Annotated[str, Field(min_length=1, max_length=4096)] = Field(
        description="PromQL with one row per `slot`; {window} is the time since the experiment began"
    )
    successes: Annotated[str, Field(min_length=1, max_length=4096)] = Field(description="PromQL, like trials")


class Experiment(Config):
    """What shall be found out, and when it is known. Written down before the first user is assigned."""

    hypothesis: Annotated[str, Field(min_length=10, max_length=2000)] = Field(
        description="one sentence that can be wrong"
    )
    primary: Primary = Field(description="the metric that decides")
    guardrails: tuple[Guardrail, ...] = Field(
        (), max_length=20, description="what must not get worse; one that is breached ends the experiment"
    )
    horizon: Literal["fixed", "sequential"] = Field(
        "sequential", description="fixed: one look at the planned number of users; sequential: may be looked at always"
    )
    alpha: Fraction = share_field("5%", "chance that a difference is found where there is none")
    power: Fraction = share_field("80%", "chance that the effect is found where it is")
    events: CsvEvents | CounterEvents = Field(description="where the numbers come from")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if not 0 < self.alpha < 0.5 or not 0.5 <= self.power < 1:
            raise ValueError("alpha is above 0% and below 50%, power at least 50% and below 100%")
        names = [self.primary.name, *(item.name for item in self.guardrails)]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two metrics are called {twice!r}")
        if isinstance(self.events, CounterEvents) and (self.guardrails or self.primary.kind != "converted"):
            raise ValueError("counters know one metric of kind: converted; for others, and for guardrails, use csv")
        return self

    def users(self, share: float) -> int:
        """Users (requests, for counters) in both arms together after which the experiment ends.

        Args:
            share: of users in the candidate's arm.
        """
        plan = always_valid.users_fixed if self.horizon == "fixed" else always_valid.users_sequential
        return plan(self.primary.variance, self.primary.effect, self.alpha, self.power, share)


class Outputs(Config):
    """Prompts that both slots are asked, to compare what they answer."""

    prompts: Annotated[str, Field(min_length=1, max_length=4096)] = Field(
        description="file of prompts, as the load test reads them, such as loadtest/prompts/support.jsonl"
    )
    count: Annotated[int, Field(ge=1, le=1000)] = Field(50, description="prompts asked, one at a time")
    max_tokens: Annotated[int, Field(ge=1, le=4096)] = Field(64, description="longest answer")


class Shadow(Config):
    """A copy of users' requests goes to the candidate; what it answers is thrown away."""

    mirror: Percent = Field(description="percent of all requests that are copied")
    outputs: Outputs | None = Field(None, description="compare answers too; asks the slots themselves")

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.mirror <= 0:
            raise ValueError("mirror must be above 0%")
        return self
