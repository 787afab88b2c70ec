"""What will be said, token by token, known before the first one is sent.

A simulated model has nothing to find out while it speaks, so limits, stop strings and the end are settled here, in one
pure function; the engine then only says when each token comes.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from servegate.simulator import answers, tokens
from servegate.simulator.protocol import Request


@dataclass(frozen=True, slots=True)
class Plan:
    """`pieces[i]` is the visible text of token i; the end-of-text token and cut-off text are empty pieces."""

    pieces: list[str]
    finish_reason: str
    stop_reason: str | None = None


def plan(request: Request, text: str, seed: int) -> Plan:
    """Turn an answer into the tokens of a response; never longer than the request's `max_tokens`."""
    limit = request.max_tokens
    assert limit is not None, "parse() has set it"
    pieces = tokens.split(text)
    wanted = limit if request.ignore_eos else request.min_tokens
    if len(pieces) < wanted:
        pieces = answers.continuation(text, wanted, seed)
    if request.stop:
        stopped = _stop(pieces[:limit], request)
        if stopped is not None:
            return stopped
    if request.ignore_eos or len(pieces) >= limit:
        return Plan(pieces[:limit], "length")
    return Plan([*pieces, ""], "stop")


def _stop(pieces: list[str], request: Request) -> Plan | None:
    """The plan up to the stop string that is complete first, looked for once there are `min_tokens`."""
    ends = list(accumulate(map(len, pieces)))
    text = "".join(pieces)
    skipped = ends[request.min_tokens - 1] if 0 < request.min_tokens <= len(ends) else 0
    best: tuple[int, int, str] | None = None
    for stop in request.stop:
        found = text.find(stop, max(0, skipped - len(stop) + 1))
        if found >= 0:
            end = found + len(stop)
            if best is None or end < best[0]:
                best = (end, found, stop)
    if best is None:
        return None
    end, start, stop = best
    visible = end if request.include_stop else start
    cut: list[str] = []
    begin = 0
    for piece, piece_end in zip(pieces, ends, strict=True):
        cut.append(piece[: max(0, visible - begin)])
        begin = piece_end
        if piece_end >= end:
            break
    return Plan(cut, "stop", stop)
