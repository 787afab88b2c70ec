"""The smallest effect a comparison would have seen: printed with every result, so that "no difference" has a size."""

from __future__ import annotations

import math

from servegate.stats import special
from servegate.stats.intervals import check_level

POWER = 0.8


def normal_mde(error: float, confidence: float, power: float = POWER) -> float:
    """Effect beyond the limit that is found with `power`: (z_confidence + z_power) · standard error.

    (Miller, arXiv 2411.00640, §5; Cohen, Statistical Power Analysis, 1988.)

    Args:
        error: standard error of the estimate, in its unit.
        confidence: of the one-sided statement.
    """
    return (special.ndtri(check_level(confidence)) + special.ndtri(check_level(power))) * error


def pairs_mde(n: int, discordance: float, margin: float, confidence: float, power: float = POWER) -> float:
    """Normal approximation of the loss beyond the margin that fails with `power`, for right-or-wrong pairs.

    A true loss d makes pairs differ more: the variance is (discordance + d − d²)/n, so the effect stands on both sides
    and is iterated.
    """
    effect = 0.0
    for _ in range(50):
        loss = min(1.0, margin + effect)
        effect = normal_mde(math.sqrt((discordance + loss - loss * loss) / n), confidence, power)
    return effect
