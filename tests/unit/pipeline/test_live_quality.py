"""Items asked of both slots while a rollout runs: none twice, none left out, no tick that waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rollout_world import BAD, GOOD, PLAN, RULES, STABLE, World

from servegate.config import validate
from servegate.errors import ConfigError
from servegate.evals.paired import Scored
from servegate.evals.sample import Sampler
from servegate.evals.suite import Suite, Task, load_suite
from servegate.pipeline.live_quality import LiveQuality, read_suites
from servegate.rollout import model
from servegate.rollout.live import Target
from servegate.rollout.model import CheckState, Phase, SlotRelease, State
from servegate.rollout.plan import Plan
from servegate.rollout.seen import Asked

ITEMS = 40
BOTH = (Target("http://blue", STABLE), Target("http://green", GOOD))


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    (tmp_path / "d.jsonl").write_text("".join(f'{{"id": "q{n}", "input": "?", "target": "y"}}\n' for n in range(ITEMS)))
    (tmp_path / "s.yaml").write_text("version: 1\nname: s\ndataset: d.jsonl\n")
    return tmp_path / "s.yaml"


def planned(suite: Path, **changes: Any) -> Plan:
    checks = [
        {**RULES["checks"][0], "share": "70%"},
        {"kind": "quality", "name": "answers", "share": "30%", "suite": str(suite), "items": ITEMS, "rate": 100,
         **changes},
    ]  # fmt: skip
    return validate({**RULES, "checks": checks}, Plan, "plan")


class Engines:
    """Answers as told, and notes what it was asked."""

    def __init__(self, score: float = 1.0) -> None:
        self.scores, self.asked = (Scored(1.0), Scored(score)), list[str]()
        self.answers = threading.Event()
        self.answers.set()

    def __call__(self, suite: Suite, task: Task, targets: tuple[Target, Target]) -> tuple[Scored, Scored]:
        self.asked.append(task.item.id)
        self.answers.wait(10)
        return self.scores


def state(plan: Plan, asked: int = 0, rollout: str = "r") -> State:
    begun = model.start(
        rollout=rollout, plan=plan.identity(), stable="blue", candidate="green", now=0.0,
        slots={"blue": SlotRelease(release=STABLE.identity(), name="v1"),
               "green": SlotRelease(release=GOOD.identity(), name="v2")},
    )  # fmt: skip
    return begun.model_copy(update={"checks": {"answers": CheckState(asked=asked)}})


def until(look: Callable[[], tuple[Asked, ...]], n: int) -> tuple[Asked, ...]:
    deadline = time.monotonic() + 10
    while len(found := look()) < n:
        assert time.monotonic() < deadline, found
        time.sleep(0.002)
    return found


def test_a_new_process_goes_on_where_the_saved_state_stands(suite: Path) -> None:
    plan, engines, notices = planned(suite), Engines(), list[str]()
    order = [task.item.id for task in Sampler.of(load_suite(suite), "r").tasks]
    first = LiveQuality(plan, lambda _, text: notices.append(text), engines)
    found = until(lambda: first(state(plan), BOTH), 5)
    assert first(state(plan), None)[:5] == found[:5]  # not saved yet: delivered again, not asked again
    assert [item.item for item in found[:5]] == order[:5]
    assert engines.asked == list(dict.fromkeys(engines.asked))
    again = Engines()
    second = LiveQuality(plan, lambda _, text: notices.append(text), again)  # three of them were saved, then a kill
    rest = until(lambda: second(state(plan, asked=3), BOTH), ITEMS - 3)
    assert [item.position for item in rest] == list(range(3, ITEMS))
    assert again.asked == order[3:]
    assert second(state(plan, asked=ITEMS), BOTH) == second(state(plan, asked=ITEMS), BOTH) == ()
    assert notices == ["check answers: all 40 items of the suite have been asked"]
    other = until(lambda: second(state(plan, rollout="another"), BOTH), 5)
    assert [item.item for item in other[:5]] != order[:5]


def test_a_look_never_waits_and_what_is_under_way_at_a_stop_is_dropped(suite: Path) -> None:
    plan, engines = planned(suite), Engines()
    engines.answers.clear()
    asking = LiveQuality(plan, lambda *_: None, engines)
    assert asking(state(plan), BOTH) == ()
    while not engines.asked:
        time.sleep(0.002)
    assert asking(state(plan), None) == ()
    engines.answers.set()
    first = until(lambda: asking(state(plan), BOTH), 1)[0]
    assert (first.position, first.item) == (0, engines.asked[0])


def test_what_breaks_while_asking_is_an_item_without_answer(suite: Path) -> None:
    def broken(*_: object) -> tuple[Scored, Scored]:
        raise ValueError("no \x1b model")

    plan = planned(suite)
    asking = LiveQuality(plan, lambda *_: None, broken)
    (first, *_) = until(lambda: asking(state(plan), BOTH), 1)
    assert (first.candidate, first.stable) == (None, None)
    assert first.candidate_error.startswith("ValueError: no ")
    assert "\x1b" not in first.candidate_error


def test_a_suite_that_is_not_what_the_plan_says_is_refused_and_does_not_bar_the_way_back(suite: Path) -> None:
    with pytest.raises(ConfigError, match="has 40 items, and `items` says 60"):
        read_suites(planned(suite, items=60))
    with pytest.raises(ConfigError, match="check answers: suite: "):
        read_suites(planned(suite.with_name("none.yaml")))
    rows = suite.with_name("d.jsonl").read_text()
    suite.with_name("d.jsonl").write_text(rows.replace('"id": "q1",', '"id": "q1", "cluster": "c",'))
    with pytest.raises(ConfigError, match=r"1 items of .* belong to a cluster"):
        read_suites(planned(suite, of="population"))
    assert list(read_suites(planned(suite))) == ["answers"]
    assert read_suites(PLAN) == {}
    notices: list[str] = []
    plan = planned(suite, items=60)
    assert LiveQuality(plan, lambda _, text: notices.append(text))(state(plan), BOTH) == ()
    assert notices[0].startswith("no items are asked: check answers")


@pytest.mark.parametrize(("score", "phase"), [(0.0, Phase.ROLLED_BACK), (1.0, Phase.PROMOTED)])
def test_a_controller_judges_by_it(tmp_path: Path, suite: Path, score: float, phase: Phase) -> None:
    (tmp_path / "w").mkdir()
    world, plan = World(tmp_path / "w"), planned(suite)
    engines = Engines(score)
    asking = LiveQuality(plan, lambda *_: None, engines)
    world.before_sleep = lambda: time.sleep(0.02)
    controller = world.controller(plan=plan, asking=asking)
    controller.start(GOOD if score else BAD, STABLE)
    end = controller.run()
    assert end.phase is phase, end.reason
    assert len(engines.asked) == len(set(engines.asked))
    assert world.violations == []
    if not score:
        assert end.cause == "answers"
        assert "answers worse than blue: 100.0 points lower over" in end.reason
    world.store.close()
