"""What a person should know about a run beside its numbers, and what makes the numbers worthless. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from servegate.loadtest.measures import measured
from servegate.loadtest.status import ClientStatus
from servegate.report.model import Finding
from servegate.report.records import RequestRecord

# More than this share of requests, and more than this many, may not leave later than this.
MAX_LAG, LATE_SHARE, LATE_COUNT = 0.100, 0.01, 2
MAX_CPU = 0.90
# Trailing connections refused in a row that mean: it died while we measured.
TRAILING_REFUSALS = 10
_BUNCHED_GAP, _BUNCHED_SHARE = 50e-6, 0.10


def findings(records: Sequence[RequestRecord], status: ClientStatus, alive: bool) -> list[Finding]:
    """All findings of a run, those that void it first.

    Args:
        records: all records, warm-up included.
        status: what the load process said last.
        alive: whether the endpoint still answered afterwards.
    """
    kept = measured(records)
    return [*_voiding(kept, status, alive), *_failures(kept, status), *_tokens([item for item in kept if item.ok])]


def _voiding(kept: Sequence[RequestRecord], status: ClientStatus, alive: bool) -> list[Finding]:
    found = []

    def void(code: str, message: str) -> None:
        found.append(Finding(severity="error", code=code, message=message, voids=True))

    if status.state == "stopped":
        void("interrupted", "the run was stopped before its schedule was sent")
    if not kept:
        void("nothing-measured", "no request was sent in the measured time")
    if status.state == "gave-up" or not alive or _refused_to_the_end(kept):
        why = status.reason or ("it does not answer any more" if not alive else "the last connections were refused")
        void("endpoint-died", f"the endpoint died during the run: {why}")
    late = sum(record.sent - record.scheduled > MAX_LAG for record in kept)
    if late > max(LATE_COUNT, LATE_SHARE * len(kept)):
        void(
            "client-saturated",
            f"{late} of {len(kept)} requests left more than {MAX_LAG * 1000:.0f} ms late (at most {LATE_SHARE:.0%}): "
            "the machine is too busy, or the client too slow for this profile",
        )
    elif status.cpu is not None and status.cpu > MAX_CPU:
        void(
            "client-saturated",
            f"the load process used {status.cpu:.0%} of a core (at most {MAX_CPU:.0%}): its times are its own delays",
        )
    if status.blocked or status.pool_waits:
        void(
            "connection-pool-blocked",
            f"{status.blocked + status.pool_waits} requests waited {status.blocked_seconds:.2f} s in all because "
            f"{status.most_in_flight} were open: raise max_in_flight, or lower the rate to what the endpoint can hold",
        )
    return found


def _refused_to_the_end(kept: Sequence[RequestRecord]) -> bool:
    last = sorted(kept, key=lambda record: record.scheduled)[-TRAILING_REFUSALS:]
    return len(last) == TRAILING_REFUSALS and all(record.error == "connect" for record in last)


def _failures(kept: Sequence[RequestRecord], status: ClientStatus) -> list[Finding]:
    kinds = Counter(record.error or "unknown" for record in kept if not record.ok)
    return [
        Finding(
            severity="warning",
            code="requests-failed",
            message=f"{count} of {len(kept)} requests failed: {kind}"
            + (f"; the first: {status.details[kind]}" if status.details.get(kind) else ""),
        )
        for kind, count in kinds.most_common()
    ]


def _tokens(complete: Sequence[RequestRecord]) -> list[Finding]:
    found = []
    guessed = sum(record.tokens_from == "chunks" for record in complete)
    if guessed:
        found.append(
            Finding(
                severity="warning",
                code="tokens-from-chunks",
                message=f"{guessed} of {len(complete)} answers came without usage: their chunks were counted as tokens",
            )
        )
    counted = [record for record in complete if record.tokens_from == "usage" and record.chunks]
    chunks = sum(record.chunks for record in counted)
    # An engine counts the token that ends the answer, which no chunk shows.
    shown = sum((record.output_tokens or 0) - (record.finish_reason == "stop") for record in counted)
    per_chunk = shown / chunks if chunks else 1.0
    if per_chunk > 1.05:
        found.append(
            Finding(
                severity="info",
                code="several-tokens-per-chunk",
                message=f"chunks carry {per_chunk:.2f} tokens: itl is per chunk, judge tpot",
            )
        )
    gaps = [gap for record in complete for gap in record.gaps]
    bunched = sum(gap < _BUNCHED_GAP for gap in gaps)
    if gaps and bunched / len(gaps) > _BUNCHED_SHARE:
        found.append(
            Finding(
                severity="warning",
                code="chunks-bunched",
                message=f"{bunched / len(gaps):.0%} of chunks arrived together with the one before: "
                "something on the way collects them, so itl shows that rather than the engine",
            )
        )
    return found
