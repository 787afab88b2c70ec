"""The lines an engineer reads first."""

from __future__ import annotations

import pytest
from decide_bench import Bench, plan

from servegate.rollout.describe import lines, plain
from servegate.rollout.memory import Memory
from servegate.rollout.model import Phase
from servegate.rollout.ports import Lease


def described(bench: Bench, holder: Lease | None = None, later: float = 0.0) -> str:
    known = Memory(state=bench.state, releases={})
    return "\n".join(lines(known, bench.plan, holder, bench.now + later))


def test_a_step_says_how_near_each_check_is() -> None:
    bench = Bench()
    bench.until(Phase.STEP, 1)
    bench.ticks(20)
    text = described(bench, Lease("host:1", 3, bench.now + 10), later=2)
    assert "STEP 2 of 5" in text
    assert "290 requests, 0 failed  1 ready" in text
    assert "waits for" in text
    assert "check      errors            5 intervals   against it e-value 1 of 200" in text
    assert "for promotion " in text
    assert "host:1, heard of 2 s ago" in text


@pytest.mark.parametrize(
    ("rule", "later", "words"),
    [
        ("rollback", 30.0, "in 90 s or later rolls it back"),
        ("hold", 300.0, "now holds it"),
        ("continue", 300.0, "now goes on with it"),
    ],
)
def test_nobody_at_work_says_what_happens(rule: str, later: float, words: str) -> None:
    bench = Bench(plan(on_unwatched=rule))
    bench.until(Phase.STEP, 1)
    text = described(bench, Lease("host:1", 3, bench.now + 10), later)
    assert "no controller is at work" in text
    assert words in text


def test_an_end_says_what_was_proven() -> None:
    bench = Bench()
    bench.until(Phase.STEP, 1)
    bench.intent("abort")
    bench.until(Phase.ROLLED_BACK)
    text = described(bench)
    assert "proof      the router serves blue with 100 %" in text
    assert "none, and none is needed" in text
    assert "check " not in text
    unproven = bench.state.model_copy(update={"proven": "", "unproven": "look at blue"})
    bench.state = unproven
    assert "NOT PROVEN look at blue" in described(bench)


def test_a_guard_shows_its_own_evidence() -> None:
    bench = Bench(plan(guard={"window": "60s"}))
    bench.until(Phase.PROMOTED)
    bench.intent("guard")
    bench.ticks(10)
    text = described(bench)
    assert "GUARDED" in text
    assert "green    stable" in text
    assert "blue     idle" in text
    assert "errors-slo        2 intervals   against it e-value" in text
    assert "ttft-slo" in text
    assert " errors  " not in text


def test_text_of_others_cannot_move_the_cursor() -> None:
    assert plain("a\x1b[2Jb\nc") == "a [2Jb c"
