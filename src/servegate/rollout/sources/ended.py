"""How a request ended at the gateway → which counters it adds to. The table stands in sources/direct.py."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

COUNTERS = (
    "gateway_requests",
    "gateway_5xx",
    "gateway_connect_failures",
    "gateway_resets",
    "gateway_timeouts",
    "gateway_cancelled",
)
# Why an answer broke, after its headers: engine gone (UC, UR, UF), nonsense (UPE), silence (UT, SI), Envoy itself (LR).
_BROKEN = frozenset({"UC", "UR", "UF", "UPE", "UT", "SI", "LR"})


def counters(
    rows: Iterable[tuple[Mapping[str, str], float]], code: str = "code", flags: str = "flags"
) -> dict[str, float]:
    """Sums over the series of one slot. No series is zero: nothing has been routed to it.

    Args:
        code, flags: labels that carry the response code and Envoy's response flags.

    Raises:
        ValueError: a response code that is none.
    """
    sums = dict.fromkeys(COUNTERS, 0.0)
    for labels, value in rows:
        for name in _outcome(labels.get(code, ""), labels.get(flags, "")):
            sums[name] += value
    return sums


def _outcome(code: str, flags: str) -> list[str]:
    """The counters one ended request adds to."""
    because = set(flags.split(","))
    if "DC" in because:
        return ["gateway_cancelled"]
    if not code.isdigit():
        raise ValueError(f"response code {code[:20]!r}")
    if int(code) >= 500:
        kinds = {"gateway_connect_failures": "UF", "gateway_timeouts": "UT"}
        return ["gateway_requests", "gateway_5xx", *(name for name, flag in kinds.items() if flag in because)]
    return ["gateway_requests", "gateway_resets"] if because & _BROKEN else ["gateway_requests"]
