"""The flags of `servegate simulator`: vLLM's own where they exist, and those of a simulated engine.

argparse rather than the command's usual library, so that a child process is up within a moment.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

from servegate.simulator.engine import EngineConfig
from servegate.simulator.faults import FaultError, FaultSpec, duration, parse
from servegate.simulator.knowledge import DEFAULT_FILE


@dataclass(frozen=True, slots=True)
class Options:
    """What a server is started with."""

    model: str
    served_names: tuple[str, ...]
    host: str
    port: int
    control_port: int | None
    max_model_len: int
    max_num_queued_reqs: int | None
    shutdown_timeout: float
    knowledge: Path
    seed: int
    faults: tuple[FaultSpec, ...]
    engine: EngineConfig


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        marker = "unrecognized arguments: "
        if message.startswith(marker):
            unknown = message.removeprefix(marker).split()[0].partition("=")[0]
            known = [name for action in self._actions for name in action.option_strings]
            close = get_close_matches(unknown, known, n=1)
            message = f"unknown argument {unknown}" + (f"; did you mean {close[0]}?" if close else "")
        sys.stderr.write(f"{self.prog}: {message}\n(see {self.prog} --help)\n")
        sys.exit(2)


def _whole(low: int, high: int = 2**31 - 1) -> Callable[[str], int]:
    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low} to {high}")
        return value

    return read


def _above_zero(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def _zero_or_more(text: str) -> float:
    return 0.0 if text.strip() in ("0", "0.0") else _above_zero(text)


def _seconds(text: str) -> float:
    try:
        return duration(text)
    except FaultError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _fault(text: str) -> FaultSpec:
    try:
        return parse(text)
    except FaultError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


FAULT_HELP = """faults (--fault 'kind:parameter=value,...'; each also takes after=30s and duration=60s):
  latency        factor=2 [what=both|ttft|itl]
  errors         rate=0.1 [on=5s,every=30s]            HTTP 500, also in bursts
  stream_errors  rate=0.1 [after_tokens=5,mode=error|cut]  an error inside the stream, or the connection cut
  stall          seconds=3 [rate=1,after_tokens=5]     the stream pauses
  wrong          rate=0.2                              plausible wrong answers
  leak           blocks_per_second=5 | blocks_per_request=2   KV memory shrinks
  slow_start     seconds=20                            the port opens late
  crash          [exit_code=1]                         the process ends without a word
  hang                                                 accepts connections, answers nothing
"""


def parser(prog: str) -> argparse.ArgumentParser:
    """The parser; `prog` is the name in messages."""
    p = _Parser(
        prog=prog,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="An OpenAI-compatible server that stands in for vLLM where there is no GPU.",
        epilog=FAULT_HELP,
    )
    own = EngineConfig()
    same = p.add_argument_group("as vllm serve")
    same.add_argument("--model", default="servegate/simulator", metavar="NAME")
    same.add_argument("--served-model-name", nargs="+", default=None, metavar="NAME")
    same.add_argument("--host", default="127.0.0.1")
    same.add_argument("--port", type=_whole(0, 65535), default=8000, help="0 takes a free one (default 8000)")
    same.add_argument("--max-model-len", type=_whole(1), default=8192, metavar="TOKENS")
    same.add_argument("--max-num-seqs", type=_whole(1), default=own.max_num_seqs, metavar="N")
    same.add_argument("--max-num-batched-tokens", type=_whole(1), default=own.max_num_batched_tokens, metavar="N")
    same.add_argument("--num-gpu-blocks-override", type=_whole(1, 10**7), default=own.num_blocks, metavar="N")
    same.add_argument("--block-size", type=_whole(1, 1024), default=own.block_size, metavar="TOKENS")
    same.add_argument("--max-num-queued-reqs", type=_whole(1), default=None, metavar="N")
    same.add_argument("--shutdown-timeout", type=_seconds, default=0.0, metavar="SECONDS")
    same.add_argument("--enable-prefix-caching", action=argparse.BooleanOptionalAction, default=True)
    same.add_argument("--chat-template", default=None, metavar="FILE", help="accepted; the answers do not depend on it")
    sim = p.add_argument_group("simulation")
    sim.add_argument("--knowledge", type=Path, default=DEFAULT_FILE, metavar="FILE", help="facts, YAML or JSON Lines")
    sim.add_argument("--seed", type=_whole(0), default=0)
    sim.add_argument("--control-port", type=_whole(0, 65535), default=None, help="faults over HTTP, on 127.0.0.1 only")
    sim.add_argument("--fault", type=_fault, action="append", default=[], metavar="SPEC", help="repeatable; see below")
    sim.add_argument("--prefill-tokens-per-second", type=_above_zero, default=own.prefill_tokens_per_second)
    sim.add_argument("--decode-step-ms", type=_above_zero, default=own.decode_step * 1000)
    sim.add_argument("--decode-step-ms-per-request", type=_zero_or_more, default=own.decode_step_per_request * 1000)
    sim.add_argument("--input-ms", type=_zero_or_more, default=own.input_processing * 1000, help="before the queue")
    return p


def read(arguments: list[str], prog: str) -> Options:
    """Options from a command line; exits with 2 and one message if it is wrong."""
    p = parser(prog)
    given = p.parse_args(arguments)
    blocks = -(-given.max_model_len // given.block_size)
    if blocks > given.num_gpu_blocks_override:
        p.error(
            f"--max-model-len {given.max_model_len} needs {blocks} KV blocks of {given.block_size} tokens, but there "
            f"are {given.num_gpu_blocks_override}: lower it or raise --num-gpu-blocks-override"
        )
    return Options(
        model=given.model,
        served_names=tuple(given.served_model_name or [given.model]),
        host=given.host,
        port=given.port,
        control_port=given.control_port,
        max_model_len=given.max_model_len,
        max_num_queued_reqs=given.max_num_queued_reqs,
        shutdown_timeout=given.shutdown_timeout,
        knowledge=given.knowledge,
        seed=given.seed,
        faults=tuple(given.fault),
        engine=EngineConfig(
            num_blocks=given.num_gpu_blocks_override,
            block_size=given.block_size,
            max_num_seqs=given.max_num_seqs,
            max_num_batched_tokens=given.max_num_batched_tokens,
            prefix_caching=given.enable_prefix_caching,
            prefill_tokens_per_second=given.prefill_tokens_per_second,
            decode_step=given.decode_step_ms / 1000,
            decode_step_per_request=given.decode_step_ms_per_request / 1000,
            input_processing=given.input_ms / 1000,
            seed=given.seed,
        ),
    )
