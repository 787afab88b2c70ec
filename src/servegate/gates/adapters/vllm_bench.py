"""`vllm bench serve --save-result`: one JSON file. With `--save-detailed` quantiles are exact and have intervals.

Differences from our definitions:

    ttft         ends at the first chunk with `choices`, even an empty one: earlier than ours by the role chunk
    tpot         (latency − ttft) / (tokens − 1); ours leaves out all tokens of the first chunk
    itl          gap between chunks, pooled; not divided by the tokens of a chunk, as ours
    e2e_latency  to the last chunk with text, as ours
    goodput      theirs is requests per second; kept as `request_goodput`. Ours is a share of what was attempted
    failures     are left out of all latencies, as ours
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from servegate.gates.adapters.common import (
    Adapted,
    Source,
    count,
    definitions,
    nothing,
    number,
    numbers,
    parse_json,
    point,
    quantiles,
    share,
)
from servegate.report.model import Conditions, Measure, Unit

TOOL = "vllm bench serve"
_NAMES = {"ttft": "ttft", "tpot": "tpot", "itl": "itl", "e2el": "e2e_latency"}


def convert(source: Source) -> Adapted:
    """Read one result file.

    Raises:
        ConfigError: it is none.
    """
    data = parse_json(source, TOOL)
    if "completed" not in data or "request_throughput" not in data:
        raise source.refuse(TOOL, "no `completed` and `request_throughput`")
    completed, wanted = count(data["completed"]), count(data.get("num_prompts"))
    failed = count(data.get("failed")) or max(0, wanted - completed)
    attempted = max(wanted, completed + failed)
    measures = [share("error_rate", "rate", attempted - completed, attempted, attempted, "lower")]
    measures += _latencies(data, completed, attempted)
    rates: tuple[tuple[str, str, Unit], ...] = (
        ("output_throughput", "output_throughput", "tokens/second"),
        ("request_throughput", "request_rate", "requests/second"),
        ("request_goodput", "request_goodput", "requests/second"),
    )
    for key, name, unit in rates:
        value = number(data.get(key))
        if value is not None:
            measures.append(point(name, "rate", value, unit, completed, attempted, "higher"))
    finished = _date(data.get("date")) or source.modified
    return Adapted(
        tool=TOOL,
        started=finished - (number(data.get("duration")) or 0.0),
        finished=finished,
        measures=tuple(measures),
        model=data["model_id"] if isinstance(data.get("model_id"), str) else None,
        conditions=Conditions(
            concurrency=count(data.get("max_concurrency")) or None,
            client=TOOL,
            other={key: str(data[key])[:200] for key in ("request_rate", "burstiness", "backend") if key in data},
        ),
        findings=(
            definitions("TTFT ends at the first chunk even if it is empty; TPOT is (latency - TTFT)/(tokens - 1)"),
            *(() if attempted else (nothing("request"),)),
        ),
    )


def _latencies(data: dict[str, Any], completed: int, attempted: int) -> list[Measure]:
    errors = data.get("errors")
    good = [not error for error in errors] if isinstance(errors, list) else []
    detail = {
        "ttft": numbers(data.get("ttfts")),
        "e2e_latency": numbers(data.get("latencies")),
    }
    result: list[Measure] = []
    for short, name in _NAMES.items():
        values = detail.get(name, [])
        mean = number(data.get(f"mean_{short}_ms"))
        if mean is not None:
            result.append(point(name, "mean", mean / 1000, "seconds", completed, attempted, "lower"))
        if len(values) == len(good) == attempted and values:
            kept = [value for value, ok in zip(values, good, strict=True) if ok and value is not None]
            result += quantiles(name, kept, attempted)
            continue
        for key, raw in data.items():
            statistic, _, rest = key.partition("_")
            value = number(raw)
            if rest == f"{short}_ms" and statistic[:1] == "p" and statistic[1:].isdigit() and value is not None:
                result.append(point(name, statistic, value / 1000, "seconds", completed, attempted, "lower"))
    return result


def _date(text: object) -> float | None:
    try:
        return datetime.strptime(str(text), "%Y%m%d-%H%M%S").astimezone().timestamp()
    except ValueError:  # the time of the report stays open
        return None
