"""What people read: units, digits, and foreign text made harmless."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servegate.report.format import (
    clean,
    clock,
    date,
    duration,
    measure_name,
    number,
    percent,
    plain_line,
    quantity,
    with_interval,
)
from servegate.report.model import Interval, Measure


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (0.212, "seconds", "212 ms"),
        (0.0043, "seconds", "4.3 ms"),
        (1.2404, "seconds", "1,240 ms"),
        (12.34, "seconds", "12.3 s"),
        (0.0, "fraction", "0 %"),
        (1.0, "fraction", "100 %"),
        (0.123, "fraction", "12.3 %"),
        (0.00004, "fraction", "0.004 %"),
        (0.99996, "fraction", "99.9960 %"),
        (1843.2, "tokens/second", "1,843 tokens/s"),
        (12345, "count", "12,345"),
        (3 * 1024**3, "bytes", "3 GiB"),
        (0.25, "usd", "0.25 USD"),
        (None, "seconds", "not measured"),
    ],
)
def test_people_see_ms_and_percent(value: float | None, unit: str, shown: str) -> None:
    assert quantity(value, unit) == shown


@given(st.floats(1e-6, 1 - 1e-6))
def test_a_percentage_that_is_neither_0_nor_100_never_looks_like_it(fraction: float) -> None:
    assert percent(fraction) not in ("0 %", "100 %", "0.0 %", "100.0 %", "0.00 %")


def test_a_value_is_told_from_the_threshold_it_misses() -> None:
    assert quantity(0.5004, "seconds", unlike=0.5) == "500.4 ms"
    assert quantity(0.5, "seconds", unlike=0.5) == "500 ms"


def test_an_interval_shares_the_scale_of_its_value() -> None:
    interval = Interval(low=0.205, high=0.22, level=0.95, method="order-statistic")
    assert with_interval(0.212, interval, "seconds") == "212 ms [205, 220]"
    assert with_interval(None, interval, "seconds") == "not measured"


def test_times() -> None:
    assert [duration(s) for s in (0.84, 9.96, 42.4, 60, 125, 11400)] == [
        "0.8 s",
        "10 s",
        "42 s",
        "1 min",
        "2 min 5 s",
        "3 h 10 min",
    ]
    assert [clock(s) for s in (0, 59.6, 61, 3661, -5)] == ["0:00", "1:00", "1:01", "1:01:01", "-0:05"]
    assert date(0) == "1970-01-01 00:00:00 UTC"
    assert date(1e300).endswith("s")


def test_what_controls_or_reorders_is_shown_as_a_code() -> None:
    assert clean("a\x1b[31mb\u202ec\x00") == "a⟨U+001B⟩[31mb⟨U+202E⟩c⟨U+0000⟩"
    assert clean("\ud800\ufffe\u2028") == "⟨U+D800⟩⟨U+FFFE⟩⟨U+2028⟩"
    assert clean("line\nline") == "line line"


def test_scripts_that_need_joiners_keep_them() -> None:
    text = "환불 עברית क्‍ष 👩‍💻"
    assert clean(text) == text


def test_a_long_text_is_cut_with_a_note() -> None:
    shown = clean("x" * 10_000_000, 100)
    assert shown == "x" * 100 + "… (cut; 10,000,000 characters)"


def test_accents_do_not_pile_up() -> None:
    assert len(clean("e" + "\u0301" * 500)) < 20


@given(st.text())
def test_cleaned_text_prints_in_one_line(text: str) -> None:
    assert all(char.isprintable() or char in "\u200c\u200d" or char.isspace() for char in clean(text))
    assert len(clean(text).splitlines()) <= 1


def test_no_line_is_a_command_to_the_runner() -> None:
    assert not plain_line("  ::error::x").lstrip().startswith("::")
    assert "##[" not in plain_line("a ##[error]b")
    assert plain_line("plain") == "plain"


def test_numbers() -> None:
    assert [number(v) for v in (0, 7, 12.34, 3.14159, 0.1234, 0.00123, 123456.7)] == [
        "0",
        "7",
        "12.3",
        "3.14",
        "0.123",
        "0.0012",
        "123,457",
    ]


def test_a_measure_is_named_as_people_say_it() -> None:
    measure = Measure(
        name="ttft", statistic="p95", slice="tags=a", slot="blue", value=1, unit="seconds", n=1, attempted=1
    )
    assert measure_name(measure) == "TTFT p95 [tags=a] (blue)"
    rate = {"name": "error_rate", "statistic": "rate", "slice": "", "unit": "fraction"}
    assert measure_name(measure.model_copy(update=rate)) == "error rate (blue)"
    total = {"name": "output_tokens", "statistic": "total", "unit": "tokens", "slot": None}
    assert measure_name(measure.model_copy(update=total)) == "output tokens total [tags=a]"
