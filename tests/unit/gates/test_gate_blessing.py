"""Blessed baselines: who may become one, what is kept, what a killed call leaves, and that plans use the noise."""

from __future__ import annotations

import errno
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from servegate import contract
from servegate.config import validate
from servegate.endpoint import EndpointFacts
from servegate.errors import ConfigError, InfrastructureError
from servegate.gates import Policy, baseline_files
from servegate.gates.baseline import Blessing
from servegate.gates.files import decide, foresee
from servegate.gates.noise import of_repeats
from servegate.gates.plan import plan
from servegate.report.model import Conditions, Finding, Interval, Measure, Report, Samples, Subject
from servegate.report.records import EvalRecord, write_records
from servegate.report.verdict import Outcome
from servegate.stats.intervals import wilson

OLD, NEW = "sha256:" + "a" * 64, "sha256:" + "b" * 64
NOW = 2_000_000.0
POLICY = """
version: 1
name: p
checks:
- {id: c, report: eval, measure: accuracy, baseline: {margin: 3pp, younger_than: 30d, allow: [engine_version]}}
"""


def run(
    folder: Path,
    scores: list[float],
    *,
    release: str = OLD,
    finished: float = NOW - 3600,
    repeats: int = 1,
    version: str = "0.32.0",
    model: str = "support",
    conditions: dict[str, Any] | None = None,
    **more: Any,
) -> Path:
    """A report of `scores` with its answers; item i has the scores i·repeats … of its repeats."""
    records = [
        EvalRecord(
            id=f"item-{index // repeats}",
            repeat=index % repeats,
            item_sha256="sha256:" + f"{index // repeats:064x}",
            scorer="exact",
            score=score,
        )
        for index, score in enumerate(scores)
    ]
    digest = write_records(folder / "records.jsonl", records)
    right, n = sum(scores), len(scores)
    found = wilson(round(right), n)
    Report(
        **{
            "kind": "eval",
            "name": "support",
            "subject": Subject(release=release, name=release[7:9], endpoint=EndpointFacts(
                url="http://x", model=model, version=version)),
            "conditions": Conditions(**({"temperature": 0.0, "concurrency": 8} | (conditions or {}))),
            "started": finished - 60,
            "finished": finished,
            "tool": "test",
            "measures": (
                Measure(
                    name="accuracy", statistic="mean", value=right / n, unit="fraction", n=n, attempted=n,
                    better="higher",
                    interval=Interval(low=found.low, high=found.high, level=0.95, method="wilson"),
                ),
            ),
            "samples": (Samples(path="records.jsonl", sha256=digest, record="EvalRecord", n=n),),
            **more,
        }
    ).write(folder / "report.json")  # fmt: skip
    return folder / "report.json"


def scores(n: int, flipped: int = 0, phase: int = 0) -> list[float]:
    """80 % right; the first `flipped` alternate with `phase`."""
    return [float(index % 2 == phase) if index < flipped else float(index % 5 != 0) for index in range(n)]


def bless(folder: Path, *reports: Path, again: tuple[Path, ...] = (), **more: Any) -> Blessing:
    arguments = {"author": "kim", "reason": "first release", "allow": (), "now": NOW, **more}
    return baseline_files.bless(folder, reports, again, **arguments)


def policy(tmp_path: Path, text: str = POLICY) -> Path:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    return path


def test_the_gate_finds_what_was_blessed_and_pairs_with_its_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = policy(tmp_path)
    monkeypatch.chdir(tmp_path)
    new = run(tmp_path / "new", scores(1000), release=NEW)
    assert decide(rules, [new], (), None, now=NOW)[0].outcome is Outcome.VOID
    bless(baseline_files.DEFAULT, run(tmp_path / "old", scores(1000)))
    for path in (tmp_path / "old").iterdir():
        path.unlink()
    for given in ((), (baseline_files.DEFAULT,)):
        result = decide(rules, [new], given, None, now=NOW)[0].results[0]
        assert result.outcome is Outcome.PASS
        assert "0 lost and 0 won of 1,000 pairs" in result.message


def test_a_policy_without_comparisons_asks_for_no_baseline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    broken = baseline_files.DEFAULT
    broken.mkdir(parents=True)
    (broken / "baseline.json").write_text("{")
    alone = policy(tmp_path, "version: 1\nname: p\nchecks:\n- {id: c, report: eval, expect: accuracy >= 50%}\n")
    new = run(tmp_path / "new", scores(100), release=NEW)
    assert decide(alone, [new], (), None, now=NOW)[0].results
    with pytest.raises(ConfigError, match="is not a valid Blessing"):
        decide(policy(tmp_path), [new], (), None, now=NOW)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"findings": (Finding(severity="error", code="died", message="gone", voids=True),)}, "is void .*died: gone"),
        ({"measures": ()}, "measured nothing"),
    ],
)
def test_only_what_was_validly_measured_can_be_blessed(tmp_path: Path, more: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        bless(tmp_path / "b", run(tmp_path / "old", scores(100), **more))
    assert baseline_files.current(tmp_path / "b") is None


@pytest.mark.parametrize(("author", "reason"), [("", "because"), ("kim", "  ")])
def test_a_blessing_has_an_author_and_a_reason(tmp_path: Path, author: str, reason: str) -> None:
    with pytest.raises(ConfigError, match="author and a reason"):
        bless(tmp_path / "b", run(tmp_path / "old", scores(100)), author=author, reason=reason)


def test_what_is_stale_or_measured_otherwise_is_refused_unless_allowed_by_name(tmp_path: Path) -> None:
    rules, folder = policy(tmp_path), tmp_path / "b"
    bless(folder, run(tmp_path / "old", scores(1000)))

    def judged(now: float = NOW, **more: Any) -> str:
        new = run(tmp_path / "new", scores(1000), release=NEW, **more)
        result = decide(rules, [new], [folder], None, now=now)[0].results[0]
        return f"{result.outcome} {result.message}"

    assert judged(version="0.33.0").startswith("PASS")  # allowed by name
    assert "VOID the baseline is 721 h" in judged(now=NOW + 30 * 86400)
    for more, what in (
        ({"model": "other"}, "model: support → other"),
        ({"conditions": {"temperature": 0.7}}, r"temperature: 0.0 → 0.7"),
        ({"conditions": {"concurrency": 16}}, "concurrency: 8 → 16"),
        ({"conditions": {"dataset_sha256": NEW}}, "dataset_sha256: not stated → bbbbbbbbbbbb"),
    ):
        assert judged(**more).startswith("VOID not measured alike")
        assert what in judged(**more)


def test_a_baseline_that_was_measured_otherwise_is_replaced_only_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "b"
    bless(folder, run(tmp_path / "old", scores(100)))
    new = run(tmp_path / "new", scores(100), release=NEW, version="0.33.0", conditions={"concurrency": 16})
    with pytest.raises(ConfigError, match=r"concurrency: 8 → 16.*--allow concurrency --allow engine_version"):
        bless(folder, new)
    with pytest.raises(ConfigError, match="'concurency' is not a condition; did you mean 'concurrency'"):
        bless(folder, new, allow=("concurency",))
    blessing = bless(folder, new, allow=("engine_version", "concurrency"), reason="new engine")
    assert blessing.reports["eval/support"].allowed == ("concurrency", "engine_version")
    with pytest.raises(ConfigError, match="is the baseline already"):
        bless(folder, new)


def test_the_history_says_who_when_why_and_what_came_before(tmp_path: Path) -> None:
    folder = tmp_path / "b"
    first = bless(folder, run(tmp_path / "one", scores(100)))
    load = run(tmp_path / "load", scores(100), kind="load", name="chat")
    second = bless(folder, load, author="lee", reason="load too", now=NOW + 5)
    third = bless(folder, run(tmp_path / "two", scores(100, 10), release=NEW), author="park", now=NOW + 9)
    assert [item.author for item in baseline_files.history(folder)] == ["park", "lee", "kim"]
    assert (third.previous, second.previous, first.previous) == (second.identity(), first.identity(), None)
    assert third.changed == ("eval/support",)
    assert third.reports["load/chat"] == second.reports["load/chat"]
    changed = folder / "blessings" / f"{first.identity()[7:23]}.json"
    changed.write_text(changed.read_text().replace("kim", "you"))
    with pytest.raises(ConfigError, match="was changed after it was written"):
        baseline_files.history(folder)


def test_answers_that_were_changed_are_found(tmp_path: Path) -> None:
    folder, rules = tmp_path / "b", policy(tmp_path)
    bless(folder, run(tmp_path / "old", scores(100)))
    new = run(tmp_path / "new", scores(100), release=NEW)
    (report,) = baseline_files.stored(folder).reports
    sidecar = report.with_name("records.jsonl")
    sidecar.write_text(sidecar.read_text().replace('"score":1.0', '"score":0.0', 1))
    with pytest.raises(ConfigError, match="has changed since"):
        decide(rules, [new], [folder], None, now=NOW)
    text = json.loads(report.read_text())
    text["measures"][0]["value"] = 0.1
    report.write_text(json.dumps(text))
    with pytest.raises(ConfigError, match="is not the eval/support that was blessed"):
        baseline_files.stored(folder)


@pytest.mark.parametrize("fatal", range(1, 4))
def test_a_call_that_dies_leaves_the_baselines_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fatal: int
) -> None:
    folder = tmp_path / "b"
    before = bless(folder, run(tmp_path / "old", scores(100)))
    new = run(tmp_path / "new", scores(100, 10), release=NEW)
    written, real = 0, contract.write_atomic

    def dying(path: Path, data: bytes) -> None:
        nonlocal written
        written += 1
        if written == fatal:
            raise InfrastructureError(f"{path}: cannot be written: {errno.ENOSPC}")
        real(path, data)

    monkeypatch.setattr(contract, "write_atomic", dying)
    with pytest.raises(InfrastructureError):
        bless(folder, new, reason="second")
    monkeypatch.undo()
    assert baseline_files.current(folder) == before
    assert [item.reason for item in baseline_files.history(folder)] == ["first release"]
    (folder / "reports" / ".new-killed").mkdir()
    after = bless(folder, new, reason="second")
    assert baseline_files.current(folder) == after
    assert not list((folder / "reports").glob(".new-*"))


def test_two_who_bless_at_once_both_count(tmp_path: Path) -> None:
    folder = tmp_path / "b"
    paths = [run(tmp_path / str(index), scores(50), name=f"suite-{index}") for index in range(6)]
    threads = [threading.Thread(target=bless, args=(folder, path)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(baseline_files.history(folder)) == 6
    assert len(baseline_files.stored(folder).reports) == 6


def test_noise_of_a_second_run_is_kept_and_planned_with(tmp_path: Path) -> None:
    folder = tmp_path / "b"
    first, second = run(tmp_path / "1", scores(1000, 40)), run(tmp_path / "2", scores(1000, 40, phase=1), finished=NOW)
    blessing = bless(folder, first, again=(second,))
    (noise,) = blessing.reports["eval/support"].noise
    assert (noise.source, noise.differing, noise.items) == ("second run", 40, 1000)
    rules = policy(tmp_path)
    planned = foresee(rules, [folder], ())
    assert planned == foresee(rules, [first], [second])
    assert "A/A: 40 of 1,000 items differ; planned with 4.6 %" in planned[0].note


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"release": NEW}, "is of another release"),
        ({"conditions": {"temperature": 0.7}}, "was not measured alike: temperature"),
        ({"name": "other"}, "second run of eval/other: no such report"),
        ({"findings": (Finding(severity="error", code="died", message="", voids=True),)}, "is void: died"),
    ],
)
def test_a_second_run_is_of_the_same_model_measured_the_same_way(
    tmp_path: Path, more: dict[str, Any], says: str
) -> None:
    first = run(tmp_path / "1", scores(100))
    with pytest.raises(ConfigError, match=says):
        bless(tmp_path / "b", first, again=(run(tmp_path / "2", scores(100, 4), finished=NOW, **more),))
    with pytest.raises(ConfigError, match="is the first"):
        bless(tmp_path / "b", first, again=(first,))


def test_noise_from_repeats_is_that_of_two_whole_runs(tmp_path: Path) -> None:
    import random

    rng = random.Random(7)
    n, repeats = 1500, 4
    chances = [rng.choice((0.05, 0.5, 0.95)) for _ in range(n)]

    def answered() -> list[float]:
        return [float(rng.random() < chance) for chance in chances for _ in range(repeats)]

    path = run(tmp_path / "1", answered(), repeats=repeats)
    report = Report.read(path)
    from servegate.gates.files import load_answers

    noise = of_repeats(report.measures[0], report, load_answers([path], [report]))
    assert not isinstance(noise, str)
    # Var of a difference of two means over R repeats: 2 p(1-p) / R per item.
    per_item = sum(2 * chance * (1 - chance) / repeats for chance in chances) / n
    assert noise.error == pytest.approx((per_item / n) ** 0.5, rel=0.1)
    blessing = bless(tmp_path / "b", path)
    assert blessing.reports["eval/support"].noise[0].source == "repeats"
    (planned,) = foresee(policy(tmp_path), [tmp_path / "b"], ())
    assert planned.accepted
    assert "repeats: standard error" in planned.note


def test_a_plan_without_answers_uses_the_noise_that_was_kept(tmp_path: Path) -> None:
    folder = tmp_path / "b"
    first, second = run(tmp_path / "1", scores(1000, 40)), run(tmp_path / "2", scores(1000, 40, phase=1), finished=NOW)
    bless(folder, first, again=(second,))
    report = Report.read(first)
    rules = validate({"version": 1, "name": "p", "checks": [
        {"id": "c", "report": "eval", "measure": "accuracy", "baseline": {"margin": "3pp"}}
    ]}, Policy, "p")  # fmt: skip
    from servegate.gates.files import load_answers

    answers = load_answers([first], [report])
    (planned,) = plan(rules, [report], answers=answers, noise=baseline_files.stored(folder).noise)
    assert planned.note == "A/A: 40 of 1,000 items differ; planned with 4.6 %"
    (blind,) = plan(rules, [report], answers=answers)
    assert "needs an A/A run" in blind.note
