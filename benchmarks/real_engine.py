"""Two real vLLM servers on one machine: how long they take to start, and what a load and a chat template do to them.

    python benchmarks/real_engine.py --templates good verbose --rates 1 1 --rates 1.8 0.2

Open loop: requests leave when a seeded Poisson process says so, whether or not earlier ones were answered. The
processor time of both servers, and of the whole machine, tells how much room is left for a proxy and a client.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from servegate.demo.vllm_cpu import command, ensure
from servegate.process import Child, free_ports

TEMPLATES = {
    "good": Path("examples/vllm/chat-template.jinja"),
    "verbose": Path("examples/vllm/chat-template-verbose.jinja"),
}
QUESTIONS = (
    "What is the capital of {}?",
    "Name one food that people like in {}.",
    "Write one sentence about the weather in {}.",
    "My order goes to {}. Say thank you for the order.",
)
PLACES = ("France", "Japan", "Korea", "Spain", "Italy", "Egypt", "Peru", "Kenya", "Norway", "India")


@dataclass
class Answer:
    ttft: float | None = None
    ttft_cpu: float | None = None
    total: float | None = None
    error: str | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--rates", type=float, nargs=2, action="append", help="requests per second on each server; may be repeated"
    )
    parser.add_argument("--templates", choices=[*TEMPLATES], nargs=2, default=["good", "verbose"])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--output-tokens", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--one-after-the-other", action="store_true", help="start the second when the first is ready")
    options = parser.parse_args()
    engine = ensure(lambda line: print(line, file=sys.stderr))
    print(f"{processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before; vLLM {engine.version}")
    logs = Path(tempfile.mkdtemp(prefix="real-engine-"))
    servers: list[tuple[Child, int]] = []
    try:
        begin = time.monotonic()
        for template, port in zip(options.templates, free_ports(2), strict=True):
            args = ["--chat-template", str(TEMPLATES[template].resolve())]
            argv, env = command(engine, host="127.0.0.1", port=port, args=args)
            servers.append((Child(f"{template} on {port}", argv, logs / f"{port}.log", env), port))
            if options.one_after_the_other:
                wait_ready(*servers[-1], begin)
        if not options.one_after_the_other:
            for server in servers:
                wait_ready(*server, begin)
        for _, port in servers:
            ask(port, "Hello?", options.output_tokens)
        for child, port in servers:
            one_at_a_time(child, port, options)
        for rates in options.rates or [[1.0, 1.0]]:
            measure(servers, rates, options)
    finally:
        begin = time.monotonic()
        for child, _ in servers:
            child.stop(grace=15)
        print(f"both stopped after {time.monotonic() - begin:.1f} s; logs: {logs}")


def wait_ready(child: Child, port: int, begin: float) -> None:
    while True:
        child.check()
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                print(f"{child.name}: ready after {time.monotonic() - begin:.1f} s")
                return
        except OSError:
            time.sleep(0.2)


def one_at_a_time(child: Child, port: int, options: argparse.Namespace) -> None:
    """The processor time is what a request costs, also where other programs keep the machine busy."""
    draw = random.Random(options.seed)
    first, whole, wall = [], [], []
    for _ in range(20):
        before = cpu_seconds(child.pid)
        question = draw.choice(QUESTIONS).format(draw.choice(PLACES))
        answer = ask(port, question, options.output_tokens, leader=child.pid)
        if answer.ttft_cpu is None or answer.ttft is None:
            sys.exit(f"{child.name}: {answer.error or 'no token'}")
        first.append(answer.ttft_cpu - before)
        whole.append(cpu_seconds(child.pid) - before)
        wall.append(answer.ttft)
    print(
        f"{child.name}, one at a time: TTFT {spread(wall)}; processor time to the first token {spread(first)}, "
        f"of the whole answer {spread(whole)}"
    )


def ask(port: int, question: str, tokens: int, leader: int | None = None) -> Answer:
    body = {
        "model": "smollm2",
        "messages": [{"role": "user", "content": question}],
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }
    answer, begin = Answer(), time.monotonic()
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            raise OSError(f"status {response.status}")
        for line in response:
            token = line.startswith(b"data: {") and json.loads(line[6:])["choices"][0]["delta"].get("content")
            if token and answer.ttft is None:
                answer.ttft = time.monotonic() - begin
                answer.ttft_cpu = cpu_seconds(leader) if leader else None
        answer.total = time.monotonic() - begin
    except (OSError, http.client.HTTPException) as error:
        answer.error = str(error)
    return answer


def measure(servers: list[tuple[Child, int]], rates: list[float], options: argparse.Namespace) -> None:
    answers: list[list[Answer]] = [[], []]
    before, machine_before = [cpu_seconds(child.pid) for child, _ in servers], machine_seconds()

    def drive(index: int, port: int, rate: float) -> None:
        draw, due, begin = random.Random(options.seed + index), 0.0, time.monotonic()
        threads = []
        while rate > 0 and (due := due + draw.expovariate(rate)) < options.seconds:
            time.sleep(max(0.0, begin + due - time.monotonic()))
            question = draw.choice(QUESTIONS).format(draw.choice(PLACES))
            thread = threading.Thread(
                target=lambda q=question: answers[index].append(ask(port, q, options.output_tokens))
            )
            thread.start()
            threads.append(thread)
        for thread in threads:
            thread.join()

    begin = time.monotonic()
    drivers = [
        threading.Thread(target=drive, args=(index, port, rate))
        for index, ((_, port), rate) in enumerate(zip(servers, rates, strict=True))
    ]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join()
    elapsed = time.monotonic() - begin
    all_busy = 0.0
    for index, (child, _) in enumerate(servers):
        ttft = [answer.ttft for answer in answers[index] if answer.ttft is not None]
        total = [answer.total for answer in answers[index] if answer.total is not None]
        busy = (cpu_seconds(child.pid) - before[index]) / elapsed
        all_busy += busy
        print(
            f"{options.templates[index]:8} {rates[index]:4.1f} req/s x {options.output_tokens} tokens: "
            f"{len(answers[index])} requests, {sum(a.error is not None for a in answers[index])} failed, "
            f"TTFT {spread(ttft)}, whole answer {spread(total)}, {busy:.2f} cores, {memory(child.pid) / 1e9:.1f} GB"
        )
    busy = (machine_seconds() - machine_before) / elapsed
    others = busy - all_busy
    print(f"  {busy:.2f} of {os.cpu_count()} cores busy over {elapsed:.0f} s, {others:.2f} with other things")


def spread(values: list[float]) -> str:
    if len(values) < 2:
        return "-"
    cuts = statistics.quantiles(values, n=20, method="inclusive")
    return f"p50 {statistics.median(values) * 1000:.0f} p95 {cuts[18] * 1000:.0f} ms"


def group(leader: int) -> list[list[str]]:
    """Fields of /proc/<pid>/stat, from the state on, of every process in a group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == leader:
            found.append(fields)
    return found


def cpu_seconds(leader: int) -> float:
    return sum(int(f[11]) + int(f[12]) for f in group(leader)) / os.sysconf("SC_CLK_TCK")


def memory(leader: int) -> int:
    return sum(int(f[21]) for f in group(leader)) * os.sysconf("SC_PAGE_SIZE")


def machine_seconds() -> float:
    """Seconds all cores were not idle."""
    numbers = [int(n) for n in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(numbers) - numbers[3] - numbers[4]) / os.sysconf("SC_CLK_TCK")


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    main()
