"""The contract of a Source, run against every implementation."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from fake_prometheus import FakePrometheus

from servegate.config import validate
from servegate.process import free_ports
from servegate.rollout.ports import Source
from servegate.rollout.sources.direct import DirectSource, Target
from servegate.rollout.sources.prometheus import PrometheusSource
from servegate.rollout.sources.prometheus_config import PrometheusConfig


@dataclass
class Pods:
    """Two pods of two slots, of which one can be switched off."""

    source: Source
    finished: Callable[[int], None]
    close: Callable[[], None]
    missing: str


def direct(folder: Path) -> Pods:
    total = {"stop": 0}

    class Engine(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = "vllm:request_success_total"
            body = f'# TYPE {name} counter\n{name}{{finished_reason="stop"}} {total["stop"]}\n'
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name is the base class's
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Engine)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    (nobody,) = free_ports(1)
    source = DirectSource(
        lambda: [
            Target("blue/0", "blue", f"http://127.0.0.1:{server.server_address[1]}", "sha256:1"),
            Target("green/0", "green", f"http://127.0.0.1:{nobody}", "sha256:2"),
        ],
        timeout=20.0,
    )

    def close() -> None:
        source.close()
        server.shutdown()
        server.server_close()

    return Pods(source, lambda value: total.update(stop=value), close, "green/0")


def prometheus(folder: Path) -> Pods:
    """Scraped at the very moment of the question, so that its time is the time asked for."""
    fake = FakePrometheus()
    total = {"stop": 0}

    def scrape(handler: http.server.BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        query = parse_qs(parts.query)
        if "time" in query:
            at = float(query["time"][0])
            line = f'vllm:request_success_total{{finished_reason="stop"}} {total["stop"]}'
            fake.scrape(at, line, slot="blue", instance="0", release="sha256:1")
            fake.add(at, "up", "0", slot="green", instance="0", release="sha256:2")
        fake.answer(handler, parts.path, query)

    fake.start()
    fake.instead = scrape
    source = PrometheusSource(validate({"url": fake.url, "timeout": "20s"}, PrometheusConfig, "prometheus"))

    def close() -> None:
        source.close()
        fake.stop()

    return Pods(source, lambda value: total.update(stop=value), close, "green/0")


IMPLEMENTATIONS = {"direct": direct, "prometheus": prometheus}


@pytest.fixture(params=sorted(IMPLEMENTATIONS))
def pods(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pods]:
    made = IMPLEMENTATIONS[request.param](tmp_path)
    yield made
    made.close()


def test_running_totals_as_of_the_time_asked_for(pods: Pods) -> None:
    for at, value in ((100.0, 0), (101.0, 5), (102.0, 5), (103.0, 9)):
        pods.finished(value)
        observed = pods.source.observe(at)
        assert observed.at == at
        (sample,) = observed.pods
        assert (sample.pod, sample.slot, sample.release, sample.at) == ("blue/0", "blue", "sha256:1", at)
        assert sample.counters["finished_stop"] == value


def test_who_does_not_answer_is_missing_with_a_reason_and_has_no_numbers(pods: Pods) -> None:
    for at in (1.0, 2.0):
        observed = pods.source.observe(at)
        assert list(observed.missing) == [pods.missing]
        assert observed.missing[pods.missing]
        assert pods.missing not in {sample.pod for sample in observed.pods}


def test_what_is_not_exported_has_no_number(pods: Pods) -> None:
    (sample,) = pods.source.observe(1.0).pods
    assert sample.counters["finished_error"] == 0  # exported, no such request yet
    assert "http_requests" not in sample.counters
    assert "ttft" not in sample.histograms
    assert sample.gauges == {}
    assert sample.started is None
