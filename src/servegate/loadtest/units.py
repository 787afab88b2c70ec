"""Quantities in a profile carry their unit: `500ms`, `20s`, `20/s`. A bare number is refused, because half of the
tools mean milliseconds by it and half mean seconds.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer

_SECONDS = {"ms": 0.001, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_NUMBER = r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*"
_DURATION = re.compile(_NUMBER + r"(ms|s|sec|m|min|h)\s*")
_RATE = re.compile(_NUMBER + r"(?:requests?)?\s*/\s*(s|sec|m|min|h)\s*")


def seconds(value: Any) -> float:
    """Read a duration such as `500ms`, `20s`, `2min`, `1h`.

    Raises:
        ValueError: not a duration with a unit.
    """
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("must be a duration with its unit, such as 500ms, 20s or 2min")
    return _finite(float(match[1]) * _SECONDS[match[2]])


def per_second(value: Any) -> float:
    """Read a rate such as `20/s`, `20 requests/s`, `300/min`.

    Raises:
        ValueError: not a rate with a unit.
    """
    match = _RATE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("must be a rate with its unit, such as 20/s or 300/min")
    return _finite(float(match[1]) / _SECONDS[match[2]])


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("is too large")
    return value


def _plain(value: float) -> str:
    """Shortest decimal without an exponent that reads back as the same number of at most nanosecond steps."""
    return f"{value:.9f}".rstrip("0").rstrip(".")


Duration = Annotated[
    float,
    BeforeValidator(seconds, json_schema_input_type=str),
    Field(ge=0, le=7 * 86400, description="with its unit, such as 500ms, 20s or 2min"),
    PlainSerializer(lambda value: f"{_plain(value)}s", return_type=str),
]
PositiveDuration = Annotated[Duration, Field(gt=0)]
Rate = Annotated[
    float,
    BeforeValidator(per_second, json_schema_input_type=str),
    Field(gt=0, le=100_000, description="with its unit, such as 20/s or 300/min"),
    PlainSerializer(lambda value: f"{_plain(value)}/s", return_type=str),
]
