"""A site: where a rollout happens. The file says it once; the store remembers it for whoever takes over.

A machine (Envoy and processes) or a cluster (Gateway API and Deployments): the same ports, opened differently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from servegate.config import Config, parse, validate
from servegate.contract import Slot
from servegate.errors import ConfigError
from servegate.release import Release, verify_file
from servegate.rollout.ports import Router, Source, Store, Workload
from servegate.rollout.sources.prometheus_config import PrometheusConfig
from servegate.units import Duration

LONGEST_APP = 37
"""Characters of `app` with which KServe's `<app>-green-kserve-workload-svc` is a name of a Service."""
Port = Annotated[int, Field(ge=1, le=65535)]


class _Folder(Config):
    """What every site writes to a folder."""

    folder: str

    @property
    def root(self) -> Path:
        """The folder."""
        return Path(self.folder)

    @property
    def timeline(self) -> Path:
        """The file that gets every tick."""
        return self.root / "timeline.jsonl"

    @property
    def emergencies(self) -> Path:
        """Where it is written down that a release was rolled back to by less than a verdict that counts now."""
        return self.root / "emergencies.jsonl"


class MachineSite(_Folder):
    """Two slots and an Envoy on this machine, kept up by `servegate rollout machine`."""

    version: Literal[1]
    kind: Literal["machine"]
    folder: str = Field(min_length=1, description="everything is written there: the store, logs, Envoy's files")
    port: Port = Field(description="where users connect")
    admin_port: Port = Field(description="Envoy's own status and counters")
    slots: dict[Slot, Annotated[tuple[Port, ...], Field(min_length=1, max_length=64)]] = Field(
        min_length=2, max_length=2, description="the two slots, each with the ports of its replicas"
    )
    idle_timeout: Duration = Field(
        300.0,
        description="without a byte from the engine a request has failed",
        json_schema_extra={"default": "5min"},
    )
    vllm: tuple[str, ...] = Field(("vllm", "serve"), min_length=1, description="command that starts vLLM")

    prometheus: PrometheusConfig | None = Field(
        None, description="read the counters from there; none: from the engines and Envoy themselves"
    )

    @model_validator(mode="after")
    def _apart(self) -> Self:
        ports = [self.port, self.admin_port, *(port for each in self.slots.values() for port in each)]
        twice = next((port for port in ports if ports.count(port) > 1), None)
        if twice is not None:
            raise ValueError(f"port {twice} is used twice")
        return self

    @property
    def store(self) -> Path:
        """The file in which the rollout is remembered."""
        return self.root / "rollout.db"

    @property
    def socket(self) -> Path:
        """Where the owner of the slots answers."""
        return self.root / "slots.sock"

    @property
    def routes(self) -> Path:
        """Envoy's route file."""
        return self.root / "envoy" / "routes" / "routes.json"


Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]


class ClusterSite(_Folder):
    """Two slots and a route of a Kubernetes cluster, as k8s/base makes them or component kserve."""

    version: Literal[1]
    kind: Literal["kubernetes"]
    namespace: Name = Field(description="where everything is")
    context: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="of the kubeconfig; none: its current one, and inside a pod the pod's service account"
    )
    app: Name = Field("llm", description="Deployments, Services and ConfigMaps are named <app>-blue and <app>-green")
    route: Name = Field("llm", description="the HTTPRoute; of LLMInferenceServices spec.router.route.group")
    backends: Literal["Service", "InferencePool", "Backend", "LLMInferenceService"] = Field(
        "Service",
        description="kind of <app>-blue and <app>-green behind the route; LLMInferenceService: KServe makes what they "
        "need, the route too",
    )
    gateway: Annotated[str, Field(pattern=r"^https?://[^\s/?#]+(/[^\s?#]*)?$")] | None = Field(
        None,
        description="statistics of the gateway's Envoys, such as "
        "http://gateway-stats.envoy-gateway-system:19001; each address of that name is asked. "
        "None: requests and failures are what the engines count",
    )
    memory: Name = Field("servegate", description="what ConfigMaps and Lease of the rollout are named after")
    patience: Duration = Field(
        60.0,
        description="how long a pod may wait for a node: an autoscaler brings one in that time or never",
        json_schema_extra={"default": "1min"},
    )
    nodes: Literal["fixed", "added"] = Field(
        "fixed",
        description="added: an autoscaler brings nodes for pods that wait, so that too little room is said before a "
        "rollout; fixed: it is refused",
    )
    folder: str = Field("out/rollout", min_length=1, description="the timeline is written there")
    prometheus: PrometheusConfig | None = Field(
        None, description="read the counters from there; none: from the pods themselves"
    )

    @model_validator(mode="after")
    def _short_enough(self) -> Self:
        if self.backends == "LLMInferenceService" and len(self.app) > LONGEST_APP:
            raise ValueError(f"app: KServe makes longer names of it; at most {LONGEST_APP} characters")
        return self

    @model_validator(mode="after")
    def _one_gateway(self) -> Self:
        if self.gateway is not None and self.prometheus is not None and self.prometheus.gateway is not None:
            raise ValueError("gateway: prometheus.gateway reads it already, and every request would count twice")
        return self


Site = MachineSite | ClusterSite
SITES: dict[str, type[MachineSite] | type[ClusterSite]] = {"machine": MachineSite, "kubernetes": ClusterSite}


@dataclass(frozen=True)
class Place:
    """An open site: the ports of a rollout.

    Attributes:
        serving: the release in the first slot, where it can be read; None: it is empty, or a person must say.
    """

    router: Router
    source: Source
    workload: Workload
    store: Store
    slots: tuple[str, str]
    document: Mapping[str, Any]
    serving: Callable[[], Release | None] = lambda: None


def load_site(path: Path, namespace: str | None = None) -> Site:
    """Read a site; its folder is made absolute, relative to where we are now.

    Args:
        namespace: instead of the one in the file, which may leave it out then.

    Raises:
        ConfigError: with every problem found, one line each; or the site has no namespaces.
    """
    data, lines = parse(path)
    if namespace is not None:
        if not isinstance(data, dict) or data.get("kind") != "kubernetes":
            raise ConfigError(f"{path}: --namespace is for a site of kind kubernetes")
        data = {**data, "namespace": namespace}
    site = validate(data, _kind(data), str(path), lines)
    return site.model_copy(update={"folder": str(Path(site.folder).absolute())})


def load_machine(path: Path) -> MachineSite:
    """The same, where only a machine will do.

    Raises:
        ConfigError: with every problem found, or it is no machine.
    """
    site = load_site(path)
    if not isinstance(site, MachineSite):
        raise ConfigError(f"{path}: is a site of kind {site.kind}; a machine is wanted here")
    return site


def remembered(document: Mapping[str, Any] | None, where: str) -> Site:
    """A site as it stands in a store.

    Raises:
        ConfigError: there is none, or another version of servegate wrote it.
    """
    if document is None:
        raise ConfigError(f"{where}: does not say where the rollout happens; start it again with its --site")
    return validate(dict(document), _kind(document), where)


def _kind(data: Any) -> type[MachineSite] | type[ClusterSite]:
    """The model of a site's kind; of a machine, whose error names the kinds, where there is none."""
    return SITES.get(str(data.get("kind")) if isinstance(data, Mapping) else "", MachineSite)


@contextmanager
def opened(site: Site, releases: Iterable[Release] = ()) -> Iterator[Place]:
    """The ports of a rollout; closed when the context ends. Nothing is started or stopped.

    Args:
        releases: those whose files (chat template, system prompt) may have to be put into a slot of a cluster.
    """
    with _machine(site) if isinstance(site, MachineSite) else _cluster(site, releases) as place:
        yield place


@contextmanager
def _machine(site: MachineSite) -> Iterator[Place]:
    from servegate.rollout.routers.envoy_file import EnvoyFileRouter
    from servegate.rollout.sources.direct import DirectSource, Gateway
    from servegate.rollout.sources.prometheus import PrometheusSource
    from servegate.rollout.stores.sqlite import SqliteStore
    from servegate.rollout.workloads.supervised import Supervised

    first, second = site.slots
    admin = f"http://127.0.0.1:{site.admin_port}"
    store = SqliteStore(site.store)
    workload = Supervised(site.socket, epoch=lambda: store.epoch)
    source: DirectSource | PrometheusSource
    if site.prometheus is None:
        source = DirectSource(workload.targets, Gateway(admin, (first, second)))
    else:
        source = PrometheusSource(site.prometheus, (first, second))
    try:
        router = EnvoyFileRouter(site.routes, admin, (first, second), idle_timeout=site.idle_timeout)
        yield Place(router, source, workload, store, (first, second), site.model_dump(mode="json"))
    finally:
        source.close()
        store.close()


@contextmanager
def _cluster(site: ClusterSite, releases: Iterable[Release]) -> Iterator[Place]:
    from servegate.rollout.kube import Kube
    from servegate.rollout.routers.http_route import HttpRouteRouter
    from servegate.rollout.routers.kserve import KServeRouter
    from servegate.rollout.sources.combined import CombinedSource
    from servegate.rollout.sources.direct import DirectSource
    from servegate.rollout.sources.gateway import EnvoyGateway, endpoints
    from servegate.rollout.sources.prometheus import PrometheusSource
    from servegate.rollout.stores.config_map import ConfigMapStore
    from servegate.rollout.workloads.deployments import DeploymentWorkload
    from servegate.rollout.workloads.kserve import DEPLOYMENT_SUFFIX, KServeWorkload
    from servegate.rollout.workloads.slots import ENGINES, SERVICE, SlotWorkload

    slots = ("blue", "green")
    kube = Kube(site.namespace, context=site.context)
    store = ConfigMapStore(kube, site.memory)
    fill: type[SlotWorkload] = KServeWorkload if site.backends == "LLMInferenceService" else DeploymentWorkload
    workload = fill(
        kube, site.app, slots, contents=_contents(releases), epoch=lambda: store.epoch, patience=site.patience
    )
    names = {slot: f"{site.app}-{slot}" for slot in slots}
    services = {slot: workload.service(slot) for slot in slots}
    kube.watch("Pod", selector=",".join(f"{key}={value}" for key, value in ENGINES.items()))
    kube.watch("EndpointSlice", selector=f"{SERVICE} in ({','.join(services.values())})")
    kube.watch("ConfigMap", f"{site.memory}-intents")
    for name in names.values():
        kube.watch(workload.kind, name)
    gateway = None if site.gateway is None else EnvoyGateway(site.gateway, slots, lambda: endpoints(kube, services))
    source: DirectSource | PrometheusSource | CombinedSource
    if site.prometheus is None:
        source = DirectSource(workload.targets, gateway)
    elif gateway is None:
        source = PrometheusSource(site.prometheus, slots)
    else:
        source = CombinedSource(PrometheusSource(site.prometheus, slots), DirectSource(tuple, gateway))
    router: Router
    if site.backends == "LLMInferenceService":
        router = KServeRouter(kube, names, site.route)
        for slot in slots:
            kube.watch("Deployment", f"{names[slot]}{DEPLOYMENT_SUFFIX}")
    else:
        router = HttpRouteRouter(kube, site.route, names, kind=site.backends)
        kube.watch("HTTPRoute", site.route)
    # A context is a name in one person's kubeconfig: whoever takes over gets at the store by their own.
    document = site.model_copy(update={"context": None}).model_dump(mode="json")
    try:
        yield Place(router, source, workload, store, slots, document, lambda: workload.release(slots[0]))
    finally:
        source.close()
        kube.close()


def allows_drills(site: Site) -> bool:
    """Whether verdicts of drills count there: in a namespace that is labelled so, and may be read.

    Raises:
        InfrastructureError: the API server cannot be asked.
    """
    if isinstance(site, MachineSite):
        return False
    from servegate.gates.trust import drills_allowed
    from servegate.rollout.kube import Kube, KubeError, labels_of

    kube = Kube(site.namespace, context=site.context)
    try:
        return drills_allowed(labels_of(kube.call("GET", f"/api/v1/namespaces/{site.namespace}")))
    except KubeError as error:
        if error.status != HTTPStatus.FORBIDDEN:
            raise
        return False
    finally:
        kube.close()


def _contents(releases: Iterable[Release]) -> dict[str, str]:
    """Text by sha256 of those files that releases name and that are where they say."""
    found: dict[str, str] = {}
    for release in releases:
        for file in (release.chat_template, release.system_prompt):
            if file is not None and file.path is not None:
                try:
                    data = Path(file.path).read_bytes()
                except OSError:
                    continue  # whoever takes over may be elsewhere; the slot has them already
                verify_file(file, data)
                found[file.sha256] = data.decode()
    return found
