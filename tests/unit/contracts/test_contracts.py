"""The contracts: identity, immutability, round trip, refusal of what is not one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import BaseModel, Field, ValidationError

from servegate.contract import Contract, canonical_json, sha256, write_atomic
from servegate.errors import ConfigError, ExitCode, InfrastructureError
from servegate.pipeline.schemas import rendered
from servegate.release import Engine, File, Model, Release, file_of, verify_file
from servegate.report.model import Finding, Interval, Measure, Report, Subject
from servegate.report.records import CanaryTick, EvalRecord, RequestRecord, read_records, write_records
from servegate.report.verdict import CheckResult, Outcome, Verdict, worst

HASH = sha256(b"x")


def release(**change: Any) -> Release:
    fields: dict[str, Any] = {
        "name": "v1.4.0",
        "model": Model(uri="hf://org/model", revision="abc", served_name="m"),
        "engine": Engine(name="vllm", version="0.32.0"),
        "args": ("--max-num-seqs", "8"),
    }
    return Release(**{**fields, **change})


def report(**change: Any) -> Report:
    fields: dict[str, Any] = {
        "kind": "eval",
        "name": "support",
        "subject": Subject(release=HASH),
        "started": 1.0,
        "finished": 2.5,
        "tool": "servegate 0.1.0",
        "measures": (
            Measure(name="accuracy", statistic="mean", value=0.9, unit="fraction", n=10, attempted=10, better="higher"),
        ),
    }
    return Report(**{**fields, **change})


def request(**change: Any) -> RequestRecord:
    fields: dict[str, Any] = {
        "id": 1, "scheduled": 10.0, "sent": 10.5, "first_token": 11.0, "last_token": 13.0, "done": 13.1, "ok": True,
        "status": 200, "output_tokens": 5, "tokens_from": "usage", "chunks": 5, "gaps": (0.5,) * 4,
    }  # fmt: skip
    return RequestRecord(**{**fields, **change})


def test_everything_that_changes_answers_changes_the_identity() -> None:
    base = release()
    others = [
        release(name="v1.4.1"),
        release(args=("--max-num-seqs", "16")),
        release(env={"VLLM_BATCH_INVARIANT": "1"}),
        release(chat_template=File(sha256=HASH)),
        release(model=Model(uri="hf://org/model", revision="abd", served_name="m")),
        release(engine=Engine(name="vllm", version="0.33.0")),
    ]
    assert len({base.identity(), *(other.identity() for other in others)}) == 7
    assert release().identity() == base.identity()


def test_the_place_of_a_file_is_not_part_of_the_identity() -> None:
    here, there = File(sha256=HASH, path="a.jinja"), File(sha256=HASH, path="/elsewhere/b.jinja")
    assert release(chat_template=here).identity() == release(chat_template=there).identity()


def test_identity_is_the_hash_of_the_canonical_json() -> None:
    canonical = release().canonical()
    assert json.loads(canonical)["args"] == ["--max-num-seqs", "8"]
    assert b" " not in canonical.replace(b"servegate 0.1.0", b"")
    assert release().identity() == sha256(canonical)
    assert release().id in release().label()


def test_a_release_refuses_secrets_and_unknown_fields() -> None:
    with pytest.raises(ValidationError, match="looks like a secret"):
        release(env={"HF_TOKEN": "hf_x"})
    with pytest.raises(ValidationError, match="extra"):
        release(colour="red")
    with pytest.raises(ValidationError):
        release(name="../../etc")


def test_a_file_with_other_content_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "template.jinja"
    path.write_text("{{ messages }}")
    file = file_of(path)
    verify_file(file, path.read_bytes())
    with pytest.raises(ConfigError, match="but the release names"):
        verify_file(file, b"other")
    with pytest.raises(ConfigError, match="cannot be read"):
        file_of(tmp_path / "missing")


@pytest.mark.parametrize("document", [release(), report()])
def test_documents_survive_disk(document: Contract, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "document.json"
    assert document.write(path) == document.identity()
    assert type(document).read(path) == document
    assert [item.name for item in path.parent.iterdir()] == ["document.json"]


def test_reading_something_else_says_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    with pytest.raises(ConfigError, match="cannot be read"):
        Report.read(path)
    path.write_text("<html>")
    with pytest.raises(ConfigError, match="not a valid Report"):
        Report.read(path)
    path.write_text(json.dumps({**report().model_dump(mode="json"), "kind": "weather"}))
    with pytest.raises(ConfigError, match=r"not a valid Report: kind: "):
        Report.read(path)


def test_a_report_cannot_contradict_itself() -> None:
    with pytest.raises(ValidationError, match="finished before"):
        report(finished=0.5)
    with pytest.raises(ValidationError, match="stands twice"):
        report(measures=report().measures * 2)
    with pytest.raises(ValidationError, match="above high"):
        Interval(low=2, high=1, level=0.95, method="wilson")
    with pytest.raises(ValidationError, match="a release, an endpoint"):
        Subject()
    with pytest.raises(ValidationError):
        Measure(name="ttft", statistic="p95", value=float("nan"), unit="seconds", n=1, attempted=1)


def test_keys_void_and_lookup() -> None:
    measure = Measure(
        name="ttft", statistic="p95", slice="tags=ko", slot="green", value=None, unit="seconds", n=0, attempted=3
    )
    assert measure.key == "ttft.p95[tags=ko]@green"
    finding = Finding(severity="error", code="endpoint-died", message="…", voids=True)
    judged = report(measures=(measure,), findings=(Finding(severity="info", code="a", message="b"), finding))
    assert judged.void == finding
    assert judged.measure("ttft.p95[tags=ko]@green") is measure
    assert judged.measure("ttft.p95") is None
    assert report().void is None


def test_latencies_of_a_request() -> None:
    record = request()
    assert record.ttft == 0.5
    assert record.e2e_latency == 2.5
    assert record.tpot == pytest.approx(2.0 / 4)
    batched = request(output_tokens=10, chunks=5)
    assert batched.tpot == pytest.approx(2.0 / 8)
    failed = request(ok=False, first_token=None, last_token=None, error="connect", status=None)
    assert (failed.ttft, failed.e2e_latency, failed.tpot) == (None, None, None)
    single = request(output_tokens=1, chunks=1, gaps=())
    assert single.tpot is None


def test_records_survive_disk_and_bad_lines_are_named(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    records = [request(id=index, tags=("한국어", "\u2028")) for index in range(3)]
    assert write_records(path, records) == sha256(path.read_bytes())
    assert list(read_records(path, RequestRecord)) == records
    path.write_text(path.read_text() + '{"id": 7}\n')
    with pytest.raises(ConfigError, match=r"records\.jsonl:4: not a RequestRecord: scheduled"):
        list(read_records(path, RequestRecord))


def test_a_score_may_be_missing_but_not_out_of_range() -> None:
    base: dict[str, Any] = {"id": "a", "item_sha256": HASH, "scorer": "exact"}
    assert EvalRecord(**base, score=None, error="timeout").score is None
    with pytest.raises(ValidationError):
        EvalRecord(**base, score=1.01)


def test_worst_of_nothing_is_void() -> None:
    assert worst([]) is Outcome.VOID
    assert worst([Outcome.PASS, Outcome.INCONCLUSIVE]) is Outcome.INCONCLUSIVE
    assert worst([Outcome.VOID, Outcome.FAIL, Outcome.PASS]) is Outcome.FAIL
    assert [outcome.exit_code for outcome in Outcome] == [
        ExitCode.PASS, ExitCode.GATE_FAILED, ExitCode.NO_VERDICT, ExitCode.NO_VERDICT,
    ]  # fmt: skip


DOCUMENTS: dict[str, Contract] = {
    "release": release(),
    "report": report(),
    "request-record": request(),
    "eval-record": EvalRecord(id="a", item_sha256=HASH, scorer="exact", score=1.0),
    "canary-tick": CanaryTick(at=1.0, phase="STEP", step=0, weights={"blue": 99, "green": 1}, stable="blue"),
    "verdict": Verdict(
        outcome=Outcome.PASS, release=HASH, policy="release", policy_sha256=HASH, reports=(HASH,),
        results=(CheckResult(check="a", outcome=Outcome.PASS, effect=Outcome.PASS, message="fine"),),
        decided_at=1.0, decided_by="test", tool="servegate 0.1.0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_published_schema_accepts_the_document_and_refuses_another(name: str) -> None:
    schema = json.loads(rendered()[name])
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    document = DOCUMENTS[name].model_dump(mode="json")
    assert list(validator.iter_errors(document)) == []
    assert list(validator.iter_errors({**document, "unknown": 1}))


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()


@given(
    st.recursive(SCALARS, lambda x: st.lists(x, max_size=4) | st.dictionaries(st.text(), x, max_size=4), max_leaves=9)
)
def test_canonical_json_does_not_depend_on_order(value: Any) -> None:
    try:
        canonical = canonical_json(value)
    except UnicodeEncodeError:  # a lone surrogate is not text
        return
    assert canonical_json(json.loads(canonical)) == canonical


def test_a_write_that_fails_leaves_the_old_file_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.json"
    write_atomic(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InfrastructureError, match="No space left"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


class _Kept(Contract):
    first: int
    second: tuple[int, ...] = (1,)
    third: dict[str, int] = Field(default_factory=dict)


def test_copies_and_unchecked_contracts_are_those_of_pydantic() -> None:
    made = _Kept(first=1, third={"a": 1})
    for update in (None, {"second": (2,)}):
        ours, theirs = made.model_copy(update=update), BaseModel.model_copy(made, update=update)
        assert ours == theirs and ours.model_fields_set == theirs.model_fields_set
        assert ours.model_dump_json() == theirs.model_dump_json()
    deep = made.model_copy(deep=True)
    assert deep == made and deep.third is not made.third
    quick = _Kept.model_construct(second=(3,), first=2)
    assert quick.model_dump_json() == _Kept(first=2, second=(3,)).model_dump_json()
    assert quick.model_fields_set == {"first", "second"}
    assert quick.third is not _Kept.model_construct(first=2).third
    with pytest.raises(TypeError, match="needs first"):
        # The type checker sees it as well.
        _Kept.model_construct(second=(3,))  # type: ignore[call-arg]
