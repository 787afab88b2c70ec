"""The loop of a rollout, and the only place where its effects happen.

    renew the lease → observe → decide → save the state → write it down → act → observe whether it worked

The order is the promise. The state is saved before anything is done, under the lease and against the version that was
read, so two controllers can never both act on a decision; a tick that nothing rests on may wait (rollout/unsaved.py).
No weight is written before the slots that get some have said once more that they are ready. Every action can be
repeated, and `decide` asks for it again until it is seen to have worked: a controller killed between any two
instructions is followed by one that ends in the same place. What an old controller might still want to do after a pause
is refused by the router, which has seen the newer epoch. Trouble in one tick (nobody answers, no space left) costs that
tick; the loss of the lease ends the loop.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from servegate.errors import ConfigError, InfrastructureError
from servegate.release import Release
from servegate.report.records import CanaryTick
from servegate.rollout import audit, beginning, live, memory, model
from servegate.rollout.asker import Asker
from servegate.rollout.chronicle import Chronicle
from servegate.rollout.decide import decide
from servegate.rollout.experiment import ExperimentSeen
from servegate.rollout.leading import Leadership
from servegate.rollout.live import Asking
from servegate.rollout.memory import Memory
from servegate.rollout.model import Action, Decision, Observation, Phase, State
from servegate.rollout.notify import Notifier
from servegate.rollout.plan import Plan
from servegate.rollout.ports import (
    Arranging,
    ConflictError,
    FencedError,
    Hearing,
    Intent,
    LeaseLostError,
    Router,
    Source,
    Store,
    Weights,
    Workload,
)
from servegate.rollout.prepare import Compare, FindPast, FindVerdict, Preparations, Probe
from servegate.rollout.unsaved import Unsaved

MAX_FAILED_TICKS = 10
"""Ticks in a row that may fail before the loop gives up."""
FINAL_TICKS = 5
"""Ticks after the end in which a last effect, or a message not yet delivered, is tried again."""


class Controller:
    """Runs one rollout after the other on one store.

    Args:
        plan: how traffic moves.
        router, source, workload, store: the ports.
        smoke: tells whether a slot serves its release; runs in a thread.
        verdict: finds the gate's verdict on a release; the rollout starts only with one that passes.
        past: the same for a release that is brought along to roll back to; None: as `verdict`.
        warm: warms a slot up before its first traffic; runs in a thread.
        compare: compares what both slots answer, for a shadow; runs in a thread.
        experiment: what the plan's experiment says now; must return at once.
        asking: asks both slots items for checks on quality (rollout/live.py).
        slots: names of the two slots.
        timeline: JSON Lines file that gets every tick, for showing.
        trail: JSON Lines file that gets all that every decision rested on (rollout/audit.py).
        on_tick: called after every tick, when its effects have been caused; what it raises ends the loop.
        on_notice: (level, message) for people: info, warning or critical.
        site: where this happens, kept beside the state for whoever takes over.
        holder: who we are, in the lease; unique for every process.
        clock: seconds since the epoch. sleep: waits for seconds.
    """

    def __init__(
        self,
        plan: Plan,
        router: Router,
        source: Source,
        workload: Workload,
        store: Store,
        *,
        smoke: Probe,
        verdict: FindVerdict,
        past: FindPast | None = None,
        warm: Probe | None = None,
        compare: Compare | None = None,
        experiment: Callable[[State], ExperimentSeen | None] = lambda _: None,
        asking: Asking | None = None,
        slots: tuple[str, str] = ("blue", "green"),
        timeline: Path | None = None,
        trail: Path | None = None,
        on_tick: Callable[[CanaryTick], None] = lambda _: None,
        on_notice: Callable[[str, str], None] = lambda _level, _message: None,
        site: Mapping[str, Any] | None = None,
        holder: str | None = None,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.plan, self.router, self.source, self.workload, self.store = plan, router, source, workload, store
        self.slots, self.on_tick, self.on_notice = slots, on_tick, on_notice
        self.site, self.clock, self.sleep = site, clock, sleep
        self._leading = Leadership(
            store, holder or f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}",
            ttl=plan.lease_ttl, poll=min(1.0, plan.tick), clock=clock, sleep=sleep, say=on_notice,
        )  # fmt: skip
        self._ask = Asker(source, workload, router, on_notice)
        self._chronicle = Chronicle(store, timeline, trail, on_notice)
        self._unsaved = Unsaved(store.pace)
        self._preparations = Preparations(verdict, smoke, warm, compare)
        self._past: FindPast = past or (lambda release, _by, _reason: verdict(release.identity()))
        self._experiment = experiment
        self._asking = asking
        self._notifier = Notifier(plan.notify, on_notice)
        self._requests: deque[tuple[str, str, float, str, str | None]] = deque()
        self._memory: Memory | None = None
        self._version = 0
        self._effects_failed = False

    @property
    def state(self) -> State:
        """The state as last saved. Raises ConfigError before `start` or `resume`."""
        return self._known().state

    def start(self, release: Release, stable: Release | None = None, run: str | None = None) -> State:
        """Begin a rollout of `release`, or go on with it when it is under way already.

        Args:
            release: goes into the slot that is not stable.
            stable: what serves now; needed when the store has never seen a rollout.
            run: whose order this is; what a run has begun it does not begin again, also when it has ended.

        Raises:
            ConfigError: another rollout is under way, or this release serves already, or nothing is known to serve.
            LeaseLostError: another controller is at work here.
            InfrastructureError: the store cannot be used.
        """
        if self.plan.strategy in ("ab", "shadow") and not isinstance(self.router, Arranging):
            raise ConfigError(f"plan {self.plan.name} is {self.plan.strategy}, and the router here knows only weights")
        if self.plan.sticky and isinstance(self.router, Arranging) and self.plan.sticky.by not in self.router.sticky_by:
            raise ConfigError(f"plan {self.plan.name}: the router here cannot keep users by {self.plan.sticky.by}")
        with self._leading.or_nothing():
            return self._begin(release, stable, run)

    def _begin(self, release: Release, stable: Release | None, run: str | None) -> State:
        before, self._version = memory.load(self.store)
        self._memory = beginning.begin(
            before, release, stable, plan=self.plan, slots=self.slots, workload=self.workload, site=self.site,
            now=self.clock(), run=run,
        )  # fmt: skip
        if before is not None and self._memory is before:
            return before.state
        if before is not None and not self.plan.notify:
            outbox = before.state.outbox
            self._chronicle.dropped(before.state, outbox, self.clock(), "the plan of the next rollout tells nobody")
        for intent in self.store.intents():  # left for an earlier rollout
            self.store.settle(intent, "refused: it was left before this rollout began")
        self._save(self._memory.state)
        return self._memory.state

    def resume(self) -> State:
        """Go on with the rollout the store knows.

        Raises:
            ConfigError: it knows none.
            LeaseLostError: another controller is at work here.
            InfrastructureError: the store cannot be used.
        """
        with self._leading.or_nothing():
            found, version = memory.load(self.store)
            if found is None:
                raise ConfigError("the store knows no rollout; start one")
            self._memory, self._version = found, version
            self._unsaved.forget()
            return found.state

    def run(self) -> State:
        """Tick until the rollout has ended, and give the lease back.

        Raises:
            LeaseLostError, FencedError: another controller has taken over; it is in charge now.
            ConfigError: the rollout was started with another plan.
            Exception: what a tick raised, when ten in a row did. Weights stay as they are; run again to go on.
        """
        if self._memory is None or not self._leading.held:
            self.resume()
        failed = final = 0
        try:
            self._take_over()
            while True:
                began = self.clock()
                decision = None
                try:
                    decision = self.tick()
                    failed = 0
                except (LeaseLostError, FencedError, ConfigError):
                    raise
                except Exception as error:
                    if isinstance(error, ConflictError):
                        self.resume()  # a save that seemed to fail may have been kept
                        self._chronicle.recover_trail(self._known())
                    failed += 1
                    self.on_notice("warning", f"tick failed: {error}")
                    if failed >= MAX_FAILED_TICKS:
                        raise
                if decision is not None:
                    self.on_tick(decision.tick)
                    if decision.state.phase.finished:
                        final += 1
                        if final > FINAL_TICKS or not (self._effects_failed or decision.state.outbox):
                            return decision.state
                self.sleep(min(self.plan.tick, max(0.0, self.plan.tick - (self.clock() - began))))
        finally:
            self._leading.give_back()
            self._notifier.close()

    def tick(self) -> Decision:
        """Look, decide, save, write down, act: once.

        Raises:
            LeaseLostError, FencedError: another controller has taken over.
            ConflictError, InfrastructureError: nothing was done, or not all of it; the next tick makes up for it.
        """
        now = self.clock()
        self._leading.renew(now)
        while self._requests:
            self.store.submit(*self._requests[0])
            self._requests.popleft()
        state = self.state
        seen = self._observe(state, now)
        decision = decide(self.plan, state, seen, now)
        last = self._known().last
        entry = audit.line(self.plan, state, seen, decision, last.after if last else None)
        self._chronicle.given_up(state, seen, decision.state)
        waits = self._unsaved.may_wait(state, decision, now)
        if waits:
            self._memory = self._known().with_state(decision.state).model_copy(update={"last": entry})
        else:
            self._save(decision.state, entry)
        self._chronicle.decided(decision)
        self._notifier.offer(decision.state)
        effects: list[str] = []
        for action in decision.actions:
            try:
                self._act(action)
                effects.append("done")
            except InfrastructureError as error:
                effects.append(f"failed: {error}")
                self.on_notice("warning", f"{action.kind} failed: {error}")
            except Exception as error:
                self._wrote(waits, entry, [*effects, f"failed: {error}"])
                raise
        self._effects_failed = any(effect != "done" for effect in effects)
        self._wrote(waits, entry, effects)
        return decision

    def request(self, kind: str, reason: str = "", by: str = "operator", target: str | None = None) -> None:
        """Ask for something at the next tick, as an intent. Safe in threads and signal handlers."""
        self._requests.append((kind, by, self.clock(), reason, target))

    # --- seeing -------------------------------------------------------------------------------------------------------

    def _observe(self, state: State, now: float) -> Observation:
        deltas, readings = self._ask.read(state, now)
        return Observation(
            at=now,
            slots=deltas,
            status={slot: status for slot in state.slots if (status := self._ask.status(slot)) is not None},
            route=self._ask.route(),
            intents=tuple(self._named(intent) for intent in self.store.intents()),
            preparation=self._preparations.seen(state),
            verified=self._known().names(),
            experiment=self._experiment(state),
            asked=() if self._asking is None else self._asking(state, live.targets(self._known(), self.workload)),
            outputs=self._preparations.compared(state.rollout),
            delivered=self._notifier.delivered(),
            readings=readings,
        )

    def _named(self, intent: Intent) -> Intent:
        intent, self._memory = beginning.named(intent, self._known(), self._past, self.on_notice)
        return intent

    # --- remembering --------------------------------------------------------------------------------------------------

    def _save(self, state: State, last: audit.AuditTick | None = None) -> None:
        known = self._known().with_state(state).model_copy(update={"last": last, "earlier": self._unsaved.lines})
        self._version = self.store.save(known.model_dump_json(), self._version, self._leading.lease())
        self._memory = known
        self._unsaved.saved(self.clock(), () if last is None else last.actions)

    def _wrote(self, waits: bool, entry: audit.AuditTick, effects: Sequence[str]) -> None:
        if waits:
            self._unsaved.add(entry, effects)
        else:
            self._chronicle.done(entry, effects, self._unsaved.taken())

    # --- acting -------------------------------------------------------------------------------------------------------

    def _act(self, action: Action) -> None:
        known = self._known()
        if isinstance(action, model.SetWeights):
            self._confirm(action.weights)
            self.router.write(action.weights, self._leading.lease().epoch)
        elif isinstance(action, model.EnsureSlot):
            self._preparations.forget(action.slot)
            self.workload.ensure(action.slot, known.releases[action.release], action.replicas)
        elif isinstance(action, model.ScaleSlot):
            self.workload.scale(action.slot, action.replicas)
        elif isinstance(action, model.RunSmoke):
            url = self.workload.address(action.slot)
            release = known.releases[action.release]
            self._preparations.run("smoke", action.slot, url, release, self.clock(), action.since)
        elif isinstance(action, model.Warm):
            url = self.workload.address(action.slot)
            self._preparations.run("warm", action.slot, url, known.releases[action.release], self.clock())
        elif isinstance(action, model.Arrange):
            assert isinstance(self.router, Arranging)
            self.router.arrange(action.arrangement, self._leading.lease().epoch)
        elif isinstance(action, model.CompareOutputs):
            slots = (action.stable, action.candidate)
            first, second = (self.workload.address(slot) for slot in slots)
            self._preparations.compare(
                known.state.rollout, (first, second), (known.release_in(slots[0]), known.release_in(slots[1]))
            )
        elif isinstance(action, model.Settle):
            self.store.settle(action.intent, action.outcome)
        else:
            self.on_notice(action.level, action.message)

    def _confirm(self, weights: Weights) -> None:
        """Raises InfrastructureError unless every slot of the weights is ready now, right before they are written."""
        if isinstance(self.workload, Hearing):
            self.workload.look()
        for slot, weight in weights.items():
            status = self.workload.status(slot)
            if weight > 0 and (status.ready < 1 or status.release != self.state.slots[slot].release):
                raise InfrastructureError(f"{slot} has no ready replica of {self.state.slots[slot].name} any more")

    def _take_over(self) -> None:
        """Shut out whoever was in charge before, and put back what belongs into the slots.

        The weights in force are written again, unchanged, under our epoch: from here on the router refuses the epochs
        before it. What the weights ought to be is for `decide`, which looks at the slots first.
        """
        try:
            self.router.write(self.router.read(), self._leading.lease().epoch)
        except InfrastructureError as error:
            self.on_notice("info", f"no route to take over yet: {error}")
        state = self.state
        wanted = [state.stable]
        if state.ensured and (state.phase is Phase.PREPARING or state.phase.weighted):
            wanted.append(state.candidate)
        for slot in wanted:
            status = self._ask.status(slot)
            if status is not None and status.release is None:
                try:
                    self.workload.ensure(slot, self._known().release_in(slot), self.plan.replicas)
                except InfrastructureError as error:
                    self.on_notice("warning", f"{slot} could not be filled: {error}")
        self._chronicle.recover_trail(self._known())
        self._chronicle.recover_history(state)

    def _known(self) -> Memory:
        if self._memory is None:
            raise ConfigError("no rollout has been started")
        return self._memory


__all__ = ["Controller"]
