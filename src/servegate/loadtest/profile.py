"""A profile: what the users' traffic looks like, as a file that is reviewed like code.

A loaded profile carries its prompts and two digests, so that a report can say exactly what was sent: the digests
depend on what the files mean, not on how they are laid out or where they lie.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from servegate.config import Config, load
from servegate.contract import canonical_json, sha256, write_atomic
from servegate.errors import ConfigError
from servegate.loadtest.prompts import Prompt, load_prompts
from servegate.units import Duration, PositiveDuration, Rate

MAX_REQUESTS = 5_000_000


class Arrival(Config):
    """When requests are sent. The loop is open: a slow server does not slow the senders down."""

    kind: Literal["constant", "poisson"] = Field(description="poisson: independent users; constant: equal distances")
    rate: Rate = Field(description="requests per second, such as 20/s")


class Slos(Config):
    """What one request must meet to count as good. At least one."""

    ttft: PositiveDuration | None = Field(None, description="time to first token, at most")
    tpot: PositiveDuration | None = Field(None, description="time per output token after the first, at most")
    e2e_latency: PositiveDuration | None = Field(None, description="time to last token, at most")

    @model_validator(mode="after")
    def _some(self) -> Slos:
        if self.ttft is None and self.tpot is None and self.e2e_latency is None:
            raise ValueError("names no SLO; give ttft, tpot or e2e_latency")
        return self


class Profile(Config):
    """One kind of traffic."""

    version: Literal[1]
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
    arrival: Arrival
    warm_up: Duration = Field(0.0, description="sent first and not measured")
    duration: PositiveDuration | None = Field(None, description="measured after the warm-up; none: until stopped")
    drain: Duration = Field(10.0, description="how long answers may still arrive after the last request was sent")
    timeout: PositiveDuration = Field(60.0, description="of one request, from sending to the last byte")
    max_in_flight: Annotated[int, Field(ge=1, le=10_000)] = Field(
        256, description="requests open at once; reaching it closes the loop and voids the run"
    )
    prompts: Annotated[str, Field(min_length=1)] = Field(description="JSON Lines or YAML, relative to this file")
    max_tokens: Annotated[int, Field(ge=1, le=131_072)] = Field(description="output tokens per answer, at most")
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    stream: Literal[True] = Field(True, description="only streams show the first token")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    slos: Slos | None = None

    @model_validator(mode="after")
    def _bounded(self) -> Profile:
        if self.duration is not None:
            requests = self.arrival.rate * (self.warm_up + self.duration)
            if requests > MAX_REQUESTS:
                raise ValueError(f"would send {requests:.0f} requests; {MAX_REQUESTS} are allowed")
        return self

    @property
    def length(self) -> float | None:
        """Seconds in which requests are sent; None: no end."""
        return None if self.duration is None else self.warm_up + self.duration


@dataclass(frozen=True)
class LoadedProfile:
    """A profile with its prompts.

    Attributes:
        path: where it was read from.
        profile_sha256: of the canonical profile without the path of the prompts.
        prompts_sha256: of the canonical prompts, in order.
    """

    path: Path
    profile: Profile
    prompts: tuple[Prompt, ...]
    profile_sha256: str
    prompts_sha256: str

    def write(self, folder: Path) -> Path:
        """Write `profile.json` and `prompts.jsonl`, which read back as the same; the path of the first.

        Raises:
            InfrastructureError: the folder cannot be written.
        """
        lines = "".join(
            json.dumps(prompt.model_dump(mode="json", exclude_none=True), ensure_ascii=False) + "\n"
            for prompt in self.prompts
        )
        write_atomic(folder / "prompts.jsonl", lines.encode())
        data = self.profile.model_dump(mode="json", exclude_none=True) | {"prompts": "prompts.jsonl"}
        target = folder / "profile.json"
        write_atomic(target, (json.dumps(data, indent=1) + "\n").encode())
        return target

    def finite(self) -> float:
        """Seconds in which requests are sent.

        Raises:
            ConfigError: the profile has no end.
        """
        if self.profile.length is None:
            raise ConfigError(f"{self.path}: duration: is required to measure; without it the traffic has no end")
        return self.profile.length


def load_profile(path: Path) -> LoadedProfile:
    """Read a profile and the prompts it names.

    Raises:
        ConfigError: one line per problem, each as `file:line: key: what is wrong`.
    """
    profile = load(path, Profile)
    prompts = load_prompts(path.parent / profile.prompts)
    return LoadedProfile(path, profile, prompts, _profile_digest(profile), _prompts_digest(prompts))


def _profile_digest(profile: Profile) -> str:
    return sha256(canonical_json(profile.model_dump(mode="json", exclude={"prompts"})))


def _prompts_digest(prompts: tuple[Prompt, ...]) -> str:
    return sha256(canonical_json([prompt.model_dump(mode="json") for prompt in prompts]))
