"""Cost: measures that follow from the policy's prices, judged like any other."""

from __future__ import annotations

from typing import Any

import pytest

from servegate.config import validate
from servegate.errors import ConfigError
from servegate.gates import Policy, evaluate
from servegate.report.model import Interval, Measure, Report, Subject
from servegate.report.verdict import CheckResult, Outcome

PRICES = {"hour": "$3.60", "prompt_tokens": "$0.10", "output_tokens": "$0.40"}


def measure(name: str, value: float | None, unit: Any, n: int = 100, **more: Any) -> Measure:
    return Measure(name=name, value=value, unit=unit, n=n, attempted=100, **more)


def throughput(value: float | None, interval: tuple[float, float] | None = None) -> Measure:
    ends = None if interval is None else Interval(low=interval[0], high=interval[1], level=0.95, method="t")
    return measure(
        "output_throughput", value, "tokens/second", statistic="mean", better="higher", interval=ends or None
    )


TOKENS = (
    measure("prompt_tokens", 1_000_000.0, "tokens", statistic="total"),
    measure("output_tokens", 500_000.0, "tokens", statistic="total"),
)


def report(*measures: Measure, release: str = "a") -> Report:
    subject = Subject(release="sha256:" + release * 64)
    return Report(kind="load", name="x", subject=subject, started=0, finished=1, tool="t", measures=measures)


def one(check: dict[str, Any], *measures: Measure, prices: Any = PRICES, old: Report | None = None) -> CheckResult:
    data = {"version": 1, "name": "p", "prices": prices, "checks": [{"id": "c", "report": "load", **check}]}
    rules = validate(data, Policy, "policy")
    return evaluate(rules, [report(*measures)], [old] if old else []).results[0]


def test_an_hour_and_a_throughput_give_the_price_of_a_million_tokens() -> None:
    found = one({"expect": "cost_per_million_tokens < $2.10"}, throughput(500.0))
    assert found.value == pytest.approx(2.0)
    assert (found.unit, found.outcome) == ("usd", Outcome.PASS)
    assert one({"expect": "cost_per_million_tokens < $1.90"}, throughput(500.0)).outcome is Outcome.FAIL


def test_the_ends_of_the_interval_change_sides() -> None:
    found = one({"expect": "cost_per_million_tokens < $2.10"}, throughput(500.0, (400.0, 625.0)))
    assert found.interval is not None
    assert [found.interval.low, found.interval.high] == pytest.approx([1.6, 2.5])
    assert found.outcome is Outcome.INCONCLUSIVE


def test_tokens_give_the_cost_of_all_and_of_one_answer() -> None:
    assert one({"expect": "cost < $1"}, *TOKENS).value == pytest.approx(0.3)
    assert one({"expect": "cost_per_request < $0.01"}, *TOKENS).value == pytest.approx(0.003)


def test_cost_is_compared_with_a_baseline() -> None:
    old = report(throughput(500.0, (480.0, 520.0)), release="b")
    worse = one(
        {"measure": "cost_per_million_tokens", "baseline": {"margin": "10% of baseline"}},
        throughput(300.0, (290.0, 310.0)),
        old=old,
    )
    assert worse.outcome is Outcome.FAIL
    assert worse.report == report(throughput(300.0, (290.0, 310.0))).identity()


def test_what_was_not_measured_costs_nothing_known() -> None:
    assert one({"expect": "cost_per_million_tokens < $2"}, throughput(None)).outcome is Outcome.VOID
    half = (TOKENS[0].model_copy(update={"n": 50}), TOKENS[1])
    assert "50 % of 100 attempts" in one({"expect": "cost < $1"}, *half).message
    missing = one({"expect": "cost < $1"}, TOKENS[0])
    assert (missing.outcome, "totals of tokens in the report" in missing.message) == (Outcome.VOID, True)
    assert "`hour`" in one({"expect": "cost_per_million_tokens < $1"}, *TOKENS, prices=None).message


def test_a_cost_the_report_states_itself_is_the_reports() -> None:
    own = measure("cost", 7.0, "usd", statistic="total")
    assert one({"expect": "cost < $8"}, *TOKENS, own).value == 7.0


@pytest.mark.parametrize(
    ("prices", "says"),
    [
        ({}, "at least one of hour"),
        ({"hour": "4"}, "is not a price such as"),
        ({"hour": "$0"}, "is not a price such as"),
        ({"hour": "4 tokens"}, "is not a price such as"),
        ({"our": "$4"}, "did you mean 'hour'"),
    ],
)
def test_prices_that_are_none_are_refused(prices: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        one({"expect": "cost < $1"}, prices=prices)
