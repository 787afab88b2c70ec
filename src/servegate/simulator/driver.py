"""Runs the pure engine in real time, and makes it ill when a fault says so.

One timer, no tasks: the engine says when its step ends, the driver wakes the requests that have a new token. A request
whose client reads slowly is not waited for; its tokens are known anyway and are sent together when there is room.
"""

from __future__ import annotations

import asyncio
import os
import time

from servegate.simulator.engine import Engine, Generation
from servegate.simulator.faults import Fault, Faults
from servegate.simulator.metrics import Metrics
from servegate.simulator.plan import Plan

# How often faults that act by themselves (crash, leak per second) are looked at. Seconds.
FAULT_CLOCK = 0.05


class Job:
    """One request between the engine and its connection."""

    __slots__ = ("_waiter", "break_fault", "felt", "generation", "max_tokens", "outcome", "plan", "stall_fault")

    def __init__(self, generation: Generation, plan: Plan, max_tokens: int) -> None:
        self.generation = generation
        self.plan = plan
        self.max_tokens = max_tokens
        self.outcome: str | None = None
        """None while it runs; then done, error (say so in the stream) or cut (drop the connection)."""
        self.break_fault: Fault | None = None
        self.stall_fault: Fault | None = None
        self.felt: set[str] = set()
        self._waiter: asyncio.Future[None] | None = None

    async def more_than(self, taken: int) -> int:
        """Wait until there are more tokens than `taken`, or no more will come; the number there is."""
        while self.generation.generated <= taken and self.outcome is None:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self.generation.generated

    def wake(self) -> None:
        """Something has changed."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Driver:
    """Owns the engine. All times are of `time.monotonic`."""

    def __init__(self, engine: Engine, metrics: Metrics, faults: Faults) -> None:
        self.engine, self.metrics, self.faults = engine, metrics, faults
        self._jobs: dict[Generation, Job] = {}
        self._timer: asyncio.TimerHandle | None = None

    def submit(self, job: Job) -> None:
        """Give a request to the engine. Raises ValueError if it could never run."""
        now = time.monotonic()
        self._prepare_faults(job)
        self._set_speed()
        self.engine.submit(job.generation, now)
        self._jobs[job.generation] = job
        self._arm(now)

    def drop(self, job: Job) -> None:
        """The connection is done with this request; if the engine is not, nobody is told, as in the real server."""
        if self._jobs.pop(job.generation, None) is not None:
            self.engine.abort(job.generation)

    async def fault_clock(self) -> None:
        """Runs for ever: faults that need no request to act."""
        last = time.monotonic()
        while True:
            await asyncio.sleep(FAULT_CLOCK)
            now = time.monotonic()
            for fault in self.faults.active("leak"):
                if fault.spec.parameters["blocks_per_second"] is not None:
                    self._leak(fault, fault.spec.parameters["blocks_per_second"] * (now - last), 0)
            for fault in self.faults.active("crash"):
                self.faults.note(fault, 0)
                os._exit(fault.spec.parameters["exit_code"])
            last = now

    # ---- time

    def _arm(self, now: float) -> None:
        due = self.engine.due
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due is not None:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, due - now), self._tick)

    def _tick(self) -> None:
        self._timer = None
        if self.faults.active("hang"):
            self._timer = asyncio.get_running_loop().call_later(FAULT_CLOCK, self._tick)
            return
        self._set_speed()
        now = time.monotonic()
        out = self.engine.step(now)
        if out.ran:
            slow = self._latency_faults("itl") if self.faults.current else []
            self.metrics.step(out.prefill_tokens, len(out.emitted))
            for generation, previous in out.emitted:
                if previous is None:
                    self.metrics.first_token(generation, now)
                else:
                    self.metrics.next_token(now - previous)
                job = self._jobs.get(generation)
                if job is not None:
                    for fault in slow:
                        self._feel(job, fault)
                    self._break_or_stall(job, now)
                    job.wake()
            for generation in out.finished:
                self._finish(generation, now)
        self._arm(time.monotonic())

    def _finish(self, generation: Generation, now: float) -> None:
        job = self._jobs.pop(generation, None)
        if job is not None and job.outcome is None:
            self.metrics.finish(generation, job.plan.finish_reason, job.max_tokens, now)
            job.outcome = "done"

    # ---- faults

    def _prepare_faults(self, job: Job) -> None:
        """Decide at arrival what will happen to a request; a fault needs at least one token to come after it."""
        tokens = len(job.plan.pieces)
        fault = self.faults.strike("stream_errors")
        if fault is not None:
            job.break_fault = fault
        fault = self.faults.strike("stall")
        if fault is not None and tokens > 1:
            job.stall_fault = fault
            job.generation.stall_after = max(1, min(fault.spec.parameters["after_tokens"], tokens - 1))
            job.generation.stall_seconds = fault.spec.parameters["seconds"]
        for fault in self._latency_faults("ttft"):
            self._feel(job, fault)
        for fault in self.faults.active("leak"):
            if fault.spec.parameters["blocks_per_request"] is not None:
                self._leak(fault, fault.spec.parameters["blocks_per_request"], 1)
            elif fault.first_effect_at is not None:
                self.faults.note(fault)

    def _break_or_stall(self, job: Job, now: float) -> None:
        generation = job.generation
        fault = job.break_fault
        after = max(1, min(fault.spec.parameters["after_tokens"], len(job.plan.pieces) - 1)) if fault else 0
        if fault is not None and job.outcome is None and generation.generated >= after:
            self.faults.note(fault)
            job.outcome = str(fault.spec.parameters["mode"])
            if job.outcome == "error":
                self.metrics.finish(generation, "error", job.max_tokens, now)
            self._jobs.pop(generation, None)
            self.engine.abort(generation)
        elif job.stall_fault is not None and generation.generated == generation.stall_after and not generation.done:
            self.faults.note(job.stall_fault)

    def _set_speed(self) -> None:
        engine = self.engine
        engine.ttft_factor = engine.itl_factor = 1.0
        for fault in self.faults.active("latency"):
            what, factor = fault.spec.parameters["what"], fault.spec.parameters["factor"]
            if what in ("ttft", "both"):
                engine.ttft_factor *= factor
            if what in ("itl", "both"):
                engine.itl_factor *= factor

    def _latency_faults(self, what: str) -> list[Fault]:
        return [fault for fault in self.faults.active("latency") if fault.spec.parameters["what"] in ("both", what)]

    def _feel(self, job: Job, fault: Fault) -> None:
        if fault.id not in job.felt:
            job.felt.add(fault.id)
            self.faults.note(fault)

    def _leak(self, fault: Fault, blocks: float, requests: int) -> None:
        fault.progress += blocks
        whole = int(fault.progress)
        if whole:
            fault.progress -= whole
            self.engine.pool.leak(whole)
            self.faults.note(fault, requests)
