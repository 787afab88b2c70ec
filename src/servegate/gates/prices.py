"""What a release costs, from the policy's prices and what a report counted: measures a check can name like any other.

A price is the team's, not the measurement's: the same report costs something else on other machines. So the policy
states it, and the policy's digest in the verdict says which price was judged.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from servegate.config import Config
from servegate.gates.units import quantity
from servegate.report.model import Interval, Measure, Report

_MILLION = 1e6


def _dollars(text: str) -> str:
    found = quantity(text)
    if not found.fits("usd") or found.value <= 0:
        raise ValueError(f"{text!r} is not a price such as $0.40")
    return text


Price = Annotated[str, AfterValidator(_dollars)]


class Prices(Config):
    """Prices in US dollars."""

    hour: Price | None = Field(
        None, description="an hour of everything that was measured: all GPUs of all replicas", examples=["$4.10"]
    )
    prompt_tokens: Price | None = Field(None, description="a million of them", examples=["$0.15"])
    output_tokens: Price | None = Field(None, description="a million of them", examples=["$0.60"])

    @model_validator(mode="after")
    def _some(self) -> Prices:
        if self.hour is None and self.prompt_tokens is None and self.output_tokens is None:
            raise ValueError("prices say at least one of hour, prompt_tokens and output_tokens")
        return self


def priced(report: Report, prices: Prices | None) -> tuple[Measure, ...]:
    """The measures of a report, and what they cost.

    Returns:
        Its own, then `cost_per_million_tokens` for each `output_throughput` (price of an hour), and `cost` and
        `cost_per_request` from the totals of tokens (prices of tokens); a name the report has already stays its own.
    """
    if prices is None:
        return report.measures
    found = [_per_million(measure, prices.hour) for measure in report.measures if prices.hour is not None]
    own = {measure.key for measure in report.measures}
    every = [*(item for item in found if item is not None), *_tokens(report, prices)]
    return (*report.measures, *(measure for measure in every if measure.key not in own))


def _per_million(measure: Measure, hour: str) -> Measure | None:
    if measure.name != "output_throughput" or measure.unit != "tokens/second":
        return None
    scale = quantity(hour).value / 3600 * _MILLION
    interval = measure.interval
    ends = None
    if interval is not None and interval.low > 0:
        ends = interval.model_copy(update={"low": scale / interval.high, "high": scale / interval.low})
    return _cost("cost_per_million_tokens", measure, scale / measure.value if measure.value else None, ends)


def _tokens(report: Report, prices: Prices) -> list[Measure]:
    asked = {"prompt_tokens": prices.prompt_tokens, "output_tokens": prices.output_tokens}
    wanted = {name: quantity(price).value / _MILLION for name, price in asked.items() if price is not None}
    counted = [report.measure(f"{name}.total") for name in wanted]
    if not wanted or None in counted:
        return []
    totals = [measure for measure in counted if measure is not None]
    least = min(totals, key=lambda measure: measure.n)
    known = all(measure.value is not None for measure in totals)
    cost = sum(price * (measure.value or 0.0) for price, measure in zip(wanted.values(), totals, strict=True))
    whole = _cost("cost", least, cost if known else None, None)
    each = cost / least.n if known and least.n else None
    return [whole, whole.model_copy(update={"name": "cost_per_request", "statistic": "mean", "value": each})]


def _cost(name: str, of: Measure, value: float | None, interval: Interval | None) -> Measure:
    update = {"name": name, "value": value, "unit": "usd", "better": "lower", "interval": interval}
    return of.model_copy(update=update)
