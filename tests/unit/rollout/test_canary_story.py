"""What a canary's report says beyond numbers: the way back point by point, the watch, the experiment."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from decide_bench import Bench, delta, plan
from experiments import ab, judged
from rich.console import Console

from servegate.contract import sha256
from servegate.report.canary import CanaryStory, Trial, Watch, WayBack
from servegate.report.html import document
from servegate.report.markdown import report_markdown
from servegate.report.model import Report, Subject
from servegate.report.sections import sections
from servegate.report.terminal import print_report
from servegate.rollout import audit
from servegate.rollout.canary_story import story
from servegate.rollout.model import Decision, Observation, Phase, Preparation
from servegate.rollout.plan import Plan
from servegate.rollout.ports import Intent, RouteStatus


class Recorded(Bench):
    """A bench that keeps the audit trail of what it decided."""

    def __init__(self, the_plan: Plan) -> None:
        super().__init__(the_plan)
        self.first, self.trail = self.state, list[audit.AuditTick]()

    def tick(self, seen: Observation | None = None, **options: Any) -> Decision:
        before = self.state
        self.now += self.plan.tick
        seen = seen or self.observation(**options)
        self.now -= self.plan.tick
        decision = super().tick(seen)
        self.trail.append(audit.line(self.plan, before, seen, decision))
        return decision

    def told(self) -> CanaryStory:
        found = story(self.plan, self.first, self.trail)
        assert found is not None
        assert CanaryStory.model_validate_json(found.model_dump_json()) == found
        return found

    def way_back(self) -> WayBack:
        found = self.told().way_back
        assert found is not None
        return found

    def watch(self) -> Watch:
        found = self.told().watch
        assert found is not None
        return found

    def trial(self) -> Trial:
        found = self.told().experiment
        assert found is not None
        return found


def rolling_back(**changes: Any) -> Recorded:
    bench = Recorded(plan(rollback={"prove": "3s", "limit": "30s"}, **changes))
    bench.until(Phase.STEP, 0)
    bench.intent("abort")
    return bench


def points(found: WayBack) -> dict[str, str]:
    return {point.what: point.outcome for point in found.proof.points}


def test_a_rollout_that_is_only_promoted_tells_nothing_of_it() -> None:
    bench = Recorded(plan())
    bench.until(Phase.STEP, 0)
    assert story(bench.plan, bench.first, bench.trail) is None


def test_a_rollback_that_is_proven_shows_each_point_and_when() -> None:
    bench = rolling_back()
    decided = bench.now
    under_way = bench.way_back()
    assert (under_way.ended, under_way.proof.todo) == (None, "")
    assert "FAIL" not in points(under_way).values()
    bench.until(Phase.ROLLED_BACK)
    found = bench.way_back()
    assert points(found) == {"weights": "PASS", "answers": "PASS", "errors": "PASS"}
    assert (found.decided, found.why, found.ended) == (decided, "aborted by kim: because", bench.now)
    assert found.effective == decided + bench.plan.tick
    assert (found.proof.to, found.proof.slot, found.proof.todo) == ("v1", "blue", "")
    assert found.proof.points[1].found == "30 of 30 requests were answered in 3 s"
    assert found.proof.points[2].found == "0 of 30 failed (0 %), 2 % is normal"
    # What comes after the end changes nothing of it.
    bench.ticks(3, blue=delta(10, 10))
    assert bench.way_back() == found


def test_a_rollback_after_which_the_old_release_fails_too_says_what_to_do() -> None:
    bench = rolling_back()
    bench.until(Phase.ROLLED_BACK, blue=delta(10, 5))
    found = bench.way_back()
    assert points(found) == {"weights": "PASS", "answers": "PASS", "errors": "FAIL"}
    assert "look at what both slots share" in found.proof.todo
    assert found.ended is not None


def test_an_old_release_that_answers_nothing() -> None:
    bench = rolling_back()
    bench.until(Phase.ROLLED_BACK, blue=delta(10, 10))
    assert points(bench.way_back()) == {"weights": "PASS", "answers": "FAIL", "errors": "FAIL"}


@pytest.mark.parametrize(("smoke", "outcome"), [("ok", "PASS"), ("failed", "FAIL")])
def test_without_traffic_the_smoke_test_is_the_proof(smoke: Any, outcome: str) -> None:
    bench = rolling_back()
    tested = Preparation(verdict="pass", smoke=smoke, smoke_message="HTTP 500", warm="ok")
    bench.until(Phase.ROLLED_BACK, blue=delta(0), preparation=tested)
    found = bench.way_back()
    assert points(found) == {"weights": "PASS", "answers": outcome, "errors": "INCONCLUSIVE"}
    assert bool(found.proof.todo) is (smoke == "failed")


def test_weights_that_the_router_does_not_confirm_are_waited_for() -> None:
    bench = rolling_back()
    bench.ticks(5, route=RouteStatus(False, {"blue": 99.0, "green": 1.0}, "refused"))
    found = bench.way_back()
    assert points(found)["weights"] == "INCONCLUSIVE"
    assert (found.effective, found.ended) == (None, None)


def test_a_release_that_cannot_be_started_again_leaves_the_traffic_where_it_is() -> None:
    bench = Recorded(plan())
    bench.until(Phase.PROMOTED)
    bench.intent("rollback", ready=(0, 1))
    bench.until(Phase.PROMOTED, ready=(0, 1))
    found = bench.way_back()
    assert (found.proof.to, points(found)) == ("v1", {"weights": "FAIL"})
    assert "blue" in found.proof.todo
    assert "green (v2) still serves all traffic" in found.proof.points[0].found


def test_where_no_traffic_had_moved_there_is_nothing_to_prove() -> None:
    bench = Recorded(plan())
    bench.until(Phase.PREPARING)
    bench.intent("abort")
    bench.until(Phase.ROLLED_BACK)
    assert points(bench.way_back()) == {"weights": "PASS"}


def guarded() -> Recorded:
    bench = Recorded(plan(guard={"window": "60s", "alpha": "1%"}, alerts=ALERTS))
    bench.until(Phase.PROMOTED)
    bench.intent("guard")
    return bench


ALERTS = [{"labels": {"severity": "page"}, "then": "rollback"}, {"labels": {"severity": "warn"}, "then": "freeze"}]


def alert(bench: Recorded, kind: str, reason: str) -> None:
    bench.intents += 1
    key = f"f@{bench.now}"
    bench.tick(intents=(Intent(bench.intents, kind, "alertmanager", bench.now, reason=reason, target=key),))


def test_a_guard_that_ends_well() -> None:
    bench = guarded()
    bench.ticks(5)
    running = bench.watch()
    assert (running.outcome, running.ended, running.alerts) == ("INCONCLUSIVE", None, ())
    assert {line.check for line in running.guarded.evidence} == {"errors-slo", "ttft-slo"}
    bench.until(Phase.PROMOTED)
    found = bench.watch()
    assert (found.outcome, found.ended) == ("PASS", bench.now)
    assert found.decision.startswith("nothing spoke against it in the guard's window")
    assert found.guarded.until - found.guarded.since <= 60
    # A rollback later is another matter.
    bench.intent("rollback")
    bench.until(Phase.ROLLED_BACK)
    assert bench.watch() == found
    assert bench.way_back().why == "rolled back to v1 by kim: because"


def test_a_guard_that_an_alert_ends_names_it() -> None:
    bench = guarded()
    alert(bench, "alert-freeze", "Slow: p95 above 2 s")
    assert bench.watch().decision.startswith("alert Slow")
    bench.intent("resume")
    alert(bench, "alert-rollback", "HighErrorRate: 7 % of requests fail")
    bench.until(Phase.ROLLED_BACK)
    found = bench.watch()
    assert (found.outcome, found.decision) == ("FAIL", "alert HighErrorRate: 7 % of requests fail")
    assert [(item.kind, item.text) for item in found.alerts] == [
        ("freeze", "Slow: p95 above 2 s"), ("rollback", "HighErrorRate: 7 % of requests fail"),
    ]  # fmt: skip
    assert all(item.outcome for item in found.alerts)
    assert points(bench.way_back()) == {"weights": "PASS", "answers": "PASS", "errors": "PASS"}


def test_a_guard_that_judges_an_objective_broken() -> None:
    bench = guarded()
    bench.until(Phase.ROLLED_BACK, green=delta(10, 5))
    found = bench.watch()
    assert (found.outcome, found.guarded.release, found.alerts) == ("FAIL", "v2", ())
    assert "errors-slo" in found.decision or "%" in found.decision


def test_an_experiment_from_its_hypothesis_to_its_decision(tmp_path: Path) -> None:
    bench = Recorded(ab())
    bench.until(Phase.STEP)
    before = bench.trial()
    assert (before.users, before.metrics, before.outcome) == ({}, (), "INCONCLUSIVE")
    running = judged(tmp_path, users=90)
    bench.ticks(3, experiment=running)
    assert (bench.trial().outcome, bench.trial().decision) == ("INCONCLUSIVE", running.text)
    bench.until(Phase.ENDED, experiment=judged(tmp_path, users=2000, accept=(0.3, 0.5)))
    found = bench.trial()
    assert found.hypothesis == "shorter answers are accepted more often"
    assert (found.outcome, found.ratio.outcome, found.ratio.planned) == ("PASS", "PASS", 0.5)
    accepted, cost = found.metrics
    assert (accepted.primary, accepted.outcome, accepted.level) == (True, "PASS", 0.95)
    assert accepted.low is not None
    assert accepted.low > 0
    assert (cost.primary, cost.outcome, cost.bound) == (False, "PASS", 0.5)
    assert "better" in found.decision
    assert sum(found.users.values()) == 2000


def test_an_experiment_ended_by_a_guardrail_or_by_wrong_assignment(tmp_path: Path) -> None:
    for options, outcome, ratio, words in (
        ({"cost": (1.0, 3.0)}, "FAIL", "PASS", "guardrail cost"),
        ({"share": 0.7}, "INCONCLUSIVE", "FAIL", "sample ratio"),
    ):
        bench = Recorded(ab())
        bench.until(Phase.STEP)
        bench.until(Phase.ROLLED_BACK, experiment=judged(tmp_path, users=2000, **options))
        found = bench.trial()
        assert (found.outcome, found.ratio.outcome) == (outcome, ratio)
        assert words in found.decision
        assert found.metrics[1].outcome == ("FAIL" if "cost" in options else "PASS")


def report(told: CanaryStory) -> Report:
    subject = Subject(release=sha256(b"v2"), name="v2")
    return Report(kind="canary", name="plan", subject=subject, started=1.0, finished=2.0, tool="servegate", canary=told)


def test_every_view_shows_the_sections(tmp_path: Path) -> None:
    bench = guarded()
    alert(bench, "alert-rollback", "HighErrorRate: <b>7 %</b> fail")
    bench.until(Phase.ROLLED_BACK, blue=delta(10, 5))
    one = bench.told()
    experiment = Recorded(ab())
    experiment.until(Phase.STEP)
    experiment.until(Phase.ROLLED_BACK, experiment=judged(tmp_path, users=2000, cost=(1.0, 3.0)))
    shown = report(CanaryStory(way_back=one.way_back, watch=one.watch, experiment=experiment.trial()))
    assert [part.title for part in sections(shown.canary)] == [
        "Experiment", "Guard of v2 (green)", "Way back to v1 (blue)",
    ]  # fmt: skip
    out = io.StringIO()
    print_report(shown, Console(file=out))
    texts = {"terminal": out.getvalue(), "markdown": report_markdown(shown), "html": document(shown)}
    for view, text in texts.items():
        for words in (
            "shorter answers are accepted more often", "Sample ratio", "accepted (primary", "cost (guardrail",
            "Weights effective", "Old release answers", "Error rate back", "look at what both slots share",
            "NOT PROVEN", "HighErrorRate", "was taken back",
        ):  # fmt: skip
            # Markdown escapes parentheses and hyphens.
            assert words in text.replace("\\", ""), (view, words)
        assert "<b>7" not in text or view == "terminal"
    assert "DO: " in texts["terminal"]
    assert "\x1b" not in texts["terminal"]
