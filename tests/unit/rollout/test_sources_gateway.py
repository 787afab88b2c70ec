"""The gateway's counts by engine: whose they are, what vanishes, what is new. The page is a real Envoy's (1.40).

It was asked 13 times: three engines in turn, of which 10.200.1.4 refuses connections; answers of 200 and 500, engines
that close before the headers and after them.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_kube import FakeKube

from servegate.errors import InfrastructureError
from servegate.rollout.deltas import between
from servegate.rollout.kube import Kube
from servegate.rollout.ports import Observed, PodSample
from servegate.rollout.seen import Readings, SlotDelta
from servegate.rollout.sources.combined import CombinedSource
from servegate.rollout.sources.direct import DirectSource
from servegate.rollout.sources.gateway import EnvoyGateway, addresses, endpoints

PAGE = (Path(__file__).parent / "data" / "envoy_endpoints.txt").read_text()
AT_HEADERS = "\n".join(line for line in PAGE.splitlines() if "servegate_ended" not in line) + "\n"
WHERE = {"10.200.0.3:8000": "blue", "10.200.1.3:8000": "green", "10.200.1.4:8000": "green"}
SLOTS = ("blue", "green")


def gateway(where: dict[str, str] | None = None) -> EnvoyGateway:
    made = EnvoyGateway("http://10.0.0.9:19001", SLOTS, lambda: WHERE if where is None else where)
    made.questions()
    return made


def by_pod(samples: list[PodSample]) -> dict[str, PodSample]:
    found = {sample.pod: sample for sample in samples}
    assert len(found) == len(samples)
    return found


class Ticks:
    """Readings one after the other, as the controller takes them."""

    def __init__(self, source: EnvoyGateway) -> None:
        self.source, self.at, self.readings = source, 1000.0, None

    source: EnvoyGateway
    readings: Readings | None

    def read(self, text: str, proxy: str = "p") -> dict[str, SlotDelta]:
        self.at += 5
        self.source.questions()
        seen = Observed(self.at, tuple(self.source.samples(text, self.at, proxy)))
        deltas, self.readings = between(self.readings, seen)
        return deltas


def ended(*rows: tuple[str, str, str, int]) -> str:
    """A page of the access logger."""
    lines = [f'envoy_servegate_ended{{host="{h}",code="{c}",flags="{f}"}} {n}' for h, c, f, n in rows]
    return "# TYPE envoy_servegate_ended counter\n" + "\n".join(lines) + "\n"


def test_how_requests_ended_by_engine() -> None:
    found = by_pod(gateway().samples(PAGE, 5.0, "p"))
    assert set(found) == {
        *("gateway/blue/p", "gateway/green/p", "gateway/blue/p/10.200.0.3:8000"),
        *("gateway/green/p/10.200.1.3:8000", "gateway/green/p/10.200.1.4:8000"),
    }
    assert found["gateway/blue/p/10.200.0.3:8000"].counters == {
        "gateway_requests": 5,
        "gateway_5xx": 2,
        "gateway_connect_failures": 0,
        "gateway_resets": 1,
        "gateway_timeouts": 0,
        "gateway_cancelled": 0,
    }
    refused = found["gateway/green/p/10.200.1.4:8000"]
    assert (refused.counters["gateway_requests"], refused.counters["gateway_connect_failures"]) == (4, 4)
    assert found["gateway/blue/p"].gauges == {"gateway_active": 0}
    assert set(found["gateway/blue/p"].counters.values()) == {0}


def test_without_the_logger_what_is_known_at_the_headers() -> None:
    found = by_pod(gateway().samples(AT_HEADERS, 5.0, "p"))
    counters = found["gateway/blue/p/10.200.0.3:8000"].counters
    # The answer that broke after its headers is no failure here, and resets are not known rather than none.
    assert (counters["gateway_requests"], counters["gateway_5xx"]) == (5, 2)
    assert "gateway_resets" not in counters
    assert "gateway_resets" not in found["gateway/blue/p"].counters
    refused = found["gateway/green/p/10.200.1.4:8000"].counters
    assert (refused["gateway_requests"], refused["gateway_5xx"], refused["gateway_connect_failures"]) == (4, 4, 4)


def test_requests_in_flight_or_waiting_for_a_connection() -> None:
    one = 'envoy_endpoint_address="10.200.1.3:8000"}'
    lines = [f"{line[:-1]}3" if "rq_active{" in line and one in line else line for line in PAGE.splitlines()]
    page = "\n".join(lines) + "\n"
    page += 'envoy_cluster_endpoint_rq_active{envoy_cluster_name="other",envoy_endpoint_address="10.200.1.4:8000"} 2\n'
    found = by_pod(gateway().samples(page, 5.0, "p"))
    assert found["gateway/green/p"].gauges == {"gateway_active": 5}
    # An engine that is listed and that Envoy does not have: streams to it may go on, so that is not zero.
    lines = [line for line in page.splitlines() if "10.200.1.4" not in line]
    found = by_pod(gateway().samples("\n".join(lines) + "\n", 5.0, "p"))
    assert (found["gateway/green/p"].gauges, found["gateway/blue/p"].gauges) == ({}, {"gateway_active": 0})
    without = "\n".join(line for line in PAGE.splitlines() if "endpoint" not in line) + "\n"
    assert by_pod(gateway().samples(without, 5.0, "p"))["gateway/green/p"].gauges == {}


def test_a_killed_engine_counts_in_the_tick_in_which_it_vanishes() -> None:
    where = {"10.200.0.3:8000": "blue", "10.200.1.3:8000": "green"}
    ticks = Ticks(gateway(where))
    ticks.read(ended(("10.200.0.3:8000", "200", "-", 90), ("10.200.1.3:8000", "200", "-", 10)))
    # The pod is gone from the EndpointSlice at the very reading that has its failures.
    del where["10.200.1.3:8000"]
    rows = [("10.200.0.3:8000", "200", "-", 180), ("10.200.1.3:8000", "200", "-", 15)]
    rows += [("10.200.1.3:8000", "200", "UPE", 2), ("10.200.1.3:8000", "503", "UF", 3)]
    deltas = ticks.read(ended(*rows))
    assert (deltas["blue"].requests, deltas["blue"].failures) == (90, 0)
    assert (deltas["green"].requests, deltas["green"].failures) == (10, 5)
    # Nothing more happens to it: zero, not missing.
    deltas = ticks.read(ended(*rows))
    assert (deltas["green"].requests, deltas["green"].failures) == (0, 0)


def test_an_engine_that_is_new_counts_from_zero_and_a_new_proxy_from_its_first_reading() -> None:
    where = {"10.200.0.3:8000": "blue"}
    ticks = Ticks(gateway(where))
    assert ticks.read(ended(("10.200.0.3:8000", "200", "-", 50)))["blue"].requests is None
    where["10.200.1.3:8000"] = "green"
    deltas = ticks.read(ended(("10.200.0.3:8000", "200", "-", 60), ("10.200.1.3:8000", "503", "UF", 4)))
    assert (deltas["blue"].requests, deltas["green"].requests, deltas["green"].failures) == (10, 4, 4)
    deltas = ticks.read(ended(("10.200.0.3:8000", "200", "-", 61), ("10.200.1.3:8000", "503", "UF", 6)))
    assert (deltas["blue"].requests, deltas["green"].requests) == (1, 2)
    deltas = ticks.read(ended(("10.200.0.3:8000", "200", "-", 500)), proxy="another")
    assert deltas["blue"].requests is None


def test_an_address_that_goes_to_the_other_slot_takes_no_counts_along() -> None:
    where = {"10.200.0.3:8000": "blue"}
    ticks = Ticks(gateway(where))
    ticks.read(ended(("10.200.0.3:8000", "200", "-", 50)))
    where["10.200.0.3:8000"] = "green"
    deltas = ticks.read(ended(("10.200.0.3:8000", "200", "-", 55)))
    assert (deltas["blue"].requests, deltas["green"].requests) == (0, 0)
    assert ticks.read(ended(("10.200.0.3:8000", "200", "-", 60)))["green"].requests == 5


def test_a_proxy_that_starts_anew_counts_from_zero() -> None:
    ticks = Ticks(gateway())
    ticks.read(ended(("10.200.0.3:8000", "200", "-", 50)))
    assert ticks.read(ended(("10.200.0.3:8000", "200", "-", 3)))["blue"].requests == 3


def test_engines_of_others_and_requests_without_an_engine_are_nobodys() -> None:
    found = gateway().samples(ended(("10.9.9.9:80", "500", "-", 7), ("-", "503", "UH", 7)), 5.0, "p")
    assert [sum(sample.counters.values()) for sample in found] == [0, 0]


def test_a_gateway_that_does_not_count_by_engine_is_not_taken_for_one_without_requests() -> None:
    page = "# TYPE envoy_cluster_upstream_rq_total counter\n"
    idle = page + 'envoy_cluster_upstream_rq_total{envoy_cluster_name="xds"} 0\n'
    assert len(gateway().samples(idle, 5.0, "p")) == 2
    with pytest.raises(ValueError, match=r"k8s/gateway/envoy-gateway\.yaml"):
        gateway().samples(idle.replace("} 0", "} 9"), 5.0, "p")
    with pytest.raises(ValueError, match="not Envoy's counters"):
        gateway().samples("<html>", 5.0, "p")


def test_every_address_of_the_name_is_asked() -> None:
    names: list[str] = []

    def resolve(name: str) -> list[str]:
        names.append(name)
        return ["10.0.0.1", "fd00::1"]

    made = EnvoyGateway("http://stats.gateway:19001/", SLOTS, dict, resolve=resolve)
    pages = made.questions()
    assert names == ["stats.gateway"]
    assert [page.url.partition("?")[0] for page in pages] == [
        "http://10.0.0.1:19001/stats/prometheus",
        "http://[fd00::1]:19001/stats/prometheus",
    ]
    assert pages[1].names == ("gateway/blue/fd00::1", "gateway/green/fd00::1")
    assert addresses("127.0.0.1") == ["127.0.0.1"]
    with pytest.raises(InfrastructureError, match=r"no address of no\.such\.name\.invalid"):
        addresses("no.such.name.invalid")


def test_a_proxy_that_does_not_answer_is_missing_for_every_slot() -> None:
    made = EnvoyGateway("http://127.0.0.1:1", SLOTS, lambda: WHERE)
    source = CombinedSource(DirectSource(tuple, made), DirectSource(tuple))
    seen = source.observe(5.0)
    source.close()
    assert seen.pods == ()
    assert seen.missing == dict.fromkeys(["gateway/blue/127.0.0.1", "gateway/green/127.0.0.1"], "connection refused")
    assert set(seen.faults.values()) == {"down"}


def test_a_name_without_address_costs_the_gateways_counts_and_nothing_else() -> None:
    source = DirectSource(tuple, EnvoyGateway("http://no.such.name.invalid:1", SLOTS, lambda: WHERE))
    seen = source.observe(5.0)
    source.close()
    assert set(seen.missing) == {"gateway/blue", "gateway/green"}
    assert "no address of no.such.name.invalid" in seen.missing["gateway/blue"]


def test_whose_addresses_they_are_stands_in_the_endpoint_slices(tmp_path: Path) -> None:
    api = FakeKube()

    def listed(name: str, service: str, *hosts: str, **more: object) -> None:
        item = {
            "metadata": {"labels": {"kubernetes.io/service-name": service}},
            "endpoints": [{"addresses": [host], "conditions": {"ready": False}} for host in hosts],
            "ports": [{"name": "http", "port": 8000}],
        }
        api.put(f"/apis/discovery.k8s.io/v1/namespaces/llm/endpointslices/{name}", {**item, **more})

    listed("a", "llm-blue", "10.200.0.3", "10.200.0.4")
    listed("b", "llm-green", "fd00:0::1")
    listed("c", "other", "10.200.0.9")
    listed("d", "llm-green", endpoints=None, ports=None)
    found = endpoints(Kube(kubeconfig=api.kubeconfig(tmp_path)), {"blue": "llm-blue", "green": "llm-green"})
    api.close()
    assert found == {"10.200.0.3:8000": "blue", "10.200.0.4:8000": "blue", "[fd00::1]:8000": "green"}
