"""promptfoo's `-o results.json` (results version 3). One test with one prompt and one provider is one item.

Differences from our definitions:

    accuracy     share of tests that passed, each with all its assertions; promptfoo divides by successes + failures +
                 errors, so an outage looks like bad quality there. Here errors are left out and counted in error_rate
    errors       are what promptfoo marks as such; an assertion that throws is a failure in its file, and cannot be told
    e2e_latency  of the provider's call, retries included; answers from the cache are left out
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Any

from servegate.contract import canonical_json, sha256
from servegate.gates.adapters.common import (
    Adapted,
    Source,
    definitions,
    nothing,
    number,
    parse_json,
    part,
    quantiles,
    share,
)
from servegate.report.model import Conditions
from servegate.report.records import EvalRecord

TOOL = "promptfoo"
_ERROR = 2  # failureReason: 0 none, 1 an assertion, 2 an error


def convert(source: Source) -> Adapted:
    """Read one result file.

    Raises:
        ConfigError: it is none.
    """
    data = parse_json(source, TOOL)
    rows = part(data, "results", "results")
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "success" in row for row in rows):
        raise source.refuse(TOOL, "no `results.results` with `success`")
    seen: Counter[str] = Counter()
    records = []
    for row in rows:
        record = _record(row, seen)
        seen[record.id] += 1
        records.append(record)
    scored = [record for record in records if record.score is not None]
    fresh = [row for row in rows if part(row, "response", "cached") is not True and row.get("failureReason") != _ERROR]
    latencies = [number(row.get("latencyMs")) for row in fresh]
    version = part(data, "metadata", "promptfooVersion")
    tool = f"{TOOL} {str(version)[:40]}" if version else TOOL
    finished = _time(part(data, "metadata", "exportedAt")) or source.modified
    passed = sum(record.score == 1 for record in scored)
    return Adapted(
        tool=tool,
        started=_time(part(data, "results", "timestamp")) or finished,
        finished=finished,
        measures=(
            share("accuracy", "mean", passed, len(scored), len(records), "higher"),
            share("error_rate", "rate", len(records) - len(scored), len(records), len(records), "lower"),
            *quantiles("e2e_latency", [value / 1000 for value in latencies if value is not None], len(fresh)),
        ),
        conditions=Conditions(client=tool, dataset_sha256=_digest(sorted(record.item_sha256 for record in records))),
        records=tuple(records),
        findings=(
            definitions("accuracy is passed / (passed + failed) tests; promptfoo also divides by errors"),
            *(() if scored else (nothing("test with a result"),)),
        ),
    )


def _record(row: dict[str, Any], seen: Counter[str]) -> EvalRecord:
    case = row.get("testCase") if isinstance(row.get("testCase"), dict) else {}
    provider = str(part(row, "provider", "id") or "")[:200]
    item = {"prompt": part(row, "prompt", "label"), "vars": part(case, "vars"), "assert": part(case, "assert")}
    title = str(part(case, "description") or f"test {row.get('testIdx')}")[:200]
    digest = _digest(item)
    # The description alone need not be unique, and the position changes when a test is added.
    id_ = f"{title} ({provider}, {digest[7:15]})"
    failed = row.get("failureReason") == _ERROR
    reason = str(row.get("error") or part(row, "gradingResult", "reason") or "")[:1000]
    output = part(row, "response", "output")
    return EvalRecord(
        id=id_,
        repeat=seen[id_],
        tags=(provider,) if provider else (),
        item_sha256=digest,
        scorer="promptfoo",
        score=None if failed else float(row["success"] is True),
        reason=reason,
        error=reason or "error" if failed else None,
        answer=output[:20_000] if isinstance(output, str) else None,
    )


def _digest(value: object) -> str:
    try:
        return sha256(canonical_json(value))
    except (ValueError, UnicodeEncodeError):  # no canonical form: NaN, or half a surrogate pair
        return sha256(repr(value).encode("utf-8", "backslashreplace"))


def _time(text: object) -> float | None:
    try:
        return datetime.fromisoformat(str(text)).astimezone().timestamp()
    except (ValueError, OverflowError):  # the time of the report stays open
        return None
