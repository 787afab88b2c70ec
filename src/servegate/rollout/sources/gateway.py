"""What the proxies of a cluster's gateway count for each engine: Envoy, as Envoy Gateway and others run it.

Engines that are gone report nothing; the proxy that could not reach them does. Its counts name addresses, and
EndpointSlices say whose they are: an address keeps its slot when its pod is gone, until another slot's pod gets it.
Every address at every proxy is a series of its own, so that deltas are exact (rollout/deltas.py): one that vanishes
keeps its last total, one that falls counts from zero, and one that was not there at the reading before started at zero.

Two ways to count, the first where it is there (k8s/gateway/envoy-gateway.yaml sets up both):

    counter `servegate.ended` of an access logger    how every request ended, as sources/direct.py tells it; it outlives
    (tags host, code, flags)                         the engine
    statistics per endpoint                          rq_success, rq_error, rq_timeout, cx_connect_fail. Taken at the
                                                     headers, so an answer that breaks after them is no failure
                                                     (`gateway_resets` is not known), and gone with the endpoint, so
                                                     what happened since the last reading is lost then

Requests in flight (`gateway_active`) come from the statistics per endpoint in both cases. They are not known without
them, nor for a slot with an engine that Envoy does not have, as is so at weight 0 behind Envoy Gateway. A request for
which no engine could be chosen belongs to no slot.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlencode, urlsplit

from servegate.errors import InfrastructureError
from servegate.metrics.text import Exposition, parse
from servegate.rollout.kube import Kube, Object, labels_of
from servegate.rollout.ports import PodSample
from servegate.rollout.sources import ended
from servegate.rollout.sources.direct import GATEWAY, Question

SERVICE = "kubernetes.io/service-name"
"""Label of an EndpointSlice: the Service it belongs to."""
ENDED = "envoy_servegate_ended"
ENDPOINT = "envoy_cluster_endpoint_"
ACTIVE = (f"{ENDPOINT}rq_active", f"{ENDPOINT}rq_pending_active")
ROUTED = "envoy_cluster_upstream_rq_total"
_FILTER = r"^(servegate\.ended|cluster\..*endpoint\..*|cluster\..*\.upstream_rq_total$)"
_NAMES = ("rq_success", "rq_error", "rq_timeout", "cx_connect_fail")
_WANTED = {ENDED, ROUTED, *ACTIVE, *(ENDPOINT + name for name in _NAMES)}


@dataclass
class _Proxy:
    """What is remembered of a proxy.

    Attributes:
        read: ways in which it has counted at a reading before.
        known: the series it had, and since when it counts, where that is known.
    """

    read: set[bool] = field(default_factory=set)
    known: dict[str, float | None] = field(default_factory=dict)


class EnvoyGateway:
    """The proxies of a gateway, as a part of DirectSource.

    Args:
        stats: URL of their statistics; a host name with several addresses (a headless Service) is several proxies.
        slots: names of the slots.
        endpoints: called at every reading: slot by address and port of its engines, as EndpointSlices list them now.
        resolve: addresses of a host name.
    """

    def __init__(
        self,
        stats: str,
        slots: Sequence[str],
        endpoints: Callable[[], Mapping[str, str]],
        *,
        resolve: Callable[[str], Sequence[str]] | None = None,
    ) -> None:
        self.stats, self.slots, self.endpoints = stats.rstrip("/"), tuple(slots), endpoints
        self.resolve = resolve or addresses
        self._slot_of: dict[str, str] = {}
        self._listed: dict[str, str] = {}
        self._proxies: dict[str, _Proxy] = {}
        self._counts_endings = False

    def questions(self) -> list[Question]:
        """What to ask, one for each proxy.

        Raises:
            InfrastructureError: the host name has no address, or the API server cannot be asked.
        """
        self._listed = dict(self.endpoints())
        self._slot_of.update(self._listed)
        parts = urlsplit(self.stats)
        asked = []
        for address in self.resolve(parts.hostname or ""):
            host = f"[{address}]" if ":" in address else address
            place = f"{host}:{parts.port}" if parts.port else host
            url = f"{parts.scheme}://{place}{parts.path}/stats/prometheus?{urlencode({'filter': _FILTER})}"
            names = tuple(f"{GATEWAY}{slot}/{address}" for slot in self.slots)
            asked.append(Question(f"{GATEWAY}/{address}", url, names, self._reader(address)))
        return asked

    def samples(self, text: str, at: float, proxy: str) -> list[PodSample]:
        """Envoy's Prometheus text → one sample per slot, and one per address that has counts.

        Raises:
            ValueError: not what Envoy answers, or it does not count by engine.
        """
        exposition = parse(text, _WANTED)
        if not exposition.names:
            raise ValueError("not Envoy's counters")
        self._counts_endings |= ENDED in exposition.names
        counts = _endings(exposition) if self._counts_endings else _at_headers(exposition)
        active = _by_address(exposition, *ACTIVE)
        if not counts and not active and any(value > 0 for _, value in exposition.samples.get(ROUTED, ())):
            raise ValueError("the gateway does not count by engine: see k8s/gateway/envoy-gateway.yaml")
        memory = self._proxies.setdefault(proxy, _Proxy())
        zero = dict.fromkeys(ended.COUNTERS if self._counts_endings else ("gateway_requests", "gateway_5xx"), 0.0)
        # The slot as a whole: no requests beyond those of its addresses, and what is in flight.
        made = [
            PodSample(f"{GATEWAY}{slot}/{proxy}", slot, at, zero, gauges=self._in_flight(slot, active))
            for slot in self.slots
        ]
        for address, counters in sorted(counts.items()):
            slot = self._slot_of.get(address)
            if slot is None:
                continue  # another application's
            name = f"{GATEWAY}{slot}/{proxy}/{address}"
            if name not in memory.known:
                elsewhere = any(f"{GATEWAY}{other}/{proxy}/{address}" in memory.known for other in self.slots)
                new = self._counts_endings in memory.read and not elsewhere
                memory.known[name] = at if new else None
            made.append(PodSample(name, slot, at, counters, started=memory.known[name]))
        memory.read.add(self._counts_endings)
        return made

    def _in_flight(self, slot: str, active: Mapping[str, float]) -> dict[str, float]:
        places = [place for place, of in self._listed.items() if of == slot]
        # An engine that is listed and not there: a slot without weight is taken out of Envoy, streams and all.
        if not active or any(place not in active for place in places):
            return {}
        return {"gateway_active": sum(active[place] for place in places)}

    def _reader(self, proxy: str) -> Callable[[str, float], list[PodSample]]:
        return lambda text, at: self.samples(text, at, proxy)


def _endings(exposition: Exposition) -> dict[str, dict[str, float]]:
    rows: dict[str, list[tuple[Mapping[str, str], float]]] = {}
    for labels, value in exposition.samples.get(ENDED, ()):
        rows.setdefault(labels.get("host", "-"), []).append((labels, value))
    return {address: ended.counters(of_it) for address, of_it in rows.items() if address != "-"}


def _at_headers(exposition: Exposition) -> dict[str, dict[str, float]]:
    by_name = {name: _by_address(exposition, ENDPOINT + name) for name in _NAMES}
    found = {}
    for address, good in by_name["rq_success"].items():
        bad = by_name["rq_error"].get(address, 0.0)
        found[address] = {
            "gateway_requests": good + bad,
            "gateway_5xx": bad,
            # Connections, of which a request may have tried several and failed once.
            "gateway_connect_failures": by_name["cx_connect_fail"].get(address, 0.0),
            "gateway_timeouts": by_name["rq_timeout"].get(address, 0.0),
        }
    return found


def _by_address(exposition: Exposition, *names: str) -> dict[str, float]:
    """Sums over the clusters an address is in: every rule of every route makes one."""
    sums: dict[str, float] = {}
    for name in names:
        for labels, value in exposition.samples.get(name, ()):
            address = labels.get("envoy_endpoint_address", "")
            sums[address] = sums.get(address, 0.0) + value
    return sums


def addresses(host: str) -> list[str]:
    """Addresses of a host name, sorted.

    Raises:
        InfrastructureError: it has none.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise InfrastructureError(f"the gateway's statistics: no address of {host}: {error}") from error
    return sorted({str(entry[4][0]) for entry in found})


def endpoints(kube: Kube, services: Mapping[str, str]) -> dict[str, str]:
    """Slot by address and port, as EndpointSlices list them: ready or not, as long as the pods exist.

    Args:
        services: name of the Service by slot.

    Raises:
        KubeError: the API server cannot be asked, or refuses.
    """
    slots = {service: slot for slot, service in services.items()}
    found = {}
    for item in kube.find("EndpointSlice"):
        slot = slots.get(labels_of(item).get(SERVICE, ""))
        if slot is not None:
            found.update(dict.fromkeys(_places(item), slot))
    return found


def _places(item: Object) -> list[str]:
    ports = [port["port"] for port in item.get("ports") or () if port.get("port")]
    hosts = [str(address) for endpoint in item.get("endpoints") or () for address in endpoint.get("addresses") or ()]
    return [f"{_host(host)}:{port}" for host in hosts for port in ports]


def _host(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address  # a name, of a slice with names
    return f"[{parsed}]" if parsed.version == 6 else str(parsed)
