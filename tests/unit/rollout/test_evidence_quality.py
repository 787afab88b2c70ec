"""Evidence of live quality: answers of both slots to the same items."""

from __future__ import annotations

import dataclasses

import numpy as np
from evidence_bench import HEALTHY, view, with_check

from servegate.rollout import evidence
from servegate.rollout.evidence import advance
from servegate.rollout.model import CheckState
from servegate.rollout.plan import Plan
from servegate.rollout.seen import Asked

# --- live quality -----------------------------------------------------------------------------------------------------


SUITE = "sha256:" + "1" * 64


def ask(the_plan: Plan, answers: list[tuple[int, float | None, float | None]]) -> CheckState:
    check, state = the_plan.checks[0], CheckState()
    for number, (position, candidate, stable) in enumerate(answers, 1):
        items = (
            Asked(
                check=check.name,
                suite=SUITE,
                position=position,
                item=f"q{position}",
                candidate=candidate,
                stable=stable,
            ),
        )
        state = advance(the_plan, check, state, dataclasses.replace(view(number, *HEALTHY), asked=items))
    return state


def test_worse_answers_send_it_back_and_an_item_counts_once() -> None:
    the_plan = with_check(kind="quality", suite="s.yaml", rate=10, items=200, promote_margin="10%")
    check = the_plan.checks[0]
    worse = ask(the_plan, [(n, 0.0 if n % 4 == 0 else 1.0, 1.0) for n in range(100)])
    assert evidence.log_e(the_plan, check, worse) >= the_plan.log_limit(check)
    again = ask(the_plan, [(0, 0.0, 1.0)] * 100)
    assert (again.judged, again.intervals) == (1, 1)
    same = ask(the_plan, [(n, float(n % 2), float(n % 2)) for n in range(200)])
    assert evidence.log_e(the_plan, check, same) < 0
    assert same.promote_reached
    # No answer is no wrong answer: counted apart, and the item is spent.
    lost = ask(the_plan, [(0, None, None), (1, None, 1.0), (2, 1.0, None)])
    assert (lost.asked, lost.judged, lost.skipped, lost.against.n) == (3, 0, 3, 0)
    assert lost.skipped_because == "item q2 got no answer of stable"
    assert ask(the_plan, [(200, 0.0, 1.0)]).judged == 0


def test_a_whole_suite_without_doubt_is_certain() -> None:
    # 21 of 200 items are worse, beyond a margin of 10 %: of the suite that is a fact once all were asked.
    the_plan = with_check(kind="quality", suite="s.yaml", rate=10, items=200, margin="10%")
    rng = np.random.default_rng(1)
    scores = rng.permutation([0.0] * 24 + [1.0] * 176)
    everything = ask(the_plan, [(n, float(score), 1.0) for n, score in enumerate(scores)])
    population = with_check(kind="quality", suite="s.yaml", rate=10, items=200, margin="10%", of="population")
    told = [evidence.log_e(p, p.checks[0], ask(p, [(n, float(s), 1.0) for n, s in enumerate(scores)])) for p in
            (the_plan, population)]  # fmt: skip
    assert told[0] > told[1]
    assert (everything.judged, everything.asked) == (200, 200)


def test_items_of_another_suite_or_check_are_no_draws_from_this_one() -> None:
    the_plan = with_check(kind="quality", suite="s.yaml", rate=10, items=200)
    check, state = the_plan.checks[0], ask(the_plan, [(0, 1.0, 1.0)])
    for name, suite in (("other", SUITE), (check.name, "sha256:" + "2" * 64)):
        items = (Asked(check=name, suite=suite, position=1, candidate=0.0, stable=1.0),)
        after = advance(the_plan, check, state, dataclasses.replace(view(2, *HEALTHY), asked=items))
        assert (after.asked, after.against) == (state.asked, state.against)
    assert after.skipped_because == "the suite was changed while the rollout ran"


def test_the_suite_null_is_hardly_ever_an_alarm() -> None:
    the_plan = with_check(kind="quality", suite="s.yaml", rate=10, items=120, margin="5%")
    check, rng, alarms = the_plan.checks[0], np.random.default_rng(3), 0
    for _ in range(60):
        scores = rng.permutation([0.0] * 12 + [1.0] * 102 + [2.0] * 6)  # 12 worse, 6 better: 5 % below
        state, fired = CheckState(), False
        for n, score in enumerate(scores):
            items = (
                Asked(
                    check=check.name,
                    suite=SUITE,
                    position=n,
                    candidate=min(1.0, score),
                    stable=0.0 if score == 2 else 1.0,
                ),
            )
            state = advance(the_plan, check, state, dataclasses.replace(view(n + 1, *HEALTHY), asked=items))
            fired |= evidence.log_e(the_plan, check, state) >= the_plan.log_limit(check)
        alarms += fired
    assert alarms <= 3
