"""Locust's `--csv PREFIX`: the file PREFIX_stats.csv. The aggregated row is the whole, each other row a slice `name=…`.

Differences from our definitions:

    response_time  Locust's own: until the body was read, or until the headers where the test streams. It is neither
                   ttft nor e2e_latency, and failed requests are in it
    quantiles      Locust keeps two significant digits (242.7 ms becomes 240 ms) and no values: there are no intervals
    error_rate     failed / all, as ours
    request_rate   all requests per second of the whole run, failed ones and the warm-up too
    load           closed loop: late requests are not sent, so a slow server gets less load and looks better
"""

from __future__ import annotations

import csv
import io

from servegate.gates.adapters.common import Adapted, Source, count, definitions, nothing, number, point, share
from servegate.report.format import clean
from servegate.report.model import Conditions, Measure

TOOL = "Locust CSV"
_QUANTILES = {"50%": "p50", "90%": "p90", "95%": "p95", "99%": "p99"}
_NEEDED = ("Type", "Name", "Request Count", "Failure Count", *_QUANTILES)


def convert(source: Source) -> Adapted:
    """Read one PREFIX_stats.csv.

    Raises:
        ConfigError: it is none.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(source.data.decode("utf-8"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise source.refuse(TOOL, f"not CSV ({error})") from error
    missing = [name for name in _NEEDED if not rows or name not in rows[0]]
    if missing:
        raise source.refuse(TOOL, f"no column {missing[0]!r}; PREFIX_stats.csv is the file that is read")
    measures: dict[str, Measure] = {}
    for row in rows:
        for measure in _row(row):
            measures.setdefault(measure.key, measure)
    whole = next((row for row in rows if row["Name"] == "Aggregated"), None)
    return Adapted(
        tool=TOOL,
        started=source.modified,
        finished=source.modified,
        measures=tuple(measures.values()),
        conditions=Conditions(client=TOOL),
        findings=(
            definitions("response_time is Locust's own, rounded to two digits; failed requests are in it"),
            *(() if whole and count(_float(whole["Request Count"])) else (nothing("request"),)),
        ),
    )


def _row(row: dict[str, str | None]) -> list[Measure]:
    name = f"{row['Type'] or ''} {row['Name'] or ''}".strip()
    slice_ = "" if name == "Aggregated" else "name=" + clean(name, 150).replace("[", "(").replace("]", ")")
    n, failed = count(_float(row["Request Count"])), count(_float(row["Failure Count"]))
    result = [share("error_rate", "rate", min(failed, n), n, n, "lower", slice_)]
    for column, statistic in (("Average Response Time", "mean"), *_QUANTILES.items()):
        value = _float(row.get(column))
        scaled = None if value is None or not n else value / 1000
        result.append(point("response_time", statistic, scaled, "seconds", n, n, "lower", slice_))
    rate = _float(row.get("Requests/s"))
    if rate is not None:
        result.append(point("request_rate", "rate", rate, "requests/second", n, n, "higher", slice_))
    return result


def _float(text: object) -> float | None:
    try:
        return number(float(str(text)))
    except ValueError:  # N/A, or empty: not measured
        return None
