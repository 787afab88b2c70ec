"""A step or a drift in a row of runs, and nothing where there is none."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import ArrayLike

from servegate.stats.trend import scan

RNG = np.random.default_rng(7)


def answers(items: int, chances: list[float]) -> np.ndarray:
    """Scores 0 or 1, an own level per item moved by the run's chance."""
    hard = RNG.uniform(-0.1, 0.1, items)[:, None]
    return (RNG.random((items, len(chances))) < np.clip(np.array(chances) + hard, 0, 1)).astype(float)


def test_a_step_is_found_where_it_is() -> None:
    found = scan(answers(200, [0.9] * 6 + [0.75] * 4))
    assert found is not None
    assert (found.kind, found.after) == ("step", 6)
    assert found.p <= 0.001
    assert found.change == pytest.approx(-0.15, abs=0.05)


def test_a_drift_is_one() -> None:
    found = scan([list(np.linspace(1.0, 2.0, 12) + RNG.normal(0, 0.02, 12))])
    assert found is not None
    assert found.kind == "drift"
    assert found.p <= 0.001
    assert found.change == pytest.approx(1.0, abs=0.1)


def test_one_number_per_run_needs_runs_and_many_items_do_not() -> None:
    few = scan([[1.0, 1.0, 1.0, 2.0, 2.0]])
    assert few is not None
    assert few.p > 0.01
    many = scan(answers(300, [0.9, 0.9, 0.7, 0.7]))
    assert many is not None
    assert many.p <= 0.001


def test_the_rate_of_false_alarms_is_what_is_asked() -> None:
    level, rows = 0.1, 300
    hits = 0
    for seed in range(rows):
        found = scan(answers(40, [0.8] * 8), replicates=99, seed=seed)
        hits += found is not None and found.p <= level
    # A binomial with that chance passes this in 99.9 % of such tests; the seed is fixed.
    assert hits <= level * rows + 3.1 * (level * (1 - level) * rows) ** 0.5
    assert hits >= 0.4 * level * rows


@pytest.mark.parametrize("values", [[[1.0, 2.0, 3.0]], [[1.0] * 9], np.empty((0, 5))])
def test_where_there_is_nothing_to_judge_nothing_is_said(values: ArrayLike) -> None:
    assert scan(values) is None


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        scan([[1.0, float("nan"), 1.0, 1.0]])
