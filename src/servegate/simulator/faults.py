"""Defects on purpose: what goes wrong, when, how often, and whether it has shown yet.

A fault is written `kind:parameter=value,…`, for example `errors:rate=0.1` or `latency:factor=2,what=ttft,after=30s`.
Every fault takes `after` (how long after it was set it begins) and `duration`. Durations are seconds, or have a unit
(500ms, 30s, 2m). What a fault has done is counted, with the moment it first took effect, because whoever measures how
fast a defect is found needs to know when there was one.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

MOST_FAULTS = 100
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ms|s|m|h)?")
_UNIT = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}


class FaultError(Exception):
    """A fault was not written correctly; the message says what is allowed."""


def duration(text: str) -> float:
    """Seconds in `1.5`, `500ms`, `30s`, `2m` or `1h`."""
    match = _DURATION.fullmatch(text)
    if not match:
        raise FaultError(f"{text!r} is not a duration such as 30s, 500ms or 2m")
    return float(match.group(1)) * _UNIT[match.group(2)]


def _rate(text: str) -> float:
    try:
        value = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        value = math.nan
    if not 0.0 <= value <= 1.0:
        raise FaultError(f"{text!r} is not a rate from 0 to 1, such as 0.1 or 10%")
    return value


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 < value < math.inf:
        raise FaultError(f"{text!r} is not a number above 0")
    return value


def _natural(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise FaultError(f"{text!r} is not a whole number, 0 or more")
    return int(text)


def _one_of(*allowed: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in allowed:
            raise FaultError(f"{text!r} is not one of {', '.join(allowed)}")
        return text

    return read


REQUIRED = object()
COMMON: dict[str, tuple[Callable[[str], Any], Any]] = {"after": (duration, 0.0), "duration": (duration, None)}
KINDS: dict[str, dict[str, tuple[Callable[[str], Any], Any]]] = {
    "latency": {"factor": (_positive, REQUIRED), "what": (_one_of("both", "ttft", "itl"), "both")},
    "errors": {"rate": (_rate, REQUIRED), "on": (duration, None), "every": (duration, None)},
    "stream_errors": {
        "rate": (_rate, REQUIRED),
        "after_tokens": (_natural, 5),
        "mode": (_one_of("error", "cut"), "error"),
    },
    "stall": {"seconds": (duration, REQUIRED), "rate": (_rate, 1.0), "after_tokens": (_natural, 5)},
    "wrong": {"rate": (_rate, REQUIRED)},
    "leak": {"blocks_per_second": (_positive, None), "blocks_per_request": (_positive, None)},
    "slow_start": {"seconds": (duration, REQUIRED)},
    "crash": {"exit_code": (_natural, 1)},
    "hang": {},
}


@dataclass(frozen=True, slots=True)
class FaultSpec:
    """A fault as it was asked for. Times in seconds."""

    kind: str
    parameters: Mapping[str, Any]
    after: float
    duration: float | None
    text: str


def parse(source: str | Mapping[str, Any]) -> FaultSpec:
    """Read `kind:a=b,…`, or the same as a mapping with `kind`. Raises FaultError."""
    if isinstance(source, str):
        kind, _colon, rest = source.partition(":")
        pairs = [part.partition("=") for part in rest.split(",") if part.strip()]
        given = {key.strip(): value.strip() for key, _equals, value in pairs}
        if len(given) < len(pairs):
            raise FaultError(f"{source!r} sets a parameter twice")
    else:
        kind = source.get("kind", "")
        given = {str(key): f"{value}" for key, value in source.items() if key != "kind" and value is not None}
    if not isinstance(kind, str) or kind not in KINDS:
        raise FaultError(f"unknown fault {kind!r}{_nearest(str(kind), KINDS)}")
    known = {**KINDS[kind], **COMMON}
    for key in given:
        if key not in known:
            raise FaultError(f"fault {kind!r} has no parameter {key!r}{_nearest(key, known)}")
    values: dict[str, Any] = {}
    for key, (read, default) in known.items():
        if key in given:
            try:
                values[key] = read(given[key])
            except FaultError as error:
                raise FaultError(f"fault {kind!r}, {key}: {error}") from None
        elif default is REQUIRED:
            raise FaultError(f"fault {kind!r} needs {key}=…")
        else:
            values[key] = default
    _check(kind, values)
    after, lasting = values.pop("after"), values.pop("duration")
    text = f"{kind}:{','.join(f'{key}={value}' for key, value in given.items())}".rstrip(":")
    return FaultSpec(kind, values, after, lasting, text)


def _check(kind: str, values: Mapping[str, Any]) -> None:
    if kind == "errors":
        if (values["on"] is None) != (values["every"] is None):
            raise FaultError("fault 'errors': a burst needs both `on` and `every`")
        if values["on"] is not None and not 0 < values["on"] <= values["every"]:
            raise FaultError("fault 'errors': `on` must be above 0 and no longer than `every`")
    if kind == "leak" and (values["blocks_per_second"] is None) == (values["blocks_per_request"] is None):
        raise FaultError("fault 'leak' needs either blocks_per_second or blocks_per_request")
    if kind == "slow_start" and (values["after"] or values["duration"]):
        raise FaultError("fault 'slow_start' is about the start: it takes neither `after` nor `duration`")


def _nearest(word: str, allowed: Mapping[str, Any]) -> str:
    close = get_close_matches(word, allowed, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(allowed)}"


@dataclass(slots=True)
class Fault:
    """A fault in force, from `starts_at` to `ends_at` (Unix time)."""

    id: str
    spec: FaultSpec
    set_at: float
    random: random.Random
    first_effect_at: float | None = None
    last_effect_at: float | None = None
    affected: int = 0
    cleared_at: float | None = None
    progress: float = field(default=0.0)

    @property
    def starts_at(self) -> float:
        """When it begins."""
        return self.set_at + self.spec.after

    @property
    def ends_at(self) -> float | None:
        """When it ends, if it does."""
        lasting = self.spec.duration
        return self.cleared_at if lasting is None else min(self.starts_at + lasting, self.cleared_at or math.inf)

    def active(self, now: float) -> bool:
        """Whether it is in force; a burst only while it is on."""
        end = self.ends_at
        if now < self.starts_at or (end is not None and now >= end):
            return False
        every = self.spec.parameters.get("every")
        return every is None or bool((now - self.starts_at) % every < self.spec.parameters["on"])

    def strikes(self) -> bool:
        """Draw whether this request is one of those at `rate`."""
        return bool(self.random.random() < self.spec.parameters["rate"])

    def took_effect(self, now: float, requests: int = 1) -> None:
        """Note that somebody felt it."""
        if self.first_effect_at is None:
            self.first_effect_at = now
        self.last_effect_at = now
        self.affected += requests

    def state(self, now: float) -> str:
        """pending, active or ended."""
        end = self.ends_at
        if end is not None and now >= end:
            return "ended"
        return "pending" if now < self.starts_at else "active"

    def report(self, now: float) -> dict[str, Any]:
        """As JSON; times are Unix seconds."""
        return {
            "id": self.id,
            "kind": self.spec.kind,
            "spec": self.spec.text,
            "parameters": dict(self.spec.parameters),
            "state": self.state(now),
            "set_at": self.set_at,
            "starts_at": self.starts_at,
            "ends_at": self.ends_at,
            "first_effect_at": self.first_effect_at,
            "last_effect_at": self.last_effect_at,
            "affected_requests": self.affected,
        }


class Faults:
    """All faults of a server. `now` is Unix time in seconds; the same seed strikes the same requests."""

    def __init__(self, seed: int, now: Callable[[], float]) -> None:
        self._seed = seed
        self._now = now
        self._made = 0
        self.current: list[Fault] = []
        self.past: list[Fault] = []

    def add(self, spec: FaultSpec) -> Fault:
        """Set a fault. Raises FaultError if there are too many."""
        if len(self.current) >= MOST_FAULTS:
            raise FaultError(f"no more than {MOST_FAULTS} faults at a time")
        self._made += 1
        draw = random.Random(f"{self._seed}:{self._made}:{spec.kind}")
        fault = Fault(f"{spec.kind}-{self._made}", spec, self._now(), draw)
        self.current.append(fault)
        return fault

    def replace(self, specs: list[FaultSpec]) -> None:
        """Make these the faults. One that is set already stays as it is, with its clock and its counts."""
        if len(specs) > MOST_FAULTS:
            raise FaultError(f"no more than {MOST_FAULTS} faults at a time")
        kept: list[Fault] = []
        fresh: list[FaultSpec] = []
        for spec in specs:
            same = next((fault for fault in self.current if fault.spec == spec and fault not in kept), None)
            if same is not None:
                kept.append(same)
            else:
                fresh.append(spec)
        for fault in [fault for fault in self.current if fault not in kept]:
            self.clear(fault)
        for spec in fresh:
            self.add(spec)

    def clear(self, fault: Fault) -> None:
        """End a fault; what it did stays readable."""
        fault.cleared_at = self._now()
        self.current.remove(fault)
        self.past = [*self.past, fault][-MOST_FAULTS:]

    def active(self, kind: str) -> list[Fault]:
        """The faults of a kind that are in force."""
        if not self.current:
            return []
        now = self._now()
        return [fault for fault in self.current if fault.spec.kind == kind and fault.active(now)]

    def strike(self, kind: str) -> Fault | None:
        """The first fault of a kind that hits this request, if any."""
        return next((fault for fault in self.active(kind) if fault.strikes()), None)

    def note(self, fault: Fault, requests: int = 1) -> None:
        """It took effect just now."""
        fault.took_effect(self._now(), requests)

    def report(self) -> dict[str, Any]:
        """Everything about faults as JSON."""
        now = self._now()
        return {
            "now": now,
            "faults": [fault.report(now) for fault in self.current],
            "past": [fault.report(now) for fault in self.past],
        }
