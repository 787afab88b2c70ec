"""The Prometheus source: exact totals of whole scrapes, and a reason for everything that is not there."""

from __future__ import annotations

import http.server
import math
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fake_prometheus
import pytest
from fake_prometheus import FakePrometheus, send, send_json

from servegate.config import validate
from servegate.errors import ConfigError, InfrastructureError
from servegate.rollout.deltas import between
from servegate.rollout.model import Readings
from servegate.rollout.ports import Histogram
from servegate.rollout.sources.prometheus import PrometheusSource
from servegate.rollout.sources.prometheus_config import PrometheusConfig, load_config

NOW = 1_700_000_000.0


def engine(requests: int, *, started: float = NOW - 1000, slow: int = 0, extra: str = "") -> str:
    return f"""\
process_start_time_seconds {started}
http_requests_total{{handler="/v1/chat/completions",method="POST",status="2xx"}} {requests}
http_requests_total{{handler="/health",method="GET",status="2xx"}} 99999
vllm:time_to_first_token_seconds_bucket{{engine="0",le="0.1"}} {requests - slow}
vllm:time_to_first_token_seconds_bucket{{engine="0",le="+Inf"}} {requests}
vllm:time_to_first_token_seconds_sum{{engine="0"}} {requests * 0.5}
vllm:num_requests_running{{engine="0"}} 2
{extra}"""


@pytest.fixture
def prometheus() -> Iterator[FakePrometheus]:
    fake = FakePrometheus()
    fake.start()
    yield fake
    fake.stop()


Make = Callable[..., PrometheusSource]


@pytest.fixture
def source(prometheus: FakePrometheus) -> Iterator[Make]:
    made: list[PrometheusSource] = []

    def make(**rules: Any) -> PrometheusSource:
        config = validate({"url": prometheus.url, "timeout": "20s", **rules}, PrometheusConfig, "prometheus")
        made.append(PrometheusSource(config))
        return made[-1]

    yield make
    prometheus.gate.set()
    for item in made:
        item.close()


def test_totals_as_they_were_scraped(prometheus: FakePrometheus, source: Make) -> None:
    target = {"job": "vllm", "namespace": "llm", "release": "sha256:abc"}
    prometheus.scrape(NOW - 18, engine(7), slot="blue", instance="10.0.0.1:8000", **target)
    prometheus.scrape(NOW - 3, engine(12, slow=2), slot="blue", instance="10.0.0.1:8000", **target)
    prometheus.scrape(NOW - 9, engine(3), slot="other", instance="10.0.0.2:8000", **target)
    observed = source().observe(NOW)
    (sample,) = observed.pods
    assert observed.missing == {}
    assert (sample.pod, sample.slot, sample.at) == ("blue/10.0.0.1:8000", "blue", NOW - 3)
    assert (sample.release, sample.started) == ("sha256:abc", NOW - 1000)
    assert sample.counters == {"http_requests": 12, "http_5xx": 0, "http_4xx": 0}
    assert sample.histograms == {"ttft": Histogram((0.1, math.inf), (10, 12), 6.0)}
    assert sample.gauges == {"running": 2}
    (path, query, _) = prometheus.asked[0]
    assert path == "/api/v1/query"
    assert query["time"] == [f"{NOW:.3f}"]
    assert query["query"][0].endswith("[45000ms]")
    assert 'slot=~"blue|green"' in query["query"][0]


def deltas(source: PrometheusSource, before: Readings | None, at: float) -> tuple[dict[str, float], Readings]:
    found, readings = between(before, source.observe(at))
    return dict(found["blue"].counters) if "blue" in found else {}, readings


def test_each_process_is_compared_with_itself(prometheus: FakePrometheus, source: Make) -> None:
    """Two pods scraped at different times, of which one starts anew: what was done is exact."""
    for at, one, two, started in ((0, 100, 50, 0), (15, 130, 70, 0), (30, 150, 4, 21), (45, 155, 9, 21)):
        prometheus.scrape(NOW + at, engine(one), slot="blue", instance="a")
        prometheus.scrape(NOW + at + 7, engine(two, started=NOW + started), slot="blue", instance="b")
    made, readings, counted = source(), None, []
    for at in range(10, 61, 5):
        counters, readings = deltas(made, readings, NOW + at)
        counted.append(counters.get("http_requests"))
    #        10    15    20    25    30  35    40    45 50    55    60: no scrape, no number
    assert counted == [None, 30, None, 20, 20, None, 4, 5, None, 5, None]


def test_a_stale_series_is_no_zero(prometheus: FakePrometheus, source: Make) -> None:
    prometheus.scrape(NOW, engine(10), slot="blue", instance="a")
    made = source(max_age="30s")
    counters, readings = deltas(made, None, NOW + 1)
    for at in (6, 20):
        counters, readings = deltas(made, readings, NOW + at)
        assert counters == {}
    observed = made.observe(NOW + 40)
    assert observed.pods == ()
    assert observed.missing == {"blue/a": "its last scrape is 40 s old"}
    assert observed.faults == {"blue/a": "stale"}
    assert made.observe(NOW + 2000).missing == {}  # gone for good


def test_a_target_that_is_down_is_missing(prometheus: FakePrometheus, source: Make) -> None:
    prometheus.scrape(NOW - 20, engine(10), slot="green", instance="a")
    prometheus.add(NOW - 5, "up", "0", slot="green", instance="a")
    observed = source().observe(NOW)
    assert (observed.pods, observed.missing) == ((), {"green/a": "Prometheus cannot scrape it"})
    assert observed.faults == {"green/a": "down"}


def test_half_a_scrape_waits_for_the_other_half(prometheus: FakePrometheus, source: Make) -> None:
    prometheus.scrape(NOW - 15, engine(10), slot="blue", instance="a")
    for name in ("process_start_time_seconds", "vllm:num_requests_running"):
        labels = {"engine": "0"} if name.startswith("vllm") else {}
        prometheus.add(NOW, name, "1", slot="blue", instance="a", **labels)
    made = source()
    (half,) = made.observe(NOW + 1).pods
    assert (half.at, half.counters["http_requests"]) == (NOW - 15, 10)
    # Twice missing is gone: the engine no longer exports it, and unknown is not zero.
    for name in ("process_start_time_seconds", "vllm:num_requests_running"):
        labels = {"engine": "0"} if name.startswith("vllm") else {}
        prometheus.add(NOW + 15, name, "1", slot="blue", instance="a", **labels)
    (gone,) = made.observe(NOW + 16).pods
    assert (gone.at, gone.counters, gone.histograms) == (NOW + 15, {}, {})


def test_a_process_scraped_twice_counts_once(prometheus: FakePrometheus, source: Make) -> None:
    for job in ("pods", "services"):
        prometheus.scrape(NOW - 5 - (job == "pods"), engine(10), slot="blue", pod="p-1", instance="1:8000", job=job)
    (sample,) = source(labels={"pod": "pod"}).observe(NOW).pods
    assert (sample.pod, sample.at, sample.counters["http_requests"]) == ("blue/p-1", NOW - 5, 10)


def test_values_that_are_no_numbers_were_not_measured(prometheus: FakePrometheus, source: Make) -> None:
    text = "vllm:prompt_tokens_total NaN\nvllm:num_preemptions_total +Inf\nvllm:generation_tokens_total -3\n"
    prometheus.scrape(NOW, engine(10, extra=text), slot="blue", instance="a")
    (sample,) = source().observe(NOW).pods
    assert not {"prompt_tokens", "preemptions", "generation_tokens"} & set(sample.counters)
    assert sample.counters["http_requests"] == 10


def test_exported_without_series_is_zero_where_prometheus_knows(prometheus: FakePrometheus, source: Make) -> None:
    """A fresh engine has no http_requests_total: with the target's metadata that is zero, without it unknown."""
    fresh = "\n".join(line for line in engine(0).splitlines() if "http_requests" not in line)
    prometheus.scrape(NOW, fresh, slot="green", instance="a")
    prometheus.described = [{"target": {"slot": "green", "instance": "a"}, "type": "counter", "help": "", "unit": ""}]
    assert source().observe(NOW).pods[0].counters["http_requests"] == 0
    prometheus.described = None
    assert "http_requests" not in source().observe(NOW).pods[0].counters


def test_labels_and_names_are_the_users(prometheus: FakePrometheus, source: Make) -> None:
    text = engine(4).replace("vllm:time_to_first", "llm:first").replace("http_requests_total", "web_total")
    prometheus.scrape(NOW, text, llm_isvc_name="chat.v1", pod="p", ns="a")
    prometheus.scrape(NOW, text, llm_isvc_name="chat-v1", pod="q", ns="a")
    prometheus.scrape(NOW, text, llm_isvc_name="chat.v1", pod="r", ns="b")
    made = source(
        labels={"slot": "llm_isvc_name", "pod": "pod"},
        slots={"blue": "chat.v1", "green": "chat.v2"},
        select={"ns": "a"},
        metrics={"ttft": "llm:first_token_seconds", "http_requests": "web_total"},
    )
    (sample,) = made.observe(NOW).pods
    assert (sample.pod, sample.slot) == ("blue/p", "blue")
    assert sample.histograms["ttft"].counts == (4, 4)
    assert sample.counters["http_requests"] == 4


ENDED = """\
istio_requests_total{destination="blue-svc",response_code="200",response_flags="-"} 90
istio_requests_total{destination="blue-svc",response_code="503",response_flags="UF"} 3
istio_requests_total{destination="blue-svc",response_code="200",response_flags="UPE"} 2
istio_requests_total{destination="elsewhere",response_code="500",response_flags="-"} 1000
active{cluster="blue-svc"} 5
"""


def test_the_gateway_by_replica(prometheus: FakePrometheus, source: Make) -> None:
    prometheus.scrape(NOW, ENDED, instance="g1")
    prometheus.scrape(NOW, ENDED, instance="g2")
    prometheus.scrape(NOW, engine(1), slot="blue", instance="a")
    made = source(
        gateway={
            "metric": "istio_requests_total",
            "active": ["active"],
            "active_slot": "cluster",
            "labels": {"slot": "destination", "code": "response_code", "flags": "response_flags"},
            "slots": {"blue": "blue-svc", "green": "green-svc"},
        }
    )
    observed = made.observe(NOW)
    by_name = {sample.pod: sample for sample in observed.pods}
    blue, green = by_name["gateway/blue/g1"], by_name["gateway/green/g2"]
    assert (blue.counters["gateway_requests"], blue.counters["gateway_5xx"]) == (95, 3)
    assert (blue.counters["gateway_connect_failures"], blue.counters["gateway_resets"]) == (3, 2)
    assert blue.gauges == {"gateway_active": 5}
    assert set(green.counters.values()) == {0.0}  # nothing was routed to it: that is known
    found, readings = between(None, observed)
    for replica in ("g1", "g2"):
        prometheus.scrape(NOW + 15, ENDED.replace("} 90", "} 97"), instance=replica)
    prometheus.scrape(NOW + 15, engine(9), slot="blue", instance="a")
    found, _ = between(readings, made.observe(NOW + 15))
    assert (found["blue"].gateway, found["blue"].requests, found["blue"].failures) == (True, 14, 0)
    assert made.observe(NOW + 100).missing == {
        **{
            f"gateway/{slot}/{replica}": "its last scrape is 85 s old"
            for slot in ("blue", "green")
            for replica in ("g1", "g2")
        },
        **{f"gateway/{slot}": "no istio_requests_total was scraped in 45 s" for slot in ("blue", "green")},
        "blue/a": "its last scrape is 85 s old",
    }


def says(body: bytes, content_type: str = "text/plain", status: int = 200) -> Callable[[Any], None]:
    return lambda handler: send(handler, body, content_type, status)


def redirect(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.send_response(302)
    handler.send_header("location", "https://login.example/?next=x")
    handler.send_header("content-length", "0")
    handler.end_headers()


def refused_query(handler: http.server.BaseHTTPRequestHandler) -> None:
    send_json(handler, {"status": "error", "errorType": "bad_data", "error": "too many samples"}, 422)


def cut(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("content-length", "1000")
    handler.end_headers()
    handler.wfile.write(b"{")
    handler.close_connection = True


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (says(b"<!doctype html><title>Sign in</title>", "text/html"), "HTML"),
        (redirect, "login page"),
        (says(b"no", status=401), "HTTP 401"),
        (says(b"slow down", status=429), "HTTP 429"),
        (says(b"oops", status=500), "HTTP 500"),
        (refused_query, "HTTP 422: too many samples"),
        (says(b'{"status":"succ'), "not JSON"),
        (says(b"[]"), "not one of Prometheus"),
        (says(b'{"data":{"result":[{"metric":{},"values":[["x","1"]]}]}}'), "not a matrix"),
        (says(b'{"data":{"result":{"a":1}}}'), "not one of Prometheus"),
        (says(b" " * 2000), "larger than 1000 bytes"),
        (cut, "IncompleteRead"),
    ],
)
def test_a_bad_answer_makes_everything_missing(
    prometheus: FakePrometheus, source: Make, answer: Callable[[Any], None], reason: str
) -> None:
    prometheus.instead = answer
    made = source()
    made.api.max_body = 1000
    observed = made.observe(NOW)
    assert observed.pods == ()
    assert set(observed.missing) == {"blue/prometheus", "green/prometheus"}
    assert observed.faults == {}  # Prometheus is to blame: nobody knows how the engines are
    assert reason in observed.missing["blue/prometheus"]


def test_nobody_there(prometheus: FakePrometheus) -> None:
    made = PrometheusSource(PrometheusConfig(url="http://127.0.0.1:9"))
    assert made.observe(NOW).missing["blue/prometheus"] == "Prometheus: connection refused"
    made.close()


def test_silence_costs_the_timeout_and_one_thread(prometheus: FakePrometheus, source: Make) -> None:
    def hang(handler: http.server.BaseHTTPRequestHandler) -> None:
        prometheus.gate.wait(30)
        fake_prometheus.send_json(handler, {"data": {"result": []}})

    prometheus.instead = hang
    made = source(timeout="200ms")
    assert "no answer in 0.2 s" in made.observe(NOW).missing["blue/prometheus"]
    with pytest.raises(InfrastructureError, match=r"^no answer in 0\.2 s$"):
        made.api.instant("up", NOW)
    made.api.config = made.config = validate({"url": prometheus.url, "timeout": "20s"}, PrometheusConfig, "p")
    prometheus.gate.set()
    prometheus.instead = None
    prometheus.scrape(NOW, engine(1), slot="blue", instance="a")
    for _ in range(100):
        if (observed := made.observe(NOW)).pods:
            break
        time.sleep(0.02)
    assert [sample.pod for sample in observed.pods] == ["blue/a"]


def test_clocks_that_differ_are_told(prometheus: FakePrometheus, source: Make) -> None:
    prometheus.scrape(NOW, engine(1), slot="blue", instance="a")
    prometheus.date_offset = -60
    observed = source().observe(NOW)
    assert observed.pods == ()
    assert (
        "clock is 60 s behind ours" in observed.missing["blue/prometheus"]
        or "61 s" in observed.missing["blue/prometheus"]
    )


def test_secrets_are_read_anew_and_stay_in_their_files(
    prometheus: FakePrometheus, source: Make, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("one\n")
    made = source(bearer_token_file=str(token))
    made.observe(NOW)
    token.write_text("two")
    made.observe(NOW)
    assert [headers["Authorization"] for _, _, headers in prometheus.asked] == ["Bearer one", "Bearer two"]
    token.unlink()
    observed = made.observe(NOW)
    assert f"{token}: cannot be read" in observed.missing["blue/prometheus"]
    password = tmp_path / "password"
    password.write_text("s3cret\n")
    source(basic={"username": "me", "password_file": str(password)}).observe(NOW)
    assert prometheus.asked[-1][2]["Authorization"] == "Basic bWU6czNjcmV0"
    assert "s3cret" not in repr(made.config)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    subprocess.run([*command, *names, "-keyout", key, "-out", cert], check=True, capture_output=True)
    return cert, key


def test_tls_trusts_whom_it_is_told_to(certificate: tuple[Path, Path]) -> None:
    fake = FakePrometheus()
    fake.start(tls=certificate)
    fake.scrape(NOW, engine(5), slot="blue", instance="a")
    trusting = PrometheusSource(PrometheusConfig(url=fake.url, ca_file=certificate[0]))
    careful = PrometheusSource(PrometheusConfig(url=fake.url))
    try:
        assert [sample.pod for sample in trusting.observe(NOW).pods] == ["blue/a"]
        assert "the certificate is not trusted" in careful.observe(NOW).missing["blue/prometheus"]
    finally:
        trusting.close()
        careful.close()
        fake.stop()


def test_preflight_names_the_nearest(prometheus: FakePrometheus, source: Make) -> None:
    old = engine(5).replace("vllm:time_to_first_token_seconds", "vllm:time_to_first_tokens_seconds")
    prometheus.scrape(NOW, old, slot="blue", instance="a")
    problems = source().preflight(["ttft", "running", "ttfb"], NOW)
    assert problems == [
        (
            "blue/a does not export ttft: looked for vllm:time_to_first_token_seconds; nearest that it does export: "
            "vllm:time_to_first_tokens_seconds"
        ),
        "ttfb is not the name of an engine metric; did you mean ttft?",
    ]
    (problem,) = source(labels={"slot": "color"}).preflight(["ttft"], NOW)
    assert "has no engine with color='blue', color='green'; no series has that label" in problem
    (problem,) = source(slots={"blue": "x", "green": "y"}).preflight(["ttft"], NOW)
    assert "that label has blue" in problem
    prometheus.instead = says(b"no", status=403)
    with pytest.raises(InfrastructureError, match="HTTP 403"):
        source().preflight(["ttft"], NOW)


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ("url: prometheus:9090", "base URL"),
        ("url: http://me:pw@p:9090", "secrets do not belong"),
        ("url: http://p:9090\nmetrics: {ttf: x}", "did you mean 'ttft'"),
        ("url: http://p:9090\nbearer_token_file: a\nbasic: {username: a, password_file: b}", "exclude each other"),
        ("url: http://p:9090\nslots: {blue: 'a\"} or up{x=\"'}", "slots.blue"),
        ("url: http://p:9090\nmax_age: 45", "duration with its unit"),
        ("url: http://p:9090\nselekt: {a: b}", "did you mean 'select'"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(tmp_path: Path, rules: str, said: str) -> None:
    path = tmp_path / "prometheus.yaml"
    path.write_text(rules + "\n")
    with pytest.raises(ConfigError, match=r"prometheus\.yaml") as refused:
        load_config(path)
    assert said in str(refused.value)
