"""`rollout start` once more: the verdict was looked at when the rollout began, and stands in the store."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from rollout_world import RULES
from verdicts import release

from servegate.cli import main
from servegate.contract import canonical_json
from servegate.process import free_ports
from servegate.rollout import memory
from servegate.rollout.controller import Controller
from servegate.rollout.memory import Memory
from servegate.rollout.model import Phase, SlotRelease, State, start
from servegate.rollout.plan import load_plan
from servegate.rollout.stores.sqlite import SqliteStore

OLD, NEW = release("v1"), release("v2")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SqliteStore:
    """A machine's folder, and its store that has seen nothing."""
    monkeypatch.chdir(tmp_path)
    port, admin, blue, green = free_ports(4)
    NEW.write(tmp_path / "v2.json")
    (tmp_path / "plan.json").write_bytes(canonical_json(RULES))
    (tmp_path / "site.yaml").write_text(
        f"version: 1\nkind: machine\nfolder: here\nport: {port}\nadmin_port: {admin}\n"
        f"slots: {{blue: [{blue}], green: [{green}]}}\n"
    )
    (tmp_path / "here").mkdir()
    return SqliteStore(tmp_path / "here" / "rollout.db")


def remember(store: SqliteStore, verdict: str | None) -> None:
    """A rollout of v2, whose controller was killed while the slot was prepared."""
    plan = load_plan(Path("plan.json"))
    slots = {
        "blue": SlotRelease(release=OLD.identity(), name=OLD.name),
        "green": SlotRelease(release=NEW.identity(), name=NEW.name),
    }
    state = start(rollout="r", plan=plan.identity(), stable="blue", candidate="green", slots=slots, now=1000.0)
    if verdict is not None:
        state = state.model_copy(update={"phase": Phase.PREPARING, "verdict": verdict, "ensured": True})
    known = Memory(state=state, releases={OLD.identity(): OLD, NEW.identity(): NEW})
    lease = store.acquire("killed", 1000.0, 10.0)
    store.save(known.model_dump_json(), 0, lease)
    store.release(lease)


def start_again(monkeypatch: pytest.MonkeyPatch, ran: list[Phase]) -> int:
    def run(controller: Controller) -> State:
        ran.append(controller.state.phase)
        return controller.state

    monkeypatch.setattr("servegate.cli.rollout.common.run", run)
    monkeypatch.setattr(
        sys, "argv", ["servegate", "rollout", "start", "v2.json", "--site", "site.yaml", "--plan", "plan.json"]
    )
    monkeypatch.delenv("SERVEGATE_TRUST", raising=False)
    with pytest.raises(SystemExit) as ended:
        main()
    return int(str(ended.value.code))


def test_what_began_with_a_verdict_goes_on_without_a_trust_file(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember(store, "sha256:" + "1" * 64)
    ran: list[Phase] = []
    start_again(monkeypatch, ran)
    assert ran == [Phase.PREPARING]
    found, _ = memory.load(store)
    assert found is not None
    assert found.state.verdict == "sha256:" + "1" * 64


@pytest.mark.parametrize("begun", [False, True])
def test_nothing_begins_without_one(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], begun: bool
) -> None:
    if begun:
        remember(store, None)  # killed before its verdict was looked at
    ran: list[Phase] = []
    assert start_again(monkeypatch, ran) == 2
    assert "whose verdicts count" in capsys.readouterr().err
    assert not ran
