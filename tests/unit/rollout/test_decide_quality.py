"""decide with live quality: a release that is fast, never fails, and answers wrong."""

from __future__ import annotations

import pytest
from decide_bench import Bench, plan

from servegate.rollout import describe, feasibility
from servegate.rollout.memory import Memory
from servegate.rollout.model import Phase
from servegate.rollout.plan import Plan
from servegate.rollout.seen import Asked

SUITE = "sha256:" + "a" * 64
ITEMS = 60
CHECK = {
    "kind": "quality", "name": "answers", "share": "20%", "suite": "s.yaml", "items": ITEMS, "rate": 1, "margin": "5%",
}  # fmt: skip


def judged(**changes: object) -> Plan:
    checks = [{**check.model_dump(mode="json"), "share": f"{check.share * 80:g}%"} for check in plan().checks]
    return plan(checks=[*checks, {**CHECK, **changes}])


def item(position: int, candidate: float | None, stable: float | None = 1.0) -> Asked:
    error = "" if candidate is not None else "timeout: no answer within 60 s"
    return Asked(
        check="answers", suite=SUITE, position=position, item=f"q{position}", candidate=candidate, stable=stable,
        candidate_error=error,
    )  # fmt: skip


def test_a_release_that_is_fast_and_wrong_is_sent_back_with_its_items_named() -> None:
    bench = Bench(judged())
    bench.until(Phase.STEP, 1)
    for position in range(ITEMS):
        bench.tick(asked=(item(position, 0.0 if position % 3 else 1.0),))
        if bench.state.phase is Phase.ROLLING_BACK:
            break
    bench.expect(Phase.ROLLING_BACK)
    assert bench.state.cause == "answers"
    reason = bench.state.reason
    assert "green answers worse than blue" in reason
    assert f"over {position + 1} items asked of both ({ITEMS} in the suite, lately q" in reason
    assert "against a margin of 5.0 points (e-value " in reason
    line = next(line for line in bench.last.tick.evidence if line.check == "answers")
    assert line.log_e >= line.log_limit
    assert position < 40


def test_the_same_answers_hold_nothing_up_and_the_end_of_the_suite_is_told() -> None:
    bench = Bench(judged(promote_margin="30%"))
    bench.until(Phase.STEP, 1)
    for position in range(ITEMS):
        bench.tick(asked=(item(position, float(position % 2), float(position % 2)),))
    assert bench.state.checks["answers"].promote_reached
    shown = describe.lines(Memory(state=bench.state, releases={}, verified=()), bench.plan, None, bench.now)
    assert any("answers" in line and "the whole suite has been asked" in line for line in shown)
    bench.until(Phase.PROMOTED)


def test_a_promotion_waits_for_evidence_of_quality() -> None:
    bench = Bench(judged(promote_margin="30%"))
    bench.until(Phase.BAKING)
    bench.ticks(60)
    assert "evidence of check answers" in bench.state.waiting


def test_an_item_counts_once_however_often_it_is_delivered() -> None:
    bench = Bench(judged())
    bench.until(Phase.STEP, 1)
    for _ in range(20):
        bench.tick(asked=(item(0, 0.0), item(1, 0.0)))
    gathered = bench.state.checks["answers"]
    assert (gathered.asked, gathered.judged, gathered.against.n) == (2, 2, 2)


def test_no_answer_is_no_wrong_answer() -> None:
    bench = Bench(judged())
    bench.until(Phase.STEP, 1)
    for position in range(20):
        bench.tick(asked=(item(position, None),))
    gathered = bench.state.checks["answers"]
    assert (gathered.asked, gathered.judged, gathered.skipped) == (20, 0, 20)
    assert gathered.skipped_because.startswith("item q19 got no answer of the candidate (timeout")
    assert bench.state.phase is not Phase.ROLLING_BACK


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"items": 4, "of": "population"}, "the whole suite would not do; it needs a larger suite"),
        ({"rate": 0.05}, "are needed: a rate of"),
        (
            {"promote_margin": "6%", "of": "population", "items": 30},
            "that a release with the same answers is not worse",
        ),
    ],
)
def test_a_plan_whose_suite_could_not_decide_is_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match="check answers could not") as error:
        judged(**changes)
    assert said in str(error.value)
    assert feasibility.problem(judged()) is None
