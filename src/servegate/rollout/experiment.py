"""An experiment judged: effect with interval, guardrails, sample ratio, and whether it is over. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from servegate.contract import Contract
from servegate.report.records import Count
from servegate.rollout.plan_experiment import Experiment, Guardrail, Metric
from servegate.stats import always_valid

RATIO_ALPHA = 0.001
"""Chance that users who are assigned rightly are called assigned wrongly."""
MIXED_AT_MOST = 0.01
"""Share of users seen in both arms beyond which the assignment is not what it says."""
LEAST = 50
"""Users per arm before an interval is shown: it is asymptotic."""


class Arm(Contract):
    """Sums over the users of one arm."""

    users: Count = 0
    sums: dict[str, float] = Field(default_factory=dict, description="metric → sum over users")
    squares: dict[str, float] = Field(default_factory=dict, description="metric → sum of squares over users")
    counts: dict[str, int] = Field(default_factory=dict, description="metric → users that have a value")


class Arms(Contract):
    """What was counted so far, per slot."""

    arms: dict[str, Arm]
    mixed: Count = Field(0, description="users seen in both slots; they are left out")


class Effect(Contract):
    """Candidate minus stable."""

    metric: str
    stable: float
    candidate: float
    effect: float
    low: float | None = Field(None, description="none: no interval yet")
    high: float | None = None
    alpha: float


class ExperimentSeen(Contract):
    """What an experiment says now."""

    users: dict[str, Count]
    wanted: Count = Field(description="users after which it ends")
    effects: tuple[Effect, ...] = ()
    outcome: Literal["running", "better", "worse", "no difference shown"] = "running"
    harm: str = Field("", description="why the candidate must not go on; empty: it may")
    harm_by: Literal["", "assignment", "guardrail"] = ""
    text: str = Field(description="for people, in one sentence")


def judge(plan: Experiment, seen: Arms, stable: str, candidate: str, share: float) -> ExperimentSeen:
    """Look at an experiment.

    Args:
        stable, candidate: slots.
        share: of users who belong into the candidate's arm, as planned.
    """
    one, other = seen.arms.get(stable, Arm()), seen.arms.get(candidate, Arm())
    wanted, users = plan.users(share), one.users + other.users
    counts = {stable: one.users, candidate: other.users}
    harm = _assignment(seen, one, other, share)
    harm_by: Literal["", "assignment", "guardrail"] = "assignment" if harm else ""
    guardrails = [_effect(item, one, other, plan.alpha / len(plan.guardrails), item.margin) for item in plan.guardrails]
    if not harm:
        for rule, found in zip(plan.guardrails, guardrails, strict=True):
            harm = harm or _breached(rule, found)
        harm_by = "guardrail" if harm else ""
    over = users >= wanted
    primary = None
    if plan.horizon == "sequential" or over:
        scale = plan.primary.effect if plan.horizon == "sequential" else None
        primary = _effect(plan.primary, one, other, plan.alpha, scale)
    outcome: Literal["running", "better", "worse", "no difference shown"] = "running"
    if primary is not None and primary.low is not None and primary.high is not None:
        if primary.low > 0 or primary.high < 0:
            outcome = "better" if (primary.low > 0) == (plan.primary.better == "higher") else "worse"
        elif over:
            outcome = "no difference shown"
    shown = tuple(item for item in (primary, *guardrails) if item is not None)
    return ExperimentSeen(
        users=counts,
        wanted=wanted,
        effects=shown,
        outcome="running" if harm else outcome,
        harm=harm,
        harm_by=harm_by,
        text=harm or _text(plan, primary, outcome, users, wanted),
    )


def _assignment(seen: Arms, one: Arm, other: Arm, share: float) -> str:
    total = one.users + other.users + seen.mixed
    if total >= 100 and seen.mixed > MIXED_AT_MOST * total:
        return f"{seen.mixed} of {total} users were seen in both slots: they do not keep theirs, so nothing can be said"
    if always_valid.sample_ratio_log_e(other.users, one.users, share) >= math.log(1 / RATIO_ALPHA):
        found = other.users / (one.users + other.users)
        return (
            f"sample ratio: {100 * found:.1f} % of {one.users + other.users} users are in the candidate's arm where "
            f"{100 * share:g} % were planned: users are lost or assigned wrongly, so nothing can be said"
        )
    return ""


def _effect(metric: Metric, one: Arm, other: Arm, alpha: float, scale: float | None) -> Effect | None:
    """Candidate minus stable, with an interval that holds at all looks (`scale`), or at this one alone (None)."""
    n0, n1 = one.counts.get(metric.name, 0), other.counts.get(metric.name, 0)
    if n0 < 2 or n1 < 2:
        return None
    mean0, mean1 = one.sums.get(metric.name, 0.0) / n0, other.sums.get(metric.name, 0.0) / n1
    variance = _variance(one, metric.name, n0, mean0) / n0 + _variance(other, metric.name, n1, mean1) / n1
    half = math.inf
    if min(n0, n1) >= LEAST:
        if scale is None:
            half = always_valid.fixed_half_width(variance, alpha)
        else:
            half = always_valid.half_width(variance, scale, alpha)
    known = math.isfinite(half)
    effect = mean1 - mean0
    return Effect(
        metric=metric.name,
        stable=mean0,
        candidate=mean1,
        effect=effect,
        low=effect - half if known else None,
        high=effect + half if known else None,
        alpha=alpha,
    )


def _variance(arm: Arm, name: str, n: int, mean: float) -> float:
    return max(0.0, (arm.squares.get(name, 0.0) - n * mean * mean) / (n - 1))


def _breached(rule: Guardrail, found: Effect | None) -> str:
    if found is None or found.low is None or found.high is None:
        return ""
    worse = found.high < -rule.margin if rule.better == "higher" else found.low > rule.margin
    return f"guardrail {_words(found)} is worse by more than {rule.margin:g}" if worse else ""


def _words(found: Effect) -> str:
    interval = "no interval yet" if found.low is None else f"[{found.low:+.4g}, {found.high:+.4g}]"
    return f"{found.metric}: {found.stable:.4g} → {found.candidate:.4g}, {found.effect:+.4g} {interval}"


def _text(plan: Experiment, primary: Effect | None, outcome: str, users: int, wanted: int) -> str:
    progress = f"{users:,} of {wanted:,} users"
    if primary is None:
        why = "not looked at before the planned end" if plan.horizon == "fixed" else "no value in an arm yet"
        return f"{plan.primary.name}: {why}; {progress}"
    return f"{_words(primary)} at {100 * (1 - plan.alpha):g} %; {outcome}; {progress}"


def collect(plan: Experiment, events: Mapping[str, tuple[str | None, Mapping[str, tuple[float, int]]]]) -> Arms:
    """Sums per arm.

    Args:
        events: user → (slot, None when seen in both; event → (sum of values, number)). Users without `exposure` are
            left out.
    """
    metrics: list[Metric] = [plan.primary, *plan.guardrails]
    arms: dict[str, dict[str, dict[str, float]]] = {}
    users: dict[str, int] = {}
    mixed = 0
    for slot, values in events.values():
        if "exposure" not in values:
            continue
        if slot is None:
            mixed += 1
            continue
        users[slot] = users.get(slot, 0) + 1
        sums = arms.setdefault(slot, {"sums": {}, "squares": {}, "counts": {}})
        for metric in metrics:
            value = _value(metric, values.get(metric.event))
            if value is not None:
                sums["sums"][metric.name] = sums["sums"].get(metric.name, 0.0) + value
                sums["squares"][metric.name] = sums["squares"].get(metric.name, 0.0) + value * value
                sums["counts"][metric.name] = sums["counts"].get(metric.name, 0) + 1
    return Arms(
        arms={
            slot: Arm(
                users=users[slot],
                sums=sums["sums"],
                squares=sums["squares"],
                counts={name: int(count) for name, count in sums["counts"].items()},
            )
            for slot, sums in arms.items()
        },
        mixed=mixed,
    )


def _value(metric: Metric, found: tuple[float, int] | None) -> float | None:
    """A user's value; None when it has none (a mean of nothing)."""
    if metric.kind == "converted":
        return 1.0 if found is not None and found[0] > 0 else 0.0
    if metric.kind == "total":
        return 0.0 if found is None else found[0]
    return None if found is None or found[1] == 0 else found[0] / found[1]


__all__ = ["Arm", "Arms", "Effect", "ExperimentSeen", "collect", "judge"]
