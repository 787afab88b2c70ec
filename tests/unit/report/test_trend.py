"""The trend of a suite: from files to a sentence, a table and a page."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from servegate.cli import cli
from servegate.contract import sha256, sha256_file
from servegate.errors import ConfigError
from servegate.report.model import Measure, Report, Samples, Subject
from servegate.report.records import EvalRecord
from servegate.report.trend import read_run, said, trend

DAY = 86400.0
RELEASE = "sha256:" + "5" * 64


def run(folder: Path, number: int, chance: float, latency: float = 0.2, suite: str = "support", **more: Any) -> Path:
    """A report of one evening with 60 answers."""
    place = folder / f"run-{number}"
    place.mkdir(parents=True)
    dice = random.Random(number)
    records = [
        EvalRecord(
            id=f"q{n}", item_sha256=sha256(f"q{n}".encode()), scorer="exact", score=float(dice.random() < chance)
        )
        for n in range(60)
    ]
    lines = "".join(record.model_dump_json() + "\n" for record in records)
    (place / "records.jsonl").write_text(lines, "utf-8")
    mean = sum(record.score or 0 for record in records) / 60
    values: tuple[tuple[str, float, Any, Any], ...] = (
        ("accuracy", mean, "fraction", "higher"),
        ("e2e_latency", latency * dice.uniform(0.98, 1.02), "seconds", "lower"),
    )
    digest = sha256_file(place / "records.jsonl")
    report = Report(
        kind="eval", name=suite, subject=Subject(release=RELEASE, name=f"v1.{number}.0"), tool="servegate", **more,
        started=1_700_000_000 + number * DAY, finished=1_700_000_600 + number * DAY,
        measures=tuple(
            Measure(name=name, statistic="mean", value=value, unit=unit, n=60, attempted=60, better=better)
            for name, value, unit, better in values
        ),
        samples=(Samples(path="records.jsonl", sha256=digest, record="EvalRecord", n=60),),
    )  # fmt: skip
    report.write(place / "report.json")
    return place / "report.json"


def test_a_fall_of_accuracy_is_named_with_its_run_and_items(tmp_path: Path) -> None:
    files = [run(tmp_path, number, 0.95 if number < 7 else 0.6) for number in range(11)]
    found = trend([read_run(file) for file in reversed(files)])
    accuracy, latency = found.series
    assert accuracy.worse
    assert accuracy.paired == 60
    assert accuracy.scan is not None
    assert accuracy.scan.after == 7
    assert len(accuracy.items) == 5
    assert all(item.after < item.before for item in accuracy.items)
    assert not latency.changed


def test_latency_that_drifts_is_named(tmp_path: Path) -> None:
    files = [run(tmp_path, number, 0.9, latency=0.2 + 0.02 * number) for number in range(12)]
    found = trend([read_run(file) for file in files])
    accuracy, latency = found.series
    assert not accuracy.changed
    assert latency.worse
    assert latency.scan is not None
    assert latency.scan.kind == "drift"


def test_items_that_changed_are_no_pairs(tmp_path: Path) -> None:
    files = [run(tmp_path, number, 0.9) for number in range(5)]
    text = (files[-1].parent / "records.jsonl").read_text("utf-8").replace(sha256(b"q1"), sha256(b"new"))
    (files[-1].parent / "records.jsonl").write_text(text, "utf-8")
    found = trend([read_run(file) for file in files])
    assert found.series[0].paired == 59


def test_the_command_prints_a_table_a_page_and_a_warning(tmp_path: Path) -> None:
    for number in range(11):
        run(tmp_path / "history", number, 0.95 if number < 7 else 0.5)
    page, summary = tmp_path / "trend.html", tmp_path / "summary.md"
    done = CliRunner().invoke(
        cli,
        ["report", "trend", str(tmp_path / "history"), "--html", str(page), "--summary", str(summary)],
        env={"GITHUB_ACTIONS": "true"},
    )
    assert done.exit_code == 0, done.output
    assert "::warning title=servegate%3A trend::" in done.output
    table = summary.read_text("utf-8")
    assert "fell by" in table
    assert "v1.10.0" in table.replace("\\", "")
    assert "items that moved most" in table
    html = page.read_text("utf-8")
    assert "<svg" in html
    assert "<script" not in html


def test_json_has_values_and_what_was_found(tmp_path: Path) -> None:
    files = [run(tmp_path, number, 0.9) for number in range(3)]
    done = CliRunner().invoke(
        cli, ["report", "trend", *map(str, [*files, files[0]]), "--json"], env={"GITHUB_ACTIONS": ""}
    )
    document = json.loads(done.output)
    assert len(document["runs"]) == 3
    assert [series["changed"] for series in document["series"]] == [False, False]
    assert document["series"][0]["scan"] is None


def test_two_suites_are_no_trend_and_none_is_none(tmp_path: Path) -> None:
    files = [run(tmp_path, 1, 0.9), run(tmp_path, 2, 0.9, suite="other")]
    with pytest.raises(ConfigError, match="found eval/other, eval/support"):
        trend([read_run(file) for file in files])
    with pytest.raises(ConfigError, match="found no report"):
        trend([])


def test_hostile_names_stay_words(tmp_path: Path) -> None:
    for number in range(5):
        run(tmp_path, number, 0.9, suite="<script>alert(1)</script>")
    page, summary = tmp_path / "trend.html", tmp_path / "summary.md"
    done = CliRunner().invoke(cli, ["report", "trend", str(tmp_path), "--html", str(page), "--summary", str(summary)])
    assert done.exit_code == 0, done.output
    for text in (page.read_text("utf-8"), summary.read_text("utf-8")):
        assert "<script>" not in text


def test_what_is_the_same_each_time_did_not_change(tmp_path: Path) -> None:
    found = trend([read_run(run(tmp_path, number, 1.0)) for number in range(5)])
    assert said(found.series[0], found.runs) == "accuracy: no change, it was the same each time"
    few = trend([read_run(run(tmp_path / "few", number, 1.0)) for number in range(2)])
    assert said(few.series[0], few.runs) == "accuracy: nothing to judge yet"
