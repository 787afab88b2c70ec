"""The SQLite store under kill -9, two processes at once, and disks that do not play along."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from servegate.errors import ConfigError, InfrastructureError
from servegate.rollout.ports import LeaseLostError
from servegate.rollout.stores.sqlite import SqliteStore

# Counts: every state must be followed by its history line, as a controller would do it.
WRITER = """
import json, sys, time
from pathlib import Path
from servegate.rollout.ports import ConflictError, LeaseLostError
from servegate.rollout.stores.sqlite import SqliteStore

store = SqliteStore(Path(sys.argv[1]))
lease = store.acquire(sys.argv[2], time.time(), 0.001)
while True:
    body, version = store.load()
    value = 0 if body is None else json.loads(body)["n"]
    if value != version:
        sys.exit(f"state {value} under version {version}")
    store.save(json.dumps({"n": value + 1, "pad": "x" * 5000}), version, lease)
    store.append_history(str(value + 1))
    print(value + 1, flush=True)
"""


def program(folder: Path, text: str) -> Path:
    path = folder / "program.py"
    path.write_text(textwrap.dedent(text))
    return path


def test_killed_at_any_instruction_it_keeps_all_that_was_promised(tmp_path: Path) -> None:
    rng = random.Random(7)
    database, writer = tmp_path / "rollout.db", program(tmp_path, WRITER)
    promised = 0
    for life in range(6):
        process = subprocess.Popen(
            [sys.executable, str(writer), str(database), f"life-{life}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stderr is not None
        for _ in range(rng.randint(1, 20)):
            line = process.stdout.readline()
            if not line:
                break
            promised = int(line)
        process.send_signal(signal.SIGKILL)
        # Not communicate(): it would pass over what readline has read ahead.
        with process:
            rest, errors = process.stdout.read(), process.stderr.read()
        assert process.returncode == -signal.SIGKILL, errors.decode()
        promised = max([promised, *map(int, rest.split(b"\n")[:-1])])
        store = SqliteStore(database)
        body, version = store.load()
        assert body is not None
        # Killed between saying and doing: at most one step ahead of what was said.
        assert json.loads(body)["n"] == version
        assert version in (promised, promised + 1)
        history = [int(line) for line in store.history()]
        assert history == sorted(set(history))
        # A kill between the state and its line costs that line, one per life and no more.
        assert version - len(history) <= life + 1
        store.close()
        promised = version
    assert promised > 6


RACER = """
import sys, time
from pathlib import Path
from servegate.rollout.ports import LeaseLostError
from servegate.rollout.stores.sqlite import SqliteStore

name = sys.argv[2]
store = SqliteStore(Path(sys.argv[1]))
won = 0
for round in range(60):
    try:
        lease = store.acquire(name, float(round), 1.0)
    except LeaseLostError:
        continue
    store.append_history(f"{lease.epoch} {name} {round}")
    won += 1
print(won)
"""


def test_processes_that_race_for_the_lease_never_both_hold_it(tmp_path: Path) -> None:
    database, racer = tmp_path / "rollout.db", program(tmp_path, RACER)
    SqliteStore(database).close()
    processes = [
        subprocess.Popen([sys.executable, str(racer), str(database), name], stdout=subprocess.PIPE)
        for name in ("ada", "bob", "eve")
    ]
    won = 0
    for process in processes:
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        won += int(output)
    store = SqliteStore(database)
    rounds = [line.split() for line in store.history()]
    assert len(rounds) == won
    holders: dict[str, str] = {}
    for epoch, name, _ in rounds:
        assert holders.setdefault(epoch, name) == name
    store.close()


def test_it_can_be_read_and_asked_while_another_process_writes(tmp_path: Path) -> None:
    database, writer = tmp_path / "rollout.db", program(tmp_path, WRITER)
    process = subprocess.Popen([sys.executable, str(writer), str(database), "busy"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline()
    onlooker = SqliteStore(database, create=False)
    intents = [onlooker.submit("hold", "kim", float(n)) for n in range(5)]
    versions = [onlooker.load()[1] for _ in range(5)]
    process.kill()
    process.communicate()
    assert versions == sorted(versions)
    assert onlooker.intents() == intents
    onlooker.close()


def test_one_object_may_be_used_by_several_threads(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "rollout.db")

    def work() -> None:
        for _ in range(20):
            store.append_history("x")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.history()) == 80
    store.close()


def test_the_outcome_and_the_holder_can_be_asked(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "rollout.db")
    assert store.holder() is None
    lease = store.acquire("ada", 0.0, 5.0)
    assert store.holder() == lease
    intent = store.submit("abort", "kim", 1.0)
    assert store.outcome(intent) is None
    store.settle(intent, "rolled back")
    store.settle(intent, "something else")
    assert store.outcome(intent) == "rolled back"
    store.release(lease)
    assert store.holder() is None
    store.close()


def test_a_missing_store_is_not_made_by_looking_at_it(tmp_path: Path) -> None:
    path = tmp_path / "rollout.db"
    with pytest.raises(ConfigError, match="no such store"):
        SqliteStore(path, create=False)
    assert not path.exists()


def test_something_else_is_not_overwritten(tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE precious (x)")
    db.close()
    with pytest.raises(ConfigError, match="something else"):
        SqliteStore(other)
    text = tmp_path / "notes.txt"
    text.write_text("dear diary, " * 100)
    with pytest.raises(InfrastructureError, match="not a store"):
        SqliteStore(text)
    assert text.read_text() == "dear diary, " * 100


def test_a_store_of_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rollout.db"
    SqliteStore(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(ConfigError, match="format 99"):
        SqliteStore(path)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rollout.db"
    store = SqliteStore(path)
    for _ in range(50):
        store.append_history("x" * 1000)
    store.close()
    content = bytearray(path.read_bytes())
    content[8192:] = b"\xff" * len(content[8192:])
    path.write_bytes(content)
    damaged = SqliteStore(path)
    with pytest.raises(InfrastructureError, match=r"rollout\.db: is damaged"):
        damaged.history()
    damaged.close()


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InfrastructureError, match="cannot be opened"):
        SqliteStore(tmp_path / "file" / "rollout.db")
    (tmp_path / "folder.db").mkdir()
    with pytest.raises(InfrastructureError, match="cannot be opened"):
        SqliteStore(tmp_path / "folder.db")


def test_a_file_that_was_replaced_under_us_is_an_error_and_not_a_silent_loss(tmp_path: Path) -> None:
    path = tmp_path / "rollout.db"
    store = SqliteStore(path)
    for item in tmp_path.iterdir():
        item.unlink()
    with pytest.raises(InfrastructureError, match="was removed or replaced"):
        store.append_history("x")
    SqliteStore(path).close()
    with pytest.raises(InfrastructureError, match="was removed or replaced"):
        store.load()
    store.close()


FULL = """
import resource, signal, sys
from pathlib import Path
from servegate.errors import InfrastructureError
from servegate.rollout.stores.sqlite import SqliteStore

store = SqliteStore(Path(sys.argv[1]))
lease = store.acquire("a", 0.0, 10.0)
store.save("small", 0, lease)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    store.save("x" * 400_000, 1, lease)
except InfrastructureError as error:
    print(error)
assert store.load() == ("small", 1)
"""


def test_a_full_disk_is_named_and_costs_nothing_that_was_saved(tmp_path: Path) -> None:
    assert resource.RLIMIT_FSIZE
    done = subprocess.run(
        [sys.executable, str(program(tmp_path, FULL)), str(tmp_path / "rollout.db")],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ},
    )
    assert done.returncode == 0, done.stderr
    assert "rollout.db: the disk does not take" in done.stdout or "no space left" in done.stdout
    store = SqliteStore(tmp_path / "rollout.db")
    assert store.load() == ("small", 1)
    store.close()


def test_a_lease_lost_in_between_forbids_the_state(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "rollout.db")
    lease = store.acquire("ada", 0.0, 5.0)
    store.acquire("bob", 6.0, 5.0)
    with pytest.raises(LeaseLostError, match="belongs to bob"):
        store.save("x", 0, lease)
    store.close()
