"""One release from verdict to promotion or rollback, and the facts a reader asks for first.

The views share these facts, so that the headline, the cards and the marks in the plots cannot disagree. Pure: data
in, data out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from servegate.release import Release
from servegate.report.format import clock, count, duration, number, percent, plural
from servegate.report.model import Report
from servegate.report.records import CanaryTick, EvalRecord, Evidence, RequestRecord
from servegate.report.verdict import Verdict

StoryOutcome = Literal["promoted", "rolled_back", "refused", "held", "unfinished", "serving"]

BACKWARD = ("ROLLING_BACK", "ROLLED_BACK")
FORWARD = ("PROMOTED", "GUARDED")


@dataclass(frozen=True)
class Defect:
    """A fault that was made on purpose, for a page that shows how it was caught.

    Args:
        what: in words, such as "10 % of the requests fail".
        first_effect: when it could first be felt, seconds since the epoch.
    """

    what: str
    first_effect: float


@dataclass(frozen=True)
class ReleaseStory:
    """Everything that is known about one release's way to the users. What there is not is left out of the page.

    Args:
        name: of the release.
        outcome: how it ended; "refused" is a gate's no, "serving" a release that was there from the start.
        reason: why, in one sentence; empty where nothing needs saying.
        release: the release itself.
        stable: name of the release it was compared with.
        reports: what smoke, evals and load measured.
        eval_records: answers behind the eval reports.
        verdict: of the gate.
        ticks: the canary's timeline, oldest first.
        records: requests of the users meanwhile; those outside the timeline are not counted.
        defect: a fault made on purpose.
        numbers: further cards, label → value.
    """

    name: str
    outcome: StoryOutcome
    reason: str = ""
    release: Release | None = None
    stable: str | None = None
    reports: Sequence[Report] = ()
    eval_records: Sequence[EvalRecord] = ()
    verdict: Verdict | None = None
    ticks: Sequence[CanaryTick] = ()
    records: Sequence[RequestRecord] = ()
    defect: Defect | None = None
    numbers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Span:
    """A stretch of the rollout: seconds since its start, phase, and what people call it."""

    start: float
    end: float
    phase: str
    label: str


@dataclass(frozen=True)
class Served:
    """Requests a slot answered, or all: `slot` None. `failed` of `requests` were not answered completely."""

    slot: str | None
    requests: int
    failed: int


@dataclass(frozen=True)
class Facts:
    """What is derived from a story. Times are seconds since the rollout's start.

    Args:
        start: of the rollout, seconds since the epoch.
        length: seconds on the timeline.
        slots: all slots, the candidate last.
        candidate: slot of the candidate.
        spans: the phases in order.
        decided: tick of the promotion or of the decision to roll back.
        fired: evidence that had crossed its limit then.
        zero: when the candidate's weight was 0 after a rollback.
        share: largest share of the traffic the candidate had, per cent.
        served: per slot and then in all.
        from_records: the counts are the clients' own, not the engines' counters.
    """

    start: float
    length: float
    slots: tuple[str, ...]
    candidate: str | None
    spans: tuple[Span, ...]
    decided: CanaryTick | None
    fired: tuple[Evidence, ...]
    zero: float | None
    share: float
    served: tuple[Served, ...]
    from_records: bool

    def of(self, slot: str | None) -> Served | None:
        """What that slot served; None: all together."""
        return next((served for served in self.served if served.slot == slot), None)

    def since(self, epoch: float) -> float:
        """Seconds since the rollout's start."""
        return epoch - self.start


def facts(story: ReleaseStory) -> Facts:
    """Derive what the views show."""
    ticks = story.ticks
    if not ticks:
        start = min((record.sent for record in story.records), default=0.0)
        end = max((record.sent for record in story.records), default=start)
        slots = tuple(sorted({record.slot for record in story.records if record.slot}))
        served = _served_by_records(story.records, slots)
        return Facts(start, end - start, slots, None, (), None, (), None, 0.0, served, bool(story.records))
    start, end = ticks[0].at, ticks[-1].at
    candidate = next((tick.candidate for tick in ticks if tick.candidate), None)
    names = {slot for tick in ticks for slot in (*tick.weights, *tick.slots)}
    slots = tuple(sorted(names, key=lambda slot: (slot == candidate, slot)))
    decided = next((tick for tick in ticks if tick.phase in BACKWARD), None) or next(
        (tick for tick in ticks if tick.phase in FORWARD), None
    )
    zero = None
    if decided is not None and decided.phase in BACKWARD and candidate:
        after = (tick.at for tick in ticks if tick.at >= decided.at and tick.weights.get(candidate, 0) == 0)
        zero = next(after, None)
    records = within(story.records, start, end)
    return Facts(
        start=start,
        length=end - start,
        slots=slots,
        candidate=candidate,
        spans=_spans(ticks, candidate),
        decided=decided,
        fired=_fired(ticks, decided),
        zero=None if zero is None else zero - start,
        share=max((tick.weights.get(candidate, 0) for tick in ticks), default=0) if candidate else 0,
        served=_served_by_records(records, slots) if records else _served_by_ticks(ticks, slots),
        from_records=bool(records),
    )


def within(records: Sequence[RequestRecord], start: float, end: float) -> list[RequestRecord]:
    """Requests sent from `start` to `end`, seconds since the epoch."""
    return [record for record in records if start <= record.sent <= end]


def headline(story: ReleaseStory, known: Facts) -> str:
    """The outcome in one or two sentences: what, when, and who was hurt."""
    decided = known.decided
    when = f" {duration(known.since(decided.at))} after the rollout began" if decided else ""
    if story.outcome == "promoted":
        first = f"Promoted{when}."
    elif story.outcome == "rolled_back":
        share = f" It had at most {number(known.share)} % of the traffic." if known.share else ""
        since = _since_defect(story, known)
        first = f"Rolled back{f', {since}' if since else when}.{share}"
    elif story.outcome == "refused":
        first = "Refused by the gate: it never carried a user's request."
    elif story.outcome == "held":
        first = "Held: it neither advanced nor went back."
    elif story.outcome == "serving":
        first = "Served from the start."
    else:
        first = "The rollout did not come to its end."
    return f"{first} {hurt(known)}".strip()


def hurt(known: Facts) -> str:
    """How many requests failed, in a sentence; empty when nobody counted."""
    everything = known.of(None)
    if everything is None or not everything.requests:
        return ""
    candidate = known.of(known.candidate) if known.candidate else None
    if not everything.failed:
        return f"None of {plural(everything.requests, 'request')} failed."
    if candidate is None:
        return f"{count(everything.failed)} of {plural(everything.requests, 'request')} failed."
    share = percent(everything.failed / everything.requests)
    return (
        f"{count(candidate.failed)} of the {plural(candidate.requests, 'request')} it served failed; "
        f"in all {count(everything.failed)} of {count(everything.requests)} ({share})."
    )


def cards(story: ReleaseStory, known: Facts) -> dict[str, str]:
    """Key numbers, label → value: derived ones first, then the story's own."""
    shown: dict[str, str] = {}
    candidate = known.of(known.candidate) if known.candidate else None
    everything = known.of(None)
    if story.ticks:
        shown["Length of the rollout"] = duration(known.length)
        shown["Largest share of traffic"] = f"{number(known.share)} %"
    if story.defect is not None and known.zero is not None:
        shown["Defect's first effect to weight 0"] = duration(known.zero - known.since(story.defect.first_effect))
    if candidate is not None:
        shown["Failed of those it served"] = _share(candidate)
    if everything is not None and everything.requests:
        shown["Failed in all"] = _share(everything)
    return shown | dict(story.numbers)


def summary(known: Facts) -> str:
    """The timeline in words, for those who do not see the plot."""
    told = []
    for span in known.spans:
        begin, end = clock(span.start), clock(span.end)
        told.append(f"{span.label} at {begin}" if begin == end else f"{span.label} from {begin} to {end}")
    return "; ".join(told)


def ratio(log_e: float, log_limit: float) -> float:
    """Evidence as a share of what is needed: 1 or more has reached the limit."""
    if log_limit > 0:
        return log_e / log_limit
    return math.inf if log_e >= log_limit else 0.0


def _share(served: Served) -> str:
    share = f" ({percent(served.failed / served.requests)})" if served.failed else ""
    return f"{count(served.failed)} of {count(served.requests)}{share}"


def _since_defect(story: ReleaseStory, known: Facts) -> str:
    if story.defect is None or known.zero is None:
        return ""
    return f"{duration(known.zero - known.since(story.defect.first_effect))} after the defect's first effect"


def _label(tick: CanaryTick, candidate: str | None) -> str:
    if tick.phase in ("STEP", "BAKING") and candidate:
        return f"{number(tick.weights.get(candidate, 0))} %"
    return tick.phase.replace("_", " ").lower()


def _spans(ticks: Sequence[CanaryTick], candidate: str | None) -> tuple[Span, ...]:
    spans: list[Span] = []
    start = ticks[0].at
    for index, tick in enumerate(ticks):
        label = _label(tick, candidate)
        last = index + 1 == len(ticks)
        if last or (ticks[index + 1].phase, _label(ticks[index + 1], candidate)) != (tick.phase, label):
            begin = spans[-1].end if spans else 0.0
            end = tick.at if last else ticks[index + 1].at
            spans.append(Span(begin, end - start, tick.phase, label))
    return tuple(spans)


def _fired(ticks: Sequence[CanaryTick], decided: CanaryTick | None) -> tuple[Evidence, ...]:
    """Evidence that crossed its limit at the decision or at the tick before it, which led to it."""
    if decided is None or decided.phase not in BACKWARD:
        return ()
    recent = [tick for tick in ticks if tick.at <= decided.at][-2:]
    found = {
        evidence.check: evidence
        for tick in recent
        for evidence in tick.evidence
        if evidence.log_e >= evidence.log_limit
    }
    return tuple(found.values())


def _served_by_records(records: Sequence[RequestRecord], slots: tuple[str, ...]) -> tuple[Served, ...]:
    if not records:
        return ()
    parts = [
        Served(slot, len(mine), sum(not record.ok for record in mine))
        for slot in slots
        for mine in [[record for record in records if record.slot == slot]]
    ]
    return (*parts, Served(None, len(records), sum(not record.ok for record in records)))


def _served_by_ticks(ticks: Sequence[CanaryTick], slots: tuple[str, ...]) -> tuple[Served, ...]:
    parts = []
    for slot in slots:
        seen = [tick.slots[slot] for tick in ticks if slot in tick.slots]
        if any(one.requests is not None for one in seen):
            parts.append(Served(slot, sum(one.requests or 0 for one in seen), sum(one.failures or 0 for one in seen)))
    if not parts:
        return ()
    return (*parts, Served(None, sum(part.requests for part in parts), sum(part.failed for part in parts)))
