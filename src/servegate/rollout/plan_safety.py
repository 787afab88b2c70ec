"""What a plan says about safety: watchdogs, time limits, the way back, the guard after the promotion, alerts."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from servegate.config import Config
from servegate.rollout.checks import share_field, time_field
from servegate.units import DURATION_PATTERN, Duration, Fraction


class Unread(Config):
    """A slot that carries traffic and cannot be read. A time alone means `after`."""

    after: Duration = time_field("15s", "how long it may last")
    then: Literal["rollback", "hold"] = Field(
        "rollback", description="when it is the candidate alone; when it is stable, or both, the rollout is held"
    )

    @model_validator(mode="before")
    @classmethod
    def _a_time(cls, value: Any) -> Any:
        return {"after": value} if isinstance(value, str) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler.resolve_ref_schema(handler(core))
        schema |= {"type": ["object", "string"], "pattern": DURATION_PATTERN}
        return schema


class Stale(Unread):
    """Its series exist, and nothing new comes."""

    after: Duration = time_field("30s", "how long it may last")
    then: Literal["rollback", "hold"] = Field(
        "hold",
        description="when it is the candidate alone: whoever scrapes is more often to blame than who is scraped",
    )


class SampleRatio(Config):
    """Whether the requests that arrive at each slot match the weights."""

    tolerance: Fraction = share_field(
        "50%",
        "factor less one by which the candidate's odds may differ from those of its weight: with 50% it may get 6.9% "
        "to 14.3% where its weight is 10%. Sticky sessions, retries and connections that are kept need some",
    )
    together: Annotated[int, Field(ge=1, le=100_000)] = Field(
        10, description="requests that one user or one connection sends to the same slot: so many count as one"
    )
    settle: Duration = time_field("10s", "time since the router serves new weights before requests are counted")
    alpha: Fraction = share_field("0.1%", "chance of a false alarm, over the whole run and beside the plan's alpha")
    then: Literal["hold", "rollback"] = Field("hold", description="what follows; whoever resumes starts a new count")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if not 0 < self.alpha < 0.5:
            raise ValueError("alpha is above 0% and below 50%")
        return self


class Watchdogs(Config):
    """Faults that need no statistics, and how long each may last."""

    unready: Duration = time_field("3s", "candidate without a ready replica: roll back; stable: hold")
    no_data: Unread = Field(
        Unread(),
        description="nothing comes of a slot that carries traffic: no series, no answer of Prometheus, or one that "
        "cannot be used; also the candidate that completes nothing although it should have, which is rolled back",
    )
    stale: Stale = Field(
        Stale(),
        description="a slot was read and is not any more: its last samples are old, or the same again, or its engines' "
        "counters stand still while the gateway gets good answers of them",
    )
    target_down: Unread = Field(
        Unread(), description="a slot's engines are asked for their metrics and do not answer (`up` is 0)"
    )
    route: Duration = time_field("10s", "router does not serve the wanted weights: hold")
    sample_ratio: SampleRatio = Field(
        SampleRatio(), description="requests arrive at the slots in other shares than the weights"
    )
    lease: Duration | None = Field(
        None,
        description="no controller has looked for this long while the candidate carried traffic: see on_unwatched; "
        "default: 2min, or two leases of a controller where its ticks are long",
    )


class Limits(Config):
    """How long each part may take."""

    prepare: Duration = time_field("10m", "waiting for the verdict; then start, smoke and warm-up together")
    step: Duration = time_field("30m", "one step; then see on_inconclusive")
    held: Duration = time_field("1h", "standing still; then roll back")
    approval: Duration = time_field("24h", "waiting for an approval; then roll back")


class Rollback(Config):
    """What must be seen before a rollback is called done."""

    prove: Duration = time_field(
        "10s", "how long the old release is watched once all traffic is back: it answers, and the error rate is normal"
    )
    errors_at_most: Fraction | None = Field(
        None, description="failing fraction that is normal; default: the lowest at_most of an errors-slo, else 5%"
    )
    limit: Duration = time_field(
        "5m", "when it could not be proven until then, it is said so, with what a person must look at"
    )

    drain: Duration = time_field(
        "1m", "from all traffic back to the end: how long answers of the other slot may go on before it is emptied"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.prove > self.limit:
            raise ValueError("prove is longer than limit")
        return self


class Guard(Config):
    """What is watched after the promotion, while the old release stays warm."""

    window: Duration = time_field("30m", "how long; at its end the old slot is emptied")
    alpha: Fraction = share_field("1%", "probability that a healthy release is rolled back in the window, at most")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if not 0 < self.alpha < 0.5:
            raise ValueError("alpha is above 0% and below 50%")
        if self.window <= 0:
            raise ValueError("window must be longer than nothing")
        return self


Label = Annotated[str, Field(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$", max_length=100)]


class AlertRule(Config):
    """What a firing alert of Alertmanager does. All labels must be there with these values; the first rule counts."""

    labels: dict[Label, Annotated[str, Field(max_length=1000)]] = Field(
        min_length=1, description="such as {alertname: HighErrorRate, severity: page}"
    )
    then: Literal["rollback", "freeze"] = Field(
        description="rollback: back to the release before; freeze: stand still until the alert is resolved"
    )
