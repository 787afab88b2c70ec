"""ClusterIPs that answer: a TCP proxy in front of the ready endpoints of every Service, as kube-proxy would be."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from typing import Any

from servegate.rollout.kube import Kube, KubeError

Object = dict[str, Any]
LOOK = 0.25


class ServiceProxy(threading.Thread):
    """Listens on every ClusterIP, which are local addresses of the cluster's machine."""

    def __init__(self, kube: Kube) -> None:
        super().__init__(name="service-proxy", daemon=True)
        self.kube = kube
        self.endpoints: dict[tuple[str, int], list[tuple[str, int]]] = {}
        self._servers: dict[tuple[str, int], asyncio.Server] = {}

    def run(self) -> None:
        """For ever."""
        asyncio.run(self._follow())

    async def _follow(self) -> None:
        while True:
            with contextlib.suppress(KubeError):
                self.endpoints = await asyncio.to_thread(self._look)
                for key in set(self.endpoints) - set(self._servers):
                    with contextlib.suppress(OSError):
                        self._servers[key] = await asyncio.start_server(self._serve(key), *key)
                for key in set(self._servers) - set(self.endpoints):
                    self._servers.pop(key).close()
            await asyncio.sleep(LOOK)

    def _look(self) -> dict[tuple[str, int], list[tuple[str, int]]]:
        slices = self.kube.call("GET", "/apis/discovery.k8s.io/v1/endpointslices")["items"]
        found: dict[tuple[str, int], list[tuple[str, int]]] = {}
        for service in self.kube.call("GET", "/api/v1/services")["items"]:
            address, meta = service["spec"].get("clusterIP"), service["metadata"]
            # One without a selector stands for something outside, such as the gateway, which has its port itself.
            if address in (None, "", "None") or not service["spec"].get("selector"):
                continue
            mine = [
                item
                for item in slices
                if item["metadata"]["namespace"] == meta["namespace"]
                and item["metadata"].get("labels", {}).get("kubernetes.io/service-name") == meta["name"]
            ]
            for port in service["spec"].get("ports") or ():
                found[address, port["port"]] = [
                    (endpoint["addresses"][0], int(target["port"]))
                    for item in mine
                    for target in item.get("ports") or ()
                    if (target.get("name") or None) == (port.get("name") or None)
                    for endpoint in item.get("endpoints") or ()
                    if endpoint["conditions"].get("ready")
                ]
        return found

    def _serve(self, key: tuple[str, int]) -> Any:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                choice = random.choice(self.endpoints.get(key) or [("", 0)])
                other_reader, other_writer = await asyncio.open_connection(*choice)
            except OSError:
                writer.transport.abort()
                return
            await asyncio.gather(_pump(reader, other_writer), _pump(other_reader, writer))

        return serve


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.close()
