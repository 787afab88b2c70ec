"""Records on disk: whole lines only, whoever is killed when."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from servegate.errors import InfrastructureError
from servegate.loadtest.answer import Answer, Outcome
from servegate.loadtest.background import Counts
from servegate.loadtest.record import Clock, to_record
from servegate.loadtest.sidecar import RecordTail, RecordWriter, trim
from servegate.loadtest.status import read_status
from servegate.report.records import RequestRecord, read_records


def record(number: int, **more: object) -> RequestRecord:
    base = {"id": number, "scheduled": 1.0, "sent": 1.0, "done": 2.0, "ok": True}
    return RequestRecord.model_validate({**base, **more})


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    writer, tail = RecordWriter(path), RecordTail(path)
    assert tail.new() == []
    writer.add(record(0, tags=("배송",), gaps=(0.01, 0.0)))
    assert tail.new() == []
    writer.flush()
    assert [item.id for item in tail.new()] == [0]
    assert tail.new() == []
    writer.add(record(1))
    writer.close()
    assert [item.id for item in tail.new()] == [1]
    assert [item.id for item in read_records(path, RequestRecord)] == [0, 1]


def test_a_file_that_is_not_there_yet_has_no_records(tmp_path: Path) -> None:
    assert RecordTail(tmp_path / "none").new() == []


def test_records_of_two_runs_never_mix(tmp_path: Path) -> None:
    RecordWriter(tmp_path / "r.jsonl").close()
    with pytest.raises(InfrastructureError, match="cannot be created: File exists"):
        RecordWriter(tmp_path / "r.jsonl")


def test_a_full_disk_is_an_error_with_the_file_in_it(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path / "r.jsonl")
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, writer._descriptor)
    writer.add(record(0))
    with pytest.raises(InfrastructureError, match=r"r\.jsonl: cannot be written: No space left on device"):
        writer.close()
    os.close(full)


@pytest.mark.parametrize("cut", [1, 20, 100_000])
def test_a_torn_line_is_passed_over_and_trimmed(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "r.jsonl"
    lines = [item.model_dump_json().encode() + b"\n" for item in (record(0), record(1, gaps=(0.001,) * 30_000))]
    path.write_bytes(lines[0] + lines[1][:cut])
    tail = RecordTail(path)
    assert [item.id for item in tail.new()] == [0]
    with path.open("ab") as stream:
        stream.write(lines[1][cut:])
    assert [item.id for item in tail.new()] == [1]
    path.write_bytes(lines[0] + lines[1][:cut])
    trim(path)
    assert path.read_bytes() == lines[0]
    trim(path)
    assert path.read_bytes() == lines[0]


def test_trimming_what_holds_no_whole_line_or_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(b'{"id":0')
    trim(path)
    assert path.read_bytes() == b""
    path.unlink()
    trim(path)
    assert not path.exists()


def test_a_line_that_is_no_record_is_named(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(record(0).model_dump_json() + "\n{}\n", encoding="utf-8")
    with pytest.raises(InfrastructureError, match=r"r\.jsonl:2: is not a RequestRecord"):
        RecordTail(path).new()


def test_a_state_that_is_none(tmp_path: Path) -> None:
    assert read_status(tmp_path / "s") is None
    (tmp_path / "s").write_text("{}", encoding="utf-8")
    with pytest.raises(InfrastructureError, match="is not the state"):
        read_status(tmp_path / "s")


def test_counts_by_slot_and_kind() -> None:
    counts = Counts()
    for item in (
        record(0, slot="blue"),
        record(1, slot="green", ok=False, error="http_500"),
        record(2, slot="green"),
        record(3, ok=False, error="connect"),
    ):
        counts.add(item)
    assert (counts.finished, counts.failed) == (4, 2)
    assert counts.errors == {"http_500": 1, "connect": 1}
    assert counts.by_slot == {"blue": (1, 0), "green": (2, 1), None: (1, 1)}


def ended(error: str | None = None, status: int | None = 200, slot: str | None = "blue") -> Outcome:
    return Outcome(10.0, 12.0, Answer(10), status=status, slot=slot, error=error)


def test_a_record_keeps_differences_exactly() -> None:
    outcome = ended()
    outcome.answer.times += [10.5, 10.75, 11.0]
    outcome.answer.output_tokens = 4
    made = to_record(7, 9.75, outcome, ("en",), Clock())
    assert made.ttft == pytest.approx(0.5, abs=2e-6)
    assert made.sent - made.scheduled == pytest.approx(0.25, abs=2e-6)
    assert (made.gaps, made.chunks, made.output_tokens, made.tokens_from) == ((0.25, 0.25), 3, 4, "usage")
    assert (made.id, made.tags, made.slot, made.ok) == (7, ("en",), "blue", True)


def test_without_usage_chunks_are_counted_and_labelled() -> None:
    outcome = ended(error="truncated")
    outcome.answer.times += [10.5, 10.75]
    made = to_record(0, 10.0, outcome, (), Clock())
    assert (made.output_tokens, made.tokens_from, made.ok, made.error) == (2, "chunks", False, "truncated")
    nothing = to_record(0, 10.0, ended(error="connect", status=None, slot=None), (), Clock())
    assert (nothing.output_tokens, nothing.tokens_from, nothing.first_token) == (None, None, None)


@pytest.mark.parametrize("slot", ["<b>", "Blue", "", "x" * 40, "a b"])
def test_a_slot_header_that_is_no_name_is_left_out(slot: str) -> None:
    assert to_record(0, 10.0, ended(slot=slot), (), Clock()).slot is None


@pytest.mark.parametrize("status", [0, 99, 600, 999])
def test_a_status_out_of_bounds_is_left_out(status: int) -> None:
    assert to_record(0, 10.0, ended(status=status, error=f"http_{status}"), (), Clock()).status is None
