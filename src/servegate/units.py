"""Quantities as people write them: `500ms`, `20/s`, `10%`. One grammar for every configuration file.

A bare number is refused: half of the tools mean milliseconds by it and half mean seconds.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

SECONDS = {"ms": 0.001, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_NUMBER = r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*"
DURATION_PATTERN = rf"^\s*{_NUMBER}({'|'.join(SECONDS)})\s*$"
RATE_PATTERN = rf"^\s*{_NUMBER}(?:requests?)?\s*/\s*(s|sec|m|min|h)\s*$"
PERCENT_PATTERN = rf"^\s*{_NUMBER}%\s*$"


def seconds(value: Any) -> float:
    """Read a duration such as `500ms`, `20s`, `2min`, `1h`.

    Raises:
        ValueError: not a duration with a unit.
    """
    match = re.match(DURATION_PATTERN, value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("must be a duration with its unit, such as 500ms, 20s or 2min")
    return _finite(float(match[1]) * SECONDS[match[2]])


def per_second(value: Any) -> float:
    """Read a rate such as `20/s`, `20 requests/s`, `300/min`.

    Raises:
        ValueError: not a rate with a unit.
    """
    match = re.match(RATE_PATTERN, value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("must be a rate with its unit, such as 20/s or 300/min")
    return _finite(float(match[1]) / SECONDS[match[2]])


def percent(value: Any) -> float:
    """Read a share such as `10%`; in percent.

    Raises:
        ValueError: not a share with its sign, or more than all.
    """
    match = re.match(PERCENT_PATTERN, value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("must be a share with its sign, such as 10%")
    if float(match[1]) > 100:
        raise ValueError("is more than 100%")
    return float(match[1])


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("is too large")
    return value


def plain(value: float) -> str:
    """Shortest decimal without an exponent that reads back as the same number in steps of a billionth."""
    return f"{value:.9f}".rstrip("0").rstrip(".")


Duration = Annotated[
    float,
    BeforeValidator(seconds),
    Field(ge=0, le=365 * 86400),
    PlainSerializer(lambda value: f"{plain(value)}s", return_type=str),
    WithJsonSchema({"type": "string", "pattern": DURATION_PATTERN, "examples": ["500ms", "20s", "2min", "1h"]}),
]
"""Seconds; written with a unit."""

PositiveDuration = Annotated[Duration, Field(gt=0)]

Rate = Annotated[
    float,
    BeforeValidator(per_second),
    Field(gt=0, le=100_000),
    PlainSerializer(lambda value: f"{plain(value)}/s", return_type=str),
    WithJsonSchema({"type": "string", "pattern": RATE_PATTERN, "examples": ["20/s", "300/min"]}),
]
"""Per second; written with a unit."""

Percent = Annotated[
    float,
    BeforeValidator(percent),
    PlainSerializer(lambda value: f"{plain(value)}%", return_type=str),
    WithJsonSchema({"type": "string", "pattern": PERCENT_PATTERN, "examples": ["10%"]}),
]
"""Percent, 0 to 100; written with its sign."""

Fraction = Annotated[
    float,
    BeforeValidator(lambda value: percent(value) / 100),
    PlainSerializer(lambda value: f"{plain(value * 100)}%", return_type=str),
    WithJsonSchema({"type": "string", "pattern": PERCENT_PATTERN, "examples": ["1%"]}),
]
"""Fraction, 0 to 1; written in percent with its sign."""
