"""Where a rollout stands, in lines for people. Pure: the state, who holds the lease, and what time it is."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from servegate.rollout import capacity, evidence, reasons, scaling, served
from servegate.rollout.checks import Quality
from servegate.rollout.memory import Memory
from servegate.rollout.model import CheckState, Phase, State
from servegate.rollout.plan import Plan
from servegate.rollout.plan_experiment import CounterEvents, Experiment
from servegate.rollout.ports import Lease


def lines(known: Memory, plan: Plan | None, holder: Lease | None, now: float) -> list[str]:
    """The whole of it, most important first."""
    state = known.state
    out = [f"{state.rollout}  {state.phase}{_step(plan, state)}  since {clock(state.phase_since)}"]
    out.extend(_slot(state, slot) for slot in (state.stable, state.candidate))
    for label, text in (
        ("because", state.reason),
        ("waits for", state.waiting),
        ("held for", state.held.cause if state.held else ""),
        ("proof", state.proven),
        ("NOT PROVEN", state.unproven),
    ):
        if text and not (label == "waits for" and state.phase.finished):
            out.append(f"  {label:<10} {text}")
    if state.experiment is not None and not state.phase.finished:
        out.append(f"  {'experiment':<10} {state.experiment.text}")
    if state.served is not None and not state.phase.finished:
        out.append(f"  {'traffic':<10} {served.told(state)}")
    if plan is not None and not state.phase.finished and state.first_traffic is not None:
        out.extend(_evidence(plan, state))
    out.append(f"  {'controller':<10} {controller(plan, state, holder, now)}")
    return out


def alive(holder: Lease | None, now: float) -> bool:
    """Somebody holds the lease."""
    return holder is not None and holder.expires > now


def controller(plan: Plan | None, state: State, holder: Lease | None, now: float) -> str:
    """Who is at work, or what happens because nobody is."""
    if holder is not None and holder.expires > now:
        return f"{holder.holder}, heard of {reasons.seconds(max(0.0, now - state.updated))} ago"
    if state.phase.finished:
        return "none, and none is needed"
    text = f"no controller is at work on it since {reasons.seconds(max(0.0, now - state.updated))}"
    if state.phase.weighted and state.weights[state.candidate] > 0 and plan is not None:
        left = plan.unwatched_after - (now - state.updated)
        rule = {"rollback": "rolls it back", "hold": "holds it", "continue": "goes on with it"}[plan.on_unwatched]
        when = f"in {reasons.seconds(left)} or later" if left > 0 else "now"
        text += f"; whoever takes over {when} {rule}"
    return f"{text}: `servegate rollout watch`, `abort` or `start` takes over"


def clock(at: float) -> str:
    """A moment, in the time zone of this machine."""
    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def plain(text: str) -> str:
    """Text of others without what would move a terminal's cursor."""
    return "".join(char if char.isprintable() else " " for char in text)


def plan_lines(plan: Plan, now: float) -> list[str]:
    """A plan as steps with times, and what each thing in it does."""
    rate = plan.expect.requests_per_second
    out = [
        f"{plan.name}  {plan.identity()}",
        f"  {plan.strategy}, for {rate:g} requests/s, a look every {plan.tick:g} s",
        "  earliest  share   at least",
    ]
    at = 0.0
    for index, step in enumerate(plan.steps):
        needs = f"{step.min_time:g} s" + (f" and {step.min_requests} requests" if step.min_requests else "")
        needs += ", after a person's approval" if step.approval else ""
        if index == len(plan.steps) - 2 and step.weight < 100:
            needs += f": the bake, with {100 - step.weight:g} % on stable as the control"
        if plan.capacity == "shift" or step.replicas is not None:
            needs += f"; replicas: candidate {capacity.candidate(plan, index)}, stable {capacity.stable(plan, index)}"
        if plan.capacity == "shift":
            needs += f"; way back {scaling.way_back(plan, None, capacity.stable(plan, index))}"
        out.append(f"  {_duration(at):>8}  {step.weight:4g} %  {needs}")
        share = step.weight if plan.shadow is None else plan.shadow.mirror
        at += max(step.min_time, step.min_requests / (rate * share / 100))
    end = {"ab": "over: all traffic back to stable", "shadow": "over: copies end"}.get(plan.strategy, "promoted")
    out.append(f"  {_duration(at):>8}  {end}")
    if plan.experiment is not None:
        out.extend(_experiment(plan, plan.experiment))
    if plan.shadow is not None:
        out.append(f"            {plan.shadow.mirror:g} % of all requests are copied; no user sees an answer to a copy")
    if plan.guard is not None:
        out.append(f"            then guarded for {_duration(plan.guard.window)}")
    if plan.checks:
        out.append(
            f"  a healthy release is rolled back in at most {plan.alpha * 100:g} % of rollouts; checks and shares:"
        )
    out.extend(f"    {check.name:<16} {check.kind:<18} {check.share * 100:g} %" for check in plan.checks)
    out.extend(f"  frozen from {item.start} until {item.until} {item.timezone}  {item.name}" for item in plan.freeze)
    if (frozen := plan.frozen(now)) is not None:
        out.append(f"  now {frozen}")
    return out


def _experiment(plan: Plan, experiment: Experiment) -> list[str]:
    share = plan.steps[0].weight / 100
    primary = experiment.primary
    what = "requests" if isinstance(experiment.events, CounterEvents) else "users"
    sticky = f"by {plan.sticky.by} {plan.sticky.name}" if plan.sticky is not None else ""
    wanted = f"{experiment.users(share):,} {what} in both arms to find {primary.effect:g} from {primary.baseline:g}"
    chances = f"power {100 * experiment.power:g} %, alpha {100 * experiment.alpha:g} %, {experiment.horizon}"
    return [
        f"  hypothesis  {experiment.hypothesis}",
        f"  primary     {primary.name} ({primary.kind}, {primary.better} is better): {wanted}; {chances}",
        *(
            f"  guardrail   {item.name} ({item.kind}, {item.better} is better): not worse by more than {item.margin:g}"
            for item in experiment.guardrails
        ),
        f"  users keep their slot {sticky}",
    ]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min" if minutes else f"{rest} s"


def _step(plan: Plan | None, state: State) -> str:
    if plan is None or state.phase not in (Phase.STEP, Phase.BAKING):
        return ""
    return f" {state.step + 1} of {len(plan.steps)}"


def _slot(state: State, slot: str) -> str:
    role = "stable" if slot == state.stable else "idle" if state.weights[slot] == 0 and _over(state) else "candidate"
    total, ready = state.totals.get(slot), state.ready.get(slot)
    counted = f"  {total.requests:,.0f} requests, {total.failures + total.rejected:,.0f} failed" if total else ""
    up = "" if ready is None or state.phase.finished else f"  {ready} ready"
    return f"  {slot:<8} {role:<10} {state.slots[slot].name:<20} {state.weights[slot]:5.1f} %{counted}{up}"


def _over(state: State) -> bool:
    return state.phase.finished or state.phase is Phase.GUARDED


def _evidence(plan: Plan, state: State) -> list[str]:
    """One line per check: how far it is from sending the release back, and from letting it through."""
    judged, checks = plan, state.checks
    if state.guard is not None:
        judged, checks = plan.guarded() or plan, state.guard.checks
    out = []
    for check in judged.checks:
        gathered = checks.get(check.name) or CheckState()
        unit = "items" if isinstance(check, Quality) else "intervals"
        text = f"against it {_part(evidence.log_e(judged, check, gathered), judged.log_limit(check))}"
        promotion = evidence.promote_log_e(judged, check, gathered)
        if promotion is not None and state.guard is None:
            shown = "shown" if gathered.promote_reached else _part(promotion, judged.promote_log_limit)
            text += f"   for promotion {shown}"
        if gathered.skipped:
            text += f"   ({gathered.skipped} {unit} skipped: {gathered.skipped_because})"
        elif isinstance(check, Quality) and gathered.asked >= check.items:
            text += "   (the whole suite has been asked)"
        out.append(f"  {'check':<10} {check.name:<14} {gathered.intervals:>4} {unit:<9}   {text}")
    return out


def _part(log_e: float, log_limit: float) -> str:
    return f"e-value {_number(log_e)} of {_number(log_limit)}"


def _number(log_value: float) -> str:
    if log_value > math.log(1e6):
        return f"10^{log_value / math.log(10):.0f}"
    value = math.exp(log_value)
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
