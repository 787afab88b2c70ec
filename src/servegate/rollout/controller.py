"""The loop of a rollout, and the only place where its effects happen.

    renew the lease → observe → decide → save the state → write it down → act → observe whether it worked

The order is the promise. The state is saved before anything is done, under the lease and against the version that was
read, so two controllers can never both act on a decision. Every action can be repeated, and `decide` asks for it again
until it is seen to have worked: a controller killed between any two instructions is followed by one that ends in the
same place. What an old controller might still want to do after a pause is refused by the router, which has seen the
newer epoch. Trouble in one tick (nobody answers, no space left) costs that tick; the loss of the lease ends the loop.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from servegate.contract import canonical_json
from servegate.errors import ConfigError, InfrastructureError
from servegate.release import Release
from servegate.report.records import CanaryTick, to_line
from servegate.rollout import memory, model
from servegate.rollout.decide import decide
from servegate.rollout.deltas import BucketError, between
from servegate.rollout.memory import HistoryLine, Memory, append_line
from servegate.rollout.model import Action, Decision, Observation, Phase, Readings, SlotDelta, SlotRelease, State
from servegate.rollout.plan import Plan
from servegate.rollout.ports import (
    ConflictError,
    FencedError,
    Lease,
    LeaseLostError,
    Router,
    RouteStatus,
    SlotStatus,
    Source,
    Store,
    Workload,
)
from servegate.rollout.prepare import FindVerdict, Preparations, Probe

MAX_FAILED_TICKS = 10
"""Ticks in a row that may fail before the loop gives up."""
FINAL_TICKS = 5
"""Ticks after the end in which a last effect that failed is tried again."""


class Controller:
    """Runs one rollout after the other on one store.

    Args:
        plan: how traffic moves.
        router, source, workload, store: the ports.
        smoke: tells whether a slot serves its release; runs in a thread.
        verdict: finds the gate's verdict on a release; the rollout starts only with one that passes.
        warm: warms a slot up before its first traffic; runs in a thread.
        slots: names of the two slots.
        timeline: JSON Lines file that gets every tick.
        on_tick: called after every tick, when its effects have been caused; what it raises ends the loop.
        on_notice: (level, message) for people: info, warning or critical.
        holder: who we are, in the lease; unique for every process.
        lease_ttl: seconds after which another controller may take over.
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
        warm: Probe | None = None,
        slots: tuple[str, str] = ("blue", "green"),
        timeline: Path | None = None,
        on_tick: Callable[[CanaryTick], None] = lambda _: None,
        on_notice: Callable[[str, str], None] = lambda _level, _message: None,
        holder: str | None = None,
        lease_ttl: float = 15.0,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.plan, self.router, self.source, self.workload, self.store = plan, router, source, workload, store
        self.slots, self.timeline, self.on_tick, self.on_notice = slots, timeline, on_tick, on_notice
        self.holder = holder or f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self.lease_ttl, self.clock, self.sleep = max(lease_ttl, 3 * plan.tick), clock, sleep
        self._preparations = Preparations(verdict, smoke, warm)
        self._requests: deque[tuple[str, str, float, str]] = deque()
        self._memory: Memory | None = None
        self._version = 0
        self._lease: Lease | None = None
        self._effects_failed = False

    @property
    def state(self) -> State:
        """The state as last saved. Raises ConfigError before `start` or `resume`."""
        return self._known().state

    def start(self, release: Release, stable: Release | None = None) -> State:
        """Begin a rollout of `release`, or go on with it when it is under way already.

        Args:
            release: goes into the slot that is not stable.
            stable: what serves now; needed when the store has never seen a rollout.

        Raises:
            ConfigError: another rollout is under way, or this release serves already, or nothing is known to serve.
            LeaseLostError: another controller is at work here.
            InfrastructureError: the store cannot be used.
        """
        with self._lease_or_nothing():
            return self._begin(release, stable)

    def _begin(self, release: Release, stable: Release | None) -> State:
        before, version = memory.load(self.store)
        if before is not None and not before.state.phase.finished:
            under_way = before.release_in(before.state.candidate)
            if under_way.identity() != release.identity():
                phase = before.state.phase
                raise ConfigError(f"{under_way.label()} is being rolled out ({phase}): wait for its end or abort it")
            self._memory, self._version = before, version
            return before.state
        slot, serving = self._stable(before, stable)
        running = self.workload.status(slot).release
        if running not in (None, serving.identity()):
            raise ConfigError(f"{slot} is said to serve {serving.label()}, but runs {running}")
        if serving.identity() == release.identity():
            raise ConfigError(f"{release.label()} serves already: there is nothing to roll out")
        candidate = next(name for name in self.slots if name != slot)
        now = self.clock()
        for intent in self.store.intents():  # left for an earlier rollout
            self.store.settle(intent, "refused: it was left before this rollout began")
        state = model.start(
            rollout=f"{release.name}-{release.id[:6]}-{int(now)}",
            plan=self.plan.identity(),
            plan_name=self.plan.name,
            stable=slot,
            candidate=candidate,
            slots={
                slot: SlotRelease(release=serving.identity(), name=serving.name),
                candidate: SlotRelease(release=release.identity(), name=release.name),
            },
            now=now,
        )
        self._version = version
        self._memory = Memory(state=state, releases={item.identity(): item for item in (serving, release)})
        self._save(state)
        return state

    def resume(self) -> State:
        """Go on with the rollout the store knows.

        Raises:
            ConfigError: it knows none.
            LeaseLostError: another controller is at work here.
            InfrastructureError: the store cannot be used.
        """
        with self._lease_or_nothing():
            found, version = memory.load(self.store)
            if found is None:
                raise ConfigError("the store knows no rollout; start one")
            self._memory, self._version = found, version
            return found.state

    def run(self) -> State:
        """Tick until the rollout has ended, and give the lease back.

        Raises:
            LeaseLostError, FencedError: another controller has taken over; it is in charge now.
            ConfigError: the rollout was started with another plan.
            Exception: what a tick raised, when ten in a row did. Weights stay as they are; run again to go on.
        """
        if self._memory is None or self._lease is None:
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
                    failed += 1
                    self.on_notice("warning", f"tick failed: {error}")
                    if failed >= MAX_FAILED_TICKS:
                        raise
                if decision is not None:
                    self.on_tick(decision.tick)
                    if decision.state.phase.finished:
                        final += 1
                        if not self._effects_failed or final > FINAL_TICKS:
                            return decision.state
                self.sleep(min(self.plan.tick, max(0.0, self.plan.tick - (self.clock() - began))))
        finally:
            self._give_lease_back()

    def tick(self) -> Decision:
        """Look, decide, save, write down, act: once.

        Raises:
            LeaseLostError, FencedError: another controller has taken over.
            ConflictError, InfrastructureError: nothing was done, or not all of it; the next tick makes up for it.
        """
        now = self.clock()
        self._lease = self.store.renew(self._held(), now, self.lease_ttl)
        while self._requests:
            self.store.submit(*self._requests[0])
            self._requests.popleft()
        state = self.state
        decision = decide(self.plan, state, self._observe(state, now), now)
        self._save(decision.state)
        self._write_down(decision)
        self._effects_failed = False
        for action in decision.actions:
            try:
                self._act(action)
            except InfrastructureError as error:
                self._effects_failed = True
                self.on_notice("warning", f"{action.kind} failed: {error}")
        return decision

    def request(self, kind: str, reason: str = "", by: str = "operator") -> None:
        """Ask for something at the next tick: abort, pause, resume or promote. Safe in threads and signal handlers."""
        self._requests.append((kind, by, self.clock(), reason))

    # --- seeing -------------------------------------------------------------------------------------------------------

    def _observe(self, state: State, now: float) -> Observation:
        deltas, readings = self._read(state, now)
        return Observation(
            at=now,
            slots=deltas,
            status={slot: status for slot in state.slots if (status := self._status(slot)) is not None},
            route=self._route(),
            intents=tuple(self.store.intents()),
            preparation=self._preparations.seen(state),
            readings=readings,
        )

    def _read(self, state: State, now: float) -> tuple[dict[str, SlotDelta], Readings | None]:
        try:
            return between(state.readings, self.source.observe(now))
        except (BucketError, InfrastructureError) as error:
            # Nothing is known of either slot; `decide` sees why.
            return {slot: SlotDelta(missing={f"{slot}/metrics": str(error)}) for slot in state.slots}, None

    def _status(self, slot: str) -> SlotStatus | None:
        try:
            return self.workload.status(slot)
        except InfrastructureError as error:
            self.on_notice("warning", f"{slot}: cannot be asked: {error}")
            return None

    def _route(self) -> RouteStatus | None:
        try:
            return self.router.verify()
        except InfrastructureError as error:
            self.on_notice("warning", f"router: cannot be asked: {error}")
            return None

    # --- remembering --------------------------------------------------------------------------------------------------

    def _save(self, state: State) -> None:
        known = self._known().model_copy(update={"state": state})
        self._version = self.store.save(known.model_dump_json(), self._version, self._held())
        self._memory = known

    def _write_down(self, decision: Decision) -> None:
        """For people alone: a full disk must not keep traffic on a bad release."""
        try:
            if decision.reason:
                self._append_history(decision.state, decision.reason)
            if self.timeline is not None:
                append_line(self.timeline, to_line(decision.tick))
        except InfrastructureError as error:
            self.on_notice("warning", f"could not be written down: {error}")

    def _append_history(self, state: State, reason: str) -> None:
        line = HistoryLine(
            at=state.updated,
            rollout=state.rollout,
            release=state.slots[self._rolled_out(state)].name,
            phase=state.phase.value,
            weights=state.weights,
            reason=reason,
        )
        self.store.append_history(canonical_json(line.model_dump(mode="json")).decode())

    @staticmethod
    def _rolled_out(state: State) -> str:
        """The slot of the release this rollout is about; the promotion has swapped the roles."""
        return state.stable if state.phase is Phase.PROMOTED else state.candidate

    # --- acting -------------------------------------------------------------------------------------------------------

    def _act(self, action: Action) -> None:
        known = self._known()
        if isinstance(action, model.SetWeights):
            self.router.write(action.weights, self._held().epoch)
        elif isinstance(action, model.EnsureSlot):
            self._preparations.forget(action.slot)
            self.workload.ensure(action.slot, known.releases[action.release], action.replicas)
        elif isinstance(action, model.ScaleSlot):
            self.workload.scale(action.slot, action.replicas)
        elif isinstance(action, model.RunSmoke):
            url = self.workload.address(action.slot)
            self._preparations.run("smoke", action.slot, url, known.releases[action.release])
        elif isinstance(action, model.Warm):
            url = self.workload.address(action.slot)
            self._preparations.run("warm", action.slot, url, known.releases[action.release])
        elif isinstance(action, model.Settle):
            self.store.settle(action.intent, action.outcome)
        else:
            self.on_notice(action.level, action.message)

    def _take_over(self) -> None:
        """Shut out whoever was in charge before, and put back what belongs into the slots.

        The weights in force are written again, unchanged, under our epoch: from here on the router refuses the epochs
        before it. What the weights ought to be is for `decide`, which looks at the slots first.
        """
        try:
            self.router.write(self.router.read(), self._held().epoch)
        except InfrastructureError as error:
            self.on_notice("info", f"no route to take over yet: {error}")
        state = self.state
        wanted = [state.stable]
        if state.phase is Phase.PREPARING or state.phase.weighted:
            wanted.append(state.candidate)
        for slot in wanted:
            status = self._status(slot)
            if status is not None and status.release is None:
                try:
                    self.workload.ensure(slot, self._known().release_in(slot), self.plan.replicas)
                except InfrastructureError as error:
                    self.on_notice("warning", f"{slot} could not be filled: {error}")
        try:
            lines = [line for line in memory.history(self.store) if line.rollout == state.rollout]
            if state.reason and (not lines or lines[-1].at < state.phase_since):
                # Killed between saving a decision and writing it down.
                self._append_history(state, state.reason)
        except (ConfigError, InfrastructureError) as error:
            self.on_notice("warning", f"history: {error}")

    # --- being in charge ----------------------------------------------------------------------------------------------

    @contextmanager
    def _lease_or_nothing(self) -> Iterator[None]:
        """Take the lease, and keep it only when nothing goes wrong."""
        self._take_lease()
        try:
            yield
        except BaseException:
            self._give_lease_back()
            raise

    def _take_lease(self) -> None:
        """Acquire the lease; a predecessor that was killed has it until it expires, so wait for that."""
        deadline = self.clock() + self.lease_ttl + 1.0
        told = False
        while True:
            try:
                self._lease = self.store.acquire(self.holder, self.clock(), self.lease_ttl)
                return
            except LeaseLostError as error:
                if self.clock() >= deadline:
                    raise
                if not told:
                    self.on_notice("info", f"waiting for the lease: {error}")
                    told = True
                self.sleep(min(1.0, self.plan.tick))

    def _give_lease_back(self) -> None:
        if self._lease is not None:
            try:
                self.store.release(self._lease)
            except InfrastructureError as error:
                self.on_notice("warning", f"the lease was not given back and will expire: {error}")
            self._lease = None

    def _held(self) -> Lease:
        if self._lease is None:
            self._take_lease()
        assert self._lease is not None
        return self._lease

    def _known(self) -> Memory:
        if self._memory is None:
            raise ConfigError("no rollout has been started")
        return self._memory

    def _stable(self, before: Memory | None, given: Release | None) -> tuple[str, Release]:
        """Which slot serves, and what."""
        if before is None:
            if given is None:
                raise ConfigError("the store has seen no rollout yet: say which release serves now")
            return self.slots[0], given
        slot = before.state.stable
        serving = before.release_in(slot)
        if given is not None and given.identity() != serving.identity():
            raise ConfigError(f"{serving.label()} is stable in {slot}, not {given.label()}")
        return slot, serving


__all__ = ["Controller"]
