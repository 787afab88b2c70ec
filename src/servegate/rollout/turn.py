"""One turn of `decide`: the state on its way from one tick to the next, and the moves that change its phase."""

from __future__ import annotations

from typing import Literal

from servegate.rollout import evidence, reasons, scaling
from servegate.rollout.model import (
    Action,
    CheckState,
    Held,
    HeldCause,
    Message,
    Notify,
    Observation,
    Phase,
    Restore,
    SlotRelease,
    State,
)
from servegate.rollout.plan import ErrorsSlo, LatencySlo, Plan

KEPT_MESSAGES = 100
TOO_OLD = 3600.0
"""Seconds after which a message that could not be delivered is given up."""
CONCLUDED = "concluded"
"""Cause of the end of what was never to be promoted."""
AFTER_PROMOTION = (Phase.PROMOTED, Phase.GUARDED)


class Turn:
    """Gathers what changes within one call of `decide`; nothing of it outlives the call."""

    def __init__(self, plan: Plan, state: State, seen: Observation, now: float) -> None:
        self.plan, self.state, self.seen, self.now = plan, state, seen, now
        self.previous = state.updated
        self.effects: list[Action] = []
        self.settled: list[Action] = []
        self.notices: list[Action] = []
        self.reason = ""

    def change(self, **update: object) -> None:
        """Replace fields of the state."""
        self.state = self.state.model_copy(update=update)

    def ready(self, slot: str) -> int:
        """Replicas known to be ready at this tick; what was known before may be gone, so unknown is 0."""
        return self.state.ready.get(slot, 0) if slot in self.seen.status else 0

    def ready_replica(self, slot: str) -> str:
        """What is waited for while a slot has none, in words."""
        if slot in self.seen.status:
            return f"a ready replica of {reasons.name(self.state, slot)}"
        return f"word of a ready replica of {reasons.name(self.state, slot)}, whose slot cannot be asked now"

    def notify(self, level: Literal["info", "warning", "critical"], message: str) -> None:
        """Tell people: who looks at the controller at once, who the plan names until it has been delivered."""
        self.notices.append(Notify(level=level, message=message))
        state = self.state
        if self.plan.notify:
            kept = Message(
                id=state.messages + 1, at=self.now, level=level, text=message, phase=state.phase, weights=state.weights
            )
            self.change(messages=kept.id, outbox=(*state.outbox, kept)[-KEPT_MESSAGES:])

    def forget_delivered(self) -> None:
        """What has been delivered, or is too old to matter, need not be kept."""
        done, state = set(self.seen.delivered), self.state
        if state.outbox:
            kept = tuple(item for item in state.outbox if item.id not in done and self.now - item.at <= TOO_OLD)
            self.change(outbox=kept)

    def wait_for(self, what: str) -> None:
        """Nothing moves; say what is waited for."""
        if self.state.waiting != what:
            self.change(waiting=what)

    def enter(self, phase: Phase, reason: str, **update: object) -> None:
        """Go to another phase."""
        self.change(phase=phase, phase_since=self.now, reason=reason, waiting="", **update)
        self.reason = reason

    def enter_step(self, index: int, reason: str) -> None:
        """Give the candidate the weight of a step. Open intervals of evidence end: they belong to other weights."""
        weight = self.plan.steps[index].weight
        last_with_control = len(self.plan.steps) - 2
        self.enter(
            Phase.BAKING if 0 <= last_with_control <= index else Phase.STEP,
            f"{self._given(weight)} to {reasons.name(self.state, self.state.candidate)}: {reason}",
            step=index,
            scaled_for=index,
            step_since=self.now,
            step_effective=None,
            step_requests=0.0,
            served=None,
            held=None,
            refused_since=None,
            weights={self.state.stable: 100.0 - weight, self.state.candidate: weight},
            checks=self._dropped(),
        )
        self.notify("info", self.reason)

    def _given(self, weight: float) -> str:
        shadow = self.plan.shadow
        return f"{weight:g} % of the traffic" if shadow is None else f"copies of {shadow.mirror:g} % of the requests"

    def hold(self, held: HeldCause, cause: str, reason: str, alert: str = "") -> None:
        """Stand still, judging on."""
        self.enter(
            Phase.HELD,
            reason,
            held=Held(cause=held, since=self.now, back_to=self.state.phase, alert=alert),
            cause=cause,
        )
        level: Literal["warning", "critical"] = "critical" if held in ("stable", "slo", "data", "ratio") else "warning"
        if held != "person":
            self.notify(level, f"held: {reason}")

    def resume(self, reason: str) -> None:
        """Go on where the rollout was held; the step's time and the preparation's limit start anew."""
        held = self.state.held
        assert held is not None
        checks = self.state.checks
        if held.cause == "slo":
            # Somebody has looked and decided to go on: the objective is judged by what happens from here.
            slos = {check.name for check in self.plan.checks if isinstance(check, ErrorsSlo | LatencySlo)}
            checks = {
                name: gathered if name not in slos else CheckState(promote_reached=gathered.promote_reached)
                for name, gathered in checks.items()
            }
        counted = None if held.cause == "ratio" else self.state.served
        self.enter(held.back_to, reason, held=None, cause="", checks=checks, served=counted)
        if held.back_to in (Phase.STEP, Phase.BAKING):
            effective = self.now if self.state.refused_since is None else None
            self.change(step_since=self.now, step_effective=effective)
        self.notify("info", reason)

    def roll_back(self, cause: str, reason: str) -> None:
        """Take the traffic back. The weights follow as soon as stable can take them."""
        self.enter(
            Phase.ROLLING_BACK,
            reason,
            held=None,
            cause=cause,
            expedited=False,
            proof=None,
            proven="",
            unproven="",
            stable_cold=None,
            checks=self._dropped(),
        )
        self.notify("critical" if self.state.first_traffic is not None else "warning", f"rolling back: {reason}")

    def conclude(self, reason: str) -> None:
        """The experiment or the shadow is over: everything becomes as it was."""
        self.enter(
            Phase.ROLLING_BACK,
            reason,
            held=None,
            cause=CONCLUDED,
            expedited=False,
            proof=None,
            stable_cold=None,
            checks=self._dropped(),
        )
        self.notify("info", reason)

    def restore(self, target: SlotRelease, cause: str, reason: str) -> None:
        """Bring a release back into traffic that is in no slot now, or idle in one.

        The slot it goes into is the one that is not stable; it gets no traffic before it is ready.
        """
        state = self.state
        free = state.weights[state.candidate] == 0
        back_to = Phase.PROMOTED if state.phase in AFTER_PROMOTION or _guarded(state) else Phase.ROLLED_BACK
        self.enter(
            Phase.ROLLING_BACK,
            reason,
            held=None,
            cause=cause,
            expedited=False,
            finished=None,
            guard=None,
            proof=None,
            proven="",
            unproven="",
            smoke_ok=False,
            stable_cold=None,
            restore=Restore(target=target, back_to=back_to),
            checks=self._dropped(),
        )
        if free:
            self.put(target)
        self.notify("critical", f"rolling back to {target.name}: {reason}")

    def put(self, target: SlotRelease) -> None:
        """The slot without traffic is to run this release; replicas of another one there count for nothing."""
        slot = self.state.candidate
        if self.state.slots[slot].release != target.release:
            self.change(slots={**self.state.slots, slot: target}, ready={**self.state.ready, slot: 0})

    def promote(self) -> None:
        """Swap the roles: nothing is deployed anew, and the old slot stays warm."""
        state = self.state
        reason = (
            f"{reasons.name(state, state.candidate)} is promoted: {reasons.totals(state, state.candidate)}; "
            f"{reasons.name(state, state.stable)} stays warm"
        )
        if state.warnings:
            reason = f"WITH A WARNING: {reason}; passed over: {'; '.join(state.warnings)}"
        if self.plan.capacity == "shift":
            kept = min(self.plan.spare, self.plan.replicas)
            reason = reason.replace("stays warm", f"keeps {kept} replicas; a rollback would take ")
            reason += scaling.way_back(self.plan, state, kept)
        self.finish(Phase.PROMOTED, reason, stable=state.candidate, candidate=state.stable)

    def finish(self, phase: Phase, reason: str, **update: object) -> None:
        """The end."""
        self.enter(phase, reason, finished=self.now, **update)
        if phase is Phase.ROLLED_BACK:
            self.reason = f"rolled back: {reason}"
        unproven = self.state.unproven
        if unproven:
            self.reason += f"; NOT PROVEN: {unproven}"
        elif self.state.proven:
            self.reason += f"; proof: {self.state.proven}"
        self.notify("critical" if unproven else "info", self.reason)

    def _dropped(self) -> dict[str, CheckState]:
        return {name: evidence.drop(gathered) for name, gathered in self.state.checks.items()}


def _guarded(state: State) -> bool:
    """The watch over a promoted release stands still."""
    return state.held is not None and state.held.back_to is Phase.GUARDED
