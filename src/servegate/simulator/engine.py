"""Continuous batching as a pure model: what a GPU would be doing, and until when.

Every step computes one token for each running request and, in the room left, a piece of the prompts that wait
(chunked prefill). A step takes

    decode_step + requests · decode_step_per_request + prompt tokens / prefill rate      (seconds)

times a little noise. Requests need blocks of KV memory; when there are none left the youngest gives its own back and
starts again later. From these few rules follow queueing, slow first tokens under load, and preemption, without a
single fixed sleep. Nothing here reads a clock: `step(now)` is told the time and says when it wants to be called next.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from itertools import count

from servegate.simulator.kv import BlockPool

# A step that ended less than this ago is followed by the next without a gap, so that a coarse timer does not slow the
# engine down; one that ended longer ago was held up, and the time is lost as on a real machine. Seconds.
CATCH_UP = 0.005
# How often an engine that can schedule nothing of what waits looks again. Seconds.
BLOCKED_POLL = 0.02


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Sizes in blocks and tokens, times in seconds; the noise terms are sigmas of a log-normal factor."""

    num_blocks: int = 8192
    block_size: int = 16
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    prefix_caching: bool = True
    prefill_tokens_per_second: float = 12_000.0
    decode_step: float = 0.009
    decode_step_per_request: float = 0.000_05
    # Before a request reaches the engine: tokenizing and hand-over, in parallel with everything else.
    input_processing: float = 0.04
    input_noise: float = 0.15
    step_noise: float = 0.05
    seed: int = 0


@dataclass(slots=True, eq=False)
class Generation:
    """One request in the engine: what it reads, what it will say, and what has happened to it. Times are `now`s."""

    prompt: Sequence[Hashable]
    output: Sequence[Hashable]
    finish_reason: str = "stop"
    stall_after: int = 0
    stall_seconds: float = 0.0

    computed: int = 0
    generated: int = 0
    cached: int = 0
    preemptions: int = 0
    blocks: list[int] = field(default_factory=list)
    remembered: int = 0
    last_hash: Hashable = None
    held_until: float = 0.0
    done: bool = False

    arrived_at: float = 0.0
    queued_at: float = 0.0
    scheduled_at: float | None = None
    first_token_at: float | None = None
    last_token_at: float | None = None

    @property
    def known(self) -> int:
        """Tokens whose KV must be there before the next token can be computed."""
        return len(self.prompt) + self.generated

    def token(self, position: int) -> Hashable:
        """The token at a position counted from the start of the prompt."""
        return self.prompt[position] if position < len(self.prompt) else self.output[position - len(self.prompt)]


@dataclass(slots=True)
class StepOutput:
    """What became visible at the end of a step."""

    emitted: list[tuple[Generation, float | None]] = field(default_factory=list)
    """Requests with a new token, and when they had their last one (None: this is the first)."""
    finished: list[Generation] = field(default_factory=list)
    prefill_tokens: int = 0
    ran: bool = False


@dataclass(slots=True)
class Counts:
    """Since the engine started."""

    preemptions: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0


class Engine:
    """One engine. `submit` and `abort` at any time; `step` when `due` says so."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.pool = BlockPool(config.num_blocks)
        self.counts = Counts()
        self.ttft_factor = 1.0
        self.itl_factor = 1.0
        self.running: list[Generation] = []
        self.waiting: deque[Generation] = deque()
        self._arriving: list[tuple[float, int, Generation]] = []
        self._order = count()
        self._batch: list[tuple[Generation, int]] = []
        self._ends_at: float | None = None
        self._look_again_at: float | None = None
        self._random = random.Random(config.seed)

    # ---- what the outside does

    def submit(self, sequence: Generation, now: float) -> None:
        """A request arrives. Raises ValueError if it could never run."""
        if not sequence.prompt or not sequence.output:
            raise ValueError("a request needs a prompt and something to say")
        if self._blocks_for(len(sequence.prompt) + len(sequence.output)) > self.pool.total:
            raise ValueError("the request needs more KV blocks than there are")
        config = self.config
        sequence.arrived_at = now
        delay = config.input_processing * self._noise(config.input_noise)
        if self.ttft_factor != 1.0:
            # The same share is added to what comes after, so that the whole time to the first token grows k-fold
            # while requests that already stream are left alone.
            ahead = len(sequence.prompt) / config.prefill_tokens_per_second + 1.5 * config.decode_step
            delay = max(0.0, delay * self.ttft_factor + (self.ttft_factor - 1.0) * ahead)
        heapq.heappush(self._arriving, (now + delay, next(self._order), sequence))

    def abort(self, sequence: Generation) -> None:
        """The request is gone, wherever it was; its blocks are free. Harmless if it had finished."""
        if sequence.done:
            return
        sequence.done = True
        self._release(sequence)
        if sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        else:
            self._arriving = [entry for entry in self._arriving if entry[2] is not sequence]
            heapq.heapify(self._arriving)

    @property
    def unfinished(self) -> int:
        """Requests submitted and not done."""
        return len(self.running) + len(self.waiting) + len(self._arriving)

    @property
    def due(self) -> float | None:
        """When to call `step` next; None: not before something is submitted."""
        if self._ends_at is not None:
            return self._ends_at
        times = [self._arriving[0][0]] if self._arriving else []
        if self._look_again_at is not None:
            times.append(self._look_again_at)
        return min(times, default=None)

    def step(self, now: float) -> StepOutput:
        """Finish the step that has ended by `now`, if any, and begin the next one, if there is work."""
        out = StepOutput()
        begin = now
        if self._ends_at is not None:
            if now < self._ends_at:
                return out
            if now - self._ends_at < CATCH_UP:
                begin = self._ends_at
            self._finish_step(now, out)
        while self._arriving and self._arriving[0][0] <= now:
            ready_at, _order, sequence = heapq.heappop(self._arriving)
            sequence.queued_at = ready_at
            self.waiting.append(sequence)
        self._look_again_at = None
        if self.running or self.waiting:
            self._begin_step(begin, now)
        return out

    # ---- one step

    def _finish_step(self, now: float, out: StepOutput) -> None:
        out.ran = True
        self._ends_at = None
        for sequence, tokens in self._batch:
            if sequence.done:
                continue  # aborted while the step ran
            prefill = sequence.computed < len(sequence.prompt)
            sequence.computed += tokens
            if prefill:
                out.prefill_tokens += tokens
            self._remember_full_blocks(sequence)
            if sequence.computed < sequence.known:
                continue
            previous = sequence.last_token_at
            sequence.generated += 1
            sequence.last_token_at = now
            if sequence.first_token_at is None:
                sequence.first_token_at = now
            out.emitted.append((sequence, previous))
            if sequence.generated == len(sequence.output):
                sequence.done = True
                out.finished.append(sequence)
            elif sequence.generated == sequence.stall_after:
                sequence.held_until = now + sequence.stall_seconds
        for sequence in out.finished:
            self._release(sequence)
        if out.finished:
            self.running = [sequence for sequence in self.running if not sequence.done]
        self._batch = []

    def _begin_step(self, begin: float, now: float) -> None:
        batch, prefill = self._schedule(now)
        if not batch:
            held = [sequence.held_until for sequence in self.running if sequence.held_until > now]
            self._look_again_at = min([*held, now + BLOCKED_POLL]) if self.waiting else min(held, default=None)
            return
        config = self.config
        seconds = (config.decode_step + config.decode_step_per_request * len(batch)) * self.itl_factor
        seconds += prefill / config.prefill_tokens_per_second
        self._batch = batch
        self._ends_at = begin + seconds * self._noise(config.step_noise)

    def _schedule(self, now: float) -> tuple[list[tuple[Generation, int]], int]:
        """Who takes part in the next step with how many tokens, and how many of those belong to prompts."""
        budget = self.config.max_num_batched_tokens
        batch: list[tuple[Generation, int]] = []
        prefill = 0
        preempted = False
        index = 0
        while index < len(self.running) and budget:
            sequence = self.running[index]
            index += 1
            if sequence.held_until > now:
                continue
            tokens = min(sequence.known - sequence.computed, budget)
            while not self._grow(sequence, sequence.computed + tokens):
                preempted = True
                if self._preempt_youngest() is sequence:
                    break
            else:
                batch.append((sequence, tokens))
                budget -= tokens
                if sequence.computed < len(sequence.prompt):
                    prefill += tokens
        while not preempted and self.waiting and budget and len(self.running) < self.config.max_num_seqs:
            sequence = self.waiting[0]
            tokens = self._admit(sequence, budget)
            if not tokens:
                break
            self.waiting.popleft()
            self.running.append(sequence)
            if sequence.scheduled_at is None:
                sequence.scheduled_at = now
            batch.append((sequence, tokens))
            budget -= tokens
            prefill += tokens
        return batch, prefill

    # ---- memory

    def _admit(self, sequence: Generation, budget: int) -> int:
        """Give a waiting request what it can share and what its first piece needs; 0 if there is no room."""
        shared = self._shared_blocks(sequence)
        skipped = len(shared) * self.config.block_size
        tokens = min(sequence.known - skipped, budget)
        fresh = self._blocks_for(skipped + tokens) - len(shared)
        if fresh > self.pool.free - sum(not self.pool.held(block) for block in shared):
            return 0
        for block in shared:
            self.pool.hold(block)
        taken = self.pool.take(fresh)
        assert taken is not None
        sequence.blocks = [*shared, *taken]
        sequence.computed = skipped
        if sequence.scheduled_at is None:
            sequence.cached = skipped
            if self.config.prefix_caching:
                self.counts.prefix_queries += len(sequence.prompt)
                self.counts.prefix_hits += skipped
        return tokens

    def _shared_blocks(self, sequence: Generation) -> list[int]:
        """Blocks that hold the beginning of this request already; never all of it: one token must be computed."""
        shared: list[int] = []
        sequence.last_hash, sequence.remembered = None, 0
        if self.config.prefix_caching:
            for index in range((sequence.known - 1) // self.config.block_size):
                content = self._hash(sequence, index)
                block = self.pool.find(content)
                if block is None:
                    break
                sequence.last_hash, sequence.remembered = content, index + 1
                shared.append(block)
        return shared

    def _remember_full_blocks(self, sequence: Generation) -> None:
        if not self.config.prefix_caching:
            return
        while (sequence.remembered + 1) * self.config.block_size <= sequence.computed:
            content = self._hash(sequence, sequence.remembered)
            self.pool.remember(sequence.blocks[sequence.remembered], content)
            sequence.last_hash, sequence.remembered = content, sequence.remembered + 1

    def _hash(self, sequence: Generation, index: int) -> Hashable:
        """Identifies a block by its tokens and all that came before."""
        size = self.config.block_size
        tokens = tuple(sequence.token(position) for position in range(index * size, (index + 1) * size))
        return hash((sequence.last_hash, tokens))

    def _grow(self, sequence: Generation, tokens: int) -> bool:
        """Make sure the request has blocks for so many tokens."""
        missing = self._blocks_for(tokens) - len(sequence.blocks)
        if missing <= 0:
            return True
        taken = self.pool.take(missing)
        if taken is None:
            return False
        sequence.blocks += taken
        return True

    def _preempt_youngest(self) -> Generation:
        """The last to come gives its blocks back and will compute everything again, what it said included."""
        victim = self.running.pop()
        self._release(victim)
        victim.computed = 0
        victim.preemptions += 1
        self.counts.preemptions += 1
        self.waiting.appendleft(victim)
        return victim

    def _release(self, sequence: Generation) -> None:
        self.pool.release(reversed(sequence.blocks))
        sequence.blocks = []

    def _blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.config.block_size)

    def _noise(self, sigma: float) -> float:
        return math.exp(self._random.gauss(0.0, sigma)) if sigma else 1.0
