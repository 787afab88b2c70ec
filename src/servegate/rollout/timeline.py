"""One line of the canary timeline per tick: what was seen, what it is evidence of, what was done."""

from __future__ import annotations

from servegate.report.records import CanaryTick, Evidence, SlotTick
from servegate.rollout import evidence
from servegate.rollout.model import CheckState, Observation, Phase, SlotDelta, State
from servegate.rollout.plan import Plan
from servegate.stats.histogram import quantile


def tick(plan: Plan, state: State, seen: Observation, now: float, reason: str) -> CanaryTick:
    """The record of this tick, in the state that came out of it."""
    moving = state.first_traffic is not None
    return CanaryTick.model_construct(
        at=now,
        phase=state.phase.value,
        step=state.step if moving else None,
        weights=state.weights,
        stable=state.stable,
        candidate=None if state.phase is Phase.PROMOTED else state.candidate,
        slots={slot: _slot(state, slot, seen.slots.get(slot)) for slot in sorted((state.stable, state.candidate))},
        evidence=_evidence(plan, state) if moving else (),
        reason=reason,
    )


_NOTHING = CheckState()
_LINE = Evidence(check="", log_e=0.0, log_limit=0.0, promote_log_e=None, promote_log_limit=None)


def _evidence(plan: Plan, state: State) -> tuple[Evidence, ...]:
    lines, promote_limit = [], plan.promote_log_limit
    for check in plan.checks:
        gathered = state.checks.get(check.name) or _NOTHING
        promotion = evidence.promote_log_e(plan, check, gathered)
        lines.append(
            _LINE.model_copy(
                update={
                    "check": check.name,
                    "log_e": evidence.log_e(plan, check, gathered),
                    "log_limit": plan.log_limit(check),
                    "promote_log_e": promotion,
                    "promote_log_limit": None if promotion is None else promote_limit,
                }
            )
        )
    return tuple(lines)


def _slot(state: State, slot: str, delta: SlotDelta | None) -> SlotTick:
    ready = state.ready.get(slot)
    is_ready = None if ready is None else ready > 0
    if delta is None:
        return SlotTick.model_construct(ready=is_ready)
    ttft = delta.histograms.get("ttft")
    requests, failures, rejected = delta.requests, delta.failures, delta.rejected
    return SlotTick.model_construct(
        requests=None if requests is None else round(requests),
        failures=None if failures is None else round(failures + (rejected or 0.0)),
        set_apart=round(delta.set_apart),
        ttft_p50=quantile(ttft.edges, ttft.counts, 0.5) if ttft else None,
        ttft_p95=quantile(ttft.edges, ttft.counts, 0.95) if ttft else None,
        running=delta.gauges.get("running"),
        waiting=delta.gauges.get("waiting"),
        kv_cache_usage=delta.gauges.get("kv_cache_usage"),
        ready=is_ready,
    )
