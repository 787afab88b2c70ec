"""The route configuration of Envoy: weights, copies of requests, and users who keep their slot.

* Copies (`request_mirror_policies`) are sent and forgotten: Envoy throws their answers away, and neither their slowness
  nor their failure is seen by a user.
* By cookie: the first answer brings a cookie that names the slot; a route for each cookie comes before the split. The
  route of a slot without traffic is left out, so its users are drawn anew.
* By header: the split is drawn from the hash of its value instead of at random. The slots divide the range of hashes in
  a fixed order, so that a growing weight takes users over and never sends any back.
"""

from __future__ import annotations

from typing import Any

from servegate.rollout.ports import Arrangement, Sticky
from servegate.rollout.routers import cookie
from servegate.rollout.routers.cookie import SLOT_HEADER
from servegate.rollout.routers.weights import UNITS

ROUTES = "slots"
"""Name of the route configuration."""


def document(units: dict[str, int], arrangement: Arrangement, version: str, idle_timeout: float) -> dict[str, Any]:
    """What Envoy's file-based route discovery reads.

    Args:
        units: Envoy's whole numbers per slot; all together 100 percent.
        version: `<epoch>.<serial>`.
        idle_timeout: seconds without a byte from the engine after which a request is ended.
    """
    common: dict[str, Any] = {
        "timeout": "0s",
        # Without retries a "try" is the request: this is the idle timeout that is counted for the slot.
        "retry_policy": {"num_retries": 0, "per_try_idle_timeout": f"{idle_timeout:g}s"},
    }
    if arrangement.mirror:
        common["request_mirror_policies"] = [
            {
                "cluster": slot,
                "runtime_fraction": {
                    "default_value": {"numerator": round(share * UNITS), "denominator": "MILLION"},
                },
            }
            for slot, share in sorted(arrangement.mirror.items())
        ]
    sticky = arrangement.sticky
    split: dict[str, Any] = {"clusters": [_cluster(slot, count, sticky) for slot, count in units.items()]}
    route = {**common, "weighted_clusters": split}
    if sticky is not None and sticky.by == "header":
        route["hash_policy"] = [{"header": {"header_name": sticky.name}}]
        split["use_hash_policy"] = True
    # Envoy passes over a route that is equal to the one it has, and goes on naming the old version: the version
    # is made part of the route, so that a new epoch with the same weights is seen to have arrived.
    marked = {
        "match": {"prefix": "/"},
        "route": route,
        "metadata": {"filter_metadata": {ROUTES: {"v": version, "arrangement": _as_data(arrangement)}}},
    }
    kept = []
    if sticky is not None and sticky.by == "cookie":
        kept = [_kept(slot, sticky, common) for slot, count in units.items() if count > 0]
    return {
        "version_info": version,
        "resources": [
            {
                "@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
                "name": ROUTES,
                "validate_clusters": True,
                "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [*kept, marked]}],
            }
        ],
    }


def read(resource: Any) -> tuple[dict[str, float], Arrangement]:
    """Percent per slot and arrangement of a route configuration that `document` made.

    Raises:
        KeyError, IndexError, TypeError, ValueError: it is not one.
    """
    route = resource["virtual_hosts"][0]["routes"][-1]
    clusters = route["route"]["weighted_clusters"]["clusters"]
    weights = {str(cluster["name"]): int(cluster.get("weight", 0)) / UNITS for cluster in clusters}
    data = route["metadata"]["filter_metadata"][ROUTES].get("arrangement", {})
    sticky = data.get("sticky")
    return weights, Arrangement(
        mirror={str(slot): float(share) for slot, share in data.get("mirror", {}).items()},
        sticky=None if sticky is None else Sticky(sticky["by"], sticky["name"], sticky["salt"]),
    )


def _cluster(slot: str, count: int, sticky: Sticky | None) -> dict[str, Any]:
    headers = [_header(SLOT_HEADER, slot, "OVERWRITE_IF_EXISTS_OR_ADD")]
    if sticky is not None and sticky.by == "cookie":
        headers.append(_header("set-cookie", cookie.header(slot, sticky), "APPEND_IF_EXISTS_OR_ADD"))
    return {"name": slot, "weight": count, "response_headers_to_add": headers}


def _kept(slot: str, sticky: Sticky, common: dict[str, Any]) -> dict[str, Any]:
    """The route of users whose cookie names the slot."""
    return {
        "match": {
            "prefix": "/",
            "headers": [{"name": "cookie", "string_match": {"safe_regex": {"regex": cookie.pattern(slot, sticky)}}}],
        },
        "route": {**common, "cluster": slot},
        "response_headers_to_add": [_header(SLOT_HEADER, slot, "OVERWRITE_IF_EXISTS_OR_ADD")],
    }


def _header(key: str, value: str, action: str) -> dict[str, Any]:
    return {"header": {"key": key, "value": value}, "append_action": action}


def _as_data(arrangement: Arrangement) -> dict[str, Any]:
    sticky = arrangement.sticky
    return {
        "mirror": dict(arrangement.mirror),
        "sticky": None if sticky is None else {"by": sticky.by, "name": sticky.name, "salt": sticky.salt},
    }
