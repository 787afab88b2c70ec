"""Quantities, measures and conditions in people's words."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servegate.gates.expression import Condition, MeasureName, check_sense, expectation, measure_name
from servegate.gates.units import quantity, seconds


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("500ms", 0.5, "seconds"),
        ("500 ms", 0.5, "seconds"),
        ("0.5s", 0.5, "seconds"),
        ("250us", 0.00025, "seconds"),
        ("12h", 43200.0, "seconds"),
        ("80%", 0.8, "fraction"),
        ("57%", 0.57, "fraction"),
        ("0.1 %", 0.001, "fraction"),
        ("2pp", 0.02, "fraction"),
        ("$0.40", 0.4, "usd"),
        ("0.4 usd", 0.4, "usd"),
        ("20 requests/s", 20.0, "requests/second"),
        ("20 req/s", 20.0, "requests/second"),
        ("400 tok/s", 400.0, "tokens/second"),
        ("2 GiB", 2.0 * 1024**3, "bytes"),
        ("3", 3.0, "count"),
        ("0.7", 0.7, "score"),
    ],
)
def test_quantities_are_converted_exactly(text: str, value: float, unit: str) -> None:
    found = quantity(text)
    assert found.value == value
    assert unit in found.units


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("500 MS", "did you mean 'ms'"),
        ("500 parsecs", "unknown"),
        ("1,5s", "unknown"),
        ("$5 usd", "two units"),
        ("-5ms", "not a quantity"),
        ("nan", "not a quantity"),
        ("inf s", "not a quantity"),
        ("1e3ms", "unknown"),
        ("", "not a quantity"),
        ("9" * 400, "not a quantity"),
    ],
)
def test_what_is_not_a_quantity_is_refused(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        quantity(text)


def test_a_length_of_time_is_not_a_percentage() -> None:
    with pytest.raises(ValueError, match="length of time"):
        seconds("5%")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("accuracy", MeasureName("accuracy")),
        ("ttft p95", MeasureName("ttft", "p95")),
        ("ttft.p99.9", MeasureName("ttft", "p99.9")),
        ("accuracy[tags=refund]", MeasureName("accuracy", None, "tags=refund")),
        ("accuracy.mean[tags=환불]", MeasureName("accuracy", "mean", "tags=환불")),
        ("error_rate.rate@green", MeasureName("error_rate", "rate", "", "green")),
    ],
)
def test_measures(text: str, found: MeasureName) -> None:
    assert measure_name(text) == found


@pytest.mark.parametrize("text", ["TTFT p95", "ttft p95 p99", "", "p95 of ttft", "accuracy[", "accuracy[a]b"])
def test_what_is_not_a_measure_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a measure"):
        measure_name(text)


def test_conditions() -> None:
    assert expectation("ttft p95 < 500ms")[0] == "ttft p95"
    assert expectation("≥80%") == ("", Condition(">=", quantity("80%")))


@pytest.mark.parametrize("text", ["p95", "p95 = 3s", "p95 == 3s", "1s < p95 < 2s", "p95 < ", "p95 <> 3s"])
def test_what_is_not_a_condition_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a (condition|quantity)"):
        expectation(text)


@pytest.mark.parametrize(
    ("measure", "condition", "says"),
    [
        ("ttft", "< 500", "has no unit"),
        ("ttft", "< 80%", "does not fit"),
        ("accuracy", ">= 0.8", "has no unit"),
        ("ttft", "> 500ms", "better when lower"),
        ("accuracy", "<= 80%", "better when higher"),
        ("accuracy", ">= 0%", "never fail"),
        ("accuracy", "> 100%", "never pass"),
        ("error_rate", "<= 100%", "never fail"),
        ("error_rate", "< 0%", "never pass"),
        ("restarts", ">= 0", "never fail"),
        ("restarts", "< 0", "never pass"),
    ],
)
def test_a_condition_that_cannot_be_meant_is_refused(measure: str, condition: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        check_sense(measure_name(measure), expectation(condition)[1])


@pytest.mark.parametrize("condition", ["< 500ms", "<= 0s"])
def test_a_condition_at_the_edge_is_kept(condition: str) -> None:
    check_sense(measure_name("ttft"), expectation(condition)[1])


@settings(deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_parsed_or_refused_with_a_message(text: str) -> None:
    for parse in (quantity, measure_name, expectation):
        try:
            parse(text)
        except ValueError as error:
            assert 0 < len(str(error)) < 1000


@settings(deadline=None)
@given(st.integers(0, 10**9), st.sampled_from(["ms", "s", "%", "tokens", ""]))
def test_what_is_written_is_read_back(number: int, unit: str) -> None:
    factor = {"ms": 0.001, "s": 1.0, "%": 0.01, "tokens": 1.0, "": 1.0}[unit]
    assert quantity(f"{number}{unit}").value == pytest.approx(number * factor)
