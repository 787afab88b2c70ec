"""What the ticks of a rollout tell beyond numbers: the way back, the watch afterwards, the experiment."""

from __future__ import annotations

import math
from collections.abc import Sequence

from servegate.report.canary import AlertTaken, CanaryStory, MetricSeen, SampleRatio, Seen, Trial, Watch, WayBack
from servegate.rollout.actions import Settle
from servegate.rollout.audit import AuditTick
from servegate.rollout.experiment import RATIO_ALPHA, Effect, ExperimentSeen
from servegate.rollout.model import Phase, State
from servegate.rollout.plan import Plan
from servegate.rollout.plan_experiment import Experiment, Guardrail, Primary
from servegate.stats import always_valid


def story(plan: Plan, first: State, ticks: Sequence[AuditTick]) -> CanaryStory | None:
    """What the ticks of one rollout tell beyond numbers; None when there is nothing of it.

    Args:
        first: the state the rollout began from.
    """
    told = CanaryStory(
        way_back=_way_back(ticks), watch=_watch(ticks), experiment=_experiment(plan, first, ticks)
    )  # fmt: skip
    return None if told == CanaryStory() else told


def _way_back(ticks: Sequence[AuditTick]) -> WayBack | None:
    """The last rollback: a proof per tick, without a gap."""
    last = next((number for number in reversed(range(len(ticks))) if ticks[number].proof is not None), None)
    if last is None:
        return None
    start = last
    while start > 0 and ticks[start - 1].proof is not None and ticks[start - 1].phase == Phase.ROLLING_BACK:
        start -= 1
    stretch = ticks[start : last + 1]
    found = stretch[-1].proof
    assert found is not None
    effective = next(
        (
            tick.at
            for tick in stretch
            if tick.proof is not None
            and tick.proof.slot == found.slot
            and tick.proof.points[0].outcome == "PASS"
            and tick.at > stretch[0].at
        ),
        None,
    )
    return WayBack(
        decided=stretch[0].at,
        why=stretch[0].reason,
        effective=effective if found.points[0].outcome == "PASS" else None,
        ended=None if stretch[-1].phase == Phase.ROLLING_BACK else stretch[-1].at,
        proof=found,
    )


def _watch(ticks: Sequence[AuditTick]) -> Watch | None:
    numbers = [number for number, tick in enumerate(ticks) if tick.guard is not None]
    if not numbers:
        return None
    over = next((n for n in numbers if (found := ticks[n].guard) is not None and found.ended), None)
    taken = over is None and numbers[-1] + 1 < len(ticks)
    end = over if over is not None else numbers[-1] + taken
    last = ticks[over if over is not None else numbers[-1]].guard
    assert last is not None
    decision = ticks[end].reason if over is not None or taken else "watching"
    if ticks[end].phase == Phase.HELD:
        decision = next((tick.reason for tick in reversed(ticks[: end + 1]) if tick.reason), "held")
    return Watch(
        guarded=last,
        alerts=_alerts(ticks[numbers[0] : end + 1]),
        outcome="PASS" if over is not None else "FAIL" if taken else "INCONCLUSIVE",
        ended=ticks[end].at if over is not None or taken else None,
        decision=decision,
    )


def _alerts(ticks: Sequence[AuditTick]) -> tuple[AlertTaken, ...]:
    found: dict[int, AlertTaken] = {}
    for tick in ticks:
        for action in tick.actions:
            if not isinstance(action, Settle) or action.intent.id in found:
                continue
            intent = action.intent
            for kind in ("rollback", "freeze", "resolved"):
                if intent.kind == f"alert-{kind}":
                    text = intent.reason or intent.target or ""
                    found[intent.id] = AlertTaken(at=tick.at, kind=kind, text=text, outcome=action.outcome)
    return tuple(found.values())


def _experiment(plan: Plan, first: State, ticks: Sequence[AuditTick]) -> Trial | None:
    rules = plan.experiment
    if rules is None:
        return None
    looks = [tick.observation.experiment for tick in ticks if tick.observation.experiment is not None]
    share = plan.steps[0].weight / 100
    if not looks:
        return Trial(
            hypothesis=rules.hypothesis,
            horizon=rules.horizon,
            users={},
            wanted=rules.users(share),
            ratio=SampleRatio(planned=share, outcome="INCONCLUSIVE", text="no user was counted yet"),
            metrics=(),
            outcome="INCONCLUSIVE",
            decision=_decision(ticks, "nothing was seen yet"),
        )
    seen = looks[-1]
    effects = {effect.metric: effect for effect in seen.effects}
    verdicts: dict[str, Seen] = {"better": "PASS", "worse": "FAIL"}
    outcome: Seen = "FAIL" if seen.harm_by == "guardrail" else verdicts.get(seen.outcome, "INCONCLUSIVE")
    return Trial(
        hypothesis=rules.hypothesis,
        horizon=rules.horizon,
        users=seen.users,
        wanted=seen.wanted,
        ratio=_ratio(seen, first.stable, first.candidate, share),
        metrics=(
            _metric(rules.primary, effects.get(rules.primary.name), rules, verdicts.get(seen.outcome, "INCONCLUSIVE")),
            *(_metric(rule, effects.get(rule.name), rules, _kept(rule, effects.get(rule.name)))
              for rule in rules.guardrails),
        ),
        outcome=outcome,
        decision=_decision(ticks, seen.text),
    )  # fmt: skip


def _decision(ticks: Sequence[AuditTick], text: str) -> str:
    """What ended it; while it runs, what it says."""
    ended = next((tick.reason for tick in ticks if tick.phase == Phase.ROLLING_BACK and tick.reason), "")
    return ended or text


def _ratio(seen: ExperimentSeen, stable: str, candidate: str, share: float) -> SampleRatio:
    one, other = seen.users.get(stable, 0), seen.users.get(candidate, 0)
    if seen.harm_by == "assignment":
        outcome: Seen = "FAIL"
        text = seen.harm
    elif one + other == 0:
        outcome, text = "INCONCLUSIVE", "no user was counted yet"
    else:
        outcome = "PASS"
        log_e, limit = always_valid.sample_ratio_log_e(other, one, share), math.log(1 / RATIO_ALPHA)
        text = f"{100 * max(0.0, log_e) / limit:.0f} % of the evidence that would call it wrong"
    found = other / (one + other) if one + other else None
    return SampleRatio(planned=share, found=found, outcome=outcome, text=text)


def _kept(rule: Guardrail, found: Effect | None) -> Seen:
    if found is None or found.low is None or found.high is None:
        return "INCONCLUSIVE"
    worst, best = (found.high, found.low) if rule.better == "lower" else (-found.low, -found.high)
    return "PASS" if worst <= rule.margin else "FAIL" if best > rule.margin else "INCONCLUSIVE"


def _metric(rule: Primary | Guardrail, found: Effect | None, rules: Experiment, outcome: Seen) -> MetricSeen:
    primary = isinstance(rule, Primary)
    return MetricSeen(
        name=rule.name,
        primary=primary,
        better=rule.better,
        bound=rule.effect if isinstance(rule, Primary) else rule.margin,
        stable=None if found is None else found.stable,
        candidate=None if found is None else found.candidate,
        effect=None if found is None else found.effect,
        low=None if found is None else found.low,
        high=None if found is None else found.high,
        level=1 - (rules.alpha if primary else rules.alpha / max(1, len(rules.guardrails))),
        outcome=outcome,
    )
