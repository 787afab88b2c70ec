"""A rollout on the bench: observations are what a test says, time passes tick by tick, nothing else exists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from servegate.rollout.decide import decide
from servegate.rollout.model import (
    Action,
    Buckets,
    Decision,
    Observation,
    Phase,
    Preparation,
    Settle,
    SetWeights,
    SlotDelta,
    SlotRelease,
    State,
    start,
)
from servegate.rollout.plan import TTFT_EDGES, Plan, load_plan
from servegate.rollout.ports import Intent, RouteStatus, SlotStatus

CANARY = Path(__file__).parents[2] / "rollout" / "canary.yaml"
RELEASES = {
    "blue": SlotRelease(release="sha256:" + "1" * 64, name="v1"),
    "green": SlotRelease(release="sha256:" + "2" * 64, name="v2"),
}
FAST, SLOW = 6, 10  # buckets: up to 80 ms, up to 750 ms


def plan(**changes: Any) -> Plan:
    """The shipped plan with the times that tests rely on and other top-level keys; a mapping is merged into its own."""
    data = load_plan(CANARY).model_dump(mode="json")
    # Most tests give both slots the same requests whatever the weights.
    ratio = {"together": 100_000}
    data["watchdogs"] = {"unready": "2s", "no_data": "15s", "route": "10s", "sample_ratio": ratio}
    # Items are asked in the tests that are about them.
    data["checks"] = [check for check in data["checks"] if check["kind"] != "quality"]
    data["rollback"] = {"prove": "1s", "limit": "30s"}
    data["limits"] = {"prepare": "2m", "step": "5m", "held": "5m"}
    for key, value in changes.items():
        data[key] = {**(data[key] or {}), **value} if isinstance(value, dict) else value
    return Plan.model_validate(data)


AT_WORK = {"running": 4.0, "waiting": 0.0}


def delta(requests: float = 10, failures: float = 0, bucket: int = FAST, **options: Any) -> SlotDelta:
    """A slot's tick: all first tokens fall into one bucket."""
    counts = [0.0] * (len(TTFT_EDGES) + 1)
    counts[bucket] = requests - failures
    defaults: dict[str, Any] = {
        "gateway": True,
        "pods": 1,
        "counters": {"gateway_requests": requests, "gateway_5xx": failures},
        "histograms": {"ttft": Buckets(edges=TTFT_EDGES, counts=tuple(counts))},
        "gauges": AT_WORK,
    }
    return SlotDelta(**{**defaults, **options})


UNREAD = SlotDelta(gateway=True, missing={"green/0": "timed out"})


class Bench:
    """Drives `decide`; the router serves what it was last told unless a test says otherwise."""

    def __init__(self, the_plan: Plan | None = None, state: State | None = None) -> None:
        self.plan = the_plan or plan()
        self.now = 1000.0
        self.state = state or start(
            rollout="r",
            plan=self.plan.identity(),
            stable="blue",
            candidate="green",
            slots=RELEASES,
            now=self.now,
        )
        self.served: dict[str, float] = {"blue": 100.0, "green": 0.0}
        self.decisions: list[Decision] = []
        self.intents = 0

    @property
    def last(self) -> Decision:
        return self.decisions[-1]

    @property
    def actions(self) -> list[Action]:
        return list(self.last.actions)

    def expect(self, phase: Phase) -> None:
        """The rollout stands there."""
        assert self.state.phase is phase, self.state.reason

    def did(self, kind: type[Any]) -> list[Any]:
        """Actions of one kind in the last decision."""
        return [action for action in self.last.actions if isinstance(action, kind)]

    def observation(
        self,
        *,
        blue: SlotDelta | None = None,
        green: SlotDelta | None = None,
        ready: tuple[int, int] = (1, 1),
        failed: str | None = None,
        runs: str | None = None,
        route: RouteStatus | str | None = "served",
        **options: Any,
    ) -> Observation:
        """Both slots healthy, 10 requests each, everything prepared, unless said otherwise."""
        return Observation(
            at=self.now,
            slots={"blue": self._at_rest("blue", blue or delta()), "green": self._at_rest("green", green or delta())},
            status={
                "blue": SlotStatus(RELEASES["blue"].release, 1, ready[0]),
                "green": SlotStatus(runs or RELEASES["green"].release, 1, ready[1], failed=failed),
            },
            route=RouteStatus(True, dict(self.served)) if isinstance(route, str) else route,
            **{"preparation": Preparation(verdict="pass", smoke="ok", warm="ok"), **options},
        )

    def _at_rest(self, slot: str, of: SlotDelta) -> SlotDelta:
        """A slot without traffic has nothing to do, unless a test says otherwise."""
        usual = self.served[slot] == 0 and of.gauges == AT_WORK
        return of.model_copy(update={"gauges": dict.fromkeys(AT_WORK, 0.0)}) if usual else of

    def tick(self, seen: Observation | None = None, **options: Any) -> Decision:
        """One tick later."""
        self.now += self.plan.tick
        seen = seen or self.observation(**options)
        decision = decide(self.plan, self.state, seen, self.now)
        self.check_always_true(decision, seen)
        self.state = decision.state
        for action in decision.actions:
            if isinstance(action, SetWeights):
                self.served = dict(action.weights)
        self.decisions.append(decision)
        return decision

    def ticks(self, n: int, **options: Any) -> Decision:
        for _ in range(n):
            self.tick(**options)
        return self.last

    def until(self, phase: Phase, step: int | None = None, limit: int = 400, **options: Any) -> Decision:
        """Tick until the phase (and step) is reached."""
        for _ in range(limit):
            self.tick(**options)
            if self.state.phase is phase and step in (None, self.state.step):
                return self.last
        raise AssertionError(f"not {phase} after {limit} ticks: {self.state.phase} {self.state.step}: {self.state}")

    def intent(self, kind: str, target: str | None = None, **options: Any) -> str:
        """Leave an intent, tick, and return what came of it."""
        self.intents += 1
        intent = Intent(self.intents, kind, "kim", self.now, reason="because", target=target)
        self.tick(intents=(intent,), **options)
        settled = self.did(Settle)
        assert [action.intent for action in settled] == [intent]
        outcome: str = settled[0].outcome
        return outcome

    def check_always_true(self, decision: Decision, seen: Observation) -> None:
        """What holds for every decision whatever happens."""
        state = decision.state
        assert sum(state.weights.values()) == 100
        assert decision.tick.weights == state.weights
        if decision.reason or len(self.decisions) % 10 == 0:
            assert State.model_validate_json(state.model_dump_json()) == state
            assert Decision.model_validate_json(decision.model_dump_json()) == decision
        for action in decision.actions:
            if isinstance(action, SetWeights):
                before = self.served
                for slot, weight in action.weights.items():
                    status = seen.status.get(slot)
                    if weight > before.get(slot, 0):
                        assert status is not None, f"{slot} gets {weight} % and nobody knows how it is"
                        assert status.ready > 0, f"{slot} gets {weight} % and has no ready replica"
        if state.phase is not self.state.phase or state.step != self.state.step:
            assert decision.reason, "a change without a reason"


def at(step: int, the_plan: Any = None) -> Bench:
    """A healthy rollout that has come to a step, which its router serves."""
    bench = Bench(the_plan)
    bench.until(Phase.STEP if step < 3 else Phase.BAKING, step)
    bench.tick()
    return bench
