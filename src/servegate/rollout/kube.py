"""The Kubernetes API as three of the ports need it: plain documents in and out, errors that a person can act on.

The official client brings what is hard (kubeconfig, exec plugins, rotating tokens of a pod, TLS); its generated models
bring nothing here, because every document is read and written as it is, fields of newer versions included.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import urllib3

from servegate.errors import ConfigError, InfrastructureError
from servegate.rollout.clocks import skew
from servegate.rollout.kube_watch import SILENCE, Object, Watch

TIMEOUT = 5.0
"""Seconds for one request: an API server that does not answer costs a tick, not the rollout."""
FIRST = 30.0
"""Seconds for requests until the first answer: beside a busy API server a command begins late instead of not at all."""
AGREE = 2.0
"""Seconds by which two clocks may differ and be taken for one: the API server tells its own by the second."""
ANNOTATION = "servegate.dev/"
"""Prefix of our labels and annotations."""
JSON_PATCH = "application/json-patch+json"
KEEP_ALIVE = (("SO_KEEPALIVE", 1), ("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
"""Socket options by which a connection whose other end has vanished is known to be dead after 25 s."""
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds its service account."""

_KINDS = {
    "ConfigMap": ("api/v1", "configmaps"),
    "Event": ("api/v1", "events"),
    "Pod": ("api/v1", "pods"),
    "Service": ("api/v1", "services"),
    "Deployment": ("apis/apps/v1", "deployments"),
    "EndpointSlice": ("apis/discovery.k8s.io/v1", "endpointslices"),
    "Lease": ("apis/coordination.k8s.io/v1", "leases"),
    "HTTPRoute": ("apis/gateway.networking.k8s.io/v1", "httproutes"),
    "LLMInferenceService": ("apis/serving.kserve.io/v1alpha2", "llminferenceservices"),
}


class KubeError(InfrastructureError):
    """The API server refused a request or could not be asked.

    Args:
        status: HTTP status, 0 when there was no answer.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status

    @property
    def missing(self) -> bool:
        """There is no such object."""
        return self.status == 404

    @property
    def conflict(self) -> bool:
        """Somebody changed the object in between, or a `test` of a JSON Patch failed: read it again."""
        return self.status in (409, 422)


class Kube:
    """One namespace of one cluster.

    Args:
        namespace: where all objects are, unless said otherwise; None: the one of the kubeconfig or of our pod.
        kubeconfig: file; None: KUBECONFIG, else inside a pod the pod's own service account, else ~/.kube/config.
        context: of the kubeconfig; None: its current one.
        timeout: seconds for one request, once the API server has answered at all.
        clock: seconds since the epoch, of this machine.

    Attributes:
        ahead: seconds by which the API server's clock was ahead of ours at its last answer; 0.0 where they agree.

    Raises:
        ConfigError: the Python package is not installed, or there is no usable configuration.
    """

    def __init__(
        self,
        namespace: str | None = None,
        *,
        kubeconfig: Path | None = None,
        context: str | None = None,
        timeout: float = TIMEOUT,
        clock: Callable[[], float] = time.time,
    ) -> None:
        try:
            from kubernetes import config
            from kubernetes.client.configuration import Configuration
            from kubernetes.client.rest import RESTClientObject
        except ImportError as error:
            raise ConfigError("Kubernetes needs the package kubernetes: pip install 'servegate[kubernetes]'") from error
        self.configuration = Configuration()
        self.timeout = timeout
        self.clock, self.ahead = clock, 0.0
        self._answered = False
        own = ACCOUNT / "namespace"
        # Who says KUBECONFIG means it, also in a pod, such as one that runs workflows for another cluster.
        file = str(kubeconfig or "") or os.environ.get("KUBECONFIG") or None
        try:
            if file is None and context is None and own.is_file():
                config.load_incluster_config(client_configuration=self.configuration)
                found = own.read_text(encoding="utf-8").strip()
            else:
                config.load_kube_config(file, context, client_configuration=self.configuration)
                found = config.list_kube_config_contexts(file)[1]["context"].get("namespace") or "default"
        except (config.ConfigException, OSError, ValueError, TypeError, KeyError) as error:
            where = kubeconfig or "KUBECONFIG, ~/.kube/config or a pod's service account"
            raise ConfigError(f"no usable configuration of a Kubernetes cluster ({where}): {error}") from error
        self.namespace: str = namespace or found
        self.configuration.retries = False
        self.configuration.socket_options = [*urllib3.connection.HTTPConnection.default_socket_options, *_keep_alive()]
        self._http: Any = RESTClientObject(self.configuration)
        self._watches: dict[tuple[str, str], Watch] = {}
        self._selectors: dict[str, str] = {}

    def close(self) -> None:
        """Close the connections."""
        for watch in self._watches.values():
            watch.close()
        self._http.pool_manager.clear()

    def watch(self, kind: str, name: str = "", selector: str = "") -> None:
        """Hear of changes from now on, where reading it again and again would ask for it each time.

        Args:
            name: of the one object; "": of all objects of the kind that the label selector fits.
            selector: which is then that of every `find` of the kind.
        """
        fields = {"fieldSelector": f"metadata.name={name}"} if name else {"labelSelector": selector}

        def connect(version: str, lasts: int) -> Any:
            query = {"watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": str(lasts), **fields}
            if version:
                query["resourceVersion"] = version
            return self._stream(self.path(kind), query, lasts + SILENCE)

        self._watches[kind, name] = Watch(connect, single=bool(name))
        if not name:
            self._selectors[kind] = selector

    def get(self, kind: str, name: str, *, now: bool = False) -> Object:
        """One object; as it was heard of, where it is watched and the API server need not be asked `now`.

        Raises:
            KubeError: refused, or no answer in time.
        """
        watch = self._watches.get((kind, name))
        known = None if now or watch is None else watch.known()
        if known:
            return known[0]
        try:
            item = self.call("GET", self.path(kind, name))
        except KubeError as error:
            if watch is not None and error.missing:
                watch.learn(())
            raise
        if watch is not None:
            watch.learn([item])
        return item

    def heard(self, kind: str, name: str) -> Object | None:
        """One object if it is watched and what was heard of it is not old. Asks nothing."""
        watch = self._watches.get((kind, name))
        known = None if watch is None else watch.known()
        return known[0] if known else None

    def find(self, kind: str, labels: Mapping[str, str] | None = None, *, now: bool = False) -> list[Object]:
        """All objects of a kind with these labels; as `get` has them.

        Raises:
            KubeError: refused, or no answer in time.
        """
        watch = self._watches.get((kind, ""))
        found = None if now or watch is None else watch.known()
        if found is None:
            selector = ",".join(f"{key}={value}" for key, value in sorted((labels or {}).items()))
            selector = self._selectors.get(kind, selector)
            answer = self.call("GET", self.path(kind), query={"labelSelector": selector} if selector else {})
            found = list(answer["items"])
            if watch is not None:
                watch.learn(found, str(metadata(answer).get("resourceVersion", "")))
        return [item for item in found if (labels or {}).items() <= labels_of(item).items()]

    def create(self, kind: str, body: Object) -> Object:
        """Create an object. Raises KubeError."""
        return self.call("POST", self.path(kind), body)

    def replace(self, kind: str, body: Object) -> Object:
        """Replace an object; with a resourceVersion inside, only when it is still that one. Raises KubeError."""
        return self._wrote(kind, self.call("PUT", self.path(kind, body["metadata"]["name"]), body))

    def patch(self, kind: str, name: str, body: list[Object]) -> Object:
        """Change an object by a JSON Patch. Raises KubeError."""
        return self._wrote(kind, self.call("PATCH", self.path(kind, name), body, content=JSON_PATCH))

    def delete(self, kind: str, name: str) -> None:
        """Delete an object; one that is gone already is fine. Raises KubeError."""
        try:
            self.call("DELETE", self.path(kind, name))
        except KubeError as error:
            if not error.missing:
                raise

    def _wrote(self, kind: str, item: Object) -> Object:
        watch = self._watches.get((kind, str(metadata(item).get("name"))))
        if watch is not None:
            watch.wrote(item)
        return item

    def path(self, kind: str, name: str = "") -> str:
        """Path of a collection or of one object in it."""
        group, plural = _KINDS[kind]
        parts = [group, "namespaces", quote(self.namespace, safe=""), plural]
        parts += [quote(name, safe="")] if name else []
        return "/" + "/".join(parts)

    def call(
        self,
        method: str,
        path: str,
        body: Object | list[Object] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        content: str = "application/json",
    ) -> Object:
        """One request.

        Raises:
            KubeError: refused, or no answer in time.
        """
        with self._explained(method, path):
            response = self._request(method, path, body, query, content)
            data = response.read()
        self._answered = True
        self.ahead = _ahead(response.headers.get("Date"), self.clock())
        document = _document(data)
        if not 200 <= response.status <= 299:
            raise KubeError(_refusal(method, path, response.status, document), response.status)
        return document

    def _request(
        self,
        method: str,
        path: str,
        body: Object | list[Object] | None,
        query: Mapping[str, str] | None,
        content: str,
    ) -> Any:
        url = self.configuration.host + path + (f"?{urlencode(query)}" if query else "")
        headers = {**self._headers(), "Content-Type": content}
        return self._http.request(method, url, headers=headers, body=body, _request_timeout=self._patience)

    @property
    def _patience(self) -> float:
        return self.timeout if self._answered else max(self.timeout, FIRST)

    def _stream(self, path: str, query: Mapping[str, str], silence: float) -> Any:
        """A response whose body comes bit by bit; urllib3's own, which can be shut down while it is read."""
        url = f"{self.configuration.host}{path}?{urlencode(query)}"
        timeout = urllib3.Timeout(connect=self.timeout, read=silence)
        pool = self._http.pool_manager
        return pool.request("GET", url, headers=self._headers(), timeout=timeout, preload_content=False, retries=False)

    def _headers(self) -> dict[str, str]:
        headers = {"Accept": "application/json", "User-Agent": "servegate"}
        token: Any = self.configuration.auth_settings().get("BearerToken")
        if token:
            headers[token["key"]] = token["value"]
        return headers

    @contextmanager
    def _explained(self, method: str, path: str) -> Iterator[None]:
        from kubernetes.client.exceptions import ApiException
        from kubernetes.config import ConfigException

        where = f"API server {self.configuration.host}: {method} {path}"
        try:
            yield
        except (urllib3.exceptions.HTTPError, ApiException, ConfigException, OSError) as error:
            text = str(getattr(error, "reason", "") or error)
            if isinstance(error, (urllib3.exceptions.NewConnectionError, ConnectionError)):
                text = "connection refused" if "refused" in str(error) else "cannot connect"
            elif isinstance(error, (urllib3.exceptions.TimeoutError, TimeoutError)):
                text = f"no answer in {self._patience:g} s"
            for watch in self._watches.values():
                watch.doubt()
            raise KubeError(f"{where}: {text}") from error


def _ahead(date: str | None, now: float) -> float:
    """How far a clock that says `date` is ahead; 0.0 when the two agree, or nothing is known of it."""
    found = skew(date, now)
    found = 0.0 if found is None else found + 0.5  # what the cut to whole seconds takes, on average
    return found if abs(found) > AGREE else 0.0


def _keep_alive() -> list[tuple[int, int, int]]:
    known = [(name, value) for name, value in KEEP_ALIVE if hasattr(socket, name)]
    return [
        (socket.SOL_SOCKET if name.startswith("SO_") else socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in known
    ]


def metadata(item: Object) -> Object:
    """The object's metadata."""
    return dict(item.get("metadata") or {})


def annotations_of(item: Object) -> dict[str, str]:
    """The object's annotations."""
    return dict(metadata(item).get("annotations") or {})


def labels_of(item: Object) -> dict[str, str]:
    """The object's labels."""
    return dict(metadata(item).get("labels") or {})


def _document(data: bytes) -> Object:
    try:
        found = json.loads(data)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"message": data[:200].decode("utf-8", "replace")}


def _refusal(method: str, path: str, status: int, document: Object) -> str:
    """The API server's own words: it names exactly what is missing, forbidden or invalid."""
    message = " ".join(str(document.get("message") or "").split())[:1000]
    return message if status in (403, 404) and message else f"{method} {path}: HTTP {status}: {message}"


__all__ = ["ANNOTATION", "TIMEOUT", "Kube", "KubeError", "Object", "annotations_of", "labels_of", "metadata"]
