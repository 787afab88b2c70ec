"""`servegate rollout` from another terminal: what it says, what it leaves behind, and how it ends."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from servegate.cli import main
from servegate.cli.rollout import act
from servegate.release import Engine, Model, Release
from servegate.rollout import model
from servegate.rollout.memory import HistoryLine, Memory
from servegate.rollout.model import Phase, SlotRelease
from servegate.rollout.plan import load_plan
from servegate.rollout.stores.sqlite import SqliteStore

PLAN = Path(__file__).parents[2] / "rollout" / "canary.yaml"


def release(name: str) -> Release:
    return Release(
        name=name, model=Model(uri="file:///m", served_name="m"), engine=Engine(name="simulator", version="1")
    )


class Rollout:
    """A store with a rollout in it, and somebody who holds its lease."""

    def __init__(self, file: Path) -> None:
        self.file, self.store = file, SqliteStore(file)
        self.one, self.two = release("v1"), release("v2")
        self.plan: dict[str, object] | None = None
        self.state = model.start(
            rollout="v2-abc-1",
            plan="sha256:" + "0" * 64,
            stable="blue",
            candidate="green",
            slots={
                "blue": SlotRelease(release=self.one.identity(), name="v1"),
                "green": SlotRelease(release=self.two.identity(), name="v2"),
            },
            now=1_000_000.0,
        ).model_copy(
            update={
                "phase": Phase.STEP,
                "weights": {"blue": 90.0, "green": 10.0},
                "reason": "green \x1b[31mis ready",
                "waiting": "30 s more at 10 %",
            }
        )

    def save(self, **update: object) -> None:
        lease = self.store.acquire("controller", time.time(), 60.0)
        _, version = self.store.load()
        self.state = self.state.model_copy(update=update)
        releases = {item.identity(): item for item in (self.one, self.two)}
        known = Memory(state=self.state, releases=releases, verified=(self.one.identity(),), plan=self.plan)
        self.store.save(known.model_dump_json(), version, lease)

    def gone(self) -> None:
        holder = self.store.holder()
        assert holder is not None
        self.store.release(holder)

    def settle(self, outcome: str, targets: list[str | None] | None = None) -> threading.Thread:
        """Carry out the next intent, as a controller would."""

        def work() -> None:
            store = SqliteStore(self.file)
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                for intent in store.intents():
                    if targets is not None:
                        targets.append(intent.target)
                    store.settle(intent, outcome)
                    store.close()
                    return
                time.sleep(0.02)

        thread = threading.Thread(target=work)
        thread.start()
        return thread


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Rollout]:
    made = Rollout(tmp_path / "rollout.db")
    yield made
    made.store.close()


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(["rollout", *arguments])
    captured = capsys.readouterr()
    return int(end.value.code or 0), captured.out, captured.err


def test_status_says_where_it_stands(running: Rollout, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "status", "--store", str(running.file)) == (0, "no rollout yet\n", "")
    running.save()
    code, out, _ = run(capsys, "status", "--store", str(running.file))
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("v2-abc-1  STEP")
    assert lines[1].split() == ["blue", "stable", "v1", "90.0", "%"]
    assert lines[2].split() == ["green", "candidate", "v2", "10.0", "%"]
    assert "30 s more at 10 %" in out
    assert "\x1b" not in out
    assert "no controller" not in out
    running.gone()
    assert "no controller is at work" in run(capsys, "status", "--store", str(running.file))[1]


def test_status_as_json(running: Rollout, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "status", "--json", "--store", str(running.file))[1] == "{}\n"
    running.save()
    document = json.loads(run(capsys, "status", "--json", "--store", str(running.file))[1])
    assert document["phase"] == "STEP"
    assert document["weights"] == {"blue": 90.0, "green": 10.0}
    assert document["controller"] == "controller"


def test_history(running: Rollout, capsys: pytest.CaptureFixture[str]) -> None:
    line = HistoryLine(
        at=1.0, rollout="r", release="v2", phase="STEP", weights={"blue": 99.0, "green": 1.0}, reason="ready\n\x07"
    )
    running.store.append_history(line.model_dump_json())
    code, out, _ = run(capsys, "history", "--store", str(running.file))
    assert code == 0
    assert "STEP" in out
    assert "blue 99 % green 1 %" in out
    assert "\x07" not in out
    document = json.loads(run(capsys, "history", "--json", "--store", str(running.file))[1])
    assert document == [line.model_dump(mode="json")]


@pytest.mark.parametrize("kind", ["abort", "pause", "resume", "promote", "approve", "rollback"])
def test_an_intent_is_left_and_its_outcome_told(
    running: Rollout, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    running.save()
    controller = running.settle("it is done")
    more = ("--no-wait",) if kind in ("abort", "rollback") else ()
    code, out, _ = run(capsys, kind, "--store", str(running.file), "--reason", "looks odd", *more)
    controller.join()
    assert (code, out) == (0, "it is done\n")


def test_an_intent_carries_who_and_why_and_is_left_once(running: Rollout, capsys: pytest.CaptureFixture[str]) -> None:
    running.save()
    running.gone()
    for _ in range(2):  # the store does not say where the rollout happens, so nobody can take over
        code, _, err = run(capsys, "abort", "--store", str(running.file), "--reason", "looks odd")
        assert code == 4
        assert "abort is not done: left as intent 1; no controller has taken it up yet" in err
    (intent,) = running.store.intents()
    assert (intent.kind, intent.reason) == ("abort", "looks odd")
    assert "@" in intent.by


def test_promotion_by_force_needs_a_reason(running: Rollout, capsys: pytest.CaptureFixture[str]) -> None:
    running.save()
    code, _, err = run(capsys, "promote", "--force", "--store", str(running.file))
    assert (code, "--force needs --reason" in err) == (2, True)
    controller = running.settle("all traffic")
    assert run(capsys, "promote", "--force", "--reason", "hotfix", "--store", str(running.file))[0] == 0
    controller.join()


def test_a_release_to_go_back_to_is_named_or_brought_along(
    running: Rollout, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    running.save()
    code, _, err = run(capsys, "rollback", "v9", "--store", str(running.file))
    assert (code, "no verified release is called 'v9'; there are v1 (" in err) == (2, True)
    file = tmp_path / "v2.json"
    running.two.write(file)
    code, _, err = run(capsys, "rollback", "v1", "--release", str(file), "--store", str(running.file))
    assert (code, "not both" in err) == (2, True)
    for arguments, target in (
        (("v1",), running.one.identity()),
        ((running.one.id,), running.one.identity()),
        (("--release", str(file)), running.two.model_dump_json()),
    ):
        found: list[str | None] = []
        controller = running.settle("rolling back", found)
        assert run(capsys, "rollback", *arguments, "--no-wait", "--store", str(running.file))[0] == 0
        controller.join()
        assert found == [target]


def test_a_refusal_is_a_usage_error(running: Rollout, capsys: pytest.CaptureFixture[str]) -> None:
    running.save()
    controller = running.settle("refused: the rollout is rolling back")
    code, _, err = run(capsys, "pause", "--store", str(running.file))
    controller.join()
    assert code == 2
    assert "pause was refused: the rollout is rolling back" in err


def test_an_intent_as_json(
    running: Rollout, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    running.save()
    monkeypatch.setattr(act, "WAIT", 0.0)
    code, out, _ = run(capsys, "abort", "--json", "--store", str(running.file))
    assert code == 4
    assert json.loads(out) == {"intent": 1, "kind": "abort", "outcome": None}


def test_there_must_be_a_rollout_to_act_on(
    running: Rollout, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, _, err = run(capsys, "abort", "--store", str(running.file))
    assert (code, "nothing to abort" in err) == (2, True)
    running.save(phase=Phase.PROMOTED)
    code, _, err = run(capsys, "pause", "--store", str(running.file))
    assert (code, "has ended (PROMOTED)" in err) == (2, True)
    assert running.store.intents() == []
    code, _, err = run(capsys, "status", "--store", str(tmp_path / "other.db"))
    assert (code, "no such store" in err) == (2, True)
    (tmp_path / "noise.db").write_text("noise " * 1000)
    code, _, err = run(capsys, "status", "--store", str(tmp_path / "noise.db"))
    assert (code, "not a store" in err) == (4, True)


def test_a_plan_is_checked_and_shown_as_steps(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = run(capsys, "plan", str(PLAN))
    assert code == 0
    shares = [line.split("%")[0].split()[-1] for line in out.splitlines() if " %  " in line]
    assert shares == ["1", "10", "50", "95", "100"]
    assert "min  promoted" in out
    document = json.loads(run(capsys, "plan", "--json", str(PLAN))[1])
    assert [step["weight"] for step in document["steps"]] == ["1%", "10%", "50%", "95%", "100%"]
    broken = tmp_path / "plan.yaml"
    broken.write_text(PLAN.read_text().replace("alpha: 1%", "alhpa: 1%", 1))
    code, _, err = run(capsys, "plan", str(broken))
    assert code == 2
    assert "plan.yaml:" in err
    assert "did you mean 'alpha'" in err
    assert "Traceback" not in err


def test_the_watchdog_leaves_alone_what_somebody_is_at_work_on(
    running: Rollout, capsys: pytest.CaptureFixture[str]
) -> None:
    look = ("watchdog", "--store", str(running.file))
    assert run(capsys, *look) == (0, "no rollout is under way\n", "")
    running.plan = load_plan(PLAN).model_dump(mode="json")
    running.save(updated=time.time())
    assert run(capsys, *look) == (0, "v2-abc-1: controller is at work on it\n", "")
    running.gone()
    code, out, _ = run(capsys, *look)
    assert code == 0
    assert "nobody is at work on it; its controller may come back for another 1" in out
    running.save(updated=time.time() - 300)
    running.gone()
    code, out, said = run(capsys, *look)
    assert "nobody has been at work on it for 300 s: taking over" in out
    assert (code, "does not say where the rollout happens" in said) == (2, True)
    running.save(phase=Phase.PROMOTED)
    assert run(capsys, *look)[1] == "no rollout is under way\n"
