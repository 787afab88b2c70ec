"""From records to measures: what is not measured is neither right nor wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest

from servegate.evals.measures import findings, measures, proportion
from servegate.report.model import Measure
from servegate.report.records import EvalRecord
from servegate.stats.intervals import wilson

HASH = "sha256:" + "0" * 64


def record(number: int, score: float | None, **fields: object) -> EvalRecord:
    base = {"id": f"q{number}", "item_sha256": HASH, "scorer": "exact", "score": score}
    if score is None:
        base["error"] = "http_503: busy"
    return EvalRecord.model_validate({**base, **fields})


def by_key(found: tuple[Measure, ...]) -> dict[str, Measure]:
    return {measure.key: measure for measure in found}


def test_unanswered_questions_are_left_out_and_counted() -> None:
    records = [record(0, 1.0), record(1, 0.0), record(2, None), record(3, 1.0)]
    found = by_key(measures(records, records))
    accuracy = found["accuracy.mean"]
    assert accuracy.value == pytest.approx(2 / 3)
    assert (accuracy.n, accuracy.attempted) == (3, 4)
    assert accuracy.interval is not None
    assert accuracy.interval.method == "wilson"
    assert accuracy.interval.low == pytest.approx(wilson(2, 3).low)
    assert found["error_rate.rate"].value == 0.25


def test_slices_by_tag_and_scorer_also_where_nothing_was_measured() -> None:
    records = [record(0, 1.0, tags=("ko", "refund")), record(1, None, tags=("en",), scorer="json")]
    found = by_key(measures(records, records))
    assert found["accuracy.mean[tags=refund]"].value == 1.0
    assert found["accuracy.mean[scorer=exact]"].n == 1
    for key in ("accuracy.mean[tags=en]", "accuracy.mean[scorer=json]"):
        assert found[key].value is None
        assert found[key].interval is None
        assert (found[key].n, found[key].attempted) == (0, 1)


def test_a_run_that_ended_early_attempted_all_it_wanted() -> None:
    wanted = [record(number, None) for number in range(10)]
    found = by_key(measures([record(0, 1.0)], wanted))
    assert (found["accuracy.mean"].n, found["accuracy.mean"].attempted) == (1, 10)
    assert (found["error_rate.rate"].value, found["error_rate.rate"].n) == (0.0, 1)


def test_nothing_at_all() -> None:
    found = by_key(measures([], [record(0, None)]))
    assert all(measure.value is None for measure in found.values())


def test_latency_and_tokens_rest_on_the_answers_that_have_them() -> None:
    records = [
        record(0, 1.0, e2e_latency=1.0, output_tokens=10, prompt_tokens=5),
        record(1, 0.0, e2e_latency=None, output_tokens=20),
    ]
    found = by_key(measures(records, records))
    assert (found["e2e_latency.mean"].value, found["e2e_latency.mean"].n) == (1.0, 1)
    assert found["output_tokens.mean"].value == 15
    assert found["output_tokens.total"].value == 30
    assert (found["prompt_tokens.total"].n, found["prompt_tokens.total"].attempted) == (1, 2)


def test_repeats_of_an_item_do_not_add_items() -> None:
    once = [(f"q{number}", float(number % 4 > 0)) for number in range(40)]
    five = proportion(once * 5)
    assert five.method == "wilson-design-effect"
    expected = wilson(0.75 * 39, 39)  # the variance estimate costs one
    assert five.low == pytest.approx(expected.low)
    assert five.high == pytest.approx(expected.high)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_all_alike_in_clusters_counts_clusters(value: float) -> None:
    found = proportion([(f"c{number % 6}", value) for number in range(60)])
    expected = wilson(6 * value, 6)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_one_cluster_says_next_to_nothing() -> None:
    found = proportion([("c", 1.0), ("c", 0.0)] * 50)
    assert found.high - found.low > 0.7


def test_the_interval_covers_also_when_items_are_clustered() -> None:
    draw = np.random.default_rng(7)
    truth, hits, runs = 0.8, 0, 600
    naive = 0
    for _ in range(runs):
        # 40 clusters of 5; within a cluster answers are alike (Beta(4, 1) has mean 0.8).
        rates = draw.beta(4, 1, size=40)
        scores = [(f"c{c}", float(draw.random() < rate)) for c, rate in enumerate(rates) for _ in range(5)]
        found = proportion(scores)
        hits += found.low <= truth <= found.high
        plain = wilson(sum(score for _, score in scores), len(scores))
        naive += plain.low <= truth <= plain.high
    assert hits / runs > 0.95 - 3 * math.sqrt(0.95 * 0.05 / runs)
    assert naive < hits  # what ignoring the clusters would have promised


def codes(records: list[EvalRecord], wanted: int = 10, died: str | None = None) -> list[tuple[str, bool]]:
    return [(finding.code, finding.voids) for finding in findings(records, wanted, 0.05, died)]


def test_findings() -> None:
    good = [record(number, 1.0) for number in range(99)]
    assert codes(good) == []
    assert codes([*good, record(99, None)], 100) == [("unanswered", False)]
    assert codes([*good[:9], record(9, None)]) == [("too-many-unanswered", True)]
    assert codes([record(0, None)]) == [("nothing-measured", True)]
    assert codes([]) == [("nothing-measured", True)]
    assert codes(good, 200, died="5 failures in a row") == [("endpoint-died", True)]
    assert codes([record(0, 0.0, finish_reason="length")]) == [("answers-cut-off", False)]


def test_findings_name_kinds_and_the_first_error() -> None:
    records = [record(0, 1.0), record(1, None), record(2, None, error="timeout: no answer within 5 s")]
    (found,) = findings(records, 3, 0.05, None)
    assert "2 of 3 questions (66.7%)" in found.message
    assert "1 http_503, 1 timeout" in found.message
    assert "first http_503: busy" in found.message
