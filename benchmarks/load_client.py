"""What one load process sustains, and what it makes of a known inter-token latency; peers at the same work beside it.

    python benchmarks/load_client.py --streams 64 --json

A server on the other core streams chunks of vLLM's shape every 10 ms to each stream and notes the distances at which
it really sent them. A client's capacity is events per second of its own processor time; its error is the difference
between the distances it reports and those of the server. Ratios are of one run on one machine: compare them, not the
numbers of two machines.
"""

from __future__ import annotations

import sys

if sys.argv[1:2] == ["--peer-locust"]:  # Locust patches the standard library before anything else is imported
    import gevent.monkey

    gevent.monkey.patch_all()

import argparse
import asyncio
import json
import os
import platform
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from servegate.endpoint import Endpoint
from servegate.errors import InfrastructureError
from servegate.loadtest import load_profile, run
from servegate.process import Child, free_ports, python
from servegate.report.records import RequestRecord, read_records

ITL = 0.010
TOKENS = 500
WARM_UP, MEASURED = 6.0, 8.0
TARGET = 9000


def main() -> None:
    """Measure this client and its peers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, default=64, help="answers that stream at the same time")
    parser.add_argument("--peers", nargs="*", choices=["locust", "openai"], default=["locust", "openai"])
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--serve", type=int, metavar="PORT", help=argparse.SUPPRESS)
    parser.add_argument("--peer-locust", metavar="URL", help=argparse.SUPPRESS)
    parser.add_argument("--peer-openai", metavar="URL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.serve))
    elif options.peer_locust:
        print(json.dumps(locust_peer(options.peer_locust, options.streams)))
    elif options.peer_openai:
        print(json.dumps(openai_peer(options.peer_openai, options.streams)))
    else:
        show(measure(options.streams, options.peers), as_json=options.json)


def measure(streams: int, peers: list[str]) -> dict[str, Any]:
    """All clients one after the other against the same server."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="load-client-") as folder:
        (port,) = free_ports(1)
        child = Child("server", python(__file__, "--serve", str(port)), Path(folder) / "server.log")
        try:
            url = f"http://127.0.0.1:{port}"
            wait_ready(child, url)
            found = {"servegate": ours(url, streams, Path(folder))}
            found["servegate"] |= against_truth(found["servegate"], url)
            for name in peers:
                command = [sys.executable, __file__, f"--peer-{name}", url, "--streams", str(streams)]
                done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
                found[name] = json.loads(done.stdout.splitlines()[-1])
                found[name] |= against_truth(found[name], url)
        finally:
            child.stop(0)
    own = found["servegate"]["events_per_cpu_second"]
    return {
        "machine": {"processor": processor(), "cores": os.cpu_count(), "load_before": round(load, 2)},
        "streams": streams,
        "offered_events_per_second": round(streams / ITL),
        "target_events_per_cpu_second": TARGET,
        "met": own >= TARGET,
        "clients": found,
        "ratio": {name: round(own / found[name]["events_per_cpu_second"], 2) for name in peers},
    }


def ours(url: str, streams: int, folder: Path) -> dict[str, float]:
    """A whole measured run: Locust, schedule, streams, records; the way users run it."""
    rate = streams / (TOKENS * ITL)
    (folder / "prompts.jsonl").write_text('{"id":"a","prompt":"go"}\n', encoding="utf-8")
    profile = {
        "version": 1,
        "name": "bench",
        "arrival": {"kind": "constant", "rate": f"{rate:.6f}/s"},
        "warm_up": f"{WARM_UP}s",
        "duration": f"{MEASURED}s",
        "drain": "30s",
        "max_in_flight": 10 * streams,
        "prompts": "prompts.jsonl",
        "max_tokens": TOKENS,
    }
    (folder / "bench.yaml").write_text(json.dumps(profile), encoding="utf-8")
    report = run(load_profile(folder / "bench.yaml"), Endpoint(url), folder / "out")
    status = json.loads((folder / "out/client.json").read_bytes())
    begin, end = report.started + WARM_UP, report.started + WARM_UP + MEASURED
    gaps, events = [], 0
    for record in read_records(folder / "out/records.jsonl", RequestRecord):
        if record.first_token is not None:
            times = record.first_token + np.cumsum(np.concatenate(([0.0], record.gaps)))
            inside = (times >= begin) & (times < end)
            events += int(np.count_nonzero(inside))
            gaps.append(np.asarray(record.gaps)[inside[1:]])
    cpu = status["cpu_seconds"] / status["cpu_window"]
    return summary(np.concatenate(gaps), events / MEASURED, cpu)


def summary(gaps: Any, events_per_second: float, cpu: float) -> dict[str, float]:
    """Numbers of one client."""
    return {
        "events_per_second": round(events_per_second),
        "core_share": round(cpu, 3),
        "events_per_cpu_second": round(events_per_second / cpu),
        "itl_p50_ms": round(float(np.quantile(gaps, 0.5)) * 1000, 2),
        "itl_p95_ms": round(float(np.quantile(gaps, 0.95)) * 1000, 2),
    }


def against_truth(found: dict[str, float], url: str) -> dict[str, float]:
    """How far the reported distances are from those at which the server sent."""
    truth = Endpoint(url).get_json("/truth")
    return {
        "true_p50_ms": truth["p50_ms"],
        "true_p95_ms": truth["p95_ms"],
        "error_p50_ms": round(found["itl_p50_ms"] - truth["p50_ms"], 2),
        "error_p95_ms": round(found["itl_p95_ms"] - truth["p95_ms"], 2),
    }


class Meter:
    """Counts chunks of a peer after the warm-up."""

    def __init__(self) -> None:
        self.begin = time.perf_counter() + WARM_UP / 2
        self.end = self.begin + MEASURED
        self.gaps: list[float] = []
        self.events = 0
        self._cpu: float | None = None
        self.cpu = 0.0

    @property
    def over(self) -> bool:
        """Whether the measured time is over."""
        return time.perf_counter() >= self.end

    def chunk(self, before: float | None) -> float:
        """Note a chunk with content; its time."""
        now = time.perf_counter()
        if self.begin <= now < self.end:
            if self._cpu is None:
                self._cpu = time.process_time()
            self.cpu = time.process_time() - self._cpu
            self.events += 1
            if before is not None:
                self.gaps.append(now - before)
        return now

    def result(self) -> dict[str, float]:
        """Numbers of this client."""
        return summary(np.asarray(self.gaps), self.events / MEASURED, self.cpu / MEASURED)


def locust_peer(url: str, streams: int) -> dict[str, float]:
    """Locust's FastHttpSession.iter_lines, one greenlet per stream."""
    from gevent.pool import Group
    from locust.contrib.fasthttp import FastHttpSession
    from locust.env import Environment

    meter = Meter()
    session = FastHttpSession(url, Environment().events.request, None, concurrency=streams)
    body = {"model": "bench", "messages": [], "max_tokens": TOKENS, "stream": True}

    def stream() -> None:
        while not meter.over:
            before = None
            for line in session.iter_lines("/v1/chat/completions", method="POST", json=body):
                if line.startswith("data: {") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
                    before = meter.chunk(before)
                if meter.over:
                    return

    group = Group()
    for _ in range(streams):
        group.spawn(stream)
    group.join(timeout=WARM_UP + MEASURED + 5)
    return meter.result()


def openai_peer(url: str, streams: int) -> dict[str, float]:
    """The openai package's asynchronous client, one task per stream."""
    from openai import AsyncOpenAI

    meter = Meter()

    async def stream(client: AsyncOpenAI) -> None:
        while not meter.over:
            before = None
            answer = await client.chat.completions.create(
                model="bench", messages=[{"role": "user", "content": "go"}], max_tokens=TOKENS, stream=True
            )
            async for chunk in answer:
                if chunk.choices and chunk.choices[0].delta.content:
                    before = meter.chunk(before)

    async def every() -> None:
        client = AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        await asyncio.gather(*(stream(client) for _ in range(streams)))

    asyncio.run(every())
    return meter.result()


async def serve(port: int) -> None:
    """Stream a chunk every 10 ms to everybody who asks."""
    piece = {
        "id": "chatcmpl-0123456789abcdef0123456789abcdef",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": "bench",
        "choices": [{"index": 0, "delta": {"content": " 배송"}, "logprobs": None, "finish_reason": None}],
    }
    last = {**piece, "choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}
    encode = [f"data: {json.dumps(item, ensure_ascii=False)}\n\n".encode() for item in (piece, last)]
    framed = b"%x\r\n%b\r\n" % (len(encode[0]), encode[0])
    done = encode[1] + b"data: [DONE]\n\n"
    ending = b"%x\r\n%b\r\n0\r\n\r\n" % (len(done), done)
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    sent: list[float] = []

    async def plain(writer: asyncio.StreamWriter, document: Any) -> None:
        data = json.dumps(document).encode()
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(data) + data
        )
        await writer.drain()

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                request = await reader.readuntil(b"\r\n\r\n")
                lines = request.lower().split(b"\r\n")
                await reader.readexactly(next((int(x[15:]) for x in lines if x.startswith(b"content-length:")), 0))
                if request.startswith(b"GET /truth"):
                    p50, p95 = (round(float(value) * 1000, 2) for value in np.quantile(sent or [ITL], [0.5, 0.95]))
                    sent.clear()
                    await plain(writer, {"p50_ms": p50, "p95_ms": p95})
                    continue
                if request.startswith(b"GET "):
                    await plain(writer, {"object": "list", "data": [{"id": "bench"}]})
                    continue
                writer.write(head)
                start = before = loop.time()
                for number in range(TOKENS):
                    if writer.is_closing():
                        return
                    writer.write(framed)
                    await asyncio.sleep(max(0.0, start + (number + 1) * ITL - loop.time()))
                    now = loop.time()
                    sent.append(now - before)
                    before = now
                writer.write(ending)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    server = await asyncio.start_server(connection, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


def wait_ready(child: Child, url: str) -> None:
    """Wait until the server answers."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        child.check()
        try:
            Endpoint(url).describe(1)
            return
        except InfrastructureError:
            time.sleep(0.1)
    raise SystemExit("the server does not answer")


def processor() -> str:
    """Its name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def show(result: dict[str, Any], *, as_json: bool) -> None:
    """Print the result."""
    if as_json:
        print(json.dumps(result, indent=1))
        return
    machine = result["machine"]
    print(f"{machine['processor']}, {machine['cores']} cores, load {machine['load_before']} before")
    print(
        f"{result['streams']} streams, a chunk every {ITL * 1000:g} ms: {result['offered_events_per_second']} events/s"
    )
    heads = ("client", "events/s", "core", "events/CPU s", "ITL p50", "p95", "true p50", "true p95")
    print("".join(f"{head:>13}" for head in heads))
    for name, found in result["clients"].items():
        rates = (found["events_per_second"], f"{found['core_share']:.0%}", found["events_per_cpu_second"])
        times = (found["itl_p50_ms"], found["itl_p95_ms"], found["true_p50_ms"], found["true_p95_ms"])
        print("".join(f"{cell:>13}" for cell in (name, *rates, *times)))
    verdict = "met" if result["met"] else "missed"
    print(f"target {TARGET} events per CPU second: {verdict}; ratio to peers: {result['ratio']}")


if __name__ == "__main__":
    main()
