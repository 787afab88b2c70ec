"""The simulation: repeatable, and a sample of what benchmarks/rollout_decisions.py measures over many more runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from decide_bench import Bench

from servegate import cli
from servegate.rollout import fit as fitting
from servegate.rollout.fit import fit, stretched
from servegate.rollout.model import Phase
from servegate.rollout.plan import Plan, load_plan
from servegate.rollout.simulate import Scenario, Side, simulate
from servegate.rollout.traffic import load_traffic

PLAN = Path(__file__).parents[3] / "rollout" / "canary.yaml"


def test_a_run_can_be_repeated_alone() -> None:
    plan = Bench().plan
    scenario = Scenario("errors", candidate=Side(error_rate=0.3))
    first = simulate(plan, scenario, 7)
    assert first == simulate(plan, scenario, 7)
    assert first != simulate(plan, scenario, 8)
    assert first.phase is Phase.ROLLED_BACK
    assert 0 < first.failures < first.requests
    assert first.weight == 10


def test_broken_candidates_are_caught_at_ten_percent_and_healthy_ones_are_promoted() -> None:
    plan = Bench().plan
    healthy = Side()
    for seed in range(3):
        fine = simulate(plan, Scenario("healthy", healthy, healthy), seed)
        assert (fine.phase, fine.decided) == (Phase.PROMOTED, None)
        assert fine.seconds <= 100
        for broken in (replace(healthy, ttft_median=2 * healthy.ttft_median), replace(healthy, error_rate=0.3)):
            run = simulate(plan, Scenario("broken", healthy, broken), seed)
            assert run.phase is Phase.ROLLED_BACK
            assert run.decided is not None
            assert run.decided - run.weights_at[10.0] <= 60
            assert run.weight == 10


def test_a_burst_and_a_death_in_the_simulation() -> None:
    plan = Bench().plan
    healthy = Side()
    burst = Scenario("burst", healthy, replace(healthy, burst_at=0.0), burst_anywhere=60.0)
    assert simulate(plan, burst, 1).phase is Phase.PROMOTED
    dead = simulate(plan, Scenario("dies", healthy, replace(healthy, dies_at=30.0)), 1)
    assert dead.phase is Phase.ROLLED_BACK
    assert dead.cause == "unready"
    assert dead.decided is not None
    assert 30 <= dead.decided <= 34  # the tests' plan lets it be unready for 2 s


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main(["rollout", "simulate", *arguments])
    told = capsys.readouterr()
    return int(ended.value.code or 0), told.out, told.err


TRAFFIC = """\
requests_per_second: 30
diurnal: {busy_over_quiet: 2}
errors: 0.1%
gpus_per_replica: 4
regressions:
  - {name: errors, errors: 40%}
  - {name: half is slow, ttft: 5, pods: 50%}
"""


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    traffic, plot = tmp_path / "traffic.yaml", tmp_path / "plot.svg"
    traffic.write_text(TRAFFIC)
    options = (str(PLAN), "--traffic", str(traffic), "--runs", "2", "--jobs", "1")
    code, out, _ = run(capsys, *options, "--plot", str(plot))
    assert code == 0
    assert "2 rollouts of each kind at 30 requests/s" in out
    assert [line.split("  ")[0] for line in out.splitlines()[2:5]] == ["healthy", "errors", "half is slow"]
    assert "promises at most 1.0%" in out
    assert "<svg" in plot.read_text()
    document = json.loads(run(capsys, *options, "--json")[1])
    healthy, errors, _ = document["scenarios"]
    assert (healthy["rolled_back"], healthy["promoted"], errors["rolled_back"]) == (0, 1, 1)
    assert errors["detect_median"] < healthy["seconds_median"]
    assert healthy["gpu_hours_median"] == pytest.approx(4 * healthy["seconds_median"] / 3600)
    assert json.loads(run(capsys, *options, "--json")[1]) == document


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ("regressions: [{name: x}]", "nothing is worse"),
        ("regressions: [{name: healthy, errors: 1%}]", "two regressions are called 'healthy'"),
        ("ttft: {median: 0.1}", "duration with its unit"),
        ("erors: 1%", "did you mean 'errors'"),
    ],
)
def test_a_wrong_traffic_file(tmp_path: Path, capsys: pytest.CaptureFixture[str], rules: str, said: str) -> None:
    traffic = tmp_path / "traffic.yaml"
    traffic.write_text(rules + "\n")
    code, _, err = run(capsys, str(PLAN), "--traffic", str(traffic))
    assert (code, said in err, "traffic.yaml:1" in err) == (2, True, True)


def test_a_plot_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, str(PLAN), "--plot", str(tmp_path / "plot.gif"))
    assert (code, ".svg" in err) == (2, True)


def test_how_long_steps_must_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "FACTORS", (1.0, 1.5))
    traffic = tmp_path / "traffic.yaml"
    traffic.write_text("regressions:\n  - {name: errors, errors: 60%}\n  - {name: inside, errors: 0.1%}\n")
    document = fit(load_plan(PLAN), load_traffic(traffic), runs=2, jobs=1)
    healthy, errors, inside = document.needs
    assert (healthy.factor, errors.factor, inside.factor) == (1, 1, None)
    assert document.factor == 1
    assert [step[:2] for step in document.steps] == [(step.weight, step.min_time) for step in load_plan(PLAN).steps]
    longer = stretched(load_plan(PLAN), [3.0] * 4)
    assert longer is not None
    assert [step.min_time for step in longer.steps] == [24, 120, 48, 42, 5]
    assert stretched(load_plan(PLAN), [30.0] * 4) is None  # beyond limits.step


def test_each_step_is_as_long_as_it_must_be_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two regressions, each found when its own step is long enough; a third that never is."""
    plan = load_plan(PLAN)
    usual = [step.min_time for step in plan.steps]
    needs = {"first": (1, 3.0), "second": (2, 1.5), "easy": (0, 1.0), "never": (0, 99.0), "healthy": (0, 1.0)}
    tried: list[tuple[float, ...]] = []

    def share(_pool: Any, longer: Plan, case: Scenario, *_: Any) -> float:
        factors = tuple(step.min_time / before for step, before in zip(longer.steps, usual, strict=True))
        tried.append(factors)
        index, factor = needs[case.name]
        return 1.0 if factors[index] >= factor - 1e-9 else 0.5

    monkeypatch.setattr(fitting, "_share", share)
    traffic = tmp_path / "traffic.yaml"
    names = [name for name in needs if name != "healthy"]
    traffic.write_text("regressions:\n" + "".join(f"  - {{name: {name}, errors: 5%}}\n" for name in names))
    found = fit(plan, load_traffic(traffic), runs=1, jobs=1)
    assert found.factor == 3.0
    assert [needed / now for _, now, needed in found.steps] == pytest.approx([1, 3, 1.5, 1, 1])
    assert {need.name: need.factor for need in found.needs} == {
        "healthy": 3.0, "first": 3.0, "second": 1.5, "easy": 1.0, "never": None,
    }  # fmt: skip
    assert all(min(factors) >= 1 - 1e-9 for factors in tried)  # no step is ever shorter than it was
    assert all(needed >= now for _, now, needed in found.steps)
