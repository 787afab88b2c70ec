"""The gate against input that wants something: broken policies, reports and answers, and text of others.

Whatever comes in, the gate ends with a verdict or with one error that names the file, and what it prints and writes
gives no orders to a terminal, a log or a browser.
"""

from __future__ import annotations

import io
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from servegate.cli import cli
from servegate.config import validate
from servegate.contract import sha256, sha256_file
from servegate.errors import ConfigError, one_line
from servegate.gates import Policy, evaluate
from servegate.gates.checks import margin
from servegate.gates.files import decide, load_answers, load_policy, load_reports
from servegate.gates.units import fraction, seconds
from servegate.report.model import LONGEST_NAME, Conditions, Finding, Measure, Report, Samples, Subject
from servegate.report.records import EvalRecord, write_records
from servegate.report.terminal import print_verdict
from servegate.report.verdict import Outcome
from servegate.report.views import write_views

POLICY: dict[str, Any] = {
    "version": 1,
    "name": "p",
    "require": [{"report": "eval", "younger_than": "24h"}],
    "prices": {"hour": "$4"},
    "checks": [
        {"id": "a", "report": "eval", "expect": "accuracy >= 50%", "coverage": "90%"},
        {"id": "b", "report": "eval", "measure": "accuracy", "baseline": {"margin": "3pp", "looks": [10, 20]}},
        {"id": "c", "report": "eval", "measure": "accuracy", "slice": {"tags": "x"}, "baseline": {"margin": "50pp"}},
        {"id": "d", "report": "eval", "measure": "accuracy", "baseline": {"margin": "9% of baseline"}},
        {"id": "e", "report": "eval", "no_findings": "error", "severity": "warn"},
    ],
    "groups": [{"id": "g", "checks": ["c", "d"]}],
}
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
EVIL = [
    "::error file=x,line=1::owned",
    "\n::add-mask::x\n::set-output name=a::b",
    "</details></td></table><script>alert(1)</script><img src=x onerror=alert(1)>",
    "\x1b[2J\x1b]0;owned\x07\x1b[31mred",
    "\u202egnp.exe\u2066 \ufeff\u200b",
    "| a | b |\n|---|---|\n![x](http://198.51.100.1/x.png) [y](javascript:alert(1)) @everyone #1",
    "\x00\x08\x7f\x9b31m\r",
    "{{ 7 * 7 }} ${{ github.token }} $(id) `id`",
]
TEXT = st.sampled_from(EVIL) | st.text(max_size=30)


def replaced(data: st.DataObject, whole: Any) -> Any:
    """A deep copy in which one value is replaced by anything, or a key is added or taken away."""
    found = json.loads(json.dumps(whole))
    target = found
    for _ in range(data.draw(st.integers(0, 5))):
        inner = [item for item in (target.values() if isinstance(target, dict) else target) if item]
        nested = [item for item in inner if isinstance(item, dict | list)]
        if not nested:
            break
        target = data.draw(st.sampled_from(nested))
    keys = sorted(target) if isinstance(target, dict) else list(range(len(target)))
    key = data.draw(st.sampled_from(keys))
    if data.draw(st.booleans()):
        target[key] = data.draw(ANYTHING)
    elif isinstance(target, dict):
        del target[key]
        target[data.draw(st.text(max_size=8))] = data.draw(SCALARS)
    else:
        target.append(data.draw(ANYTHING))
    return found


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_policy_is_read_or_refused_with_its_file(data: st.DataObject) -> None:
    broken = replaced(data, POLICY)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "policy.yaml"
        path.write_text(yaml.safe_dump(broken), encoding="utf-8")
        try:
            policy = load_policy(path)
        except ConfigError as error:
            assert all(line.startswith(f"{path}") for line in str(error).splitlines()), str(error)
            return
    assert any(check.severity == "block" for check in policy.checks)
    assert Policy.model_validate(policy.model_dump()).identity() == policy.identity()


@settings(deadline=None, max_examples=50)
@given(st.binary(max_size=200))
def test_any_bytes_are_no_policy_no_report_and_no_answers_or_are_one(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.yaml"
        path.write_bytes(data)
        for read in (load_policy, lambda path: load_reports([path])):
            with pytest.raises(ConfigError, match=r"x\.yaml"):
                read(path)
        samples = Samples(path="x.yaml", sha256=sha256_file(path), record="EvalRecord", n=1)
        report = run([1.0], "a").model_copy(update={"samples": (samples,)})
        try:
            assert load_answers([Path(folder) / "report.json"], [report])[samples.sha256] == []
        except ConfigError as error:
            assert "x.yaml:1: not a EvalRecord" in str(error) or "x.yaml:" in str(error)


@settings(deadline=None)
@given(st.text(max_size=100))
def test_any_quantity_is_finite_or_refused(text: str) -> None:
    for parse in (seconds, fraction, margin):
        try:
            found = parse(text)
        except ValueError as error:
            assert len(str(error)) < 600
        else:
            assert math.isfinite(found.loss(1.0) if not isinstance(found, float) else found)


def records(scores: list[float | None], **more: Any) -> list[EvalRecord]:
    return [
        EvalRecord(
            **{
                "id": f"i{index}",
                "item_sha256": sha256(str(index).encode()),
                "scorer": "exact",
                "score": score,
                "tags": ("x",) if index % 2 else (),
                **{key: value[index % len(value)] for key, value in more.items()},
            }
        )
        for index, score in enumerate(scores)
    ]


def run(scores: list[float | None], release: str, **more: Any) -> Report:
    known = [score for score in scores if score is not None]
    measure = Measure(
        name="accuracy", statistic="mean", value=sum(known) / len(known) if known else None, unit="fraction",
        n=len(known), attempted=len(scores), better="higher",
    )  # fmt: skip
    return Report(
        **{
            "kind": "eval",
            "name": "x",
            "subject": Subject(release="sha256:" + release * 64),
            "started": 0,
            "finished": 1,
            "tool": "t",
            "measures": (measure,),
            **more,
        }
    )


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_report_is_judged_or_refused_and_never_passes_without_a_number(data: st.DataObject) -> None:
    rules = validate({**POLICY, "checks": POLICY["checks"][:1], "groups": []}, Policy, "p")
    broken = replaced(data, run([1.0] * 20, "a").model_dump(mode="json"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        path.write_text(json.dumps(broken))
        try:
            (report,) = load_reports([path])
            verdict = evaluate(rules, [report], release="sha256:" + "a" * 64, now=100)
        except ConfigError as error:
            assert one_line(str(error)) == str(error)
            return
    if verdict.outcome is Outcome.PASS:
        value = verdict.results[-1].value
        assert value is not None
        assert value >= 0.5
        assert verdict.results[-1].n


@settings(deadline=None, max_examples=25)
@given(
    ids=st.lists(TEXT, min_size=2, max_size=12, unique=True),
    said=st.lists(TEXT, min_size=1, max_size=4),
    name=TEXT,
    key=TEXT,
)
def test_text_of_others_gives_no_orders(ids: list[str], said: list[str], name: str, key: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        verdict_is_harmless(Path(folder), ids, said, name, key)


def verdict_is_harmless(
    folder: Path, ids: list[str], said: list[str], name: str, key: str, *, brief: bool = True
) -> None:
    """Judge a candidate that lost every item, with foreign text everywhere text can be, and look at all views."""
    paths = []
    for release, score in (("a", 0.0), ("b", 1.0)):
        place = folder / release
        more = {"id": ids, "answer": said, **dict.fromkeys(("target", "reason", "error"), said if brief else ["x"])}
        rows = records([score] * len(ids), **more)
        digest = write_records(place / "records.jsonl", rows)
        run(
            [score] * len(ids),
            release,
            name=name,
            subject=Subject(release="sha256:" + release * 64, name=name),
            conditions=Conditions(client=name, other={key: name}),
            samples=(Samples(path="records.jsonl", sha256=digest, record="EvalRecord", n=len(rows)),),
            findings=(Finding(severity="error", code="bad", message=name),),
        ).write(place / "report.json")
        paths.append(place / "report.json")
    policy = folder / "policy.yaml"
    checks = [
        {"id": "b", "report": "eval", "measure": "accuracy", "baseline": {"margin": "3pp"}},
        {"id": "e", "report": "eval", "no_findings": "error"},
        {"id": "f", "report": "eval", "expect": "accuracy >= 50%"},
        {"id": "g", "report": "eval", "expect": "acuracy >= 50%"},
    ]
    policy.write_text(json.dumps({"version": 1, "name": "p", "checks": checks}))
    verdict, backing = decide(policy, paths[:1], paths[1:], None, now=100.0, answers=True)
    assert verdict.outcome is Outcome.FAIL
    assert verdict.results[0].lost == len(ids)
    for result in verdict.results:
        assert len(result.message) < 3000
        assert not any(char in result.message for char in "\n\r\x1b\x00\x9b\u202e")
    assert len(verdict.model_dump_json()) < 500_000
    views = {kind: folder / f"verdict.{kind}" for kind in ("summary", "junit", "html")}
    write_views(verdict, backing, **views)
    screen = io.StringIO()
    print_verdict(verdict, Console(file=screen, width=120))
    for text in (screen.getvalue(), *(path.read_text(encoding="utf-8") for path in views.values())):
        assert len(text) < 2_000_000
        assert not any(char in text for char in "\x1b\x00\x07\x08\x9b\u202e")
        assert not any(line.lstrip().startswith("::") for line in text.splitlines())
    page = views["html"].read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "<img src=x" not in page


def test_ten_megabytes_of_an_answer_and_a_name_that_is_too_long(tmp_path: Path) -> None:
    huge = EVIL[2] * (10_000_000 // len(EVIL[2]))
    verdict_is_harmless(tmp_path / "said", ["i1", "i2"], [huge], "x", "k", brief=False)
    verdict_is_harmless(tmp_path / "key", ["i1", "i2"], ["x"], "y" * LONGEST_NAME, huge)
    report = json.loads((tmp_path / "said" / "a" / "report.json").read_text())
    (tmp_path / "long.json").write_text(json.dumps({**report, "name": huge}))
    with pytest.raises(ConfigError, match=r"long.json: is not a valid Report: name: .* at most 500 characters"):
        load_reports([tmp_path / "long.json"])
    sidecar = tmp_path / "said" / "a" / "records.jsonl"
    row = {**json.loads(sidecar.read_text().splitlines()[0]), "id": huge}
    (tmp_path / "long.jsonl").write_text(json.dumps(row) + "\n")
    samples = Samples(path="long.jsonl", sha256=sha256_file(tmp_path / "long.jsonl"), record="EvalRecord", n=1)
    with pytest.raises(ConfigError, match=r"long.jsonl:1: not a EvalRecord: id: .* at most 500 characters"):
        load_answers([tmp_path / "r.json"], [run([1.0], "a", samples=(samples,))])


def test_the_command_prints_one_message_and_no_orders(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(json.dumps({**POLICY, EVIL[0]: EVIL[3]}))
    run([1.0], "a").write(tmp_path / "report.json")
    arguments = ["gate", "check", "--no-github", "--policy", str(policy), str(tmp_path / "report.json")]
    found = CliRunner().invoke(cli, arguments)
    assert isinstance(found.exception, ConfigError)
    assert not any(line.startswith("::") for line in str(found.exception).splitlines())
    assert "\x1b" not in str(found.exception)
