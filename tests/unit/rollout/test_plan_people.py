"""Freeze windows in their time zones, and who is told."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from servegate.config import validate
from servegate.errors import ConfigError
from servegate.rollout.plan_people import Freeze, Notification

BERLIN = "Europe/Berlin"


def at(text: str, zone: str = BERLIN) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def frozen(moment: str, **keys: Any) -> bool:
    return validate({"timezone": BERLIN, **keys}, Freeze, "f").active(at(moment)) is not None


def test_every_night_over_midnight() -> None:
    night = {"start": "22:00", "until": "06:30"}
    assert [frozen(f"2026-11-25 {clock}", **night) for clock in ("21:59", "22:00", "06:29", "06:30")] == [
        False,
        True,
        True,
        False,
    ]


def test_every_weekend_over_the_end_of_the_week() -> None:
    weekend = {"start": "fri 16:00", "until": "mon 09:00"}
    assert not frozen("2026-11-27 15:59", **weekend)
    assert frozen("2026-11-27 16:00", **weekend)
    assert frozen("2026-11-29 12:00", **weekend)
    assert frozen("2026-11-30 08:59", **weekend)
    assert not frozen("2026-11-30 09:00", **weekend)
    assert not frozen("2026-12-02 12:00", **weekend)


def test_once() -> None:
    holidays = {"start": "2026-12-20", "until": "2027-01-04 09:00"}
    assert not frozen("2026-12-19 23:59", **holidays)
    assert frozen("2026-12-20 00:00", **holidays)
    assert frozen("2027-01-04 08:59", **holidays)
    assert not frozen("2027-01-04 09:00", **holidays)


def test_it_is_the_clock_on_the_wall_that_counts() -> None:
    freeze = validate({"start": "09:00", "until": "10:00", "timezone": BERLIN, "name": "stand-up"}, Freeze, "f")
    assert freeze.active(at("2026-07-01 07:30", "UTC")) == f"frozen (stand-up) until 10:00 {BERLIN}"
    assert freeze.active(at("2026-12-01 07:30", "UTC")) is None
    assert freeze.active(at("2026-12-01 08:30", "UTC")) is not None


def test_an_unquoted_time_of_yaml_is_read_as_written() -> None:
    assert validate({"start": 1320, "until": "06:00"}, Freeze, "f").start == "22:00"


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"start": "22:00", "until": "22:00"}, "not after"),
        ({"start": "2026-12-20", "until": "2026-12-19"}, "not after"),
        ({"start": "22:00", "until": "mon 06:00"}, "different kinds"),
        ({"start": "25:00", "until": "06:00"}, "'25:00' is no moment"),
        ({"start": "monday 16:00", "until": "tue 06:00"}, "no moment"),
        ({"start": "2026-02-30", "until": "2026-03-01"}, "no moment"),
        ({"start": "22:00", "until": "06:00", "timezone": "Europe/Berln"}, "did you mean 'Europe/Berlin'"),
        ({"start": "22:00", "until": "06:00", "timezone": "../etc/passwd"}, "no time zone"),
        ({"start": "22:00", "untill": "06:00"}, "did you mean 'until'"),
    ],
)
def test_what_is_no_window_is_refused(keys: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        validate(keys, Freeze, "f")


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({}, "either url or url_env"),
        ({"url": "http://x/", "url_env": "X"}, "either url or url_env"),
        ({"url": "ftp://x/"}, "url"),
        ({"url_env": "lower"}, "url_env"),
        ({"url": "http://x/", "format": "teams"}, "'json' or 'slack'"),
    ],
)
def test_nobody_or_nowhere_cannot_be_told(keys: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        validate(keys, Notification, "n")
