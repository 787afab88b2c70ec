"""From an outcome in monotonic seconds to the record that is kept."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from itertools import pairwise

from servegate.loadtest.answer import Outcome
from servegate.report.records import RequestRecord

WARM_UP = "warm-up"
_SLOT = re.compile(r"[a-z][a-z0-9-]{0,30}")


class Clock:
    """Seconds since the epoch from one monotonic clock, anchored once: differences are exact and never negative."""

    def __init__(self) -> None:
        self._anchor = time.time() - time.perf_counter()

    def epoch(self, monotonic: float) -> float:
        """Epoch seconds of a `time.perf_counter` reading, to the microsecond."""
        return round(self._anchor + monotonic, 6)


def to_record(number: int, scheduled: float, outcome: Outcome, tags: Sequence[str], clock: Clock) -> RequestRecord:
    """The record of one request.

    Args:
        number: position in the schedule.
        scheduled: monotonic seconds when it should have been sent.
        outcome: what happened; a slot or status that is out of bounds is left out.
        tags: of the prompt, and `warm-up` where it applies.
        clock: turns monotonic seconds into epoch seconds.
    """
    answer, times = outcome.answer, outcome.answer.times
    tokens, source = answer.output_tokens, "usage"
    if tokens is None and times:
        tokens, source = len(times), "chunks"
    return RequestRecord(
        id=number,
        scheduled=clock.epoch(scheduled),
        sent=clock.epoch(max(outcome.sent, scheduled)),
        first_token=clock.epoch(times[0]) if times else None,
        last_token=clock.epoch(times[-1]) if times else None,
        done=clock.epoch(max(outcome.done, scheduled)),
        ok=outcome.error is None,
        status=outcome.status if outcome.status is not None and 100 <= outcome.status <= 599 else None,
        error=outcome.error,
        slot=outcome.slot if outcome.slot is not None and _SLOT.fullmatch(outcome.slot) else None,
        finish_reason=answer.finish_reason,
        prompt_tokens=answer.prompt_tokens,
        output_tokens=tokens,
        tokens_from=None if tokens is None else "usage" if source == "usage" else "chunks",
        chunks=len(times),
        gaps=tuple(round(later - earlier, 6) for earlier, later in pairwise(times)),
        tags=tuple(tags),
    )
