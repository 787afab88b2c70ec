"""A site: where a rollout happens. The file says it once; the store remembers it for whoever takes over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from servegate.config import Config, load, validate
from servegate.contract import Slot
from servegate.errors import ConfigError
from servegate.rollout.ports import Router, Source, Store, Workload
from servegate.rollout.sources.prometheus_config import PrometheusConfig
from servegate.units import Duration

Port = Annotated[int, Field(ge=1, le=65535)]


class MachineSite(Config):
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
    def root(self) -> Path:
        """The folder."""
        return Path(self.folder)

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


@dataclass(frozen=True)
class Place:
    """An open site: the ports of a rollout."""

    router: Router
    source: Source
    workload: Workload
    store: Store
    slots: tuple[str, str]
    document: Mapping[str, Any]


def load_site(path: Path) -> MachineSite:
    """Read a site; its folder is made absolute, relative to where we are now.

    Raises:
        ConfigError: with every problem found, one line each.
    """
    site = load(path, MachineSite)
    return site.model_copy(update={"folder": str(site.root.absolute())})


def remembered(document: Mapping[str, Any] | None, where: str) -> MachineSite:
    """A site as it stands in a store.

    Raises:
        ConfigError: there is none, or another version of servegate wrote it.
    """
    if document is None:
        raise ConfigError(f"{where}: does not say where the rollout happens; start it again with its --site")
    return validate(dict(document), MachineSite, where)


@contextmanager
def opened(site: MachineSite) -> Iterator[Place]:
    """The ports of a rollout; closed when the context ends. Nothing is started or stopped."""
    from servegate.rollout.routers.envoy_file import EnvoyFileRouter
    from servegate.rollout.sources.direct import DirectSource, Gateway
    from servegate.rollout.sources.prometheus import PrometheusSource
    from servegate.rollout.stores.sqlite import SqliteStore
    from servegate.rollout.workloads.supervised import Supervised

    first, second = site.slots
    admin = f"http://127.0.0.1:{site.admin_port}"
    workload = Supervised(site.socket)
    store = SqliteStore(site.store)
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
