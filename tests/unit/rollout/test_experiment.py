"""Experiments: planned beforehand, judged by rules, ended by themselves; and shadows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from decide_bench import Bench, delta, plan
from experiments import EXPERIMENT, ab, experiment, judged, write_events
from rollout_world import GOOD, RULES, STABLE, World

from servegate.config import validate
from servegate.errors import ConfigError, InfrastructureError
from servegate.pipeline import events
from servegate.pipeline.events import Looking, read_csv
from servegate.rollout.experiment import Arms, ExperimentSeen, judge
from servegate.rollout.model import Arrange, CompareOutputs, OutputsSeen, Phase, ScaleSlot
from servegate.rollout.plan import Plan
from servegate.rollout.plan_experiment import CounterEvents
from servegate.rollout.ports import Arrangement, RouteStatus, Sticky, Weights

P = Phase


def test_the_users_needed_are_known_beforehand() -> None:
    fixed, sequential = experiment(horizon="fixed").users(0.5), experiment().users(0.5)
    assert 700 < fixed < 900
    assert fixed < sequential < 3 * fixed
    assert experiment().users(0.1) > 2 * sequential


def test_a_difference_is_found_with_its_interval_before_the_end(tmp_path: Path) -> None:
    seen = judged(tmp_path, users=1200, accept=(0.4, 0.6))
    assert seen.outcome == "better"
    (primary, cost) = seen.effects
    assert primary.low is not None
    assert primary.high is not None
    assert 0 < primary.low < 0.2 < primary.high
    assert cost.metric == "cost"
    assert "accepted: 0.4" in seen.text
    assert "better" in seen.text


def test_a_worse_candidate_is_called_worse(tmp_path: Path) -> None:
    assert judged(tmp_path, users=1200, accept=(0.6, 0.4)).outcome == "worse"


def test_no_difference_ends_at_the_planned_users_and_not_before(tmp_path: Path) -> None:
    wanted = experiment().users(0.5)
    assert judged(tmp_path, users=wanted // 2).outcome == "running"
    assert judged(tmp_path, users=wanted + 1).outcome == "no difference shown"


def test_a_fixed_horizon_is_not_looked_at_before_its_end(tmp_path: Path) -> None:
    rules = experiment(horizon="fixed")
    early = judged(tmp_path, rules, users=400, accept=(0.2, 0.9))
    assert early.outcome == "running"
    assert "accepted" not in {item.metric for item in early.effects}
    assert "not looked at before the planned end" in early.text
    assert judged(tmp_path, rules, users=rules.users(0.5) + 1, accept=(0.2, 0.9)).outcome == "better"


def test_a_guardrail_ends_it_with_its_name(tmp_path: Path) -> None:
    seen = judged(tmp_path, users=1500, accept=(0.4, 0.6), cost=(1.0, 3.0))
    assert (seen.harm_by, seen.outcome) == ("guardrail", "running")
    assert "guardrail cost" in seen.harm
    assert judged(tmp_path, users=1500, cost=(1.0, 1.2)).harm == ""


def test_users_who_are_lost_or_wander_make_it_worthless(tmp_path: Path) -> None:
    seen = judged(tmp_path, users=1000, share=0.4)
    assert seen.harm_by == "assignment"
    assert "sample ratio: " in seen.harm
    file = write_events(tmp_path / "events.csv", users=400)
    with file.open("a") as stream:
        for user in range(20):
            stream.writelines(f"u{user},{slot},exposure,1\n" for slot in ("blue", "green"))
    wandering = judge(experiment(), read_csv(experiment(), file), "blue", "green", 0.5)
    assert wandering.harm_by == "assignment"
    assert "were seen in both slots" in wandering.harm


def test_too_few_users_have_no_interval(tmp_path: Path) -> None:
    seen = judged(tmp_path, users=60)
    assert seen.outcome == "running"
    assert all(item.low is None for item in seen.effects)
    assert judge(experiment(), Arms(arms={}), "blue", "green", 0.5).outcome == "running"


# --- events -----------------------------------------------------------------------------------------------------------


def test_kinds_of_metrics_and_users_without_exposure(tmp_path: Path) -> None:
    rules = experiment(
        primary={
            "name": "rating", "event": "stars", "kind": "mean", "better": "higher", "baseline": 3, "deviation": 1,
            "effect": 0.5,
        }
    )  # fmt: skip
    file = tmp_path / "e.csv"
    file.write_text(
        "value,event,slot,user,more\n"
        "1,exposure,blue,a,\n4,stars,blue,a,\n2,stars,blue,a,\n"
        ",exposure,green,b,\n,exposure,green,c,\n5,stars,green,c,\n"
        "5,stars,green,nobody,\n9,other,green,c,\n"
        "5,stars,green,c"  # still being written
    )
    arms = read_csv(rules, file).arms
    assert (arms["blue"].users, arms["green"].users) == (1, 2)
    assert (arms["blue"].sums["rating"], arms["green"].counts["rating"]) == (3.0, 1)
    assert arms["green"].sums["cost"] == 0.0


def test_what_happened_before_the_experiment_does_not_count(tmp_path: Path) -> None:
    file = tmp_path / "e.csv"
    file.write_text("user,slot,event,value,at\na,blue,exposure,1,99.5\nb,blue,exposure,1,100\nc,green,exposure,1,101\n")
    arms = read_csv(experiment(), file, since=100.0).arms
    assert (arms["blue"].users, arms["green"].users) == (1, 1)
    assert read_csv(experiment(), file).arms["blue"].users == 2
    file.write_text("user,slot,event,value,at\na,blue,exposure,1,noon\n")
    with pytest.raises(ConfigError, match=":2: not an event"):
        read_csv(experiment(), file)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no column 'user'"),
        ("user,slot,event\n", "no column 'value'"),
        ("user,slot,event,value\na,blue,exposure,1\nb,blue\n", ":3: not an event"),
        ("user,slot,event,value\na,blue,cost,nan\n", ":2: not an event"),
        ("user,slot,event,value\n,blue,cost,1\n", ":2: not an event"),
    ],
)
def test_what_is_no_event_is_named_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "e.csv"
    file.write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_csv(experiment(), file)
    with pytest.raises(InfrastructureError, match="cannot be read"):
        read_csv(experiment(), tmp_path / "none.csv")


def test_counters_per_slot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[str] = []
    answers = {"t": {"blue": "1000", "green": "1010.4"}, "s": {"blue": "400", "green": "600"}}

    class Api:
        def __init__(self, config: object) -> None:
            assert config == "config"

        def instant(self, query: str, at: float) -> list[dict[str, Any]]:
            asked.append(query)
            return [{"metric": {"slot": s}, "value": [at, v]} for s, v in answers[query[0]].items()]

        def close(self) -> None:
            asked.append("closed")

    monkeypatch.setattr("servegate.rollout.sources.prometheus_api.PrometheusApi", Api)
    monkeypatch.setattr(events, "load", lambda *_: "config")
    rules = experiment(
        guardrails=[], events={"prometheus": "p.yaml", "trials": "t[{window}]", "successes": "s[{window}]"}
    )
    assert isinstance(rules.events, CounterEvents)
    arms = events.read_counters(rules, rules.events, 90.4, 5.0)
    assert asked == ["t[90s]", "s[90s]", "closed"]
    assert arms.arms["green"].users == 1010
    assert judge(rules, arms, "blue", "green", 0.5).outcome == "better"
    answers["t"] = {"": "5"}
    with pytest.raises(InfrastructureError, match="without the label slot"):
        events.read_counters(rules, rules.events, 90.4, 5.0)


# --- plans ------------------------------------------------------------------------------------------------------------


def shadow(**changes: Any) -> Plan:
    return plan(
        **{
            "strategy": "shadow",
            "steps": [{"weight": "0%", "min_time": "20s", "min_requests": 100}],
            "shadow": {"mirror": "50%"},
            "checks": [],
            **changes,
        }
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sticky": None}, "strategy ab needs sticky"),
        ({"strategy": "canary"}, "is for strategy ab|has one step|last step"),
        ({"steps": [{"weight": "100%", "min_time": "60s"}]}, "both arms"),
        ({"checks": []}, "at least one"),
        ({"experiment": {**EXPERIMENT, "hypothesis": "better"}}, "at least 10"),
        (
            {"experiment": {**EXPERIMENT, "primary": {**EXPERIMENT["primary"], "kind": "total"}}},
            "deviation is required",
        ),
        ({"experiment": {**EXPERIMENT, "primary": {**EXPERIMENT["primary"], "effect": 0.7}}}, "above 0 and below 1"),
        ({"experiment": {**EXPERIMENT, "primary": {**EXPERIMENT["primary"], "name": "cost"}}}, "two metrics"),
        (
            {"experiment": {**EXPERIMENT, "events": {"prometheus": "p", "trials": "t", "successes": "s"}}},
            "use csv",
        ),
    ],
)
def test_experiments_that_could_show_nothing_are_refused(changes: Any, words: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=words):
        ab(**changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shadow": None}, "strategy shadow needs shadow"),
        ({"shadow": {"mirror": "0%"}}, "above 0%"),
        ({"steps": [{"weight": "5%", "min_time": "60s"}]}, "weight 0%"),
        ({"checks": [{"kind": "errors-slo", "name": "s", "share": "100%", "at_most": "2%"}]}, "leave checks out"),
    ],
)
def test_shadows_that_are_none_are_refused(changes: Any, words: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=words):
        shadow(**changes)


# --- on the way -------------------------------------------------------------------------------------------------------


def seen(outcome: str = "running", harm: str = "", by: str = "") -> ExperimentSeen:
    return ExperimentSeen(
        users={"blue": 5, "green": 5}, wanted=10, outcome=outcome, harm=harm, harm_by=by, text=f"accepted {outcome}"
    )  # fmt: skip


def test_an_experiment_keeps_its_split_until_it_is_over_and_ends_on_stable() -> None:
    bench = Bench(ab())
    bench.until(P.STEP, 0)
    bench.tick(route=RouteStatus(True, dict(bench.served), arrangement=Arrangement()))
    assert bench.did(Arrange)[0].arrangement.sticky == Sticky("cookie", "arm", "r")
    bench.ticks(100, experiment=seen())
    bench.expect(P.STEP)
    assert bench.state.waiting == "the experiment: accepted running"
    bench.until(P.ENDED, limit=10, experiment=seen("better"))
    assert bench.served == {"blue": 100.0, "green": 0.0}
    assert bench.state.reason == "experiment over: accepted better"
    assert bench.did(ScaleSlot) == [ScaleSlot(slot="green", replicas=0)]
    bench.tick(
        route=RouteStatus(True, dict(bench.served), arrangement=Arrangement(sticky=Sticky("cookie", "arm", "r")))
    )
    assert bench.did(Arrange)[0].arrangement == Arrangement()


def test_an_experiment_that_does_harm_and_a_release_that_breaks_go_back() -> None:
    bench = Bench(ab())
    bench.until(P.STEP, 0)
    bench.tick(experiment=seen(harm="guardrail cost is worse", by="guardrail"))
    bench.expect(P.ROLLING_BACK)
    bench.until(P.ROLLED_BACK, limit=5)
    assert bench.state.cause == "guardrail"
    broken = Bench(ab())
    broken.until(P.STEP, 0)
    broken.until(P.ROLLING_BACK, limit=60, green=delta(20, 10), experiment=seen())
    assert broken.state.cause == "slo"


def copies(requests: float = 5, failures: float = 0) -> Any:
    """The candidate's tick under copies: the gateway counts nothing, the engine does."""
    return delta(requests, counters={"gateway_requests": 0, "http_requests": requests, "http_5xx": failures})


def test_a_shadow_compares_and_leaves_every_user_where_they_were() -> None:
    bench = Bench(shadow(shadow={"mirror": "50%", "outputs": {"prompts": "p.jsonl"}}))
    bench.until(P.STEP, 0)
    bench.tick(green=copies(), route=RouteStatus(True, dict(bench.served), arrangement=Arrangement()))
    assert bench.did(Arrange)[0].arrangement == Arrangement(mirror={"green": 50.0})
    assert bench.did(CompareOutputs)
    bench.ticks(60, green=copies(5, 1))
    bench.expect(P.STEP)
    assert bench.state.waiting == "answers of both slots to the same prompts"
    outputs = OutputsSeen(asked=20, same=18, similarity=0.97)
    bench.until(P.ENDED, limit=5, green=copies(), outputs=outputs)
    assert {d.state.weights["green"] for d in bench.decisions} == {0.0}
    for words in (
        "shadow over, 50 % copied",
        "60 failed",
        "slower in 50 % of comparisons",
        "18 of 20 answers are the same",
    ):
        assert words in bench.state.reason


def test_a_shadow_whose_candidate_dies_ends() -> None:
    bench = Bench(shadow())
    bench.until(P.STEP, 0)
    bench.tick(ready=(1, 0), failed="out of memory")
    bench.until(P.ROLLED_BACK, limit=3, ready=(1, 0))


def test_a_router_that_knows_only_weights_is_refused(tmp_path: Path) -> None:
    world = World(tmp_path)
    rules = {**RULES, "strategy": "shadow", "steps": [{"weight": "0%", "min_time": "5s"}], "checks": []}
    controller = world.controller(plan=validate({**rules, "shadow": {"mirror": "50%"}}, Plan, "p"))
    with pytest.raises(ConfigError, match="knows only weights"):
        controller.start(GOOD, STABLE)
    world.store.close()


def test_a_router_that_cannot_keep_users_where_they_are_is_refused(tmp_path: Path) -> None:
    class Copying:
        sticky_by = frozenset({"header"})

        def arrange(self, arrangement: Arrangement, epoch: int) -> None:
            raise AssertionError("nothing has begun")

        def read(self) -> Weights:
            raise AssertionError("nothing has begun")

        def verify(self) -> RouteStatus:
            return RouteStatus(False, {})

        def write(self, weights: Weights, epoch: int) -> None:
            raise AssertionError("nothing has begun")

    world = World(tmp_path)
    controller = world.controller(plan=ab())
    controller.router = Copying()
    with pytest.raises(ConfigError, match="the router here cannot keep users by cookie"):
        controller.start(GOOD, STABLE)
    world.store.close()


def test_events_are_read_beside_the_loop_and_trouble_is_told_once(tmp_path: Path) -> None:
    told: list[str] = []
    now = [0.0]
    rules = ab(experiment={**EXPERIMENT, "events": {"csv": str(tmp_path / "events.csv")}})
    looking = Looking(rules, lambda level, message: told.append(message), clock=lambda: now[0])
    bench = Bench(rules)
    assert looking(bench.state) is None
    bench.until(P.STEP, 0)

    def look() -> ExperimentSeen | None:
        now[0] += 60
        looking(bench.state)
        if looking._future is not None:
            looking._future.exception(timeout=10)
        return looking(bench.state)

    assert look() is None
    assert look() is None
    assert len(told) == 1
    assert "cannot be read" in told[0]
    write_events(tmp_path / "events.csv", users=100)
    found = look()
    assert found is not None
    assert sum(found.users.values()) == 100
    looking.close()
