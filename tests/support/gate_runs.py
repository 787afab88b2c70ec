"""Eval reports with the answers behind them, and policies that compare them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from servegate.config import validate
from servegate.contract import sha256
from servegate.gates import Policy, evaluate
from servegate.report.model import Conditions, Interval, Measure, Report, Samples, Subject
from servegate.report.records import EvalRecord
from servegate.report.verdict import CheckResult, Verdict
from servegate.stats.intervals import wilson

NEW, OLD = "sha256:" + "a" * 64, "sha256:" + "b" * 64
DATASET = "sha256:" + "d" * 64
NOW = 1_800_000_000.0


def item_hash(number: int, version: int = 0) -> str:
    return f"sha256:{version * 100_000 + number:064x}"


def answers(scores: Sequence[float | None], **more: Any) -> list[EvalRecord]:
    version, changed = more.pop("version", 0), more.pop("changed", ())
    cluster = more.pop("cluster", lambda number: None)
    return [
        EvalRecord(
            id=f"item-{number}",
            item_sha256=item_hash(number, version if number in changed else 0),
            scorer="exact",
            score=score,
            cluster=cluster(number),
            tags=("even",) if number % 2 == 0 else (),
            **more,
        )
        for number, score in enumerate(scores)
    ]


class Run:
    """An eval report with the answers behind it."""

    def __init__(self, records: list[EvalRecord], release: str, **more: Any) -> None:
        self.records, self.digest = records, sha256(release.encode())
        slices = {"": records, "tags=even": [record for record in records if "even" in record.tags]}
        measures = []
        for name, part in slices.items():
            scored = [record.score for record in part if record.score is not None]
            ends = wilson(round(sum(scored)), len(scored)) if scored else None
            measures.append(
                Measure(
                    name="accuracy",
                    statistic="mean",
                    slice=name,
                    value=sum(scored) / len(scored) if scored else None,
                    unit="fraction",
                    n=len(scored),
                    attempted=len(part),
                    better="higher",
                    interval=Interval(low=ends.low, high=ends.high, level=0.95, method="wilson") if ends else None,
                )
            )
        self.report = Report(
            **{
                "kind": "eval",
                "name": "support",
                "subject": Subject(release=release, name="v2" if release == NEW else "v1"),
                "conditions": Conditions(dataset_sha256=DATASET, temperature=0.0, concurrency=8),
                "started": NOW - 700,
                "finished": NOW - 600,
                "tool": "test",
                "measures": tuple(measures),
                "samples": (Samples(path="r.jsonl", sha256=self.digest, record="EvalRecord", n=len(records)),),
                **more,
            }
        )


def policy(*checks: dict[str, Any], **more: Any) -> Policy:
    data = {"version": 1, "name": "p", "checks": [{"report": "eval", "id": f"c{i}", **c} for i, c in enumerate(checks)]}
    return validate({**data, **more}, Policy, "policy")


def judge(rules: Policy, new: Run, old: Run | None, *, paired: bool = True) -> Verdict:
    runs = [new] if old is None else [new, old]
    return evaluate(
        rules,
        [new.report],
        [] if old is None else [old.report],
        answers={run.digest: run.records for run in runs} if paired else {},
        now=NOW,
        decided_by="test",
    )


def one(keys: dict[str, Any], new: Run, old: Run | None, *, paired: bool = True, **check: Any) -> CheckResult:
    rules = policy({"measure": "accuracy", "baseline": {"margin": "3pp", **keys}, **check})
    return judge(rules, new, old, paired=paired).results[0]


def scores(n: int, lost: int = 0, won: int = 0, right: float = 0.8) -> tuple[list[float | None], list[float | None]]:
    """Scores of n items, baseline first: `lost` only the baseline knew, `won` only the candidate."""
    both: list[float | None] = [1.0 if index % 10 < right * 10 else 0.0 for index in range(n - lost - won)]
    return [1.0] * lost + [0.0] * won + both, [0.0] * lost + [1.0] * won + both


def runs(n: int, lost: int = 0, won: int = 0, **more: Any) -> tuple[Run, Run]:
    before, after = scores(n, lost, won)
    return Run(answers(after), NEW, **more), Run(answers(before), OLD)
