"""Quantities as people write them (`500ms`, `80%`, `$0.40`) into the SI units of a report.

A bare `500` is refused for anything that has a unit: half of the flaky latency gates seen in the wild compare
milliseconds with seconds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from servegate.report.model import Unit
from servegate.units import SECONDS

_UNITS: dict[str, tuple[Unit, str]] = {
    "ns": ("seconds", "1e-9"),
    "us": ("seconds", "1e-6"),
    "µs": ("seconds", "1e-6"),
    **{name: ("seconds", str(length)) for name, length in SECONDS.items()},
    "%": ("fraction", "1e-2"),
    "pp": ("fraction", "1e-2"),
    "token": ("tokens", "1"),
    "tokens": ("tokens", "1"),
    "usd": ("usd", "1"),
    "$": ("usd", "1"),
    "requests/s": ("requests/second", "1"),
    "req/s": ("requests/second", "1"),
    "rps": ("requests/second", "1"),
    "tokens/s": ("tokens/second", "1"),
    "tok/s": ("tokens/second", "1"),
    "B": ("bytes", "1"),
    "kB": ("bytes", "1e3"),
    "MB": ("bytes", "1e6"),
    "GB": ("bytes", "1e9"),
    "KiB": ("bytes", "1024"),
    "MiB": ("bytes", "1048576"),
    "GiB": ("bytes", "1073741824"),
}
_BARE: frozenset[Unit] = frozenset(("count", "score"))
_EXAMPLES: dict[Unit, str] = {
    "seconds": "500ms or 0.5s",
    "fraction": "80%",
    "tokens": "200 tokens",
    "usd": "$0.40",
    "requests/second": "20 requests/s",
    "tokens/second": "400 tokens/s",
    "bytes": "2 GiB",
    "count": "a bare number such as 3",
    "score": "a bare number such as 0.7",
}
_QUANTITY = re.compile(r"(?P<dollar>\$)?\s*(?P<number>[0-9]{1,15}(?:\.[0-9]{1,15})?)\s*(?P<unit>[^\s0-9][^\s]*)?")

# Measures whose unit and good direction are fixed everywhere, so that a slip is found before anything runs.
KNOWN: dict[str, tuple[Unit, Literal["higher", "lower"]]] = {
    "ttft": ("seconds", "lower"),
    "itl": ("seconds", "lower"),
    "tpot": ("seconds", "lower"),
    "e2e_latency": ("seconds", "lower"),
    "queue_time": ("seconds", "lower"),
    "error_rate": ("fraction", "lower"),
    "accuracy": ("fraction", "higher"),
    "goodput": ("fraction", "higher"),
    "output_throughput": ("tokens/second", "higher"),
    "cost": ("usd", "lower"),
    "cost_per_request": ("usd", "lower"),
    "cost_per_million_tokens": ("usd", "lower"),
}


@dataclass(frozen=True)
class Quantity:
    """A number in SI units.

    Attributes:
        value: in the SI unit.
        units: units of a measure it may be compared with.
        written: as the policy has it.
    """

    value: float
    units: frozenset[Unit]
    written: str

    def fits(self, unit: Unit) -> bool:
        """Whether it may be compared with a measure of that unit."""
        return unit in self.units


def quantity(text: str) -> Quantity:
    """Parse a quantity.

    Raises:
        ValueError: not a number with a known unit; names the units there are.
    """
    found = _QUANTITY.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{_shown(text)} is not a quantity such as 500ms, 80% or 20 requests/s")
    name = found["unit"]
    if found["dollar"]:
        if name is not None:
            raise ValueError(f"{_shown(text)} has two units")
        name = "$"
    number = Decimal(found["number"])
    if name is None:
        return Quantity(float(number), _BARE, text.strip())
    if name not in _UNITS:
        close = next((unit for unit in _UNITS if unit.lower() == name.lower()), None)
        hint = f"; did you mean {close!r}?" if close else f"; there are {', '.join(_UNITS)}"
        raise ValueError(f"unit {_shown(name)} is unknown{hint}")
    unit, factor = _UNITS[name]
    return Quantity(float(number * Decimal(factor)), frozenset((unit,)), text.strip())


def seconds(text: str) -> float:
    """Parse a length of time into seconds. Raises ValueError when it is not one."""
    found = quantity(text)
    if not found.fits("seconds"):
        raise ValueError(f"{_shown(text)} is not a length of time such as 30min, 12h or 7d")
    return found.value


def fraction(text: str) -> float:
    """Parse a percentage into a fraction. Raises ValueError when it is not one."""
    found = quantity(text)
    if not found.fits("fraction"):
        raise ValueError(f"{_shown(text)} is not a percentage such as 95%")
    return found.value


def misfit(found: Quantity, unit: Unit) -> str:
    """What to say about a quantity that cannot be compared with a measure of `unit`."""
    if found.units == _BARE:
        return f"{found.written} has no unit; the measure is in {unit}: write {_EXAMPLES[unit]}"
    return f"{found.written} does not fit a measure in {unit}: write {_EXAMPLES[unit]}"


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "…")
