"""Against a baseline without pairs: measures of load, by their intervals."""

from __future__ import annotations

from typing import Any

import pytest
from gate_runs import NEW, NOW, OLD, policy

from servegate.errors import ConfigError
from servegate.gates import evaluate
from servegate.report.model import Interval, Measure, Report, Subject
from servegate.report.verdict import CheckResult, Outcome


def load(value: float, low: float, high: float, release: str, **more: Any) -> Report:
    return Report(
        kind="load",
        name="chat",
        subject=Subject(release=release, name="v"),
        started=NOW - 10,
        finished=NOW - 5 if release == NEW else NOW - 4,
        tool="test",
        measures=(
            Measure(
                **{
                    "name": "ttft",
                    "statistic": "p95",
                    "value": value,
                    "unit": "seconds",
                    "n": 400,
                    "attempted": 400,
                    "better": "lower",
                    "interval": Interval(low=low, high=high, level=0.95, method="order-statistic"),
                    **more,
                }
            ),
        ),
    )


def latency(margin: str, new: Report, old: Report, measure: str = "ttft p95") -> CheckResult:
    rules = policy({"report": "load", "measure": measure, "baseline": {"margin": margin}})
    return evaluate(rules, [new], [old], now=NOW, decided_by="t").results[0]


@pytest.mark.parametrize("margin", ["20ms", "10% of baseline"])
@pytest.mark.parametrize(
    ("value", "outcome"), [(0.190, Outcome.PASS), (0.212, Outcome.INCONCLUSIVE), (0.260, Outcome.FAIL)]
)
def test_latencies_are_compared_by_their_intervals_and_say_so(margin: str, value: float, outcome: Outcome) -> None:
    found = latency(margin, load(value, value - 0.01, value + 0.012, NEW), load(0.2, 0.19, 0.212, OLD))
    assert found.outcome is outcome
    assert "UNPAIRED (only scores are paired)" in found.message
    assert found.threshold == pytest.approx(0.22)
    assert found.comparison == "<="


def test_error_rates_are_compared_exactly() -> None:
    keys: dict[str, Any] = {"name": "error_rate", "statistic": "rate", "unit": "fraction", "n": 2000, "attempted": 2000}
    old = load(10 / 2000, 0.002, 0.009, OLD, **keys)
    for count, outcome in ((10, Outcome.INCONCLUSIVE), (2, Outcome.PASS), (60, Outcome.FAIL)):
        new = load(count / 2000, 0.0, 1.0, NEW, **keys)
        found = latency("50% of baseline", new, old, "error_rate")
        assert found.outcome is outcome
        assert "exact conditional rate ratio" in found.message
    none = latency(
        "50% of baseline", load(0.0, 0.0, 0.01, NEW, **keys), load(0.0, 0.0, 0.01, OLD, **keys), "error_rate"
    )
    assert none.outcome is Outcome.INCONCLUSIVE


@pytest.mark.parametrize(
    ("new", "old", "measure", "says"),
    [
        (
            load(0.2, 0.1, 0.3, NEW, name="wait", better=None),
            load(0.2, 0.1, 0.3, OLD, name="wait"),
            "wait",
            "higher or lower",
        ),
        (
            load(5, 4, 6, NEW, name="stops", unit="count"),
            load(5, 4, 6, OLD, name="stops", unit="count"),
            "stops",
            "does not fit",
        ),
    ],
)
def test_a_comparison_that_cannot_be_meant_is_an_error(new: Report, old: Report, measure: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        latency("20ms", new, old, measure)


def test_intervals_are_needed_and_alike() -> None:
    bare = latency("20ms", load(0.2, 0, 1, NEW, interval=None), load(0.2, 0.19, 0.21, OLD))
    assert bare.outcome is Outcome.INCONCLUSIVE
    assert "a report has none" in bare.message
    other = Interval(low=0.19, high=0.21, level=0.9, method="t")
    assert "different levels" in latency("20ms", load(0.2, 0, 1, NEW, interval=other), load(0.2, 0.1, 0.3, OLD)).message
