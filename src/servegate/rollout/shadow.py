"""What a shadow shows: both slots under the same requests, latency and failures laid side by side, answers compared."""

from __future__ import annotations

from pydantic import Field

from servegate.contract import Contract
from servegate.rollout.deltas import BucketError, add
from servegate.rollout.seen import Amount, Buckets, OutputsSeen, SlotDelta
from servegate.stats import histogram, intervals


class Side(Contract):
    """Sums of one slot."""

    requests: Amount = 0.0
    failures: Amount = 0.0
    ttft: Buckets | None = None


class ShadowSums(Contract):
    """What was gathered so far, per slot."""

    sides: dict[str, Side] = Field(default_factory=dict)


def gather(sums: ShadowSums, deltas: dict[str, SlotDelta], candidate: str) -> ShadowSums:
    """The sums with one tick more.

    Copies are not in the gateway's counters, so the candidate is counted by its engine.
    """
    sides = dict(sums.sides)
    for slot, delta in deltas.items():
        own = delta.model_copy(update={"gateway": False}) if slot == candidate else delta
        if own.requests is None:
            continue
        before = sides.get(slot, Side())
        ttft = before.ttft
        fresh = own.histograms.get("ttft")
        if fresh is not None:
            try:
                ttft = fresh if ttft is None else add("ttft", ttft, fresh)
            except BucketError:
                ttft = fresh
        sides[slot] = Side(
            requests=before.requests + own.requests,
            failures=before.failures + (own.failures or 0.0) + (own.rejected or 0.0),
            ttft=ttft,
        )
    return ShadowSums(sides=sides)


def sentence(sums: ShadowSums, stable: str, candidate: str, outputs: OutputsSeen | None) -> str:
    """What was seen, for people."""
    parts = []
    one, other = sums.sides.get(stable, Side()), sums.sides.get(candidate, Side())
    for name, side in ((stable, one), (candidate, other)):
        rate = ""
        if side.requests > 0:
            found = intervals.wilson(min(side.failures, side.requests), side.requests)
            rate = f" ({100 * side.failures / side.requests:.2f} % [{100 * found.low:.2f}, {100 * found.high:.2f}])"
        parts.append(f"{name} {side.requests:,.0f} requests, {side.failures:,.0f} failed{rate}{_quantiles(side)}")
    if one.ttft is not None and other.ttft is not None and one.ttft.edges == other.ttft.edges:
        slower = histogram.slower(other.ttft.counts, one.ttft.counts)
        if slower is not None:
            parts.append(
                f"{candidate}'s first token is slower in {100 * slower:.0f} % of comparisons (50 % is no difference)"
            )
    if outputs is not None and outputs.asked > 0:
        found = intervals.wilson(outputs.same, outputs.asked)
        parts.append(
            f"{outputs.same} of {outputs.asked} answers are the same "
            f"({100 * found.low:.0f} to {100 * found.high:.0f} %), "
            f"{100 * outputs.similarity:.0f} % of the text in common on average"
            + (f", least {', '.join(outputs.examples)}" if outputs.examples else "")
            + (f", {outputs.failed} prompts were not answered" if outputs.failed else "")
        )
    return "; ".join(parts)


def _quantiles(side: Side) -> str:
    if side.ttft is None or side.ttft.total <= 0:
        return ""
    shown = []
    for p in (0.5, 0.95):
        value = histogram.quantile(side.ttft.edges, side.ttft.counts, p)
        shown.append("?" if value is None else f"{1000 * value:.0f} ms")
    return f", first token p50 {shown[0]}, p95 {shown[1]} (from buckets)"
