"""Lives of controllers as rules of a state machine: what is drawn, and what must hold whatever is drawn."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

from crash_life import Killed, Life
from crash_world import BAD, GOOD, LOST, TROUBLES, World, begin_or_go_on
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from servegate.errors import ServegateError
from servegate.release import Release
from servegate.rollout.audit import read_trail, replay

ENDS: dict[str, tuple[object, ...]] = {
    "promoted": ("PROMOTED", "green", {"blue": 0.0, "green": 100.0}, {"blue": 0.0, "green": 100.0},
                 {"blue": 0.0, "green": 100.0}, {"blue": "v1", "green": "v2"}),
    "rolled back": ("ROLLED_BACK", "blue", {"blue": 100.0, "green": 0.0}, {"blue": 100.0, "green": 0.0},
                    {"blue": 100.0, "green": 0.0}, {"blue": "v1"}),
}  # fmt: skip
"""The two places a rollout may end in: all traffic on the release that is stable, and nothing half done."""


EFFECTS = ("store.renew", "store.save", "router.write", "workload.ensure")
"""What deaths are aimed at; each must be cut short before and after it happens."""


class _Interrupted(BaseException):
    """Ctrl-C while the controller sleeps."""


class Crashes(RuleBasedStateMachine):
    """Controllers that die. Without other trouble the rollout must end exactly where an undisturbed one ends."""

    counted: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        # In memory where there is such a folder: thousands of saves, and the disk is not what is tested here.
        memory = Path("/dev/shm")
        self.folder = Path(tempfile.mkdtemp(prefix="crash-", dir=memory if memory.is_dir() else None))
        self.pace = 0.0
        self.begin(GOOD)

    def begin(self, item: Release) -> None:
        """A world of its own for the rollout of this release."""
        self.counted["rollouts"] += 1
        self.world = World(self.folder / str(self.counted["rollouts"]), self.pace)
        self.item = item
        self.disturbed = False

    def teardown(self) -> None:
        try:
            self.to_the_end()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    @initialize(bad=st.booleans(), seldom=st.booleans())
    def choose(self, bad: bool, seldom: bool) -> None:
        """Which release, and a store that is saved to at every tick or, as in a cluster, seldom."""
        self.item = BAD if bad else GOOD
        self.pace = self.world.store.pace = 4.0 if seldom else 0.0

    @precondition(lambda self: self.world.finished())
    @rule()
    def the_next_release(self) -> None:
        """This rollout is over; the next one is of the other kind."""
        self.to_the_end()
        self.begin(GOOD if self.item is BAD else BAD)

    # --- rules: each is the life of one controller

    @precondition(lambda self: not self.world.finished())
    @rule(moment=st.integers(3, 60), away=st.integers(0, 20))
    def dies(self, moment: int, away: int) -> None:
        """Killed before or after an effect; the next one comes after a while."""

        def at(number: int, _what: str) -> None:
            if number >= moment:
                raise Killed

        life = self.world.life(at)
        if self._live(life):
            self.counted[life.moments[-1]] += 1
        self.world.sleep(away)

    @precondition(lambda self: not self.world.finished())
    @rule(when=st.sampled_from(("before", "after")), effect=st.sampled_from(EFFECTS), away=st.integers(0, 20))
    def dies_at(self, when: str, effect: str, away: int) -> None:
        """Killed right before or after the next effect of this kind, if its life is long enough to come to one."""

        def at(_number: int, what: str) -> None:
            if what == f"{when} {effect}":
                raise Killed

        life = self.world.life(at)
        if self._live(life, self._few(60)) and life.dead:
            self.counted[life.moments[-1]] += 1
        self.world.sleep(away)

    @precondition(lambda self: not self.world.finished())
    @rule(ticks=st.integers(1, 8), gently=st.booleans())
    def dies_between_ticks(self, ticks: int, gently: bool) -> None:
        """Killed or interrupted while it waits for the next tick."""
        left = ticks

        def sleep(seconds: float) -> None:
            nonlocal left
            self.world.sleep(seconds)
            left -= 1
            if left <= 0 and life.epoch:
                life.dead = not gently
                raise Killed if life.dead else _Interrupted

        life = self.world.life()
        if self._live(life, sleep):
            self.counted["interrupted" if gently else "between ticks"] += 1

    @precondition(lambda self: not self.world.finished())
    @rule(moment=st.integers(3, 40), until=st.integers(1, 60), seconds=st.integers(0, 30))
    def is_paused(self, moment: int, until: int, seconds: int) -> None:
        """Stopped in the middle of an effect, and goes on after another one has taken over and has come this far."""
        slept = False

        def other(number: int, _what: str) -> None:
            if number >= until:
                raise Killed

        def at(number: int, _what: str) -> None:
            nonlocal slept
            if number < moment or slept:
                return
            slept = True
            self.world.sleep(seconds)
            self._live(self.world.life(other), self._few(60))

        life = self.world.life(at)
        self._live(life, self._few(12), forgiven=True)
        if slept:
            self.counted["paused at " + life.moments[moment - 1]] += 1

    # --- what must hold

    @invariant()
    def nothing_forbidden_has_happened(self) -> None:
        assert not self.world.violations, self.world.violations

    @classmethod
    def deaths(cls) -> Counter[str]:
        """How often a controller was killed or paused, by where."""
        others = ("rollouts", "trouble: ")
        return Counter({what: count for what, count in cls.counted.items() if not what.startswith(others)})

    def to_the_end(self) -> None:
        """No more deaths and no more trouble: the rollout must come to its end, and to a good one."""
        self.world.faults.clear()
        for _ in range(4):
            if self.world.finished():
                break
            self._live(self.world.life(), self._few(20_000))
        # A last controller finds nothing to do, and puts right what the last one has left undone.
        self._live(self.world.life(), self._few(40))
        assert not self.world.violations, self.world.violations
        state = self.world.state()
        assert state is not None
        assert state.phase.finished, state.waiting
        ends = [name for name, place in ENDS.items() if place == self.world.place()]
        assert ends, self.world.place()
        if self.item is BAD or not self.disturbed:
            assert ends == ["rolled back" if self.item is BAD else "promoted"], state.reason
        # And every decision on the way can be made again from what was written down.
        replayed = replay(read_trail(self.world.folder / "audit.jsonl"))
        assert not replayed.differences, replayed.differences
        self.counted["trouble: replayed ticks"] += replayed.ticks
        self.world.close()

    # --- living

    def _few(self, ticks: int) -> Any:
        left = ticks

        def sleep(seconds: float) -> None:
            nonlocal left
            left -= 1
            self.world.sleep(seconds)
            if left < 0:
                raise _Interrupted

        return sleep

    def _live(self, life: Life, sleep: Any = None, forgiven: bool = False) -> bool:
        """One controller's life; whether it was ended from outside.

        Args:
            forgiven: it may find that the world has gone on without it, and refuse to go on.
        """
        controller = self.world.controller(life, sleep)
        try:
            begin_or_go_on(controller, self.item)
            controller.run()
        except (Killed, _Interrupted, *LOST):
            return True
        except ServegateError:
            if not self.world.faults and not forgiven:
                raise
        return False


class CrashesInTrouble(Crashes):
    """The same while stores conflict, gateways lag, servers say 429 and Prometheus tells nonsense."""

    counted: ClassVar[Counter[str]] = Counter()

    @precondition(lambda self: not self.world.finished())
    @rule(kind=st.sampled_from(TROUBLES), seconds=st.integers(1, 40))
    def trouble(self, kind: str, seconds: int) -> None:
        self.disturbed = True
        self.counted[f"trouble: {kind}"] += 1
        self.world.trouble(kind, seconds)

    @precondition(lambda self: not self.world.finished() and self.world.state() is not None)
    @rule(kind=st.sampled_from(("abort", "pause", "resume", "nonsense")))
    def somebody_wants_something(self, kind: str) -> None:
        self.disturbed = True
        self.world.store.submit(kind, "kim", self.world.now)
