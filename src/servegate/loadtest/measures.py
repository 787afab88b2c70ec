"""Records → measures. Pure.

Definitions (times of one request; t_first and t_last are the first and last chunk with content or reasoning):

    ttft          t_first − sent                              seconds; also of answers that broke off later
    itl           distances between chunks, pooled            seconds; per chunk, see tokens_per_chunk
    tpot          (t_last − t_first) / (tokens − tokens of the first chunk)   seconds per token
    e2e_latency   t_last − sent                               seconds; complete answers only
    *_from_schedule   the same from the scheduled time: the client's own delay included
    error_rate    failed / attempted; unfinished requests failed
    goodput       requests that met all SLOs / attempted; a failed or unmeasurable request did not
    request_rate, output_throughput   complete answers, and their tokens, that arrived within the measured time
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from scipy.stats import binomtest

from servegate.loadtest.profile import Profile, Slos
from servegate.loadtest.record import WARM_UP
from servegate.report.model import Interval, Measure, Unit
from servegate.report.records import RequestRecord
from servegate.stats.quantiles import clustered_interval, order_statistic_interval, quantile

LEVEL = 0.95
QUANTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}

LATENCIES: dict[str, Callable[[RequestRecord], float | None]] = {
    "ttft": lambda record: record.ttft,
    "ttft_from_schedule": lambda record: None if record.first_token is None else record.first_token - record.scheduled,
    "tpot": lambda record: record.tpot if record.ok else None,
    "e2e_latency": lambda record: record.e2e_latency,
    "e2e_latency_from_schedule": lambda record: (
        None if record.last_token is None or not record.ok else record.last_token - record.scheduled
    ),
}


def measured(records: Iterable[RequestRecord]) -> list[RequestRecord]:
    """Records that were scheduled after the warm-up."""
    return [record for record in records if WARM_UP not in record.tags]


def measures(records: Sequence[RequestRecord], profile: Profile, started: float) -> list[Measure]:
    """All measures of a run.

    Args:
        records: all records, warm-up included.
        profile: warm-up, duration and SLOs.
        started: epoch seconds of offset 0 of the schedule.

    Returns:
        Measures of the whole, then of each slot that answered.
    """
    kept = measured(records)
    result = [*_requests(kept, profile.slos), _schedule_lag(kept)]
    if profile.duration is not None:
        begin = started + profile.warm_up
        result += _throughput(records, begin, begin + profile.duration, len(kept))
    for slot in sorted({record.slot for record in kept if record.slot is not None}):
        result += _requests([record for record in kept if record.slot == slot], profile.slos, slot)
    return result


def _schedule_lag(records: Sequence[RequestRecord]) -> Measure:
    """How late requests left, p99: the client's own fault."""
    return _quantile("schedule_lag", "p99", [record.sent - record.scheduled for record in records], len(records))


def _requests(records: Sequence[RequestRecord], slos: Slos | None, slot: str | None = None) -> list[Measure]:
    attempted = len(records)
    result = []
    for name, of in LATENCIES.items():
        values = [value for value in map(of, records) if value is not None]
        result += [_quantile(name, statistic, values, attempted, slot) for statistic in QUANTILES]
    result += _chunks([record for record in records if record.ok], slot)
    result.append(_share("error_rate", sum(not record.ok for record in records), attempted, "lower", slot))
    if slos is not None:
        result.append(_share("goodput", sum(good(record, slos) for record in records), attempted, "higher", slot))
    return result


def good(record: RequestRecord, slos: Slos) -> bool:
    """Whether a request met every SLO. What failed or cannot be measured did not."""
    if not record.ok:
        return False
    limits = {"ttft": slos.ttft, "tpot": slos.tpot, "e2e_latency": slos.e2e_latency}
    for name, limit in limits.items():
        if limit is not None:
            value = LATENCIES[name](record)
            if value is None or value > limit:
                return False
    return True


def _quantile(name: str, statistic: str, values: Sequence[float], attempted: int, slot: str | None = None) -> Measure:
    p = QUANTILES[statistic]
    bounds = order_statistic_interval(values, p, LEVEL)
    return Measure(
        name=name,
        statistic=statistic,
        slice="",
        slot=slot,
        value=quantile(values, p),
        unit="seconds",
        n=len(values),
        attempted=attempted,
        better="lower",
        interval=_interval(bounds, "order-statistic"),
    )


def _chunks(records: Sequence[RequestRecord], slot: str | None) -> list[Measure]:
    """Gaps between chunks of complete answers. Gaps of one answer depend on each other, answers hardly do."""
    groups = [np.asarray(record.gaps) for record in records if record.gaps]
    pooled = np.concatenate(groups) if groups else np.empty(0)
    result = [
        Measure(
            name="itl",
            statistic=statistic,
            slice="",
            slot=slot,
            value=quantile(pooled, p),
            unit="seconds",
            n=pooled.size,
            attempted=pooled.size,
            better="lower",
            interval=_interval(clustered_interval(groups, p, LEVEL), "woodruff-clustered"),
        )
        for statistic, p in QUANTILES.items()
    ]
    counted = [record for record in records if record.chunks and record.output_tokens is not None]
    tokens, chunks = sum(record.output_tokens or 0 for record in counted), sum(record.chunks for record in counted)
    value = tokens / chunks if chunks else None
    result.append(_plain("tokens_per_chunk", "mean", value, "tokens", chunks, chunks, slot))
    return result


def _throughput(records: Sequence[RequestRecord], begin: float, end: float, attempted: int) -> list[Measure]:
    """What arrived between two moments, from warm-up requests too: a server in steady state works on those as well."""
    seconds = end - begin
    complete = [record for record in records if record.ok]
    answers = sum(begin <= (record.last_token or record.done) < end for record in complete)
    tokens = 0.0
    for record in complete:
        if record.first_token is not None and record.output_tokens and record.chunks:
            times = record.first_token + np.concatenate(([0.0], np.cumsum(record.gaps)))
            inside = np.count_nonzero((times >= begin) & (times < end))
            tokens += record.output_tokens * inside / record.chunks
    rates: list[tuple[str, float, Unit]] = [
        ("request_rate", answers / seconds, "requests/second"),
        ("output_throughput", tokens / seconds, "tokens/second"),
    ]
    return [
        _plain(name, "mean", value if attempted else None, unit, answers, attempted, None, "higher")
        for name, value, unit in rates
    ]


def _share(name: str, hits: int, attempted: int, better: str, slot: str | None) -> Measure:
    bounds = None
    if attempted:
        ci = binomtest(hits, attempted).proportion_ci(LEVEL, method="wilson")
        bounds = (float(ci.low), float(ci.high))
    return Measure(
        name=name,
        statistic="rate",
        slice="",
        slot=slot,
        value=hits / attempted if attempted else None,
        unit="fraction",
        n=attempted,
        attempted=attempted,
        better="higher" if better == "higher" else "lower",
        interval=_interval(bounds, "wilson"),
    )


def _plain(
    name: str,
    statistic: str,
    value: float | None,
    unit: Unit,
    n: int,
    attempted: int,
    slot: str | None,
    better: str | None = None,
) -> Measure:
    return Measure(
        name=name,
        statistic=statistic,
        slice="",
        slot=slot,
        value=value,
        unit=unit,
        n=n,
        attempted=attempted,
        better="higher" if better == "higher" else None,
        interval=None,
    )


def _interval(bounds: tuple[float, float] | None, method: str) -> Interval | None:
    return None if bounds is None else Interval(low=bounds[0], high=bounds[1], level=LEVEL, method=method)
