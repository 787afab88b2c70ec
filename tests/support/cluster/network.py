"""The cluster's own machine: a network namespace in which every program and every pod of one cluster lives.

EndpointSlices refuse loopback addresses, so pods need real ones. All addresses come from 198.18.0.0/15, which RFC 2544
sets aside for tests. Pods hang on a bridge inside, each in a namespace of its own; ClusterIPs are local addresses
there. A link leads to both from outside, and nothing leads further. Sixteen clusters fit beside each other; a lock says
which are in use, so what a killed one left behind is cleaned up by the next.
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

from cluster.binaries import ClusterUnavailableError, cache

CLUSTERS = 16
NODES = 8
BRIDGE, HARDWARE = "pods", "02:00:00:00:00:01"


@dataclass(frozen=True)
class Addresses:
    """Who is where in cluster `n` of this machine."""

    n: int

    @property
    def pods(self) -> ipaddress.IPv4Network:
        """Addresses of all pods."""
        return ipaddress.IPv4Network(f"198.18.{self.n * 16}.0/20")

    def node(self, index: int) -> ipaddress.IPv4Network:
        """Addresses of the pods of one node."""
        return list(self.pods.subnets(new_prefix=24))[index]

    @property
    def bridge(self) -> str:
        """Address of the bridge, the pods' way out."""
        return str(self.pods[-2])

    @property
    def services(self) -> ipaddress.IPv4Network:
        """ClusterIPs."""
        return ipaddress.IPv4Network(f"198.19.{self.n * 16}.0/24")

    @property
    def api_service(self) -> str:
        """ClusterIP of the API server."""
        return str(self.services[1])

    @property
    def outside(self) -> str:
        """Our end of the link."""
        return f"198.19.{self.n * 16 + 1}.1"

    @property
    def inside(self) -> str:
        """The cluster's end of the link, where the API server and the gateway listen."""
        return f"198.19.{self.n * 16 + 1}.2"


class Network:
    """One namespace, for as long as this object is open.

    Raises:
        ClusterUnavailableError: not root, no `ip`, or all sixteen are in use.
    """

    def __init__(self) -> None:
        if os.geteuid() != 0:
            raise ClusterUnavailableError("the test cluster makes a network namespace, which only root may")
        if shutil.which("ip") is None:
            raise ClusterUnavailableError("the test cluster needs `ip` (package iproute2)")
        self._lock, self.addresses = _claim()
        self.name = f"servegate-{self.addresses.n}"
        self._link = (f"sgate{self.addresses.n}", f"sgate{self.addresses.n}in")
        self._remove()
        try:
            self._make()
        except BaseException:
            self.close()
            raise

    def command(self, command: Sequence[str]) -> list[str]:
        """The same command, run inside."""
        return ["ip", "netns", "exec", self.name, *command]

    def close(self) -> None:
        """Take everything away."""
        self._remove()
        self._lock.close()

    def _make(self) -> None:
        outer, inner = self._link
        at = self.addresses
        _ip("netns", "add", self.name)
        _ip("link", "add", outer, "type", "veth", "peer", "name", inner, "netns", self.name)
        _ip("addr", "add", f"{at.outside}/30", "dev", outer)
        _ip("link", "set", outer, "up")
        _ip("-n", self.name, "addr", "add", f"{at.inside}/30", "dev", inner)
        _ip("-n", self.name, "link", "set", inner, "up")
        _ip("-n", self.name, "link", "set", "lo", "up")
        # An address of its own: else it has the lowest of what hangs on it, and another when that goes, which pods that
        # were there learn half a minute later.
        _ip("-n", self.name, "link", "add", BRIDGE, "address", HARDWARE, "type", "bridge")
        _ip("-n", self.name, "addr", "add", f"{at.bridge}/{at.pods.prefixlen}", "dev", BRIDGE)
        _ip("-n", self.name, "link", "set", BRIDGE, "up")
        _ip("-n", self.name, "route", "add", "local", str(at.services), "dev", "lo")
        _ip("netns", "exec", self.name, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        for network in (at.pods, at.services):
            _ip("route", "add", str(network), "via", at.inside, "dev", outer)

    def _remove(self) -> None:
        # Its end of the link and with it ours, the addresses and the routes go with the namespace.
        subprocess.run(["ip", "netns", "delete", self.name], stderr=subprocess.DEVNULL, check=False)
        subprocess.run(["ip", "link", "delete", self._link[0]], stderr=subprocess.DEVNULL, check=False)


def _claim() -> tuple[BinaryIO, Addresses]:
    folder = cache() / "cluster"
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(CLUSTERS):
        stream = (folder / f"network-{n}.lock").open("ab")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            stream.close()
            continue
        return stream, Addresses(n)
    raise ClusterUnavailableError(f"{CLUSTERS} test clusters run on this machine already")


def _ip(*arguments: str) -> None:
    run = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if run.returncode:
        raise ClusterUnavailableError(f"ip {' '.join(arguments)}: {run.stderr.strip()}")
