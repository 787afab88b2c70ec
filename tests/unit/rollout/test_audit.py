"""The audit trail: every decision can be made again from it, and what is missing or was changed is seen."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from crash_life import Killed
from crash_world import BAD, GOOD, OLD, World, begin_or_go_on

from servegate import cli
from servegate.contract import canonical_json, sha256
from servegate.errors import ConfigError
from servegate.release import Release
from servegate.report.model import Report
from servegate.rollout.audit import AuditTick, fingerprint, read_trail, replay
from servegate.rollout.journal import append_line, last_line
from servegate.rollout.model import State


def rolled_out(folder: Path, item: Release) -> Path:
    world = World(folder)
    controller = world.controller(world.life())
    begin_or_go_on(controller, item)
    controller.run()
    world.close()
    return folder / "audit.jsonl"


@pytest.mark.parametrize("item", [GOOD, BAD])
def test_every_decision_is_made_again(tmp_path: Path, item: Release) -> None:
    trail = read_trail(rolled_out(tmp_path, item))
    replayed = replay(trail)
    assert replayed.differences == ()
    assert (replayed.ticks, replayed.lost, len(replayed.rollouts)) == (len(trail), 0, 1)
    assert replayed.changes == sum(bool(tick.reason) for tick in trail) > 3
    last = trail[-1]
    assert last.phase == ("ROLLED_BACK" if item is BAD else "PROMOTED")
    assert {effect for tick in trail for effect in tick.effects or ()} == {"done"}
    # What it rested on stands there: counters of both slots, and the evidence against the limit.
    judged = [tick for tick in trail if tick.evidence]
    assert all(set(tick.observation.slots) == {"blue", "green"} for tick in judged)
    assert (max(item.log_e - item.log_limit for tick in judged for item in tick.evidence) >= 0) is (item is BAD)


def test_a_message_has_the_fingerprint_it_had_before_it_could_be_of_another_rollout(tmp_path: Path) -> None:
    state = read_trail(rolled_out(tmp_path, GOOD))[0].state
    assert state is not None
    message = {"id": 1, "at": 0.0, "level": "info", "text": "hello", "phase": "STEP", "weights": {"blue": 100.0}}
    document = {**state, "outbox": [message]}
    assert fingerprint(State.model_validate(document)) == sha256(canonical_json(document))
    origin = {"rollout": "r", "id": 1, "plan_name": "p", "release": "v1", "releases": {}}
    other = {**document, "outbox": [{**message, "origin": origin}]}
    assert fingerprint(State.model_validate(other)) == sha256(canonical_json(other))


def test_two_rollouts_in_one_trail(tmp_path: Path) -> None:
    world = World(tmp_path)
    for item in (BAD, GOOD):
        controller = world.controller(world.life())
        controller.start(item, OLD if item is BAD else None)
        controller.run()
    world.close()
    replayed = replay(read_trail(tmp_path / "audit.jsonl"))
    assert (len(replayed.rollouts), replayed.differences) == (2, ())


def test_a_killed_controller_s_decision_is_written_down_by_the_next(tmp_path: Path) -> None:
    world = World(tmp_path)

    def at(_number: int, what: str) -> None:
        if what == "before router.write" and world.now > 1_000_002:
            raise Killed

    controller = world.controller(world.life(at))
    begin_or_go_on(controller, GOOD)
    with pytest.raises(Killed):
        controller.run()
    world.sleep(20)
    controller = world.controller(world.life())
    controller.resume()
    controller.run()
    world.close()
    replayed = replay(read_trail(tmp_path / "audit.jsonl"))
    assert (replayed.lost, replayed.differences) == (1, ())


def edit(path: Path, change: Callable[[list[dict[str, Any]]], None]) -> Path:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    change(lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def drop(lines: list[dict[str, Any]]) -> None:
    del lines[9]


def fewer_failures(lines: list[dict[str, Any]]) -> None:
    for line in lines:
        if line["observation"]["slots"].get("green"):
            line["observation"]["slots"]["green"]["counters"]["gateway_5xx"] = 0.0


def another_reason(lines: list[dict[str, Any]]) -> None:
    next(line for line in lines if "more often" in line["reason"])["reason"] = "somebody said so"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (drop, "does not follow"),
        (fewer_failures, "led to another state"),
        (another_reason, "was 'somebody said so', is now 'green"),
    ],
)
def test_what_was_changed_is_seen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[list[dict[str, Any]]], None], said: str
) -> None:
    path = edit(rolled_out(tmp_path, BAD), change)
    (first, *_) = replay(read_trail(path)).differences
    assert said in first.message
    code, out = run(capsys, "replay", str(path))
    assert code == 1
    assert said in out


def test_a_trail_must_have_its_beginning(tmp_path: Path) -> None:
    path = edit(rolled_out(tmp_path, GOOD), lambda lines: lines.__delitem__(slice(0, 3)))
    with pytest.raises(ConfigError, match="first lines are missing"):
        replay(read_trail(path))
    with pytest.raises(ConfigError, match="empty"):
        replay([])
    path.write_text('{"rollout": 1}\n')
    with pytest.raises(ConfigError, match=r"audit\.jsonl:1: not a AuditTick"):
        read_trail(path)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main(["rollout", *arguments])
    return int(ended.value.code or 0), capsys.readouterr().out


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = rolled_out(tmp_path, BAD)
    code, out = run(capsys, "replay", str(path))
    assert code == 0
    assert "every decision was made again" in out
    assert "ROLLED_BACK" in out
    code, out = run(capsys, "replay", "--json", str(path))
    document = json.loads(out)
    assert (code, document["differences"], document["lost"]) == (0, [], 0)


@pytest.mark.parametrize("item", [GOOD, BAD])
def test_the_report_of_a_canary(tmp_path: Path, capsys: pytest.CaptureFixture[str], item: Release) -> None:
    path = rolled_out(tmp_path / "a", item)
    output = tmp_path / "b" / "report.json"
    assert run(capsys, "replay", str(path), "--report", str(output))[0] == 0
    report = Report.read(output)
    assert (report.kind, report.subject.name, report.void) == ("canary", item.name, None)
    blue, green = (report.measure(f"error_rate.rate@{slot}") for slot in ("blue", "green"))
    assert blue is not None
    assert green is not None
    assert (blue.value, blue.n > 100) == (0, True)
    assert green.value == (pytest.approx(0.3, abs=0.1) if item is BAD else 0)
    ttft = report.measure("ttft.p95@green")
    assert ttft is not None
    assert ttft.value is not None
    evidence = [report.measure(f"evidence_against.max[check={name}]") for name in ("errors", "slo")]
    assert (max(found.value or 0 for found in evidence if found is not None) >= 1) is (item is BAD)
    (sidecar,) = report.samples
    assert (output.parent / sidecar.path).resolve() == path.resolve()
    assert report.findings[0].code == ("rolled-back" if item is BAD else "promoted")
    assert (report.canary is not None) is (item is BAD)
    if report.canary is not None:
        back = report.canary.way_back
        assert back is not None
        assert [point.outcome for point in back.proof.points] == ["PASS"] * 3


def test_the_last_whole_line_of_a_journal(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    assert last_line(path) is None
    append_line(path, "one\n")
    append_line(path, "x" * 200_000 + "\n")
    assert last_line(path) == "x" * 200_000
    with path.open("a") as stream:
        stream.write("half")
    assert last_line(path) == "x" * 200_000
    append_line(path, "two\n")
    assert last_line(path) == "two"


def test_a_line_survives_json(tmp_path: Path) -> None:
    for tick in read_trail(rolled_out(tmp_path, BAD)):
        assert AuditTick.model_validate_json(tick.model_dump_json()) == tick
