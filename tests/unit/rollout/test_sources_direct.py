"""The direct source: one evaluation time, missing told from zero, bounded against hostile engines, Envoy's outcomes."""

from __future__ import annotations

import http.server
import math
import threading
from collections.abc import Callable, Iterator

import pytest

from servegate.process import free_ports
from servegate.rollout.ports import Histogram
from servegate.rollout.sources import direct
from servegate.rollout.sources.direct import DirectSource, Gateway, Target, gateway_samples

METRICS = """\
# TYPE process_start_time_seconds gauge
process_start_time_seconds 1000.5
# TYPE http_requests_total counter
http_requests_total{handler="/v1/chat/completions",method="POST",status="2xx"} 7
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{le="0.1"} 3
vllm:time_to_first_token_seconds_bucket{le="+Inf"} 7
vllm:time_to_first_token_seconds_sum 2.5
vllm:time_to_first_token_seconds_count 7
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running 2
"""
Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        self.server.answer(self)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name is the base class's
        pass


class _Server(http.server.ThreadingHTTPServer):
    def __init__(self, answer: Answer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer, self.paths = answer, list[str]()
        self.gate = threading.Event()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], _Server]]:
    servers: list[_Server] = []

    def start(answer: Answer) -> _Server:
        servers.append(_Server(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.gate.set()
        server.shutdown()
        server.server_close()


def text(body: str | bytes, status: int = 200) -> Answer:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        data = body.encode() if isinstance(body, str) else body
        handler.send_response(status)
        handler.send_header("content-length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def test_reads_all_pods_as_of_one_time(serve: Callable[[Answer], _Server]) -> None:
    blue, green = serve(text(METRICS)), serve(text("# TYPE http_requests_total counter\n"))
    targets = [Target("blue/0", "blue", blue.url, "sha256:b"), Target("green/0", "green", green.url)]
    source = DirectSource(lambda: targets)
    observed = source.observe(at=123.0)
    source.close()
    assert observed.at == 123.0
    assert observed.missing == {}
    one, other = observed.pods
    assert (one.pod, one.slot, one.at, one.release, one.started) == ("blue/0", "blue", 123.0, "sha256:b", 1000.5)
    assert one.counters == {"http_requests": 7, "http_5xx": 0, "http_4xx": 0}
    assert one.histograms == {"ttft": Histogram((0.1, math.inf), (3, 7), 2.5)}
    assert one.gauges == {"running": 2}
    assert (other.counters, other.histograms, other.gauges) == (
        {"http_requests": 0, "http_5xx": 0, "http_4xx": 0},
        {},
        {},
    )
    assert blue.paths == ["/metrics"]


def test_asks_for_the_pods_that_exist_now(serve: Callable[[Answer], _Server]) -> None:
    server = serve(text(METRICS))
    targets: list[Target] = []
    source = DirectSource(lambda: targets)
    assert source.observe(1.0).pods == ()
    targets.append(Target("blue/0", "blue", server.url))
    assert [pod.pod for pod in source.observe(2.0).pods] == ["blue/0"]
    source.close()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (text("no", status=500), "HTTP 500"),
        (text("no", status=302), "HTTP 302"),
        (text("vllm:prompt_tokens_total{ 1\n"), "not Prometheus text"),
        (text(b"x" * (direct.MAX_BODY + 1)), "larger than"),
        (lambda handler: handler.connection.close(), "closed"),
    ],
)
def test_a_bad_answer_is_missing_and_not_zero(serve: Callable[[Answer], _Server], answer: Answer, reason: str) -> None:
    bad, good = serve(answer), serve(text(METRICS))
    targets = [Target("green/0", "green", bad.url), Target("blue/0", "blue", good.url)]
    source = DirectSource(lambda: targets, timeout=10.0)
    observed = source.observe(1.0)
    source.close()
    assert [pod.pod for pod in observed.pods] == ["blue/0"]
    assert list(observed.missing) == ["green/0"]
    assert reason in observed.missing["green/0"]


def test_nobody_there_is_missing() -> None:
    (port,) = free_ports(1)
    source = DirectSource(
        lambda: [Target("green/0", "green", f"http://127.0.0.1:{port}")],
        Gateway(f"http://127.0.0.1:{port}", ["blue", "green"]),
    )
    observed = source.observe(1.0)
    source.close()
    assert observed.pods == ()
    assert observed.missing == dict.fromkeys(["green/0", "gateway/blue", "gateway/green"], "connection refused")
    assert observed.faults == dict.fromkeys(observed.missing, "down")


def test_an_engine_that_hangs_costs_the_timeout_and_one_thread(serve: Callable[[Answer], _Server]) -> None:
    def hang(handler: http.server.BaseHTTPRequestHandler) -> None:
        assert isinstance(handler.server, _Server)
        handler.server.gate.wait(30)
        text(METRICS)(handler)

    slow, good = serve(hang), serve(text(METRICS))
    targets = [Target("green/0", "green", slow.url), Target("blue/0", "blue", good.url)]
    source = DirectSource(lambda: targets, timeout=3.0)  # enough for the good one on a busy machine
    # The socket gives up at about the same time as the reading does.
    first = source.observe(1.0)
    assert [pod.pod for pod in first.pods] == ["blue/0"]
    assert "no answer in" in first.missing["green/0"]
    slow.gate.set()
    source.timeout = 10.0
    for at in range(2, 50):
        observed = source.observe(float(at))
        if not observed.missing:
            break
    assert [pod.pod for pod in observed.pods] == ["green/0", "blue/0"]
    assert {pod.at for pod in observed.pods} == {float(at)}
    source.close()


def test_an_answer_that_drips_is_cut_off(serve: Callable[[Answer], _Server]) -> None:
    def drip(handler: http.server.BaseHTTPRequestHandler) -> None:
        assert isinstance(handler.server, _Server)
        handler.send_response(200)
        handler.end_headers()
        while not handler.server.gate.wait(0.05):
            try:
                handler.wfile.write(b"# one more\n")
            except OSError:
                return

    source = DirectSource(lambda: [Target("green/0", "green", server.url)], timeout=0.3)
    server = serve(drip)
    observed = source.observe(1.0)
    source.close()  # returns only when the thread is free again
    assert "in 0.3 s" in observed.missing["green/0"]


ENVOY = """\
# TYPE envoy_servegate_ended counter
envoy_servegate_ended{slot="blue",code="200",flags="-"} 100
envoy_servegate_ended{slot="blue",code="404",flags="-"} 4
envoy_servegate_ended{slot="blue",code="500",flags="-"} 5
envoy_servegate_ended{slot="blue",code="503",flags="UF"} 6
envoy_servegate_ended{slot="blue",code="503",flags="UC"} 7
envoy_servegate_ended{slot="blue",code="504",flags="UT"} 8
envoy_servegate_ended{slot="blue",code="200",flags="UPE"} 9
envoy_servegate_ended{slot="blue",code="200",flags="UT"} 10
envoy_servegate_ended{slot="blue",code="0",flags="DC"} 11
envoy_servegate_ended{slot="blue",code="200",flags="DC,UT"} 12
envoy_servegate_ended{slot="-",code="404",flags="NR"} 1000
# TYPE envoy_cluster_upstream_rq_active gauge
envoy_cluster_upstream_rq_active{envoy_cluster_name="blue"} 3
envoy_cluster_upstream_rq_active{envoy_cluster_name="green"} 0
# TYPE envoy_cluster_upstream_rq_pending_active gauge
envoy_cluster_upstream_rq_pending_active{envoy_cluster_name="blue"} 1
envoy_cluster_upstream_rq_pending_active{envoy_cluster_name="green"} 0
"""


def test_the_gateway_counts_every_failed_request_once(serve: Callable[[Answer], _Server]) -> None:
    server = serve(text(ENVOY))
    source = DirectSource(tuple, Gateway(server.url, ["blue", "green"]))
    observed = source.observe(5.0)
    source.close()
    blue, green = observed.pods
    assert (blue.pod, blue.slot, blue.at, blue.started) == ("gateway/blue", "blue", 5.0, None)
    assert blue.counters == {
        "gateway_requests": 100 + 4 + 5 + 6 + 7 + 8 + 9 + 10,
        "gateway_5xx": 5 + 6 + 7 + 8,
        "gateway_connect_failures": 6,
        "gateway_timeouts": 8,
        "gateway_resets": 9 + 10,
        "gateway_cancelled": 11 + 12,
    }
    assert blue.gauges == {"gateway_active": 4}
    # Nothing has been routed to it: zero is known.
    assert set(green.counters.values()) == {0.0}
    assert green.gauges == {"gateway_active": 0}


@pytest.mark.parametrize("body", ["", "<html>", METRICS, 'envoy_servegate_ended{slot="blue",code="200",flags="-"} 1\n'])
def test_what_is_not_envoy_is_refused(body: str) -> None:
    with pytest.raises(ValueError, match="not Envoy"):
        gateway_samples(body, ["blue"], 1.0)


def test_a_response_code_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="response code"):
        gateway_samples(ENVOY.replace('code="404",flags="-"', 'code="x",flags="-"'), ["blue"], 1.0)


def test_preflight_names_what_the_engines_that_run_do_not_export(serve: Callable[[Answer], _Server]) -> None:
    others = "# TYPE vllm:time_per_output_token_seconds histogram", "# TYPE vllm:requests_preempted_total counter"
    old = "\n".join((*others, METRICS))
    blue, broken = serve(text(old)), serve(text("vllm:prompt_tokens_total{ 1\n"))
    targets = [Target("blue/0", "blue", blue.url), Target("blue/1", "blue", f"http://127.0.0.1:{free_ports(1)[0]}")]
    source = DirectSource(lambda: targets)
    # An old name counts, and so does a metric that is declared and has no series yet; who is not up is not judged.
    assert source.preflight(["ttft", "itl", "http_5xx"]) == []
    one, other = source.preflight(["preemptions", "e2e_latency"])
    assert one.startswith("blue/0 does not export e2e_latency: looked for vllm:e2e_request_latency_seconds")
    assert other.startswith("blue/0 does not export preemptions: looked for vllm:num_preemptions_total")
    assert other.endswith("; nearest that it does export: vllm:requests_preempted_total")
    targets.append(Target("blue/2", "blue", broken.url))
    (problem,) = source.preflight(["ttft"])
    assert problem.startswith("blue/2: http://127.0.0.1:")
    source.close()


def test_preflight_needs_the_engines_requests_only_without_a_gateway(serve: Callable[[Answer], _Server]) -> None:
    server = serve(text("# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running 0\n"))
    targets = [Target("blue/0", "blue", server.url)]
    alone, behind = (
        DirectSource(lambda: targets),
        DirectSource(lambda: targets, Gateway("http://127.0.0.1:1", ["blue"])),
    )
    (problem,) = alone.preflight([])
    assert problem.startswith("blue/0 does not export http_requests: looked for http_requests_total")
    assert behind.preflight([]) == []
    alone.close()
    behind.close()
