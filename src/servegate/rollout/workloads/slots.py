"""Slots as objects of a cluster that make pods: what Deployments and LLMInferenceServices have in common.

Git makes the objects, empty; a release is put in by JSON Patch under the resourceVersion that was read and the epoch of
the lease, and nothing but the release's own fields is touched. Kubernetes does the rest, so nothing is done twice here:
`status` looks, and says why when it does not go on.

One reading of the pods serves both slots and the scrape of a tick; nothing is asked for one of what is watched
(`Kube.watch`). An object that is not watched is read again when it is not settled, when its pods say that something
has changed, or after a minute. `look` asks in any case, before weight moves.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from pydantic import ValidationError

from servegate.errors import ConfigError, InfrastructureError
from servegate.release import Release
from servegate.rollout.kube import ANNOTATION, Kube, KubeError, Object, annotations_of, labels_of, metadata
from servegate.rollout.ports import FencedError, SlotStatus
from servegate.rollout.sources.direct import Target
from servegate.rollout.workloads import capacity
from servegate.rollout.workloads.pod_problems import Problem, answers, is_ready, problem, worst
from servegate.rollout.workloads.pod_template import PORT_NAME, RELEASE, files, port_of
from servegate.rollout.workloads.takers import Takers

SLOT = f"{ANNOTATION}slot"
EPOCH = f"{ANNOTATION}epoch"
ENGINES = {"app.kubernetes.io/component": "engine"}
"""Labels of the pods in slots."""
SERVICE = "kubernetes.io/service-name"
"""Label of an EndpointSlice: the Service it belongs to."""
ATTEMPTS = 5
FRESH = 0.5
"""Seconds for which one reading of the pods serves everybody."""
SETTLED = 60.0
"""Seconds after which an object is read again although nothing seems to have changed."""
PATIENCE = 60.0
"""Seconds a pod may wait for a node: an autoscaler brings one in that time or says that it will not."""


@dataclass
class _Seen:
    """An object as last read, and when; monotonic seconds."""

    item: Object
    at: float


class SlotWorkload(ABC):
    """Fills the objects `<app>-<slot>` of one kind.

    Args:
        kube: their namespace.
        app: what their names begin with.
        slots: names of the slots.
        contents: text by sha256 of the files that releases name.
        epoch: fencing epoch of the lease we hold; None: nobody else writes.
        max_replicas: more than that in one slot is taken for a mistake.
        patience: seconds a pod may wait for a node.
        clock: monotonic seconds. now: seconds since the epoch.
    """

    kind: ClassVar[str]
    """Of the objects."""

    def __init__(
        self,
        kube: Kube,
        app: str,
        slots: Sequence[str] = ("blue", "green"),
        *,
        contents: Mapping[str, str] | None = None,
        epoch: Callable[[], int] | None = None,
        max_replicas: int = 64,
        patience: float = PATIENCE,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.kube, self.app, self.slots = kube, app, tuple(slots)
        self.contents, self.epoch, self.max_replicas = contents or {}, epoch, max_replicas
        self.patience, self.clock, self.now = patience, clock, now
        self._seen: dict[str, _Seen] = {}
        self._pods: list[Object] = []
        self._pods_at: float | None = None
        self._heard: dict[str, frozenset[str]] = {}
        self._takers = Takers(kube, clock)

    def ensure(self, slot: str, release: Release, replicas: int) -> None:
        """Make the slot run `release` with `replicas`; returns at once. The same again changes nothing.

        Raises:
            ConfigError: no such slot, too many replicas, or the release does not fit the object.
            FencedError: the object carries a higher epoch.
            InfrastructureError: the API server cannot be asked, or refuses.
        """
        self._check(slot, replicas)

        def wanted(item: Object) -> list[Object]:
            if self._digest(item) == release.identity():
                return []
            patch = self._put(item, release)
            self._configure(slot, release)
            return patch

        self._change(slot, replicas, wanted)

    def scale(self, slot: str, replicas: int) -> None:
        """Change the replicas of what the slot runs; 0 empties it: preStop and the engine's drain finish its answers.

        Raises:
            ConfigError: no such slot, or too many replicas.
            FencedError: the object carries a higher epoch.
            InfrastructureError: the API server cannot be asked, or refuses.
        """
        self._check(slot, replicas)
        self._change(slot, replicas, lambda _: [])

    def status(self, slot: str) -> SlotStatus:
        """What the slot runs now.

        Raises:
            ConfigError: no such slot.
            InfrastructureError: the API server cannot be asked, or the object is gone.
        """
        self._check(slot, 0)
        pods = [pod for pod in self._all_pods() if labels_of(pod).get(SLOT) == slot]
        item = self._item(slot, len(pods))
        digest, replicas = self._digest(item), int(item["spec"].get("replicas", 1))
        if replicas == 0:
            message = f"waiting for {len(pods)} pod{'s' * (len(pods) > 1)} to end" if pods else "empty"
            return SlotStatus(None, 0, 0, message=message)
        ours = [pod for pod in pods if annotations_of(pod).get(RELEASE) == digest]
        # While a pod of another release answers, nobody can say whose answers the slot's Service gives.
        others = sum(answers(pod) for pod in pods if annotations_of(pod).get(RELEASE) != digest)
        # Ready is what the pod says; a gateway knows of it what stands in the Service's endpoints.
        willing = [pod for pod in ours if is_ready(pod)]
        available = self._available(item)
        ready = 0 if others else min(len(willing), available, self._listed(slot, willing))
        if digest is None:
            return SlotStatus(None, replicas, 0, failed=f"{self.kind} {self._name(slot)} runs something of no release")
        unready = [problem(pod) for pod in ours if not is_ready(pod)]
        found = worst([*unready, self._obstacle(item)]) if ready < replicas else None
        taken = tuple(lost for pod in ours if (lost := self._takers.reclaimed(pod)) is not None)
        if found is None:
            message = "ready" if ready == replicas else f"{ready} of {replicas} ready"
            if ready < replicas and min(len(willing), available) >= replicas:
                message = f"{ready} of {replicas} listed by Service {self.service(slot)}"
            if others:
                message = f"waiting for {others} pod{'s' * (others > 1)} of another release to end"
            return SlotStatus(digest, replicas, ready, message=message, reclaimed=taken)
        waited = found.since is not None and self.now() - found.since >= self.patience
        failed = found.message if found.final or waited else None
        return SlotStatus(digest, replicas, ready, failed=failed, message=found.message, reclaimed=taken)

    def look(self) -> None:
        """Ask for the pods and for what the Services list, so that what `status` says next is of now.

        Raises:
            InfrastructureError: the API server cannot be asked.
        """
        self._all_pods(now=True)
        slices = self.kube.find("EndpointSlice", now=True)
        for slot in self.slots:
            self._heard[slot] = _endpoints(
                item for item in slices if labels_of(item).get(SERVICE) == self.service(slot)
            )

    def address(self, slot: str) -> str:
        """URL of the slot's Service, past the gateway; it answers inside the cluster.

        Raises:
            ConfigError: no such slot, or its Service has no address or no port named http.
            InfrastructureError: the API server cannot be asked, or the Service is gone.
        """
        self._check(slot, 0)
        name = self.service(slot)
        spec = self.kube.get("Service", name)["spec"]
        ports = [item["port"] for item in spec.get("ports") or () if item.get("name") == PORT_NAME]
        address = spec.get("clusterIP")
        if not ports or address in (None, "", "None"):
            raise ConfigError(
                f"Service {name}: needs a ClusterIP and a port named {PORT_NAME!r}; a rollout asks over HTTP"
            )
        return f"http://{f'[{address}]' if ':' in address else address}:{ports[0]}"

    def release(self, slot: str) -> Release | None:
        """The release a slot runs, as its ConfigMap says it; None when it is empty, not there, or runs no release.

        Raises:
            ConfigError: no such slot, or the ConfigMap is not of the release that the object runs.
            InfrastructureError: the API server cannot be asked, or the ConfigMap is gone.
        """
        self._check(slot, 0)
        try:
            item = self._read(slot)
        except KubeError as error:
            if error.missing:
                return None
            raise
        digest = self._digest(item)
        if digest is None or int(item["spec"].get("replicas", 1)) == 0:
            return None
        name = self._name(slot)
        text = (self.kube.get("ConfigMap", name).get("data") or {}).get("release.json", "")
        try:
            found = Release.model_validate_json(text)
        except ValidationError as error:
            raise ConfigError(f"ConfigMap {name}: release.json cannot be read") from error
        if found.identity() != digest:
            raise ConfigError(f"ConfigMap {name}: is of {found.label()}, but the {self.kind} runs {digest}")
        return found

    def targets(self) -> list[Target]:
        """The pods whose metrics are to be read: all that run, ready or not, until they are gone.

        Raises:
            InfrastructureError: the API server cannot be asked.
        """
        found = []
        for pod in self._all_pods():
            slot, address = labels_of(pod).get(SLOT, ""), pod["status"].get("podIP")
            if slot in self.slots and address and pod["status"].get("phase") == "Running":
                host = f"[{address}]" if ":" in address else address
                url = f"http://{host}:{port_of(pod)}"
                found.append(Target(f"{slot}/{metadata(pod)['name']}", slot, url, annotations_of(pod).get(RELEASE)))
        return found

    def room(self, slot: str, replicas: int) -> capacity.Room:
        """How many of `replicas` pods of the slot run there already or would find a node now, beside all that runs.

        Raises:
            ConfigError: no such slot.
            KubeError: nodes and the pods of all namespaces may not be read (status 403), or the API server is silent.
        """
        self._check(slot, replicas)
        spec = self._pod_spec(self._item(slot))
        nodes = self.kube.call("GET", "/api/v1/nodes")["items"]
        pods = self.kube.call("GET", "/api/v1/pods")["items"]
        there = sum(labels_of(pod).get(SLOT) == slot for pod in self._all_pods())
        found = capacity.room(spec, nodes, pods, max(0, replicas - there))
        return capacity.Room(min(replicas, found.fits + there), found.why)

    def _listed(self, slot: str, pods: Sequence[Object]) -> int:
        """How many of these ready pods the slot's Service lists as ready; asked only while a new one is not listed."""
        names = frozenset(str(metadata(pod)["name"]) for pod in pods)
        if not names <= self._heard.get(slot, frozenset()):
            self._heard[slot] = _endpoints(self.kube.find("EndpointSlice", {SERVICE: self.service(slot)}))
        self._heard[slot] = self._heard.get(slot, frozenset()) & names
        return len(self._heard[slot])

    # --- what differs between kinds -----------------------------------------------------------------------------------

    @abstractmethod
    def service(self, slot: str) -> str:
        """Name of the Service that lists the slot's pods."""

    @abstractmethod
    def _digest(self, item: Object) -> str | None:
        """Digest of the release in the object; None: it is of none."""

    @abstractmethod
    def _put(self, item: Object, release: Release) -> list[Object]:
        """JSON Patch operations that put `release` into the object; replicas and epoch are added."""

    @abstractmethod
    def _pod_spec(self, item: Object) -> Object:
        """What its pods are made from, as far as it is known here."""

    @abstractmethod
    def _available(self, item: Object) -> int:
        """How many pods, at most, have been ready for long enough to be sent requests."""

    @abstractmethod
    def _obstacle(self, item: Object) -> Problem | None:
        """What keeps pods from being made at all."""

    @abstractmethod
    def _settled(self, item: Object) -> bool:
        """Its controller has nothing left to do with it."""

    # --- what does not ------------------------------------------------------------------------------------------------

    def _name(self, slot: str) -> str:
        return f"{self.app}-{slot}"

    def _check(self, slot: str, replicas: int) -> None:
        if slot not in self.slots:
            raise ConfigError(f"no slot {slot!r}; there are {', '.join(self.slots)}")
        if not 0 <= replicas <= self.max_replicas:
            raise ConfigError(
                f"slot {slot} takes at most {self.max_replicas} replicas; {replicas} replicas are too many"
            )

    def _change(self, slot: str, replicas: int, wanted: Callable[[Object], list[Object]]) -> None:
        """Change an object under what was read of it; anew when somebody was faster."""
        name = self._name(slot)
        for attempt in range(ATTEMPTS):
            item = self._item(slot) if attempt == 0 else self._read(slot)
            fenced = self._fenced(item)  # before anything is changed, the ConfigMap too
            patch = wanted(item)
            if not patch and not fenced and item["spec"].get("replicas") == replicas:
                return
            patch = [
                {"op": "test", "path": "/metadata/resourceVersion", "value": metadata(item)["resourceVersion"]},
                *patch,
                {"op": "add", "path": "/spec/replicas", "value": replicas},
                *fenced,
            ]
            self._seen.pop(slot, None)
            self._pods_at = None
            try:
                self._seen[slot] = _Seen(self.kube.patch(self.kind, name, patch), self.clock())
                return
            except KubeError as error:
                same = (
                    error.conflict
                    and metadata(self._read(slot))["resourceVersion"] == metadata(item)["resourceVersion"]
                )
                if not error.conflict or same:
                    raise
        raise InfrastructureError(f"{self.kind} {name}: others change it all the time")

    def _fenced(self, item: Object) -> list[Object]:
        """What writes our epoch down, to shut out older ones; nothing when it stands there."""
        if self.epoch is None:
            return []
        epoch, before = self.epoch(), annotations_of(item).get(EPOCH, "0")
        if before == str(epoch):
            return []
        if before.isdigit() and int(before) > epoch:
            raise FencedError(
                f"a change was refused: epoch {epoch} is over, {self.kind} {metadata(item)['name']} is at {before}"
            )
        place = "/metadata/annotations"
        made: list[Object] = [] if metadata(item).get("annotations") else [{"op": "add", "path": place, "value": {}}]
        return [*made, {"op": "add", "path": f"{place}/{EPOCH.replace('/', '~1')}", "value": str(epoch)}]

    def _configure(self, slot: str, release: Release) -> None:
        """The slot's ConfigMap for `release`: immutable, so another release means another object of the same name."""
        name = self._name(slot)
        body: Object = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": name,
                "labels": {SLOT: slot, RELEASE: release.id},
                "annotations": {RELEASE: release.identity()},
            },
            "immutable": True,
            "data": files(release, self.contents),
        }
        try:
            found = self.kube.get("ConfigMap", name)
            if annotations_of(found).get(RELEASE) == release.identity() and found.get("data") == body["data"]:
                return
            self.kube.delete("ConfigMap", name)
        except KubeError as error:
            if not error.missing:
                raise
        self.kube.create("ConfigMap", body)

    def _item(self, slot: str, pods: int | None = None) -> Object:
        """The object as heard of; else from memory, while it is settled and the number of its pods says so too."""
        heard = self.kube.heard(self.kind, self._name(slot))
        if heard is not None:
            return heard
        seen = self._seen.get(slot)
        if seen is None or self.clock() - seen.at >= SETTLED or not self._settled(seen.item):
            return self._read(slot)
        return seen.item if pods in (None, int(seen.item["spec"].get("replicas", 1))) else self._read(slot)

    def _read(self, slot: str) -> Object:
        item = self.kube.get(self.kind, self._name(slot), now=True)
        self._seen[slot] = _Seen(item, self.clock())
        return item

    def _all_pods(self, *, now: bool = False) -> list[Object]:
        at = self.clock()
        if now or self._pods_at is None or at - self._pods_at >= FRESH:
            found = self.kube.find("Pod", ENGINES, now=now)
            self._pods = [pod for pod in found if labels_of(pod).get(SLOT) in self.slots]
            self._pods_at = at
        return self._pods


def _endpoints(slices: Iterable[Object]) -> frozenset[str]:
    """Names of the pods that these EndpointSlices list as ready."""
    return frozenset(
        str((endpoint.get("targetRef") or {}).get("name"))
        for item in slices
        for endpoint in item.get("endpoints") or ()
        if (endpoint.get("conditions") or {}).get("ready") is not False
    )
