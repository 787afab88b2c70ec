"""Child processes: a group each, logs kept, nothing left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import wait_until_exit

from servegate.errors import InfrastructureError
from servegate.process import Child, free_ports, python, tail


def grandchild(log: Path) -> int:
    for _ in range(200):
        lines = tail(log)
        if lines:
            return int(lines[0])
        Child("wait", ["sleep", "0.02"], log.with_suffix(".wait")).wait()
    raise AssertionError("no grandchild")


def test_the_whole_group_ends(tmp_path: Path) -> None:
    log = tmp_path / "shell.log"
    child = Child("shell", ["sh", "-c", "sleep 100 & echo $!; wait"], log)
    pid = grandchild(log)
    child.stop(grace=1)
    assert child.returncode is not None
    assert wait_until_exit(pid, 5)
    child.stop()


def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "stubborn.log"
    child = Child("stubborn", ["sh", "-c", "trap '' TERM; echo $$; while :; do sleep 0.05; done"], log)
    grandchild(log)
    child.stop(grace=0.2)
    assert child.returncode == -signal.SIGKILL


def test_an_ended_child_tells_how_and_where_its_log_is(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    child = Child("engine", ["sh", "-c", "echo loading; echo 'no \033[31mmemory'; exit 3"], log)
    child.wait(10)
    with pytest.raises(InfrastructureError) as caught:
        child.check()
    assert str(caught.value) == f"engine ended with status 3; log: {log}\n  | loading\n  | no �[31mmemory"
    killed = Child("engine", ["sleep", "100"], tmp_path / "killed.log")
    killed.send(signal.SIGKILL)
    assert killed.wait(10) == -signal.SIGKILL
    assert "was ended by SIGKILL" in killed.obituary(-signal.SIGKILL)


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError, match=r"envoy: cannot be started: /no/such: No such file"):
        Child("envoy", ["/no/such"], tmp_path / "envoy.log")


def test_children_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from servegate.process import Child\n"
        "child = Child('sleeper', ['sleep', '100'], Path(sys.argv[1])); print(child.pid, flush=True); time.sleep(100)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "log")], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        assert wait_until_exit(pid, 5)


def test_what_a_child_has_started_does_not_outlive_a_killed_parent_either(tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = (
        "import sys, time; from pathlib import Path; from servegate.process import Child\n"
        "Child('shell', ['sh', '-c', 'sleep 100 & echo $!; wait'], Path(sys.argv[1])); time.sleep(100)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(log)]) as parent:
        pid = grandchild(log)
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        assert wait_until_exit(pid, 5)


def test_what_is_left_of_an_ended_child_is_ended_by_stop(tmp_path: Path) -> None:
    log = tmp_path / "log"
    child = Child("shell", ["sh", "-c", "sleep 100 & echo $!"], log)
    pid = grandchild(log)
    assert child.wait(10) == 0
    child.stop()
    assert wait_until_exit(pid, 5)


def test_environment_and_working_folder(tmp_path: Path) -> None:
    log = tmp_path / "env.log"
    Child("env", python("-c", "import os; print(os.environ['A'], os.getcwd())"), log, {"A": "b"}, tmp_path).wait(20)
    assert tail(log) == [f"b {tmp_path}"]


def test_free_ports_differ() -> None:
    assert len(set(free_ports(20))) == 20
