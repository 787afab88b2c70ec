"""How a Prometheus is asked: address, secrets, and which of its series belong to which slot."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, StringConstraints, field_validator, model_validator

from servegate.config import Config, load
from servegate.contract import Slot
from servegate.metrics.names import known
from servegate.units import PositiveDuration, seconds

Label = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$")]
Value = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:/@-]{1,253}$")]
MetricName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z_:][a-zA-Z0-9_:]*$")]


def _time(default: str, description: str) -> Any:
    return Field(seconds(default), description=description, json_schema_extra={"default": default})


class Basic(Config):
    """User and password; the password stays in its file."""

    username: Annotated[str, Field(min_length=1)]
    password_file: Path


class Labels(Config):
    """Labels of the engines' series."""

    slot: Label = Field("slot", description="names the slot")
    release: Label = Field("release", description="digest of the release, where the pods carry it")
    pod: Label = Field("instance", description="tells processes apart; the pod's name where targets carry it")


class GatewayLabels(Config):
    """Labels of the gateway's counter of ended requests."""

    slot: Label = Field("slot", description="names the slot a request was routed to")
    code: Label = Field("code", description="response code, such as Istio's response_code")
    flags: Label = Field("flags", description="Envoy's response flags, such as Istio's response_flags")
    pod: Label = Field("instance", description="tells replicas of the gateway apart")


class GatewaySeries(Config):
    """What the gateway counts. It must count requests when they have ended, with Envoy's response flags."""

    metric: MetricName = Field("envoy_servegate_ended", description="counter of ended requests; Istio: istio_requests")
    active: tuple[MetricName, ...] = Field(
        ("envoy_cluster_upstream_rq_active", "envoy_cluster_upstream_rq_pending_active"),
        description="gauges of requests under way; their sum is taken",
    )
    active_slot: Label = Field("envoy_cluster_name", description="label of these gauges that names the slot")
    labels: GatewayLabels = GatewayLabels()
    slots: dict[Slot, Value] = Field(default_factory=dict, description="value of the slot's label; default: its name")
    select: dict[Label, Value] = Field(default_factory=dict, description="labels that all series must have")


class PrometheusConfig(Config):
    """Where the counters are read."""

    version: Literal[1] = 1
    url: Annotated[str, Field(description="base URL, such as http://prometheus.monitoring:9090")]
    bearer_token_file: Path | None = Field(None, description="read anew for every request: tokens are rotated")
    basic: Basic | None = None
    ca_file: Path | None = Field(None, description="certificates to trust instead of the system's")
    timeout: PositiveDuration = _time("3s", "for one reading")
    max_age: PositiveDuration = _time(
        "45s", "a pod whose last scrape is older is missing; at least two and a half scrape intervals"
    )
    slots: dict[Slot, Value] = Field(default_factory=dict, description="value of the slot's label; default: its name")
    labels: Labels = Labels()
    select: dict[Label, Value] = Field(default_factory=dict, description="labels that all engine series must have")
    metrics: dict[str, MetricName] = Field(
        default_factory=dict,
        description="our name → name under which the metric is stored, where relabelling changed it",
    )
    gateway: GatewaySeries | None = Field(
        None, description="the gateway's counters; without it a dead engine's requests are seen by nobody"
    )

    @field_validator("url")
    @classmethod
    def _is_url(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            valid = False
        if not valid or parts.query or parts.fragment:
            raise ValueError("must be the base URL of a Prometheus, such as http://prometheus:9090")
        if parts.username or parts.password:
            raise ValueError("secrets do not belong into the URL: use basic with a password_file")
        return url.rstrip("/").removesuffix("/api/v1")

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.basic is not None and self.bearer_token_file is not None:
            raise ValueError("basic and bearer_token_file exclude each other")
        for name in self.metrics:
            if name not in known():
                near = difflib.get_close_matches(name, sorted(known()), n=1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}?" if near else f"valid: {', '.join(sorted(known()))}"
                raise ValueError(f"metrics: {name!r} is not the name of an engine metric; {hint}")
        return self


def load_config(path: Path) -> PrometheusConfig:
    """Read such a file.

    Raises:
        ConfigError: with every problem found, one line each, as `file:line:column: key: what is wrong`.
    """
    return load(path, PrometheusConfig)


def selector(names: Iterable[str], select: Mapping[str, str], slot: tuple[str, Iterable[str]] | None = None) -> str:
    """PromQL selector of metrics by name.

    Args:
        select: labels that all series must have.
        slot: (label, accepted values) that names the slot; None: all series.
    """
    matchers = [f'__name__=~"{"|".join(sorted(names))}"']
    matchers += [f'{name}="{value}"' for name, value in sorted(select.items())]
    if slot is not None:
        # Of what a value may contain only the dot means something in a regular expression.
        values = "|".join(value.replace(".", r"\\.") for value in sorted(slot[1]))
        matchers.append(f'{slot[0]}=~"{values}"')
    return "{" + ",".join(matchers) + "}"
