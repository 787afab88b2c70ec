"""Router that moves the weights of a Gateway API HTTPRoute (gateway.networking.k8s.io/v1).

Rules and back ends are atomic lists: who applies one of them owns all of it. So weights are changed by JSON Patch,
which touches the numbers alone, and only if the object is the very one that was read (`test` on its resourceVersion),
the back ends still are the slots (`test` on their names) and nobody newer has written (`test` on the epoch in an
annotation).
Every rule that has both slots gets the same weights; other rules, such as one that sends testers to a single slot by a
header, stay as they are. So do filters, except copies of requests to a slot (routers/mirror.py). Users who keep their
slot have rules of their own behind the others (routers/kept.py).

What the gateway says of it: `Accepted` and `ResolvedRefs`, true, at the generation that was written.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from servegate.errors import InfrastructureError
from servegate.rollout.kube import ANNOTATION, Kube, KubeError, Object, annotations_of, metadata
from servegate.rollout.ports import Arrangement, FencedError, RouteStatus, Weights
from servegate.rollout.routers import kept, mirror
from servegate.rollout.routers.weights import UNITS, to_units

EPOCH = f"{ANNOTATION}epoch"
ATTEMPTS = 5
"""Times a write is tried anew because somebody else changed the route in between."""
CONDITIONS = ("Accepted", "ResolvedRefs")
Kind = Literal["Service", "InferencePool", "Backend"]
GROUPS: Mapping[Kind, str] = {
    "Service": "",
    "InferencePool": "inference.networking.k8s.io",
    "Backend": "gateway.envoyproxy.io",
}
"""What slots may be in a route, and the API group of it."""
TOUCH = UNITS // 100
"""Weight of a slot's first moment in the traffic: 0.01 %."""
TAKEN_UP = 1.0
"""Seconds a gateway is given to take that up; it is no condition for the weights that follow."""
LOOK, PASSED_ON = 0.05, 0.2
"""Seconds between two looks, and from "taken up" to "the proxies have it"."""


@dataclass(frozen=True)
class _Route:
    """An HTTPRoute as it was read.

    Attributes:
        rules: (index of the rule, index of the back end by slot) of every rule that has all slots.
        units: weight by slot as it stands there.
    """

    item: Object
    epoch: int | None
    rules: tuple[tuple[int, Mapping[str, int]], ...]
    units: Mapping[str, int]

    @property
    def weights(self) -> dict[str, float]:
        total = sum(self.units.values())
        return {slot: 100 * count / total if total else 0.0 for slot, count in self.units.items()}


class HttpRouteRouter:
    """Moves the weights of one HTTPRoute, copies requests, and keeps users in their slot.

    Attributes:
        sticky_by: a cookie, which a rule can match; Gateway API has no hash of a header.

    Args:
        kube: the namespace of the route.
        name: of the HTTPRoute.
        backends: name of the back end by slot.
        kind: of the back ends; one of another kind with the same name is somebody else's.
        sleep: waits for seconds.
    """

    sticky_by: frozenset[str] = frozenset({"cookie"})

    def __init__(
        self,
        kube: Kube,
        name: str,
        backends: Mapping[str, str],
        *,
        kind: Kind = "Service",
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.kube, self.name, self.backends, self.kind, self.sleep = kube, name, dict(backends), kind, sleep
        self._served: dict[str, float] = {}

    def read(self) -> Weights:
        """Weights as last written by a rollout.

        Raises:
            InfrastructureError: the route cannot be read, no rollout has written it yet, or it no longer has the slots.
        """
        route = self._read()
        if route.epoch is None:
            raise InfrastructureError(f"HTTPRoute {self.name}: no rollout has written its weights yet")
        return route.weights

    def write(self, weights: Weights, epoch: int) -> None:
        """Make `weights` the wanted ones, under the fencing epoch of the caller's lease.

        A slot that had no weight gets next to none first: a gateway keeps no connections and no addresses of a back
        end without weight, and learns them now, while hardly a request depends on it. It delays the weights by at most
        about a second.

        Raises:
            FencedError: the route carries a higher epoch.
            InfrastructureError: the route cannot be read or written, or it no longer has the slots.
            ValueError: the weights are not percent of known slots that sum to 100.
        """
        wanted = to_units(weights, tuple(self.backends))
        before = self._read().units
        new = [slot for slot, count in wanted.items() if before[slot] == 0 and count > TOUCH]
        if new and len(new) < len(wanted):
            rest = 100 * UNITS - TOUCH * len(new)
            others = sum(count for slot, count in before.items() if slot not in new)
            touch = {slot: TOUCH if slot in new else rest * count // others for slot, count in before.items()}
            self._put(_smallest(touch), epoch)
            self._taken_up()
        self._put(_smallest(wanted), epoch)

    def arrange(self, arrangement: Arrangement, epoch: int) -> None:
        """Copy requests, and keep users where they are, as wanted; the weights stay.

        Rules for users come asleep and go asleep, like a slot's first weight: it takes about a second.

        Raises:
            FencedError: the route carries a higher epoch.
            InfrastructureError: the route cannot be read or written, it no longer has the slots, a rollout has not
                written its weights yet, or a slot's back end has headers of its own where the cookie would go.
            ValueError: a slot is not known, a share cannot be expressed, or users shall keep their slot by a header.
        """
        if arrangement.sticky is not None and arrangement.sticky.by not in self.sticky_by:
            raise ValueError(f"HTTPRoute {self.name}: a route cannot keep users in their slot by a header")
        mirror.check(arrangement.mirror, tuple(self.backends))
        self.read()
        found = kept.sticky_of(self._read().item["spec"]["rules"])
        if (found is None) != (arrangement.sticky is None):
            asleep = Arrangement(arrangement.mirror, arrangement.sticky or found)
            self._put(None, epoch, asleep, awake=False)
            self._taken_up()
        self._put(None, epoch, arrangement)

    def _taken_up(self) -> None:
        """Wait until the gateway says that it serves what was written, or for as long as it is given."""
        for _ in range(round(TAKEN_UP / LOOK)):
            if _problem(self.kube.get("HTTPRoute", self.name)) is None:
                self.sleep(PASSED_ON)
                return
            self.sleep(LOOK)

    def _put(
        self, units: Mapping[str, int] | None, epoch: int, wanted: Arrangement | None = None, *, awake: bool = True
    ) -> None:
        """Write weights, or an arrangement, or both; None: as they are."""
        for attempt in range(ATTEMPTS):
            route = self._read(now=attempt > 0)
            if route.epoch is not None and route.epoch > epoch:
                raise FencedError(
                    f"weights were refused: epoch {epoch} is over, HTTPRoute {self.name} is at {route.epoch}"
                )
            change: list[Object] = []
            if units is not None and not all(self._has(route, number, units) for number in range(len(route.rules))):
                change += self._weights(route, units)
            change += self._arrangement(route, route.units if units is None else units, wanted, awake)
            if route.epoch == epoch and not change:
                return
            try:
                self.kube.patch("HTTPRoute", self.name, self._change(route, change, epoch))
                return
            except KubeError as error:
                same = error.conflict and metadata(self._read(now=True).item)["resourceVersion"] == _version(route)
                if not error.conflict or same or attempt == ATTEMPTS - 1:
                    raise

    def verify(self) -> RouteStatus:
        """Whether the gateway says that it serves by the weights last written; never raises."""
        try:
            route = self._read()
        except InfrastructureError as error:
            return RouteStatus(False, {}, str(error))
        problem = _problem(route.item)
        if problem is not None:
            return RouteStatus(False, self._served, problem, self._arranged(route))
        if route.epoch is None:
            return RouteStatus(False, route.weights, f"HTTPRoute {self.name}: no rollout has written its weights yet")
        if not all(self._has(route, number, route.units) for number in range(len(route.rules))):
            return RouteStatus(False, {}, f"HTTPRoute {self.name}: its rules have different weights for the slots")
        self._served = route.weights
        return RouteStatus(True, route.weights, arrangement=self._arranged(route))

    def _arranged(self, route: _Route) -> Arrangement:
        """What the route says of copies and of users; where its rules do not agree, something that nobody wants."""
        rules = route.item["spec"]["rules"]
        found = [mirror.copies(rules[index], self.backends) for index, _ in route.rules]
        wanted = Arrangement(found[0], kept.sticky_of(rules))
        agree = all(one == found[0] for one in found) and not self._arrangement(route, route.units, wanted)
        return wanted if agree else Arrangement({"": 0.0})

    def _read(self, *, now: bool = False) -> _Route:
        item = self.kube.get("HTTPRoute", self.name, now=now)
        epoch = annotations_of(item).get(EPOCH)
        if epoch is not None and not re.fullmatch(r"\d{1,18}", epoch):
            raise InfrastructureError(f"HTTPRoute {self.name}: annotation {EPOCH} is {epoch[:40]!r}, not a number")
        rules = []
        units: dict[str, int] = {}
        for index, rule in enumerate(item["spec"].get("rules") or ()):
            refs = rule.get("backendRefs") or []
            names = [self._named(ref) for ref in refs]
            if not set(self.backends.values()) <= set(names) or kept.ours(rule):
                continue
            strange = [name for name in names if name not in self.backends.values()]
            if strange or len(names) != len(self.backends):
                more = f"also routes to {strange[0]}" if strange else "names a slot twice"
                raise InfrastructureError(
                    f"HTTPRoute {self.name}: rule {index} {more}; weights of slots are all it may have"
                )
            rules.append((index, {slot: names.index(name) for slot, name in self.backends.items()}))
            if not units:
                units = {slot: _weight(refs[names.index(name)]) for slot, name in self.backends.items()}
        if not rules:
            wanted = " and ".join(self.backends.values())
            raise InfrastructureError(f"HTTPRoute {self.name}: no rule has the {self.kind}s {wanted} as back ends")
        return _Route(item, None if epoch is None else int(epoch), tuple(rules), units)

    def _named(self, ref: Object) -> str:
        """The back end's name, with its kind where that is not the slots'."""
        kind, group = ref.get("kind", "Service"), ref.get("group", "")
        ours = kind == self.kind and group == GROUPS[self.kind]
        return str(ref.get("name")) if ours else f"{kind} {ref.get('name')}"

    def _has(self, route: _Route, number: int, units: Mapping[str, int]) -> bool:
        index, places = route.rules[number]
        refs = route.item["spec"]["rules"][index]["backendRefs"]
        return all(_weight(refs[place]) == units[slot] for slot, place in places.items())

    def _arrangement(
        self, route: _Route, units: Mapping[str, int], wanted: Arrangement | None, awake: bool = True
    ) -> list[Object]:
        """Changes of copies and of the rules of users who keep their slot; wanted None: as it is."""
        rules = route.item["spec"]["rules"]
        sticky = kept.sticky_of(rules) if wanted is None else wanted.sticky
        patch: list[Object] = []
        follow: list[Object] = []
        for index, places in route.rules:
            rule = rules[index]
            refs = {slot: rule["backendRefs"][place] for slot, place in places.items()}
            filters = list(rule.get("filters") or ())
            if wanted is not None and (copies := mirror.filters(rule, refs, self.backends, wanted.mirror)) != filters:
                change = {"op": "add", "value": copies} if copies else {"op": "remove"}
                patch.append({**change, "path": f"/spec/rules/{index}/filters"})
                filters = copies
            rule = {key: value for key, value in rule.items() if key != "filters"}
            follow += kept.rules({**rule, **({"filters": filters} if filters else {})}, refs, units, sticky, awake)
        return patch + _followed(rules, follow)

    def _weights(self, route: _Route, units: Mapping[str, int]) -> list[Object]:
        patch: list[Object] = []
        for index, places in route.rules:
            for slot, place in places.items():
                at = f"/spec/rules/{index}/backendRefs/{place}"
                patch.append({"op": "test", "path": f"{at}/name", "value": self.backends[slot]})
                if self.kind != "Service":
                    patch.append({"op": "test", "path": f"{at}/kind", "value": self.kind})
                patch.append({"op": "add", "path": f"{at}/weight", "value": units[slot]})
        return patch

    def _change(self, route: _Route, change: list[Object], epoch: int) -> list[Object]:
        patch: list[Object] = [{"op": "test", "path": "/metadata/resourceVersion", "value": _version(route)}, *change]
        if metadata(route.item).get("annotations") is None:
            patch.append({"op": "add", "path": "/metadata/annotations", "value": {}})
        at = "/metadata/annotations/" + EPOCH.replace("/", "~1")
        if route.epoch is not None:
            patch.append({"op": "test", "path": at, "value": str(route.epoch)})
        patch.append({"op": "add", "path": at, "value": str(epoch)})
        return patch


def _followed(rules: list[Object], wanted: list[Object]) -> list[Object]:
    """The change that makes our rules those; in their places where there are as many."""
    before = kept.indices(rules)
    if len(before) != len(wanted):
        gone = [{"op": "remove", "path": f"/spec/rules/{index}"} for index in reversed(before)]
        return [*gone, *({"op": "add", "path": "/spec/rules/-", "value": rule} for rule in wanted)]
    return [
        {"op": "replace", "path": f"/spec/rules/{index}", "value": rule}
        for index, rule in zip(before, wanted, strict=True)
        if rules[index] != rule
    ]


def _version(route: _Route) -> str:
    return str(metadata(route.item)["resourceVersion"])


def _weight(ref: Object) -> int:
    return int(ref.get("weight", 1))  # Gateway API: a back end without a weight has 1


def _smallest(units: Mapping[str, int]) -> dict[str, int]:
    """The same shares in the numbers people write: of 100 where that is exact, else of 10,000 or 1,000,000."""
    for divisor in (UNITS, UNITS // 100):
        if math.gcd(*units.values()) % divisor == 0:
            return {slot: count // divisor for slot, count in units.items()}
    return dict(units)


def _problem(item: Object) -> str | None:
    """Why the gateway does not serve what stands in the route; None when it says that it does."""
    generation = metadata(item).get("generation", 0)
    name = f"HTTPRoute {metadata(item)['name']}"
    parents = item.get("status", {}).get("parents") or []
    wanted = [
        (ref.get("namespace"), ref["name"], ref.get("sectionName")) for ref in item["spec"].get("parentRefs") or ()
    ]
    for parent in wanted:
        found = [
            entry
            for entry in parents
            if (entry["parentRef"].get("namespace"), entry["parentRef"]["name"], entry["parentRef"].get("sectionName"))
            == parent
        ]
        if not found:
            return f"{name}: no gateway has taken it up for parent {parent[1]}"
        for entry in found:
            conditions = {condition["type"]: condition for condition in entry.get("conditions") or ()}
            for kind in CONDITIONS:
                condition = conditions.get(kind, {})
                if condition.get("observedGeneration") != generation:
                    return f"{name}: gateway {parent[1]} has not yet taken over generation {generation}"
                if condition.get("status") != "True":
                    said = f"{condition.get('reason')}: {condition.get('message')}"
                    return f"{name}: gateway {parent[1]} says {kind} is {condition.get('status')}: {said}"
    return None if wanted else f"{name}: has no parent gateway"
