"""What the adapters share: reading a foreign file without trusting it, and measures as a report wants them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from servegate.errors import ConfigError
from servegate.report.model import Conditions, Finding, Interval, Measure, Report, Samples, Subject, Unit
from servegate.report.records import EvalRecord
from servegate.stats.intervals import wilson
from servegate.stats.quantiles import order_statistic_interval, quantile

QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Source:
    """A result file as it was found.

    Attributes:
        name: for messages, such as its path.
        data: its bytes.
        modified: seconds since the Unix epoch; used where the file names no time.
        companions: bytes of the files that belong to it, by file name.
    """

    name: str
    data: bytes
    modified: float
    companions: Mapping[str, bytes] = field(default_factory=dict)

    def refuse(self, tool: str, why: str) -> ConfigError:
        """The error that says this is not a file of that tool."""
        return ConfigError(f"{self.name}: is not a result of {tool}: {why}")


@dataclass(frozen=True)
class Adapted:
    """A foreign result as ours: facts for a report, and answers where the tool kept them."""

    tool: str
    started: float
    finished: float
    measures: tuple[Measure, ...]
    conditions: Conditions = field(default_factory=Conditions)
    model: str | None = None
    url: str | None = None
    records: tuple[EvalRecord, ...] = ()
    findings: tuple[Finding, ...] = ()


@contextmanager
def guarded(source: Source, tool: str) -> Iterator[None]:
    """Turn whatever a value of the wrong kind breaks into the error that names the file."""
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError, OverflowError) as error:
        raise source.refuse(tool, f"a value is of an unexpected kind ({str(error).splitlines()[0][:120]})") from error


def as_report(adapted: Adapted, name: str, subject: Subject, samples: Samples | None = None) -> Report:
    """The report a gate reads."""
    return Report(
        kind="external",
        name=name,
        subject=subject,
        conditions=adapted.conditions,
        started=min(adapted.started, adapted.finished),
        finished=adapted.finished,
        tool=adapted.tool,
        measures=adapted.measures,
        samples=() if samples is None else (samples,),
        findings=adapted.findings,
    )


def parse_json(source: Source, tool: str) -> dict[str, Any]:
    """A JSON object; NaN and infinity become "not measured". Raises ConfigError when it is none."""
    try:
        found = json.loads(source.data.decode("utf-8"), parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        raise source.refuse(tool, f"not JSON ({str(error)[:120]})") from error
    if not isinstance(found, dict):
        raise source.refuse(tool, "not an object")
    return found


def number(value: object) -> float | None:
    """A finite number, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def numbers(value: object) -> list[float | None]:
    """A list of numbers; what is none of them is None. Empty when it is no list."""
    return [number(item) for item in value] if isinstance(value, list) else []


def count(value: object) -> int:
    """A count, 0 where there is none."""
    found = number(value)
    return int(found) if found is not None and found >= 0 else 0


def part(value: object, *keys: str) -> Any:
    """What stands under nested keys; None where something else stands."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def share(name: str, statistic: str, hits: int, n: int, attempted: int, better: Better, slice_: str = "") -> Measure:
    """A proportion with Wilson's interval."""
    found = wilson(hits, n) if n else None
    return Measure(
        name=name,
        statistic=statistic,
        slice=slice_,
        value=hits / n if n else None,
        unit="fraction",
        n=n,
        attempted=attempted,
        better=better,
        interval=Interval(low=found.low, high=found.high, level=found.level, method=found.method) if found else None,
    )


def point(
    name: str,
    statistic: str,
    value: float | None,
    unit: Unit,
    n: int,
    attempted: int,
    better: Better | None,
    slice_: str = "",
) -> Measure:
    """A number the tool gives without the values behind it: no interval."""
    return Measure(
        name=name,
        statistic=statistic,
        slice=slice_,
        value=value,
        unit=unit,
        n=n if value is not None else 0,
        attempted=max(attempted, n),
        better=better,
    )


def quantiles(name: str, values: Sequence[float], attempted: int, slice_: str = "") -> list[Measure]:
    """p50, p90, p95 and p99 of seconds, exact, with order-statistic intervals."""
    result = []
    for statistic, p in QUANTILES.items():
        ends = order_statistic_interval(values, p)
        interval = Interval(low=ends[0], high=ends[1], level=0.95, method="order-statistic") if ends else None
        result.append(
            Measure(
                name=name,
                statistic=statistic,
                slice=slice_,
                value=quantile(values, p),
                unit="seconds",
                n=len(values),
                attempted=max(attempted, len(values)),
                better="lower",
                interval=interval,
            )
        )
    return result


def definitions(text: str) -> Finding:
    """How the tool's numbers differ from ours, for everybody who reads the report."""
    return Finding(severity="info", code="definitions", message=text)


def nothing(what: str) -> Finding:
    """A finding that voids a report in which nothing was measured."""
    return Finding(severity="error", code="nothing-measured", message=f"no {what} in the file", voids=True)
