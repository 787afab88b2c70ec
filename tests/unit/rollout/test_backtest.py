"""The backtest: arrays say what the running rollout's deltas say, and false rollbacks are told with their reason."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from fake_prometheus import FakePrometheus

from servegate import cli
from servegate.config import validate
from servegate.errors import ConfigError
from servegate.rollout import backtest as backtesting
from servegate.rollout import recorded
from servegate.rollout.backtest import backtest
from servegate.rollout.deltas import between
from servegate.rollout.model import Phase
from servegate.rollout.plan import Plan
from servegate.rollout.ports import Histogram, Observed, PodSample
from servegate.rollout.sources.prometheus_config import PrometheusConfig

START = 1_700_000_000.0
EDGES = (0.1, 0.25, 0.5, 1.0)
CONFIG = PrometheusConfig(url="http://saved")
RULES: dict[str, Any] = {
    "version": 1,
    "name": "short",
    "tick": "5s",
    "expect": {"requests_per_second": 10},
    "alpha": "1%",
    "steps": [
        {"weight": "20%", "min_time": "2min"},
        {"weight": "50%", "min_time": "2min"},
        {"weight": "100%", "min_time": "30s"},
    ],
    "checks": [
        {"kind": "errors-vs-stable", "name": "errors", "share": "50%", "interval": "5s"},
        {"kind": "errors-slo", "name": "slo", "share": "50%", "interval": "5s", "at_most": "3%"},
    ],
    "watchdogs": {"no_data": "1min"},
    "warmup_requests": 0,
}
PLAN = validate(RULES, Plan, "plan")


class Service:
    """Invented counters of some processes, scraped every few seconds."""

    def __init__(
        self, seed: int, pods: dict[str, float], seconds: float, every: float = 5.0, rate: float = 5.0
    ) -> None:
        rng = np.random.default_rng(seed)
        self.observed: list[Observed] = []
        self.rows: dict[tuple[tuple[str, str], ...], list[list[Any]]] = {}
        self.totals = {pod: {"2xx": 0, "5xx": 0, **dict.fromkeys(EDGES, 0), math.inf: 0} for pod in pods}
        self.started = dict.fromkeys(pods, START - 100)
        for at in np.arange(START, START + seconds, every):
            samples = []
            for pod, failing in pods.items():
                if rng.random() < 0.01:  # starts anew
                    self.totals[pod] = {"2xx": 0, "5xx": 0, **dict.fromkeys(EDGES, 0), math.inf: 0}
                    self.started[pod] = float(at) - 1
                total, n = self.totals[pod], int(rng.poisson(rate * every))
                bad = int(rng.binomial(n, failing))
                total["2xx"], total["5xx"] = total["2xx"] + n - bad, total["5xx"] + bad
                times = rng.lognormal(math.log(0.2), 0.5, n - bad)
                for edge in (*EDGES, math.inf):
                    total[edge] += int((times <= edge).sum())
                samples.append(self._sample(pod, float(at)))
            self.observed.append(Observed(float(at), tuple(samples)))

    def _sample(self, pod: str, at: float) -> PodSample:
        total, name = self.totals[pod], "vllm:time_to_first_token_seconds"
        for status in ("2xx", "5xx"):
            self._add(at, total[status], "http_requests_total", pod, handler="/v1/chat/completions", status=status)
        for edge in (*EDGES, math.inf):
            self._add(at, total[edge], f"{name}_bucket", pod, le="+Inf" if edge == math.inf else str(edge))
        self._add(at, self.started[pod], "process_start_time_seconds", pod)
        requests = float(total["2xx"] + total["5xx"])
        return PodSample(
            pod, "blue", at, {"http_requests": requests, "http_5xx": float(total["5xx"]), "http_4xx": 0.0},
            {"ttft": Histogram((*EDGES, math.inf), tuple(float(total[edge]) for edge in (*EDGES, math.inf)), 0.0)},
            started=self.started[pod],
        )  # fmt: skip

    def _add(self, at: float, value: float, name: str, pod: str, **labels: str) -> None:
        key = tuple(sorted({"__name__": name, "instance": pod, **labels}.items()))
        self.rows.setdefault(key, []).append([at, str(value)])

    @property
    def matrix(self) -> list[dict[str, Any]]:
        return [{"metric": dict(key), "values": values} for key, values in self.rows.items()]


def test_the_arrays_say_what_the_deltas_of_a_running_rollout_say() -> None:
    for seed in range(3):
        service = Service(seed, {"a": 0.05}, 1500)
        recording = recorded.recording(service.matrix, CONFIG, 5.0)
        readings, wanted = None, []
        for observed in service.observed:
            found, readings = between(readings, observed)
            wanted.append(found["blue"])
        table, columns = recording.pods["a"], recording.columns
        assert recording.ticks == len(wanted) - 1
        for row, delta in zip(table, wanted[1:], strict=True):
            for name in ("http_requests", "http_5xx"):
                assert row[columns.counters.index(name)] == delta.counters[name]
            edges, first = columns.histograms["ttft"]
            assert tuple(row[first : first + len(edges) + 1]) == delta.histograms["ttft"].counts


def test_a_quiet_day_has_no_rollbacks_and_a_sick_process_has(monkeypatch: pytest.MonkeyPatch) -> None:
    day = recorded.recording(Service(1, dict.fromkeys("abc", 0.002), 5400).matrix, CONFIG, 5.0)
    found = backtest(PLAN, day)
    assert len(found.rollouts) > 12
    assert found.rolled_back == ()
    assert {past.candidate for past in found.rollouts} == set("abc")
    assert found == backtest(PLAN, day)
    # Parts of a long day are independent: the same whoever computes them, and all of it is used.
    monkeypatch.setattr(backtesting, "PART", 1800.0)
    parts = backtest(PLAN, day, jobs=1)
    assert parts == backtest(PLAN, day, jobs=2)
    assert len(parts.rollouts) >= len(found.rollouts) - 3
    assert parts.rollouts[-1].began > day.start + 3600
    sick = recorded.recording(Service(1, {"a": 0.002, "b": 0.002, "c": 0.2}, 3600).matrix, CONFIG, 5.0)
    found = backtest(PLAN, sick)
    assert found.rolled_back
    assert {past.candidate for past in found.rolled_back} == {"c"}
    assert all(past.phase is Phase.ROLLED_BACK and past.cause in ("errors", "slo") for past in found.rolled_back)
    assert found.share is not None
    assert found.share[1] > PLAN.alpha


def test_one_process_is_dealt_out_by_lot() -> None:
    found = backtest(PLAN, recorded.recording(Service(2, {"a": 0.01}, 3600, rate=10).matrix, CONFIG, 5.0))
    assert found.by_lot
    assert [past.candidate for past in found.rollouts][:1] == [""]
    weights = [past.requests for past in found.rollouts if past.phase is Phase.PROMOTED]
    # 20 % of ten a second for two minutes, then 50 % for two minutes, then all for half a minute.
    assert np.mean(weights) == pytest.approx(240 + 600 + 300, rel=0.15)


def test_a_scrape_interval_longer_than_the_tick() -> None:
    recording = recorded.recording(Service(3, {"a": 0.0, "b": 0.0}, 3600, every=15.0).matrix, CONFIG, 5.0)
    assert recording.scraped["a"].mean() == pytest.approx(1 / 3, abs=0.01)
    assert {past.phase for past in backtest(PLAN, recording).rollouts} == {Phase.PROMOTED}


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main(["rollout", "backtest", *arguments])
    told = capsys.readouterr()
    return int(ended.value.code or 0), told.out, told.err


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(RULES))
    return path


def test_the_command_with_saved_answers(tmp_path: Path, plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = tmp_path / "day.json.gz"
    recorded.save(saved, Service(1, {"a": 0.002, "b": 0.3}, 3600).matrix)
    code, out, _ = run(capsys, str(plan), "--data", str(saved))
    assert code == 1
    assert "NOT KEPT" in out
    assert "b played the candidate: green" in out
    code, out, _ = run(capsys, str(plan), "--data", str(saved), "--json")
    assert (code, json.loads(out)["by_lot"]) == (1, False)
    short = tmp_path / "short.json"
    recorded.save(short, Service(1, {"a": 0.0}, 60).matrix)
    code, out, _ = run(capsys, str(plan), "--data", str(short))
    assert code == 3
    assert "no rollout came to its end" in out


def test_the_command_with_a_prometheus(tmp_path: Path, plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakePrometheus()
    for row in Service(1, {"a": 0.0, "b": 0.0}, 3600).matrix:
        for at, value in row["values"]:
            fake.add(
                at, row["metric"]["__name__"], value, **{k: v for k, v in row["metric"].items() if k != "__name__"}
            )
    fake.start()
    try:
        config = tmp_path / "prometheus.yaml"
        config.write_text(f"url: {fake.url}\n")
        saved = tmp_path / "kept.json"
        until = "2023-11-14T23:13:20+00:00"
        options = ("--prometheus", str(config), "--hours", "1", "--until", until, "--save", str(saved))
        code, out, _ = run(capsys, str(plan), *options)
        assert code == 0
        assert "rolled back  0" in out
        # What was kept gives the same answer.
        assert run(capsys, str(plan), "--data", str(saved))[1] == out
    finally:
        fake.stop()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[1]", "not an answer of Prometheus"),
        ("{", "not an answer of Prometheus"),
        ('{"data": {"result": []}}', "no engine in the data"),
        ('[{"metric": {"__name__": "http_requests_total", "instance": "a"}, "values": [[1, "x"]]}]', "is no number"),
    ],
)
def test_bad_data_is_refused_by_name(
    tmp_path: Path, plan: Path, capsys: pytest.CaptureFixture[str], content: str, said: str
) -> None:
    path = tmp_path / "data.json"
    path.write_text(content)
    code, _, err = run(capsys, str(plan), "--data", str(path))
    assert (code, said in err) == (2, True)


def test_wrong_use(tmp_path: Path, plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, str(plan))[0] == 2
    assert run(capsys, str(plan), "--data", str(tmp_path / "none.json"))[0] == 2
    config = tmp_path / "prometheus.yaml"
    config.write_text("url: http://127.0.0.1:9\n")
    code, _, err = run(capsys, str(plan), "--prometheus", str(config), "--until", "yesterday")
    assert (code, "not a time" in err) == (2, True)
    assert run(capsys, str(plan), "--prometheus", str(config), "--hours", "1")[0] == 4
    with pytest.raises(ConfigError, match="ticks of 1 s"):
        backtest(PLAN, recorded.recording(Service(1, {"a": 0.0}, 60).matrix, CONFIG, 1.0))
