"""Exit codes and the errors that carry them.

One meaning per code, in every command, so that a workflow can tell "the model is worse" from "the network was
down" without reading text. An error's message is for the person who has to act: it says what is wrong and where.
"""

from __future__ import annotations

from enum import IntEnum

_LONGEST = 1000


class ExitCode(IntEnum):
    """What a process says when it ends (design: Verdicts)."""

    PASS = 0
    GATE_FAILED = 1
    USAGE = 2
    NO_VERDICT = 3
    INFRASTRUCTURE = 4
    INTERRUPTED = 130


class ServegateError(Exception):
    """Something a person must act on; the command prints the message alone and ends with `exit_code`."""

    exit_code: ExitCode = ExitCode.INFRASTRUCTURE


class ConfigError(ServegateError):
    """A file or an option is wrong; the message starts with `file:line:column:` where there is one."""

    exit_code = ExitCode.USAGE


class InfrastructureError(ServegateError):
    """Something servegate needs is missing, unreachable or broken."""

    exit_code = ExitCode.INFRASTRUCTURE


class NoVerdictError(ServegateError):
    """Nothing was decided because nothing could be measured."""

    exit_code = ExitCode.NO_VERDICT


def one_line(text: str) -> str:
    """Text of a hostile file as one line without control characters.

    A key of a policy or a report must not begin a line of its own in a log, where it could give orders.
    """
    cut = text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in cut)
