"""Against a baseline: paired, refused, extended, corrected, and unpaired with its label."""

from __future__ import annotations

from typing import Any

import pytest
from gate_runs import DATASET, NEW, NOW, OLD, Run, answers, judge, one, policy, runs, scores

from servegate.endpoint import EndpointFacts
from servegate.errors import ConfigError
from servegate.gates.pairs import pair
from servegate.report.model import Conditions, Finding, Subject
from servegate.report.verdict import Outcome


def test_a_result_names_the_items_and_the_baseline_they_differ_from() -> None:
    new, old = runs(600, 130, 3)
    found = one({}, new, old)
    assert (found.lost, found.won) == (130, 3)
    assert found.baseline_report == old.report.identity()
    assert not found.ratio
    assert [(item.baseline, item.candidate) for item in found.discordant] == [(1.0, 0.0)] * 100 + [(0.0, 1.0)] * 3
    assert found.discordant[0].id == "item-0"
    unpaired = one({}, new, old, paired=False)
    assert (unpaired.lost, unpaired.won, unpaired.discordant) == (None, None, ())


@pytest.mark.parametrize(
    ("n", "lost", "won", "outcome"),
    [
        (400, 8, 8, Outcome.PASS),
        (400, 0, 0, Outcome.PASS),
        (400, 0, 30, Outcome.PASS),
        (400, 60, 10, Outcome.FAIL),
        (400, 22, 10, Outcome.INCONCLUSIVE),
        (60, 3, 3, Outcome.INCONCLUSIVE),
    ],
)
def test_three_way_paired(n: int, lost: int, won: int, outcome: Outcome) -> None:
    found = one({}, *runs(n, lost, won))
    assert found.outcome is outcome
    assert f"{lost} lost and {won} won of {n} pairs" in found.message
    assert found.delta == pytest.approx((won - lost) / n)
    assert found.delta is not None
    assert found.delta_interval is not None
    assert found.delta_interval.low <= found.delta <= found.delta_interval.high
    assert found.threshold == pytest.approx((found.baseline or 0) - 0.03)
    assert found.mde is not None
    assert "v1" in found.message


def test_pairing_sees_what_two_accuracies_cannot() -> None:
    new, old = runs(400, 8, 8)
    assert one({}, new, old).outcome is Outcome.PASS
    apart = one({}, new, old, paired=False)
    assert apart.outcome is Outcome.INCONCLUSIVE
    assert "UNPAIRED (no answers were given with the report)" in apart.message


def test_the_lost_items_are_named_and_harmless() -> None:
    before, after = scores(400, 60, 0)
    records = [record.model_copy(update={"id": f"\x1b[31m::error::{record.id}</details>"}) for record in answers(after)]
    olds = [record.model_copy(update={"id": f"\x1b[31m::error::{record.id}</details>"}) for record in answers(before)]
    found = one({}, Run(records, NEW), Run(olds, OLD))
    assert "\x1b" not in found.message
    assert "and 55 more" in found.message


def test_ten_megabytes_of_hostile_text_stay_out_of_the_verdict() -> None:
    before, after = scores(400, 60, 0)
    evil = "</details><script>::error::\x1b[2J" * 300_000
    new = [
        record.model_copy(update={"id": evil}) if index == 0 else record for index, record in enumerate(answers(after))
    ]
    old = [
        record.model_copy(update={"id": evil}) if index == 0 else record for index, record in enumerate(answers(before))
    ]
    found = one({}, Run(new, NEW), Run(old, OLD))
    assert found.outcome is Outcome.FAIL
    assert len(found.message) < 2000
    assert "\x1b" not in found.message


def test_slices_are_paired_on_their_own_items() -> None:
    before, after = scores(400, 40, 0)
    after = [old if index % 2 == 0 else new for index, (old, new) in enumerate(zip(before, after, strict=True))]
    new, old = Run(answers(after), NEW), Run(answers(before), OLD)
    assert "0 lost and 0 won of 200 pairs" in one({}, new, old, slice={"tags": "even"}).message
    assert "20 lost" in one({}, new, old).message


def test_clusters_are_respected() -> None:
    before, after = scores(400, 40, 20)
    alone = one({"margin": "2pp"}, Run(answers(after), NEW), Run(answers(before), OLD))
    together = one(
        {"margin": "2pp"},
        Run(answers(after, cluster=lambda number: f"passage {number // 20}"), NEW),
        Run(answers(before, cluster=lambda number: f"passage {number // 20}"), OLD),
    )
    assert "in 20 clusters" in together.message
    assert together.delta_interval is not None
    assert alone.delta_interval is not None
    assert together.delta_interval.low < alone.delta_interval.low


def test_repeats_of_an_item_are_one_pair() -> None:
    before, after = scores(200, 5, 5)
    records = [answers(after, repeat=repeat) for repeat in range(3)]
    found = pair([record for part in records for record in part], answers(before))
    assert len(found.ids) == 200
    assert found.answers == 600
    assert found.clusters is None


VOIDING = Finding(severity="error", code="endpoint-died", message="gone", voids=True)
LATER = EndpointFacts(url="http://127.0.0.1:1", model="m", version="0.33")


@pytest.mark.parametrize(
    ("keys", "more", "says"),
    [
        (
            {},
            {"conditions": Conditions(dataset_sha256=DATASET, temperature=0.7, concurrency=8)},
            "temperature: 0.0 → 0.7",
        ),
        ({}, {"conditions": Conditions(dataset_sha256=OLD, temperature=0.0, concurrency=8)}, "dataset_sha256"),
        ({}, {"conditions": Conditions()}, "concurrency: 8 → not stated"),
        ({}, {"subject": Subject(release=NEW, endpoint=LATER)}, "engine_version: not stated → 0.33"),
        ({"allow": ["seed"]}, {"conditions": Conditions()}, "concurrency"),
    ],
)
def test_runs_that_were_not_measured_alike_are_not_compared(
    keys: dict[str, Any], more: dict[str, Any], says: str
) -> None:
    found = one(keys, *runs(400, 8, 8, **more))
    assert found.outcome is Outcome.VOID
    assert says in found.message


def test_conditions_may_differ_by_name() -> None:
    warm = Conditions(dataset_sha256=DATASET, temperature=0.7, concurrency=8, other={"gpu": "L4"})
    found = one({"allow": ["temperature", "other.gpu"]}, *runs(400, 8, 8, conditions=warm))
    assert found.outcome is Outcome.PASS


def test_items_that_changed_are_no_pairs() -> None:
    before, after = scores(400, 8, 8)
    new = Run(answers(after, version=1, changed=(7,)), NEW)
    found = one({}, new, Run(answers(before), OLD))
    assert found.outcome is Outcome.VOID
    assert "1 item changed between the runs (item-7)" in found.message
    other = Conditions(dataset_sha256=OLD, temperature=0.0, concurrency=8)
    new = Run(answers(after, version=1, changed=(7,)), NEW, conditions=other)
    found = one({"allow": ["dataset_sha256"]}, new, Run(answers(before), OLD))
    assert found.outcome is Outcome.PASS
    assert "of 399 pairs" in found.message


def test_survivors_do_not_pass_for_all() -> None:
    before, after = scores(400, 0, 0)
    late: list[float | None] = [None if index < 30 else score for index, score in enumerate(after)]
    found = one({}, Run(answers(late), NEW), Run(answers(before), OLD))
    assert found.outcome is Outcome.VOID
    assert "only 370 of 400 items have a score in both runs, 95% wanted" in found.message
    assert one({}, Run(answers(late), NEW), Run(answers(before), OLD), coverage="90%").outcome is Outcome.PASS


@pytest.mark.parametrize(
    ("old", "says"),
    [
        (None, "baseline: no eval/support report was given"),
        (Run(answers(scores(400)[0]), OLD, findings=(VOIDING,)), "is void: endpoint-died"),
        (Run(answers(scores(400)[0]), OLD, finished=NOW - 90_000, started=NOW - 90_001), "younger than 1d"),
        (Run(answers([None] * 400), OLD), "has no such measure"),
    ],
)
def test_a_baseline_that_cannot_serve(old: Run | None, says: str) -> None:
    found = one({"younger_than": "1d"}, runs(400)[0], old)
    assert found.outcome is Outcome.VOID
    assert says in found.message


def test_a_model_is_not_compared_with_itself() -> None:
    new = runs(400)[0]
    with pytest.raises(ConfigError, match="own report"):
        one({}, new, new)


def test_answers_that_are_not_those_of_the_report_are_not_paired() -> None:
    new, old = runs(400, 8, 8)
    new.records = answers([1.0] * 400)
    assert "do not give the measure's value again" in one({}, new, old).message


LOOKS = {"looks": [100, 200, 400], "margin": "6pp"}


def test_what_cannot_tell_asks_for_more_before_the_policy_decides() -> None:
    first = one(LOOKS, *runs(100, 5, 5), on_inconclusive="pass")
    assert (first.outcome, first.effect, first.wanted) == (Outcome.INCONCLUSIVE, Outcome.INCONCLUSIVE, 200)
    assert "measure 200 answers and ask again" in first.message
    last = one(LOOKS, *runs(400, 34, 16), on_inconclusive="pass")
    assert (last.outcome, last.effect, last.wanted) == (Outcome.INCONCLUSIVE, Outcome.PASS, None)


def test_an_early_look_needs_more_evidence_than_the_only_one() -> None:
    assert one({"margin": "6pp"}, *runs(100, 0, 1)).outcome is Outcome.PASS
    early = one(LOOKS, *runs(100, 0, 1))
    assert early.outcome is Outcome.INCONCLUSIVE
    assert one(LOOKS, *runs(100, 60, 0)).outcome is Outcome.FAIL
    assert one(LOOKS, *runs(400, 8, 8)).outcome is Outcome.PASS


def test_before_the_first_look_nothing_is_judged() -> None:
    found = one(LOOKS, *runs(60, 50, 0))
    assert (found.outcome, found.wanted) == (Outcome.INCONCLUSIVE, 100)


def test_a_part_of_the_items_and_more_repeats_are_compared_with_a_whole_baseline() -> None:
    """At an early look the candidate was asked a part of what the baseline was, at a late one more often."""
    new, old = runs(400, 8, 8)
    early = Run(new.records[:100], NEW, conditions=new.report.conditions.model_copy(update={"other": {"limit": "100"}}))
    found = one({**LOOKS, "margin": "20pp"}, early, old)
    assert (found.outcome, found.n) == (Outcome.PASS, 100)
    assert "of 100 pairs" in found.message
    assert one({"margin": "20pp"}, early, old).outcome is Outcome.VOID
    twice = [record.model_copy(update={"repeat": repeat}) for repeat in (0, 1) for record in new.records]
    late = Run(twice, NEW, conditions=new.report.conditions.model_copy(update={"other": {"repeats": "2"}}))
    assert one({"margin": "6pp", "looks": [400, 800]}, late, old).outcome is Outcome.PASS


@pytest.mark.parametrize("correction", ["holm", "benjamini-hochberg"])
def test_many_checks_are_corrected_together(correction: str) -> None:
    new, old = runs(400, 26, 8)
    check = {"measure": "accuracy", "baseline": {"margin": "2pp"}}
    even = {**check, "slice": "tags=even"}
    alone = judge(policy(check, even), new, old).results
    assert alone[0].outcome is Outcome.FAIL
    group = {"id": "parts", "checks": ["c0", "c1"], "correction": correction}
    together = judge(policy(check, even, groups=[group]), new, old).results
    assert together[0].outcome is Outcome.INCONCLUSIVE
    assert "among the 2 of parts it may be chance" in together[0].message
    assert together[0].effect is Outcome.FAIL


@pytest.mark.parametrize(
    ("check", "says"),
    [
        ({"baseline": {"margin": "3%"}}, "write 3pp or 3% of baseline"),
        ({"baseline": {"margin": "100pp"}}, "could never fail"),
        ({"baseline": {"margin": "100% of baseline"}}, "could never fail"),
        ({"baseline": {"margin": "30ms"}}, "does not fit"),
        ({"baseline": {"margin": "3pp", "confidence": "50%"}}, "above 50%"),
        ({"baseline": {"margin": "3pp", "looks": [200, 100]}}, "rising"),
        ({"baseline": {"margin": "3pp", "looks": [200]}}, "rising"),
        ({"baseline": {"margin": "3pp", "allow": ["temprature"]}}, "did you mean 'temperature'"),
        ({"baseline": {"margin": "3pp", "discordance": "120%"}}, "between 0% and 100%"),
        ({"baseline": {"margin": "3pp"}, "judge": "value"}, "compared by interval"),
        ({"baseline": {"margin": "3pp"}, "expect": "> 80%"}, "one of"),
    ],
)
def test_mistakes_in_a_comparison(check: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        policy({"measure": "accuracy", **check})


@pytest.mark.parametrize(
    ("group", "says"),
    [
        ({"checks": ["c0"]}, "nothing to correct"),
        ({"checks": ["c0", "c9"]}, "no check 'c9'"),
        ({"checks": ["c0", "c2"]}, "not against a baseline"),
        ({"checks": ["c0", "c3"]}, "looks do not combine"),
        ({"checks": ["c0", "c4"]}, "different confidences"),
        ({"checks": ["c0", "c0"]}, "stands twice"),
    ],
)
def test_mistakes_in_a_group(group: dict[str, Any], says: str) -> None:
    against = {"measure": "accuracy", "baseline": {"margin": "3pp"}}
    looks = {"measure": "accuracy", "baseline": {"margin": "3pp", "looks": [1, 2]}}
    sure = {"measure": "accuracy", "baseline": {"margin": "3pp", "confidence": "99%"}}
    with pytest.raises(ConfigError, match=says):
        policy(against, against, {"expect": "accuracy > 1%"}, looks, sure, groups=[{"id": "g", **group}])


def test_a_margin_that_accepts_a_loss_of_everything_is_void() -> None:
    old, new = (Run(answers(part), release) for part, release in zip(scores(100, right=0.1), (OLD, NEW), strict=True))
    found = one({"margin": "15pp"}, new, old)
    assert found.outcome is Outcome.VOID
    assert "the baseline is 10 %: a margin of 15pp accepts a loss of all there is" in found.message
