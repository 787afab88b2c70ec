"""The journal: whatever ends a run, what was measured is kept, and only what fits is resumed."""

from __future__ import annotations

from pathlib import Path

import pytest

from servegate.errors import ConfigError, InfrastructureError
from servegate.evals.journal import RECORDS, REPORT, RUN, Journal, RunState, key_of, opened
from servegate.report.model import Conditions
from servegate.report.records import EvalRecord, read_records

HASH = "sha256:" + "0" * 64
STATE = RunState(suite="s", conditions=Conditions(seed=1, other={"repeats": "1"}), model="m", engine_version="1")


def record(number: int, score: float | None = 1.0) -> EvalRecord:
    error = None if score is not None else "connect: refused"
    return EvalRecord(id=f"q{number}", item_sha256=HASH, scorer="exact", score=score, answer="네\u2028", error=error)


def test_records_are_on_disk_as_soon_as_they_are_appended(tmp_path: Path) -> None:
    with opened(tmp_path / "new" / "run", STATE, resume=False) as journal:
        journal.append(record(2))
        assert [r.id for r in read_records(tmp_path / "new" / "run" / RECORDS, EvalRecord)] == ["q2"]
        journal.append(record(1))
        journal.finish([key_of(record(number)) for number in range(3)])
    assert [r.id for r in read_records(tmp_path / "new" / "run" / RECORDS, EvalRecord)] == ["q1", "q2"]


def test_resuming_keeps_scores_asks_the_unanswered_again_and_drops_a_torn_line(tmp_path: Path) -> None:
    with opened(tmp_path, STATE, resume=False) as journal:
        journal.append(record(0))
        journal.append(record(1, None))
        journal.append(record(2, 0.0))
    with (tmp_path / RECORDS).open("ab") as stream:
        stream.write(b'{"schema_version":1,"id":"q3","sco')
    with opened(tmp_path, STATE, resume=True) as journal:
        assert {key[0] for key in journal.done} == {"q0", "q2"}
        journal.append(record(4))
    assert [r.id for r in read_records(tmp_path / RECORDS, EvalRecord)] == ["q0", "q2", "q4"]


def test_a_new_run_replaces_records_and_report(tmp_path: Path) -> None:
    with opened(tmp_path, STATE, resume=False) as journal:
        journal.append(record(0))
    (tmp_path / REPORT).write_text("{}")
    with opened(tmp_path, STATE, resume=False) as journal:
        assert journal.records == []
        assert not (tmp_path / REPORT).exists()
    assert (tmp_path / RECORDS).read_bytes() == b""


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model": "other"}, "model: m there, other now"),
        ({"engine_version": "2"}, "engine_version: 1 there, 2 now"),
        ({"conditions": Conditions(seed=2, other={"repeats": "1"})}, "seed: 1 there, 2 now"),
        ({"conditions": Conditions(seed=1, other={"repeats": "2"})}, "repeats: 1 there, 2 now"),
    ],
)
def test_another_run_is_not_resumed(tmp_path: Path, changed: dict[str, object], message: str) -> None:
    with opened(tmp_path, STATE, resume=False) as journal:
        journal.append(record(0))
    with pytest.raises(ConfigError, match=message), opened(tmp_path, STATE.model_copy(update=changed), resume=True):
        pass
    # and it is still there
    assert [r.id for r in read_records(tmp_path / RECORDS, EvalRecord)] == ["q0"]


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no run to resume"), opened(tmp_path, STATE, resume=True):
        pass


def test_a_broken_line_in_the_middle_is_not_passed_over(tmp_path: Path) -> None:
    STATE.write(tmp_path / RUN)
    (tmp_path / RECORDS).write_text("{}\n" + record(0).model_dump_json() + "\n")
    with pytest.raises(ConfigError, match=rf"{RECORDS}:1: not an EvalRecord"), opened(tmp_path, STATE, resume=True):
        pass


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    with (
        opened(tmp_path, STATE, resume=False),
        pytest.raises(ConfigError, match="another run is writing there"),
        opened(tmp_path, STATE, resume=False),
    ):
        pass
    with opened(tmp_path, STATE, resume=False):
        pass


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InfrastructureError, match="cannot be written"),
        opened(tmp_path / "file" / "run", STATE, resume=False),
    ):
        pass


def test_a_full_disk_is_one_message() -> None:
    with Path("/dev/full").open("ab", buffering=0) as stream:
        journal = Journal(Path("/dev"), stream, [])
        with pytest.raises(InfrastructureError, match="No space left"):
            journal.append(record(0))
