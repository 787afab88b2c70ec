"""A run is extended while the gate cannot tell, and no longer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from servegate.config import validate
from servegate.contract import sha256
from servegate.gates import Policy, evaluate
from servegate.pipeline.extend import until_decided
from servegate.report.model import Measure, Report, Samples, Subject
from servegate.report.records import EvalRecord
from servegate.report.verdict import Outcome, Verdict


def answers(n: int, lost: float, seed: int) -> list[EvalRecord]:
    """Every fourth of 800 items is tagged; a share is wrong, by item, so that more answers keep the first ones."""
    wrong = np.random.default_rng(seed).random(800) < lost
    return [
        EvalRecord(
            id=f"i{index}",
            item_sha256=f"sha256:{index:064x}",
            scorer="exact",
            score=float(not wrong[index]),
            tags=("rare",) if index % 4 == 0 else (),
        )
        for index in range(n)
    ]


def report(records: list[EvalRecord], release: str) -> Report:
    def measure(slice_: str, part: list[EvalRecord]) -> Measure:
        value = math.fsum(record.score or 0 for record in part) / len(part)
        return Measure(
            name="accuracy", statistic="mean", slice=slice_, value=value, unit="fraction", n=len(part),
            attempted=len(part), better="higher",
        )  # fmt: skip

    rare = [record for record in records if record.tags]
    return Report(
        kind="eval",
        name="support",
        subject=Subject(release="sha256:" + release * 64),
        started=0,
        finished=len(records),
        tool="t",
        measures=(measure("", records), measure("tags=rare", rare)),
        samples=(
            Samples(path="r", sha256=sha256(f"{release}{len(records)}".encode()), record="EvalRecord", n=len(records)),
        ),
    )


class Producer:
    """Answers as many as it is asked for, and remembers how many that were."""

    def __init__(self, lost: float, **check: Any) -> None:
        self.lost, self.asked = lost, [100]
        baseline = {"margin": "6pp", "looks": [100, 200, 400, 800]}
        checks = [{"id": "c", "report": "eval", "measure": "accuracy", "baseline": baseline, **check}]
        checks += [{"id": "d", "report": "eval", "expect": "accuracy >= 20%"}]
        self.policy = validate({"version": 1, "name": "p", "checks": checks}, Policy, "p")
        self.known = answers(800, 0.1, seed=1)
        self.old = report(self.known, "b")

    def ask(self, wanted: int) -> Report:
        self.asked.append(wanted)
        return report(answers(wanted, self.lost, seed=2), "a")

    def judge(self, new: Report) -> Verdict:
        records = {
            self.old.samples[0].sha256: self.known,
            new.samples[0].sha256: answers(new.samples[0].n, self.lost, seed=2),
        }
        return evaluate(self.policy, [new], [self.old], answers=records)

    def run(self) -> tuple[Report, Verdict]:
        return until_decided(report(answers(100, self.lost, seed=2), "a"), self.judge, self.ask)


def test_an_unchanged_model_is_asked_until_it_passes() -> None:
    producer = Producer(0.1)
    judged, verdict = producer.run()
    assert verdict.outcome is Outcome.PASS
    assert 1 < len(producer.asked) <= 4
    assert producer.asked == [100, 200, 400, 800][: len(producer.asked)]
    assert judged.samples[0].n == producer.asked[-1]


def test_a_broken_model_is_not_asked_long() -> None:
    producer = Producer(0.6)
    assert producer.run()[1].outcome is Outcome.FAIL
    assert producer.asked == [100]


@pytest.mark.parametrize(("then", "outcome"), [("fail", Outcome.FAIL), ("pass", Outcome.PASS)])
def test_at_the_last_look_the_policy_decides(then: str, outcome: Outcome) -> None:
    producer = Producer(0.155, on_inconclusive=then)
    _, verdict = producer.run()
    assert producer.asked == [100, 200, 400, 800]
    assert verdict.results[0].outcome is Outcome.INCONCLUSIVE
    assert verdict.outcome is outcome


def test_the_whole_grows_with_what_a_slice_asks_for() -> None:
    producer = Producer(0.1, slice={"tags": "rare"}, baseline={"margin": "12pp", "looks": [25, 50, 100, 200]})
    producer.run()
    assert producer.asked == [100, 200, 400, 800][: len(producer.asked)]
    assert len(producer.asked) > 1
