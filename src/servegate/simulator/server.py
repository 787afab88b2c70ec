"""The HTTP server: routes, errors and streams as vLLM's, and the way it goes down.

The awkward habits of the real server are part of the contract: a client that hangs up leaves no trace in
`finished_reason`, a draining server says it is healthy while it refuses everybody, and an error
inside a stream is a 200.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
import traceback
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from aiohttp import web

from servegate.simulator import answers, sse, structured
from servegate.simulator.driver import Driver, Job
from servegate.simulator.engine import Engine, Generation
from servegate.simulator.faults import Fault, Faults
from servegate.simulator.knowledge import Knowledge
from servegate.simulator.metrics import Metrics
from servegate.simulator.options import Options
from servegate.simulator.plan import plan
from servegate.simulator.protocol import ApiError, Request, error_body, parse

VERSION = "0.32.0"  # of vLLM, whose behaviour and metrics these are
LARGEST_BODY = 4 * 1024 * 1024
SLOWEST_BODY = 60.0
# How often a hung server looks whether it may go on. Seconds.
HANG_POLL = 0.1
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """One simulated vLLM server. `draining` is set by whoever stops it."""

    def __init__(self, options: Options, knowledge: Knowledge) -> None:
        self.options = options
        self.knowledge = knowledge
        self.model = options.served_names[0]
        self.engine = Engine(options.engine)
        self.faults = Faults(options.seed, time.time)
        self.metrics = Metrics(self.model, _cache_config(options))
        self.driver = Driver(self.engine, self.metrics, self.faults)
        self.draining = False
        self.in_flight = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self.counts = {"received": 0, "completed": 0, "rejected": 0, "failed": 0, "disconnected": 0}
        self._talk_seed = random.Random(options.seed)
        self._created = int(time.time())

    def application(self) -> web.Application:
        """The routes."""
        app = web.Application(client_max_size=LARGEST_BODY, middlewares=[self._edge])
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/completions", self._text)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/health", self._healthy)
        app.router.add_get("/ping", self._healthy)
        app.router.add_post("/ping", self._healthy)
        app.router.add_get("/load", self._load)
        app.router.add_get("/version", self._version)
        app.router.add_get("/metrics", self._metrics_page)
        return app

    def state(self) -> dict[str, Any]:
        """For the control port: what happened to requests, and how the engine is."""
        return {
            "requests": {**self.counts, "in_flight": self.in_flight},
            "engine": {
                "running": len(self.engine.running),
                "waiting": len(self.engine.waiting),
                "kv_blocks": self.engine.pool.total,
                "kv_blocks_used": self.engine.pool.used,
                "kv_blocks_leaked": self.engine.pool.leaked,
                "preemptions": self.engine.counts.preemptions,
            },
            "draining": self.draining,
        }

    # ---- every request

    @web.middleware
    async def _edge(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Hang if told to, count, and turn every error into the protocol's."""
        started = time.monotonic()
        resource = request.match_info.route.resource
        response: web.StreamResponse | None = None
        try:
            await self._hang()
            response = await handler(request)
        except ApiError as error:
            response = _json(error.body(), error.status)
        except web.HTTPException as error:
            response = _json(error_body(error.reason, error.status), error.status)
            if "Allow" in error.headers:
                response.headers["Allow"] = error.headers["Allow"]
        except ConnectionError:
            raise
        except Exception:  # noqa: BLE001 - whatever it is, the client gets an answer and the log a trace
            traceback.print_exc(file=sys.stderr)
            response = _json(error_body("Internal server error", 500), 500)
        finally:
            self.metrics.http.observe(
                resource.canonical if resource is not None else "none",
                request.method if resource is not None or request.method in _METHODS else "none",
                response.status if response is not None else 200,
                time.monotonic() - started,
                request.content_length or 0,
                (response.content_length or 0) if response is not None else 0,
            )
        return response

    async def _hang(self) -> None:
        noted: set[str] = set()
        while hanging := self.faults.active("hang"):
            for fault in hanging:
                if fault.id not in noted:
                    noted.add(fault.id)
                    self.faults.note(fault)
            await asyncio.sleep(HANG_POLL)

    # ---- completions

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._complete(request, chat=True)

    async def _text(self, request: web.Request) -> web.StreamResponse:
        return await self._complete(request, chat=False)

    async def _complete(self, http: web.Request, *, chat: bool) -> web.StreamResponse:
        self.counts["received"] += 1
        self.in_flight += 1
        self.idle.clear()
        outcome = "disconnected"
        job: Job | None = None
        try:
            request = parse(await _body(http), chat=chat, max_model_len=self.options.max_model_len)
            job = self._begin(request)
            base = http.headers.get("X-Request-Id", "")[:100] or uuid.uuid4().hex
            response_id = f"{'chatcmpl' if chat else 'cmpl'}-{base}"
            if request.stream:
                response = await self._stream(http, request, job, response_id)
            else:
                response = await self._whole(http, request, job, response_id)
            outcome = "completed" if job.outcome == "done" else "failed"
        except ApiError as error:
            outcome = "failed" if error.status >= 500 else "rejected"
            raise
        except web.HTTPException:
            outcome = "rejected"
            raise
        else:
            return response
        finally:
            self.counts[outcome] += 1
            self.in_flight -= 1
            if not self.in_flight:
                self.idle.set()
            if job is not None:
                self.driver.drop(job)

    def _begin(self, request: Request) -> Job:
        """Admit a request and give it to the engine, or say why not."""
        options = self.options
        if request.model is not None and request.model not in options.served_names:
            raise ApiError(f"The model `{request.model}` does not exist.", 404, "model")
        if self.draining:
            raise ApiError("cannot schedule new futures after shutdown", 500)
        limit = options.max_num_queued_reqs
        if limit is not None and self.engine.unfinished >= limit:
            self.metrics.rejected["max_num_queued_reqs"] += 1
            raise ApiError(f"The server has {limit} requests in flight already; try again later.", 503)
        fault = self.faults.strike("errors")
        if fault is not None:
            self.faults.note(fault)
            raise ApiError("The engine met a problem it cannot recover from.", 500)
        seed = request.seed if request.seed is not None else options.seed
        if request.temperature > 0 and request.seed is None:
            seed = self._talk_seed.getrandbits(32)
        wrong = self._wrong_fault(request)
        try:
            said = answers.answer(request.wanted, self.knowledge, seed=seed, mistaken=wrong is not None)
        except structured.UnsupportedError as error:
            raise ApiError(f"The simulator cannot satisfy this constraint: {error}.") from None
        if wrong is not None and said.mistaken:
            self.faults.note(wrong)
        planned = plan(request, said.text, seed)
        generation = Generation(request.prompt, planned.pieces, planned.finish_reason)
        assert request.max_tokens is not None, "parse() has set it"
        job = Job(generation, planned, request.max_tokens)
        self.driver.submit(job)
        return job

    def _wrong_fault(self, request: Request) -> Fault | None:
        """Whether this question is answered wrongly: the same ones every time, for a seed."""
        for fault in self.faults.active("wrong"):
            draw = random.Random(f"{self.options.seed}:{request.wanted.question}").random()
            if draw < fault.spec.parameters["rate"]:
                return fault
        return None

    async def _whole(self, http: web.Request, request: Request, job: Job, response_id: str) -> web.Response:
        taken = 0
        while job.outcome is None:
            taken = await job.more_than(taken)
        if job.outcome == "cut":
            _cut(http)
            return web.Response()
        if job.outcome == "error":
            raise ApiError("Internal server error", 500)
        text = "".join(job.plan.pieces)
        choice: dict[str, Any] = {"index": 0}
        if request.chat:
            choice["message"] = {"role": "assistant", "content": text, "refusal": None, "tool_calls": []}
        else:
            choice["text"] = text
        choice |= {"logprobs": None, "finish_reason": job.plan.finish_reason, "stop_reason": job.plan.stop_reason}
        body = {
            "id": response_id,
            "object": "chat.completion" if request.chat else "text_completion",
            "created": int(time.time()),
            "model": self.model,
            "choices": [choice],
            "usage": {**sse.usage(len(request.prompt), len(job.plan.pieces)), "prompt_tokens_details": None},
        }
        return _json(orjson.dumps(body), 200)

    async def _stream(self, http: web.Request, request: Request, job: Job, response_id: str) -> web.StreamResponse:
        prompt_tokens = len(request.prompt)
        chunks = sse.ChunkWriter(
            chat=request.chat,
            response_id=response_id,
            model=self.model,
            created=int(time.time()),
            prompt_tokens=prompt_tokens if request.continuous_usage else None,
        )
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        pieces, total, taken = job.plan.pieces, len(job.plan.pieces), 0
        pending = [chunks.role()] if request.chat else []
        await response.prepare(http)
        await response.write(b"")  # the status is out before the first token, as with any streaming server
        while True:
            now = await job.more_than(taken)
            text = pieces[taken] if now == taken + 1 else "".join(pieces[taken:now])
            taken = now
            if job.outcome is not None and (taken == total or job.outcome != "done"):
                break
            if text:
                pending.append(chunks.delta(text, taken))
            if pending:
                await response.write(b"".join(pending))
                pending = []
        if job.outcome == "done":
            pending.append(chunks.finish(text, job.plan.finish_reason, job.plan.stop_reason, total))
            if request.include_usage:
                pending.append(chunks.usage(sse.usage(prompt_tokens, total)))
        elif text:
            pending.append(chunks.delta(text, taken))
        if job.outcome == "cut":
            await response.write(b"".join(pending))
            _cut(http)
            return response
        if job.outcome == "error":
            pending.append(sse.error_event(error_body("Internal server error", 500)))
        await response.write_eof(b"".join([*pending, sse.DONE]))
        return response

    # ---- the rest

    async def _models(self, _request: web.Request) -> web.Response:
        models: list[dict[str, Any]] = [
            {
                "id": name,
                "object": "model",
                "created": self._created,
                "owned_by": "vllm",
                "root": self.options.model,
                "parent": None,
                "max_model_len": self.options.max_model_len,
                "permission": [],
            }
            for name in self.options.served_names
        ]
        return _json(orjson.dumps({"object": "list", "data": models}), 200)

    async def _healthy(self, _request: web.Request) -> web.Response:
        return web.Response()

    async def _load(self, _request: web.Request) -> web.Response:
        return _json(b'{"server_load":0}', 200)  # the real one counts only if told to

    async def _version(self, _request: web.Request) -> web.Response:
        return _json(orjson.dumps({"version": VERSION}), 200)

    async def _metrics_page(self, _request: web.Request) -> web.Response:
        engine = self.engine
        page = self.metrics.render(
            running=len(engine.running),
            waiting=len(engine.waiting),
            kv_usage=engine.pool.usage,
            preemptions=engine.counts.preemptions,
            prefix_queries=engine.counts.prefix_queries,
            prefix_hits=engine.counts.prefix_hits,
        )
        return web.Response(body=page.encode(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


_METHODS = {"GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"}


async def _body(http: web.Request) -> bytes:
    kind = http.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise ApiError("Unsupported Media Type: Only 'application/json' is allowed.")
    try:
        async with asyncio.timeout(SLOWEST_BODY):
            return await http.read()
    except TimeoutError:
        raise ApiError("The request body did not arrive in time.", 408) from None


def _json(body: bytes, status: int) -> web.Response:
    return web.Response(body=body, status=status, content_type="application/json")


def _cut(http: web.Request) -> None:
    """Drop the connection as a dying server would."""
    if http.transport is not None:
        http.transport.abort()


def _cache_config(options: Options) -> dict[str, str]:
    """Labels of `vllm:cache_config_info`; None where a simulated cache has no such thing."""
    engine = options.engine
    size = engine.num_blocks * engine.block_size
    return {
        "_block_size_resolved": "True",
        "block_size": str(engine.block_size),
        "cache_dtype": "auto",
        "cache_hit_alignment_tokens": "None",
        "effective_attention_block_size": str(engine.block_size),
        "enable_mamba_shared_prefix_checkpoint": "False",
        "enable_prefix_caching": str(engine.prefix_caching),
        "gpu_memory_utilization": "0.92",
        "hash_block_size": "None",
        "is_attention_free": "False",
        "kv_cache_dtype_skip_layers": "[]",
        "kv_cache_layout": "None",
        "kv_cache_max_concurrency": str(size / options.max_model_len),
        "kv_cache_memory_bytes": "None",
        "kv_cache_size_tokens": str(size),
        "kv_offloading_backend": "native",
        "kv_offloading_size": "None",
        "kv_sharing_fast_prefill": "False",
        "mamba_block_size": "None",
        "mamba_cache_dtype": "auto",
        "mamba_cache_mode": "none",
        "mamba_page_size_padded": "None",
        "mamba_ssm_cache_dtype": "auto",
        "num_cpu_blocks": "None",
        "num_gpu_blocks": str(engine.num_blocks),
        "num_gpu_blocks_override": str(engine.num_blocks),
        "prefix_cache_retention_interval": "0",
        "prefix_caching_hash_algo": "builtin",
        "prefix_match_unit": "None",
        "replayssm_buffer_len": "16",
        "skip_page_size_padded": "None",
        "sliding_window": "None",
        "swa_bounded_replay": "True",
        "use_kda_recoverssm": "False",
        "use_replayssm": "False",
        "user_specified_block_size": "True",
    }
