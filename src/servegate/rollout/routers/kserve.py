"""Router that moves the weights of KServe's LLMInferenceServices (serving.kserve.io/v1alpha2, KServe 0.20).

Each slot is an LLMInferenceService; both are members of one group (`spec.router.route.group`), and KServe makes one
HTTPRoute of the members' `spec.router.route.weight`. Two objects cannot change at once: the slot that grows is first,
so that in between the shares are between what they were and what they shall be. Only when the sum of the weights
changes, as with what somebody else wrote, the slot that has more is first, and has next to everything for that moment.
Each change is a JSON Patch with `test` on what was read: resourceVersion, group, epoch.

What KServe says of it: `status.router.group.members` has the weights, as it writes it after the HTTPRoute was written,
and the conditions `HTTPRoutesReady` and `GroupReady` are true, on both.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from servegate.errors import InfrastructureError
from servegate.rollout.kube import Kube, KubeError, Object, annotations_of, metadata
from servegate.rollout.ports import FencedError, RouteStatus, Weights
from servegate.rollout.routers.http_route import ATTEMPTS, EPOCH, LOOK, PASSED_ON, TAKEN_UP, TOUCH
from servegate.rollout.routers.weights import UNITS, to_units

KIND = "LLMInferenceService"
CONDITIONS = ("HTTPRoutesReady", "GroupReady")
WHOLE = 100 * UNITS
"""Sum of the weights; KServe allows 1,000,000 for one."""


class KServeRouter:
    """Moves the weights of a group.

    Args:
        kube: the namespace of the LLMInferenceServices.
        services: name of the LLMInferenceService by slot.
        group: `spec.router.route.group` of all of them.
        sleep: waits for seconds.
    """

    def __init__(
        self, kube: Kube, services: Mapping[str, str], group: str, *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.kube, self.services, self.group, self.sleep = kube, dict(services), group, sleep
        self._served: dict[str, float] = {}

    def read(self) -> Weights:
        """Weights as last written by a rollout.

        Raises:
            InfrastructureError: a service cannot be read or has left the group, or no rollout has written yet.
        """
        items = self._read()
        if any(_epoch(item) is None for item in items.values()):
            raise InfrastructureError(f"group {self.group}: no rollout has written its weights yet")
        return _shares({slot: _weight(item) for slot, item in items.items()})

    def write(self, weights: Weights, epoch: int) -> None:
        """Make `weights` the wanted ones, under the fencing epoch of the caller's lease.

        A slot that had no weight gets next to none first, as in routers/http_route.py and for its reason.

        Raises:
            FencedError: a service carries a higher epoch.
            InfrastructureError: a service cannot be read or written, or it has left the group.
            ValueError: the weights are not percent of known slots that sum to 100.
        """
        wanted = to_units(weights, tuple(self.services))
        before = {slot: _weight(item) for slot, item in self._read().items()}
        new = [slot for slot, count in wanted.items() if before[slot] == 0 and count > TOUCH]
        if new and len(new) < len(wanted):
            others = sum(before.values())
            rest = WHOLE - TOUCH * len(new)
            self._put({slot: TOUCH if slot in new else rest * count // others for slot, count in before.items()}, epoch)
            self._taken_up()
        self._put(wanted, epoch)

    def verify(self) -> RouteStatus:
        """Whether KServe says that its route has the weights last written; never raises."""
        try:
            items = self._read()
        except InfrastructureError as error:
            return RouteStatus(False, {}, str(error))
        units = {slot: _weight(item) for slot, item in items.items()}
        problem = self._problem(items, units)
        if problem is not None:
            return RouteStatus(False, self._served, problem)
        if any(_epoch(item) is None for item in items.values()):
            return RouteStatus(False, _shares(units), f"group {self.group}: no rollout has written its weights yet")
        self._served = _shares(units)
        return RouteStatus(True, self._served)

    def _taken_up(self) -> None:
        """Wait until KServe says that its route has what was written, or for as long as it is given."""
        for _ in range(round(TAKEN_UP / LOOK)):
            items = self._read()
            if self._problem(items, {slot: _weight(item) for slot, item in items.items()}) is None:
                self.sleep(PASSED_ON)
                return
            self.sleep(LOOK)

    def _put(self, units: Mapping[str, int], epoch: int) -> None:
        items = self._read()
        for item in items.values():
            _fence(item, epoch)
        before = {slot: _weight(item) for slot, item in items.items()}
        same_sum = sum(before.values()) == sum(units.values())

        def first(slot: str) -> float:
            return units[slot] - before[slot] if same_sum else before[slot]

        for slot in sorted(units, key=first, reverse=True):
            self._put_one(slot, items[slot], units[slot], epoch)

    def _put_one(self, slot: str, item: Object, count: int, epoch: int) -> None:
        for attempt in range(ATTEMPTS):
            _fence(item, epoch)
            if _epoch(item) == epoch and _weight(item) == count:
                return
            try:
                self.kube.patch(KIND, self.services[slot], self._change(item, count, epoch))
                return
            except KubeError as error:
                if not error.conflict or attempt == ATTEMPTS - 1:
                    raise
                now = self._read_one(slot)
                if metadata(now)["resourceVersion"] == metadata(item)["resourceVersion"]:
                    raise
                item = now

    def _change(self, item: Object, count: int, epoch: int) -> list[Object]:
        route, before = "/spec/router/route", _epoch(item)
        at = "/metadata/annotations/" + EPOCH.replace("/", "~1")
        patch: list[Object] = [
            {"op": "test", "path": "/metadata/resourceVersion", "value": metadata(item)["resourceVersion"]},
            {"op": "test", "path": f"{route}/group", "value": self.group},
            {"op": "add", "path": f"{route}/weight", "value": count},
        ]
        if metadata(item).get("annotations") is None:
            patch.append({"op": "add", "path": "/metadata/annotations", "value": {}})
        if before is not None:
            patch.append({"op": "test", "path": at, "value": str(before)})
        return [*patch, {"op": "add", "path": at, "value": str(epoch)}]

    def _read(self) -> dict[str, Object]:
        return {slot: self._read_one(slot) for slot in self.services}

    def _read_one(self, slot: str) -> Object:
        item = self.kube.get(KIND, self.services[slot])
        epoch = annotations_of(item).get(EPOCH)
        if epoch is not None and not re.fullmatch(r"\d{1,18}", epoch):
            raise InfrastructureError(f"{_name(item)}: annotation {EPOCH} is {epoch[:40]!r}, not a number")
        found = _route(item).get("group")
        if found != self.group:
            raise InfrastructureError(f"{_name(item)}: its group is {found or 'none'}, not {self.group}")
        return item

    def _problem(self, items: Mapping[str, Object], units: Mapping[str, int]) -> str | None:
        """Why KServe's route does not have these weights; None when it says that it does."""
        wanted = {self.services[slot]: count for slot, count in units.items()}
        for item in items.values():
            status = item.get("status") or {}
            conditions = {condition["type"]: condition for condition in status.get("conditions") or ()}
            for kind in CONDITIONS:
                condition = conditions.get(kind, {})
                if condition.get("status") != "True":
                    said = f"{condition.get('reason')}: {condition.get('message')}" if condition else "nothing yet"
                    return f"{_name(item)}: KServe says of {kind}: {said}"
            members = ((status.get("router") or {}).get("group") or {}).get("members") or ()
            served = {member["name"]: 0 if member.get("stopped") else member["weight"] for member in members}
            strange = sorted(name for name, count in served.items() if name not in wanted and count > 0)
            if strange:
                return f"{_name(item)}: its group also has {strange[0]}, with weight {served[strange[0]]}"
            if any(served.get(name) != count for name, count in wanted.items()):
                return f"{_name(item)}: KServe has not yet taken over the weights {wanted}"
        return None


def _fence(item: Object, epoch: int) -> None:
    found = _epoch(item)
    if found is not None and found > epoch:
        raise FencedError(f"weights were refused: epoch {epoch} is over, {_name(item)} is at {found}")


def _name(item: Object) -> str:
    return f"{KIND} {metadata(item)['name']}"


def _route(item: Object) -> dict[str, Any]:
    return dict(((item.get("spec") or {}).get("router") or {}).get("route") or {})


def _weight(item: Object) -> int:
    return int(_route(item).get("weight") or 0)  # KServe: a member without weight gets nothing


def _epoch(item: Object) -> int | None:
    found = annotations_of(item).get(EPOCH)
    return None if found is None else int(found)


def _shares(units: Mapping[str, int]) -> dict[str, float]:
    total = sum(units.values())
    return {slot: 100 * count / total if total else 0.0 for slot, count in units.items()}
