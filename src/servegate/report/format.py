"""How numbers and foreign text look to people, in every view alike.

Inside, units are SI and a thing not measured is None; outside, people read ms and %, and None is said in words.
Text that came from a model, a dataset or a server is made harmless here for the eye (control characters, direction
marks, absurd length); each view adds the escaping its own format needs.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime

from servegate.report.model import Interval, Measure

NOT_MEASURED = "not measured"

# Joiners stay: Korean, Indic scripts and emoji need them. Other format characters hide or reorder text.
_JOINERS = "\u200c\u200d"
_HIDDEN = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
_COMBINING_RUN = 8
_KEY = re.compile(r"([a-z][a-z0-9_]*)\.([a-z][a-z0-9_.]*)(?:\[(.*)\])?(?:@([a-z][a-z0-9-]{0,30}))?", re.DOTALL)


def clean(text: object, limit: int = 2000) -> str:
    """Foreign text as one harmless line: blanks for line ends, visible codes for what controls or reorders.

    Longer than `limit` characters: cut, with a note of the whole length.
    """
    whole = str(text)
    shown = []
    marks = 0
    for char in whole[:limit]:
        category = unicodedata.category(char)
        marks = marks + 1 if category in ("Mn", "Me") else 0
        if char in "\n\t\r":
            shown.append(" ")
        elif category in _HIDDEN and char not in _JOINERS:
            shown.append(f"⟨U+{ord(char):04X}⟩")
        elif marks <= _COMBINING_RUN:  # a tower of accents runs over the lines above it
            shown.append(char)
    note = f"… (cut; {len(whole):,} characters)" if len(whole) > limit else ""
    return "".join(shown) + note


def number(value: float) -> str:
    """About three significant digits, thousands separated."""
    size = abs(value)
    if not math.isfinite(value):
        return "∞" if value > 0 else "-∞" if value < 0 else NOT_MEASURED
    if size >= 100 or value == int(value):
        return f"{value:,.0f}"
    if size >= 1:
        return _trim(f"{value:.1f}" if size >= 10 else f"{value:.2f}")
    return f"{value:.2g}" if size < 0.01 else _trim(f"{value:.3f}")


def count(value: float | None) -> str:
    """A whole number with thousands separated."""
    return NOT_MEASURED if value is None else f"{value:,.0f}"


def percent(fraction: float | None) -> str:
    """A fraction as per cent. Never rounds to 0 or 100 what is neither."""
    return NOT_MEASURED if fraction is None else f"{_percent(fraction)} %"


def quantity(value: float | None, unit: str, unlike: float | None = None) -> str:
    """A value with its unit, as people write it.

    Args:
        unlike: a value this one is compared with: more digits are shown while the two would look the same.
    """
    if value is None:
        return NOT_MEASURED
    scale, name, shape = _scale(value, unit)
    shown = shape(value * scale)
    if unlike is not None and unlike != value:
        for digits in range(1, 5):
            if shown != shape(unlike * scale):
                break
            shown = f"{value * scale:,.{digits}f}"
            if shown != f"{unlike * scale:,.{digits}f}":
                break
    return f"{shown} {name}".strip()


def with_interval(value: float | None, interval: Interval | None, unit: str, unlike: float | None = None) -> str:
    """`212 ms [205, 220]`."""
    shown = quantity(value, unit, unlike)
    if value is None or interval is None:
        return shown
    scale, _, shape = _scale(value, unit)
    return f"{shown} [{shape(interval.low * scale)}, {shape(interval.high * scale)}]"


def size(value: float, unit: str) -> str:
    """How large a difference is, without sign: `3 pp`, `12 ms`."""
    return f"{number(abs(value) * 100)} pp" if unit == "fraction" else quantity(abs(value), unit)


def change(value: float, unit: str, interval: Interval | None = None, ratio: bool = False) -> str:
    """A difference, or a ratio, with its interval: `−2.1 pp [−4, −0.2]`, `×1.08 [×1.02, ×1.15]`."""
    scale, _, shape = (100.0, "pp", number) if unit == "fraction" else _scale(value, unit)

    def end(bound: float) -> str:
        return f"×{bound:.2f}" if ratio else _signed(bound, shape(abs(bound) * scale))

    shown = end(value) if ratio else _signed(value, size(value, unit))
    return shown if interval is None else f"{shown} [{end(interval.low)}, {end(interval.high)}]"


def _signed(value: float, shown: str) -> str:
    return ("+" if value > 0 else "−" if value < 0 else "") + shown


def measured(measure: Measure) -> str:
    """A measure's value with interval and unit."""
    return with_interval(measure.value, measure.interval, measure.unit)


def duration(seconds: float | None) -> str:
    """A length of time: `0.8 s`, `42 s`, `2 min 5 s`, `3 h 10 min`."""
    if seconds is None:
        return NOT_MEASURED
    if seconds < 0:
        return "-" + duration(-seconds)
    if round(seconds, 1) < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def clock(seconds: float) -> str:
    """A moment since the start, `m:ss`."""
    whole = round(abs(seconds))
    sign = "-" if seconds < 0 and whole else ""
    return (
        f"{sign}{whole // 60}:{whole % 60:02d}"
        if whole < 3600
        else f"{sign}{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"
    )


def date(epoch: float) -> str:
    """Date and time, UTC."""
    try:
        return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):  # outside the calendar
        return f"{epoch} s"


def short_hash(digest: str | None) -> str:
    """The first 12 hex digits of a digest."""
    return "none" if digest is None else digest.removeprefix("sha256:")[:12]


def plain_line(text: str) -> str:
    """A line for a log. A continuous-integration runner obeys lines that begin with `::` or hold `##[`: not ours."""
    text = text.replace("##[", "## [")
    return "| " + text if text.lstrip().startswith("::") else text


def plural(n: int, word: str) -> str:
    """`1 request`, `2 requests`."""
    return f"{n:,} {word}" if n == 1 else f"{n:,} {word}s"


def _trim(text: str) -> str:
    return text.rstrip("0").rstrip(".")


def _percent(fraction: float) -> str:
    value = fraction * 100
    edge = min(abs(value), abs(100 - value))
    if edge == 0 or value == round(value):
        return f"{value:,.0f}"
    if edge >= 1:
        return _trim(f"{value:,.1f}")
    if edge >= 0.01:
        return _trim(f"{value:.2f}")
    return f"{value:.1g}" if abs(value) < 1 else f"{value:.4f}"


def _scale(value: float, unit: str) -> tuple[float, str, Callable[[float], str]]:
    """Factor, name and way of writing for a value of that size."""
    if unit == "seconds":
        return (1000, "ms", number) if abs(value) < 10 else (1, "s", number)
    if unit == "fraction":
        return 1, "%", _percent
    if unit == "bytes":
        for power, name in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
            if abs(value) >= 1024**power:
                return 1024.0**-power, name, number
        return 1, "B", number
    return (
        1,
        {"usd": "USD", "requests/second": "requests/s", "tokens/second": "tokens/s", "count": "", "score": ""}.get(
            unit, unit
        ),
        number,
    )


def words(name: str) -> str:
    """A measure's name for people: `ttft` → `TTFT`, `error_rate` → `error rate`."""
    return re.sub(r"\b(ttft|itl|tpot|e2e|kv|slo)\b", lambda found: found.group().upper(), name.replace("_", " "))


def measure_name(measure: Measure, statistic: bool = True) -> str:
    """`TTFT p95 [tags=refund] (green)`; that a share or a rate is a mean needs no saying. Cleaned."""
    shown = measure.statistic if statistic else ""
    return _name(measure.name, shown, measure.slice, measure.slot or "", measure.unit)


def key_name(key: str, unit: str) -> str:
    """The same from a measure's key, such as `ttft.p95[tags=refund]@green`; the key itself where it is none."""
    found = _KEY.fullmatch(key)
    if found is None:
        return clean(key, 120)
    name, statistic, slice_, slot = found.groups("")
    return _name(name, statistic, slice_, slot, unit)


def _name(name: str, statistic: str, slice_: str, slot: str, unit: str) -> str:
    parts = [words(name)]
    plain = unit in ("fraction", "score", "requests/second", "tokens/second")
    if statistic and not (plain and statistic in ("mean", "rate")):
        parts.append(statistic)
    if slice_:
        parts.append(f"[{clean(slice_, 80)}]")
    if slot:
        parts.append(f"({slot})")
    return " ".join(parts)
