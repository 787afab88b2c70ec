"""The helper process: replaced when a job is stopped, gone when its owner is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from processes import wait_until_exit

from servegate.evals.scorers import _helper, bounded
from servegate.evals.scorers.base import ScoringError


def search(helper: bounded.Helper, pattern: str, text: str) -> bool:
    return bool(helper.run({"do": "search", "pattern": pattern, "text": text, "ignore_case": False}))


def test_one_process_serves_many_jobs_and_is_replaced_when_one_is_stopped() -> None:
    helper = bounded.Helper(seconds=0.2)
    assert search(helper, "b", "abc")
    first = helper._process
    assert first is not None
    assert not search(helper, "x", "abc\ud800\n\0")
    assert helper._process is first
    with pytest.raises(ScoringError, match=r"0\.2 s of processor time"):
        search(helper, "(a|a)*$", "a" * 60 + "b")
    assert first.returncode == -signal.SIGPROF
    assert search(helper, "b", "abc")
    helper.close()
    assert helper._process is None


def test_a_helper_killed_between_jobs_is_replaced() -> None:
    helper = bounded.Helper()
    assert search(helper, "b", "abc")
    assert helper._process is not None
    helper._process.kill()
    helper._process.wait()
    assert search(helper, "b", "abc")
    helper.close()


def test_jobs_of_several_threads_do_not_mix() -> None:
    helper = bounded.Helper()
    found: dict[int, bool] = {}

    def ask(number: int) -> None:
        found[number] = all(search(helper, f"<{number}>", f"-<{number}>-{i}") for i in range(50))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    helper.close()
    assert found == dict.fromkeys(range(4), True)


def test_a_busy_helper_ends_although_its_parent_was_killed() -> None:
    program = (
        "import subprocess, sys, json\n"
        "p = subprocess.Popen([sys.executable, '-I', sys.argv[1]], stdin=subprocess.PIPE, start_new_session=True)\n"
        "p.stdin.write((json.dumps({'do': 'search', 'pattern': '(a|a)*$', 'text': 'a' * 60 + 'b',"
        " 'ignore_case': False, 'seconds': 0.5}) + '\\n').encode()); p.stdin.flush()\n"
        "print(p.pid, flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, str(Path(_helper.__file__))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        os.kill(pid, 0)
        parent.kill()
    assert wait_until_exit(pid, timeout=60)


def test_the_helper_needs_nothing_of_servegate() -> None:
    code = (
        f"import runpy, sys; sys.stdin = open('/dev/null'); runpy.run_path({_helper.__file__!r}, run_name='__main__'); "
    )
    code += "print([name for name in sys.modules if name.startswith('servegate')])"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.replace("'", '"')) == []
