"""Store in four ConfigMaps and a Lease: the memory of a rollout in the cluster it rolls out in.

All five are made by whoever installs the manifests; a rollout only changes them, so it needs no right on anything else.
Kubernetes has no transaction over two objects. The state therefore carries the epoch of the lease itself: taking the
lease writes the new epoch into it before anybody acts, and a save is refused, under the resourceVersion that was read,
when the epoch there is not its own. Intents stand apart, so that who may leave one need not be able to touch the state.

The epoch is the Lease's `leaseTransitions`. Times in the Lease are the API server's, which all writers know from its
answers: machines whose clocks disagree mean the same by them. Whatever the clocks say, a lease is never held by two,
because the epoch decides and not the time.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from servegate.errors import InfrastructureError
from servegate.rollout.kube import Kube, KubeError, Object, annotations_of
from servegate.rollout.memory import HistoryLine
from servegate.rollout.ports import ConflictError, Intent, Lease, LeaseLostError
from servegate.rollout.stores import config_map_documents as documents

ATTEMPTS = 8
"""Times a change is tried anew because somebody else changed the object in between."""
SETTLED = 20
"""Settled intents that are kept, so that who left one can learn what came of it."""
PENDING = 50
"""Intents that may wait; whoever leaves more gets an error instead of filling the object."""


class ConfigMapStore:
    """Remembers in the ConfigMaps `<name>-state`, `-history`, `-intents` and `-report` and the Lease `<name>`.

    Attributes:
        pace: seconds for which what no effect rests on may go unsaved: a save is a request at the API server.

    Args:
        kube: their namespace.
        name: what their names begin with.
    """

    pace = 5.0

    def __init__(self, kube: Kube, name: str = "servegate") -> None:
        self.kube, self.name = kube, name
        # As last read or written: what is written next is checked against it, without reading it again.
        self._state: Object | None = None
        self._lease: Object | None = None
        self._history: Object | None = None
        self.epoch = 0
        """Epoch of the lease last acquired here; fences effects on other objects."""

    def close(self) -> None:
        """Close the connections."""
        self.kube.close()

    def load(self) -> tuple[str | None, int]:
        """The state and its version; (None, 0) before the first."""
        self._state = self._read(self._map("state"))
        return documents.unpack(self._state), documents.version(self._state)

    def save(self, state: str, expected_version: int, lease: Lease) -> int:
        """Replace the state and return its new version.

        Raises:
            ConflictError: the version is not `expected_version`.
            LeaseLostError: `lease` is no longer the valid one.
            InfrastructureError: the API server cannot be asked, or the state does not fit into a ConfigMap.
        """
        packed = documents.pack(state, expected_version + 1)
        for _ in range(ATTEMPTS):
            current = self._state if self._state is not None else self._read(self._map("state"))
            fence, version = documents.epoch(current), documents.version(current)
            if fence != lease.epoch or version != expected_version:
                current = self._read(self._map("state"))
                fence, version = documents.epoch(current), documents.version(current)
            if fence != lease.epoch:
                raise LeaseLostError(f"{self._map('state')}: the lease of {lease.holder} (epoch {lease.epoch}) is over")
            if version != expected_version:
                raise ConflictError(
                    f"{self._map('state')}: the state has version {version}, expected was {expected_version}"
                )
            self._state = None
            try:
                self._state = self.kube.replace("ConfigMap", {**documents.without_data(current), **packed})
                return expected_version + 1
            except KubeError as error:
                if not error.conflict:
                    raise
        raise InfrastructureError(f"{self._map('state')}: others change it all the time")

    def append_history(self, line: str) -> None:
        """Add one line of JSON to the history. When the ConfigMap is full the oldest lines leave."""

        def change(item: Object) -> None:
            lines = [*documents.lines(item), json.dumps(line, ensure_ascii=False)]
            while len(lines) > 1 and sum(len(text.encode()) + 1 for text in lines) > documents.ROOM:
                del lines[: max(1, len(lines) // 10)]
            item["data"] = {"lines": "\n".join(lines)}

        known, self._history = self._history, None
        self._history = self._change(self._map("history"), change, known)
        self._announce(line)

    def history(self) -> list[str]:
        """All lines of the history, oldest first."""
        name = self._map("history")
        return [str(self._json(name, line)) for line in documents.lines(self._read(name))]

    def keep(self, rollout: str, files: Mapping[str, bytes]) -> None:
        """Keep what a rollout leaves behind, in place of what the one before left. One request; no fence: for people.

        Args:
            rollout: its id.
            files: name → content, compressed; 1 MiB in all.
        """
        binary = {f"{name}.gz": base64.b64encode(data).decode() for name, data in files.items()}
        body: list[Object] = [
            {"op": "add", "path": "/data", "value": {"rollout": rollout}},
            {"op": "add", "path": "/binaryData", "value": binary},
        ]
        self.kube.patch("ConfigMap", self._map("report"), body)

    def kept(self) -> tuple[str | None, dict[str, bytes]]:
        """Id of the rollout that has left something, and its files, compressed; (None, {}) before the first."""
        name = self._map("report")
        item = self._read(name)
        try:
            files = {
                key.removesuffix(".gz"): base64.b64decode(str(text), validate=True)
                for key, text in (item.get("binaryData") or {}).items()
            }
        except ValueError as error:
            raise InfrastructureError(f"ConfigMap {name}: is damaged: {error}") from error
        return (item.get("data") or {}).get("rollout"), files

    def submit(self, kind: str, by: str, at: float, reason: str = "", target: str | None = None) -> Intent:
        """Leave an intent for the holder of the lease.

        Raises:
            InfrastructureError: the API server cannot be asked, or too many wait already.
        """
        made: list[Intent] = []

        def change(item: Object) -> None:
            entries, number = self._entries(item)
            waiting = [entry for entry in entries if entry["outcome"] is None]
            if len(waiting) >= PENDING:
                raise InfrastructureError(f"{self._map('intents')}: {PENDING} intents wait; nobody takes them up")
            settled = [entry for entry in entries if entry["outcome"] is not None][-SETTLED:]
            made[:] = [Intent(number, kind, by, at, reason[:2000], target)]
            self._put(item, [*settled, *waiting, {**asdict(made[0]), "outcome": None}], number + 1)

        self._change(self._map("intents"), change)
        return made[0]

    def intents(self) -> list[Intent]:
        """Intents not yet settled, oldest first."""
        return [self._intent(entry) for entry in self._intents() if entry["outcome"] is None]

    def settle(self, intent: Intent, outcome: str) -> None:
        """Mark an intent as done, with what came of it. The same again changes nothing."""

        def change(item: Object) -> bool:
            entries, number = self._entries(item)
            found = [entry for entry in entries if entry["id"] == intent.id and entry["outcome"] is None]
            for entry in found:
                entry["outcome"] = outcome
            self._put(item, entries, number)
            return bool(found)

        self._change(self._map("intents"), change)

    def outcome(self, intent: Intent) -> str | None:
        """What came of an intent; None while it is not settled."""
        return next((entry["outcome"] for entry in self._intents() if entry["id"] == intent.id), None)

    def holder(self) -> Lease | None:
        """The lease as it stands, None when nobody has it; it may have expired."""
        lease = self._ours(self.kube.get("Lease", self.name))
        return lease if lease.holder else None

    def acquire(self, holder: str, now: float, ttl: float) -> Lease:
        """Take the lease when it is free, expired or already ours, and shut out whoever had it.

        Raises:
            LeaseLostError: another holder has it.
            InfrastructureError: the API server cannot be asked.
        """
        for _ in range(ATTEMPTS):
            item = self.kube.get("Lease", self.name)
            current = self._ours(item)
            if current.holder not in ("", holder) and current.expires > now:
                wait = current.expires - now
                raise LeaseLostError(f"lease {self.name}: {current.holder} has it for another {wait:.0f} s")
            # An expired lease of our own may belong to an earlier life: that one must be fenced off too.
            same = current.holder == holder and current.expires > now
            lease = Lease(holder, current.epoch if same else current.epoch + 1, now + ttl)
            if self._write(item, lease, now, ttl):
                # Only now is it ours: from here on the old holder can save nothing.
                self._fence(lease.epoch)
                self.epoch = lease.epoch
                return lease
        raise InfrastructureError(f"lease {self.name}: others change it all the time")

    def renew(self, lease: Lease, now: float, ttl: float) -> Lease:
        """Extend the lease. Raises LeaseLostError when it is no longer ours."""
        for _ in range(ATTEMPTS):
            item = self._lease if self._lease is not None else self.kube.get("Lease", self.name)
            current = self._ours(item)
            if (current.holder, current.epoch) != (lease.holder, lease.epoch):
                item = self.kube.get("Lease", self.name)
                current = self._ours(item)
            if (current.holder, current.epoch) != (lease.holder, lease.epoch):
                whose = f"belongs to {current.holder}" if current.holder else "is free"
                raise LeaseLostError(f"lease {self.name}: it is over for {lease.holder}: it {whose}")
            renewed = replace(lease, expires=now + ttl)
            if self._write(item, renewed, now, ttl):
                return renewed
        raise InfrastructureError(f"lease {self.name}: others change it all the time")

    def release(self, lease: Lease) -> None:
        """Give the lease back; one that is not ours any more stays as it is."""
        for _ in range(ATTEMPTS):
            item = self.kube.get("Lease", self.name)
            current = self._ours(item)
            if (current.holder, current.epoch) != (lease.holder, lease.epoch):
                return
            # The next epoch is spent on nobody, so that nothing can be saved under the old one.
            if self._write(item, Lease("", lease.epoch + 1, lease.expires), None, 1.0):
                self._fence(lease.epoch + 1)
                return

    def _announce(self, line: str) -> None:
        """A decision as an Event of the namespace, once; it is about the ConfigMap of the state."""
        try:
            said = HistoryLine.model_validate_json(line)
        except ValidationError:
            return  # a line is whatever its writer says; only decisions are for people
        body = documents.event(self.name, self.kube.namespace, self._map("state"), self._state, said, line)
        try:
            self.kube.create("Event", body)
        except KubeError as error:
            if not error.conflict:  # there already: written again by whoever took over
                raise

    # --- the objects --------------------------------------------------------------------------------------------------

    def _map(self, what: str) -> str:
        return f"{self.name}-{what}"

    def _read(self, name: str, *, now: bool = False) -> Object:
        return self.kube.get("ConfigMap", name, now=now)

    def _change(self, name: str, change: Callable[[Object], bool | None], known: Object | None = None) -> Object:
        """Read, change, write under the resourceVersion; anew when somebody was faster. `False`: nothing to write.

        Args:
            known: the object as last written, which need not be read again.
        """
        for attempt in range(ATTEMPTS):
            item = known if known is not None and attempt == 0 else self._read(name, now=attempt > 0)
            if change(item) is False:
                return item
            try:
                return self.kube.replace("ConfigMap", item)
            except KubeError as error:
                if not error.conflict:
                    raise
        raise InfrastructureError(f"ConfigMap {name}: others change it all the time")

    def _fence(self, epoch: int) -> None:
        def change(item: Object) -> bool:
            if documents.epoch(item) >= epoch:
                return False
            item["metadata"]["annotations"] = {**annotations_of(item), documents.EPOCH: str(epoch)}
            return True

        self._state = self._change(self._map("state"), change)

    def _ours(self, item: Object) -> Lease:
        """The lease, which expires by our own clock."""
        found = documents.lease(self.name, item)
        return replace(found, expires=found.expires - self.kube.ahead)

    def _write(self, item: Object, lease: Lease, now: float | None, ttl: float) -> bool:
        """Write the lease under the resourceVersion of `item`; False when somebody was faster."""
        spec = {**(item.get("spec") or {}), "holderIdentity": lease.holder, "leaseTransitions": lease.epoch}
        if now is not None:
            time = datetime.fromtimestamp(now + self.kube.ahead, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            taken = self._ours(item)
            if (taken.holder, taken.epoch) != (lease.holder, lease.epoch):
                spec["acquireTime"] = time
            spec.update(renewTime=time, leaseDurationSeconds=max(1, math.ceil(ttl)))
        self._lease = None
        try:
            self._lease = self.kube.replace("Lease", {**item, "spec": spec})
        except KubeError as error:
            if error.conflict:
                return False
            raise
        return True

    # --- intents ------------------------------------------------------------------------------------------------------

    def _intents(self) -> list[dict[str, Any]]:
        return self._entries(self._read(self._map("intents")))[0]

    def _entries(self, item: Object) -> tuple[list[dict[str, Any]], int]:
        name = self._map("intents")
        data = item.get("data") or {}
        entries = self._json(name, data.get("intents", "[]"))
        try:
            for entry in entries:
                self._intent(entry)
            return list(entries), int(data.get("next", "1"))
        except (TypeError, KeyError, ValueError) as error:
            raise InfrastructureError(f"ConfigMap {name}: holds something that is no intent") from error

    @staticmethod
    def _intent(entry: dict[str, Any]) -> Intent:
        fields = dict(entry)
        del fields["outcome"]
        return Intent(**fields)

    @staticmethod
    def _put(item: Object, entries: list[dict[str, Any]], number: int) -> None:
        item["data"] = {"intents": json.dumps(entries, ensure_ascii=False), "next": str(number)}

    @staticmethod
    def _json(name: str, text: str) -> Any:
        try:
            return json.loads(text)
        except ValueError as error:
            raise InfrastructureError(f"ConfigMap {name}: is damaged: {error}") from error


__all__ = ["ConfigMapStore"]
