"""Schedules: decided by the seed alone, at the rate asked for, with prompts spread evenly."""

from __future__ import annotations

from collections import Counter
from itertools import islice, pairwise

import numpy as np
import pytest

from servegate.loadtest.profile import Profile
from servegate.loadtest.schedule import schedule

EXPECTED_OFFSETS = [0.006932, 0.049815, 0.06829, 0.098754]
EXPECTED_PROMPTS = [0, 1, 4, 2]


def profile(kind: str = "poisson", rate: str = "20/s", seed: int = 1, **more: object) -> Profile:
    base = {"version": 1, "name": "t", "prompts": "p.jsonl", "max_tokens": 8, "seed": seed}
    return Profile.model_validate({**base, "arrival": {"kind": kind, "rate": rate}, **more})


def test_the_same_seed_is_the_same_schedule_and_another_is_not() -> None:
    first = list(schedule(profile(duration="20s"), 7))
    assert first == list(schedule(profile(duration="20s"), 7))
    assert first != list(schedule(profile(duration="20s", seed=2), 7))


def test_the_schedule_of_a_seed_is_written_down() -> None:
    # A published seed must mean the same requests in the next version.
    plan = list(islice(schedule(profile(), 5), 4))
    assert [round(item.offset, 6) for item in plan] == EXPECTED_OFFSETS
    assert [item.prompt for item in plan] == EXPECTED_PROMPTS


def test_constant_arrivals_do_not_drift() -> None:
    plan = list(schedule(profile("constant", "3/s", duration="1000s"), 1))
    assert len(plan) == 3000
    assert plan[2999].offset == 2999 / 3


def test_poisson_arrivals_have_the_rate_and_the_spread_of_independent_users() -> None:
    offsets = np.array([item.offset for item in schedule(profile(rate="50/s", duration="400s"), 3)])
    gaps = np.diff(offsets)
    assert len(offsets) == pytest.approx(20_000, abs=4 * 20_000**0.5)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)
    assert (gaps >= 0).all()


def test_warm_up_comes_first_and_duration_after_it() -> None:
    plan = list(schedule(profile("constant", "10/s", warm_up="2s", duration="3s"), 1))
    assert [item.warm_up for item in plan] == [True] * 20 + [False] * 30
    assert [item.id for item in plan] == list(range(50))


def test_without_duration_there_is_no_end() -> None:
    assert len(list(islice(schedule(profile(), 3), 5000))) == 5000


def test_every_prompt_is_used_before_one_comes_again() -> None:
    prompts = [item.prompt for item in islice(schedule(profile(), 7), 70)]
    assert set(Counter(prompts).values()) == {10}
    assert all(sorted(prompts[start : start + 7]) == list(range(7)) for start in range(0, 70, 7))
    assert any(later - earlier != 1 for earlier, later in pairwise(prompts))


def test_another_prompt_does_not_move_the_arrivals() -> None:
    with_seven = [item.offset for item in schedule(profile(duration="5s"), 7)]
    assert with_seven == [item.offset for item in schedule(profile(duration="5s"), 8)]


def test_there_must_be_a_prompt() -> None:
    with pytest.raises(ValueError, match="prompt"):
        next(iter(schedule(profile(), 0)))
