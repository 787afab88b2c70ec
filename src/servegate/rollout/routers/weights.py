"""Weights as data planes take them: whole numbers that keep the shares exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence

from servegate.rollout.ports import Weights

UNITS = 10_000
"""Whole numbers per percent: the finest share is 0.0001 %."""


def to_units(weights: Weights, slots: Sequence[str]) -> dict[str, int]:
    """Percent as whole numbers, one for every slot, their sum exactly 100 percent.

    A slot without weight gets 0, and only such a slot: a share too small to be expressed is refused.

    Raises:
        ValueError: an unknown slot, a number that is no percentage, or a sum other than 100.
    """
    unknown = sorted(set(weights) - set(slots))
    if unknown:
        raise ValueError(f"no slot {unknown[0]!r}; there are {', '.join(slots)}")
    values = {slot: float(weights.get(slot, 0.0)) for slot in slots}
    if not all(math.isfinite(value) and value >= 0 for value in values.values()):
        raise ValueError(f"weights must be percentages: {values}")
    if abs(sum(values.values()) - 100) > 1e-6:
        raise ValueError(f"weights must sum to 100 percent: {values}")
    units = {slot: round(value * UNITS) for slot, value in values.items()}
    if any(values[slot] > 0 and units[slot] == 0 for slot in slots):
        raise ValueError(f"weights below {1 / UNITS} percent cannot be routed: {values}")
    units[max(units, key=units.__getitem__)] += 100 * UNITS - sum(units.values())
    return units
