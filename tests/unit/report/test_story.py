"""The facts the views share: outcome, moment of decision, who was hurt."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from servegate.report.records import CanaryTick, SlotTick
from servegate.report.series import bin_width, bins, rates_by_ticks, thin
from servegate.report.story import ReleaseStory, cards, facts, headline, ratio


def test_a_rollback_names_when_share_and_who_was_hurt(stories: list[ReleaseStory]) -> None:
    story = stories[1]
    known = facts(story)
    assert known.decided is not None
    assert known.decided.phase == "ROLLING_BACK"
    assert story.defect is not None
    assert known.zero is not None
    assert known.share == 10
    assert [evidence.check for evidence in known.fired] == ["errors against stable"]
    candidate, everybody = known.of("green"), known.of(None)
    assert candidate is not None
    assert everybody is not None
    assert candidate.failed == everybody.failed == sum(not record.ok for record in story.records)
    text = headline(story, known)
    assert f"{candidate.failed} of the {candidate.requests} requests it served failed" in text
    assert "after the defect's first effect" in text
    assert "10 %" in text


def test_a_promotion_that_hurt_nobody_says_so(stories: list[ReleaseStory]) -> None:
    known = facts(stories[0])
    assert "Promoted 2 min 32 s after the rollout began. None of" in headline(stories[0], known)
    assert known.fired == ()
    assert known.zero is None
    assert cards(stories[0], known)["Largest share of traffic"] == "100 %"


def test_requests_outside_the_timeline_are_not_counted(stories: list[ReleaseStory]) -> None:
    story = stories[1]
    early = [record.model_copy(update={"sent": 1.0, "ok": False}) for record in story.records[:50]]
    assert facts(replace(story, records=[*early, *story.records])).served == facts(story).served


def test_without_requests_the_engines_counters_count(stories: list[ReleaseStory]) -> None:
    story = stories[1]
    by_records, by_ticks = facts(story), facts(replace(story, records=()))
    assert not by_ticks.from_records
    ours, theirs = by_records.of("green"), by_ticks.of("green")
    assert ours is not None
    assert theirs is not None
    assert abs(ours.failed - theirs.failed) <= 2


def test_phases_follow_each_other_without_a_gap(stories: list[ReleaseStory]) -> None:
    spans = facts(stories[0]).spans
    assert [span.label for span in spans] == ["preparing", "1 %", "10 %", "50 %", "95 %", "promoted"]
    assert all(one.end == two.start for one, two in pairwise(spans))


def test_a_story_without_a_canary_has_no_made_up_numbers() -> None:
    story = ReleaseStory(name="v1", outcome="refused")
    known = facts(story)
    assert known.served == ()
    assert cards(story, known) == {}
    assert headline(story, known) == "Refused by the gate: it never carried a user's request."


@pytest.mark.parametrize(("log_e", "limit", "share"), [(3.0, 6.0, 0.5), (-1.0, 4.0, -0.25), (1.0, 0.0, float("inf"))])
def test_evidence_as_a_share_of_its_limit(log_e: float, limit: float, share: float) -> None:
    assert ratio(log_e, limit) == share


def test_bins_cover_the_whole_time_and_lose_no_request(stories: list[ReleaseStory]) -> None:
    story = stories[0]
    known = facts(story)
    width = bin_width(known.length)
    found = [bin_ for slot in known.slots for bin_ in bins(list(story.records), known, slot, width)]
    assert sum(bin_.requests for bin_ in found) == len(story.records)
    assert max(bin_.middle + bin_.seconds / 2 for bin_ in found) == pytest.approx(known.length)
    whole = [bin_ for bin_ in found if bin_.requests == 100]
    assert all(bin_.seconds == width for bin_ in whole)


def test_too_few_answers_have_no_quantile(stories: list[ReleaseStory]) -> None:
    known = facts(stories[1])
    for bin_ in bins(list(stories[1].records), known, "green", 5):
        answered = bin_.requests - bin_.failed
        assert (bin_.p50 is None) == (answered < 5)
        assert (bin_.p95 is None) == (answered < 20)


def test_thinning_keeps_the_slowest() -> None:
    points = [(float(i), float(i * 7919 % 5000)) for i in range(5000)]
    kept = thin(points, 300)
    assert len(kept) <= 300
    assert max(points, key=lambda p: p[1]) in kept
    assert kept == sorted(kept)


def test_ticks_give_rates_and_counts() -> None:
    did = {"blue": SlotTick(requests=4, failures=1)}
    ticks = [CanaryTick(at=100.0 + i, phase="STEP", weights={"blue": 100}, stable="blue", slots=did) for i in range(11)]
    known = facts(ReleaseStory(name="v", outcome="unfinished", ticks=ticks))
    rows = rates_by_ticks(ticks, known, "blue", 5)
    assert rows[0] == (2.5, 4.0, 5)
