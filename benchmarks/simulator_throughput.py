"""How many tokens per second one core of the simulator streams.

The server is a process of its own, pinned to one core; the client (this process) speaks HTTP over plain asyncio streams
and only counts. The decode step is set short, so that not the simulated GPU but the server is the limit. Prints JSON.

    python benchmarks/simulator_throughput.py [--streams 64] [--seconds 10]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

TOKENS_PER_REQUEST = 400


def main() -> None:
    """Start a server, load it, print what it did."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=64, help="concurrent streamed responses")
    parser.add_argument("--seconds", type=float, default=10.0, help="measured time, after one second of warm-up")
    parser.add_argument("--decode-step-ms", type=float, default=5.0)
    given = parser.parse_args()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "servegate.simulator", "--port", str(port), "--model", "bench", "--input-ms", "0"]
    command += ["--decode-step-ms", str(given.decode_step_ms), "--decode-step-ms-per-request", "0"]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        result = asyncio.run(_measure(server.pid, port, given.streams, given.seconds))
    finally:
        server.terminate()
        server.wait(10)
    result |= {
        "decode_step_ms": given.decode_step_ms,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
    }
    print(json.dumps(result, indent=2))


async def _measure(pid: int, port: int, streams: int, seconds: float) -> dict[str, float | str]:
    await _ready(port)
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(pid, cores[:1])
        os.sched_setaffinity(0, cores[1:])
    counts = [0, 0]
    clients = [asyncio.create_task(_client(port, number, counts)) for number in range(streams)]
    scrapes: list[float] = []
    await asyncio.sleep(1.0)
    begin, cpu, own = time.perf_counter(), _cpu_seconds(pid), time.process_time()
    events, bytes_read = counts
    tokens = await _generated(port, [])
    while time.perf_counter() - begin < seconds:
        await asyncio.sleep(1.0)
        last = await _generated(port, scrapes)
    elapsed = time.perf_counter() - begin
    used, own = _cpu_seconds(pid) - cpu, time.process_time() - own
    for client in clients:
        if client.done():
            client.result()
        client.cancel()
    await asyncio.gather(*clients, return_exceptions=True)
    return {
        "streams": streams,
        "seconds": round(elapsed, 2),
        "tokens_per_second": round((last - tokens) / elapsed),
        "tokens_per_server_cpu_second": round((last - tokens) / used),
        "server_cpu_share": round(used / elapsed, 3),
        "events_per_second": round((counts[0] - events) / elapsed),
        "tokens_per_event": round((last - tokens) / (counts[0] - events), 3),
        "megabytes_per_second": round((counts[1] - bytes_read) / elapsed / 1e6, 1),
        "client_cpu_share": round(own / elapsed, 3),
        "scrape_ms_p50": round(statistics.median(scrapes) * 1000, 1),
    }


async def _client(port: int, number: int, counts: list[int]) -> None:
    """One stream after another; an event is a blank line."""
    body = {
        "model": "bench",
        "messages": [{"role": "user", "content": f"Tell me something about topic {number}."}],
        "stream": True,
        "max_tokens": TOKENS_PER_REQUEST,
        "ignore_eos": True,
    }
    raw = json.dumps(body).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: b\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while True:
        writer.write(request)
        tail = b""
        while not tail.endswith(b"0\r\n\r\n"):
            data = await reader.read(65536)
            if not data:
                raise ConnectionError("the server closed the connection")
            counts[0] += (tail[-1:] + data).count(b"\n\n")
            counts[1] += len(data)
            tail = (tail + data)[-8:]


async def _generated(port: int, scrapes: list[float]) -> float:
    """`vllm:generation_tokens_total` now, from a scrape whose duration is noted."""
    begin = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n")
    page = await reader.read()
    writer.close()
    scrapes.append(time.perf_counter() - begin)
    found = re.search(rb"^vllm:generation_tokens_total\{[^}]*\} (\S+)$", page, re.MULTILINE)
    assert found, "the page has no generation tokens"
    return float(found.group(1))


async def _ready(port: int) -> None:
    for _ in range(200):
        try:
            _reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
    raise SystemExit("the simulator did not start")


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
