"""Process 1 of the container: starts vLLM, passes signals on, stops it gently, ends with its status."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence

from servegate.serving.probe import Answer
from servegate.serving.stop import Do, Stop

_STOP = (signal.SIGTERM, signal.SIGINT)
_PASS_ON = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT)
_LOOK = 0.5


def run(command: Sequence[str], drain: float, quiet: float, ask: Callable[[], Answer]) -> int:
    """Run the engine until it ends; its exit status, or 128 + the number of the signal that ended it.

    Args:
        command: program and arguments.
        drain, quiet: see Stop.
        ask: requests in flight, asked while stopping.
    """
    handled = {*_STOP, *_PASS_ON, signal.SIGCHLD}
    # Blocked and waited for: a signal between two instructions is neither lost nor handled in the middle of one.
    signal.pthread_sigmask(signal.SIG_BLOCK, handled)
    try:
        engine = os.posix_spawnp(command[0], list(command), os.environ, setsigmask=[], setpgroup=0)
    except OSError as error:
        say(f"{command[0]}: cannot be started: {error.strerror}")
        return 127 if isinstance(error, FileNotFoundError) else 126
    stop: Stop | None = None
    while True:
        status = _reap(engine)
        if status is not None:
            _signal_group(engine, signal.SIGKILL)  # what it left behind
            return status if status >= 0 else 128 - status
        received = signal.sigtimedwait(handled, _LOOK if stop else 60.0)
        number = received.si_signo if received else 0
        if number in _PASS_ON:
            _signal(engine, signal.Signals(number))
        if number in _STOP and stop is None:
            stop = Stop(time.monotonic(), drain, quiet)
            say(f"{signal.Signals(number).name}: serving until nobody asks, {drain:g} s at most")
        elif number in _STOP and stop is not None:
            stop.hurry()
        if stop is not None:
            _carry_out(engine, stop, ask)


def _carry_out(engine: int, stop: Stop, ask: Callable[[], Answer]) -> None:
    answer = Answer(None, listening=True) if stop.told is not None else ask()
    match stop.step(time.monotonic(), answer.in_flight, answer.listening):
        case Do.TERMINATE:
            count = "an unknown number of" if answer.in_flight is None else str(answer.in_flight)
            say(f"stopping vLLM, {count if answer.listening else 'no'} requests in flight")
            _signal(engine, signal.SIGTERM)
        case Do.KILL:
            say("vLLM did not stop in time: killed")
            _signal_group(engine, signal.SIGKILL)


def _reap(engine: int) -> int | None:
    """Collect every ended child (process 1 inherits orphans); the engine's status when it has ended."""
    ended = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:  # none is left
            return ended
        if pid == 0:
            return ended
        if pid == engine:
            ended = os.waitstatus_to_exitcode(status)


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:  # it has ended
        return


def _signal_group(pid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):  # all of it has ended
        return


def say(message: str) -> None:
    """One line for the container's log."""
    sys.stderr.write(f"servegate: {message}\n")
    sys.stderr.flush()
