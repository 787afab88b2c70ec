"""Records behind a report: one line each in a JSON Lines sidecar, so that any number can be computed again.

Times are seconds since the Unix epoch, derived from one monotonic clock anchored once per run: differences are
exact, and records of different processes on one machine can be laid side by side.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, ValidationError

from servegate.contract import Contract, Sha256, Slot, sha256_file, write_atomic
from servegate.errors import ConfigError, one_line

Seconds = Annotated[float, Field(ge=0)]
Epoch = Annotated[float, Field(ge=0, description="seconds since the Unix epoch")]
Count = Annotated[int, Field(ge=0)]
Id = Annotated[str, Field(max_length=500)]


class EvalRecord(Contract):
    """One answer to one item of a suite.

    `score` is None when nothing was measured (the endpoint failed, the judge failed): never 0.
    """

    schema_version: Literal[1] = 1
    id: Id = Field(description="item id, unique within the suite")
    cluster: Id | None = Field(None, description="items that share a passage or conversation share this")
    tags: tuple[str, ...] = ()
    repeat: Count = 0
    item_sha256: Sha256 = Field(description="of the item's canonical JSON: pairs are refused when it differs")
    scorer: str
    score: Annotated[float, Field(ge=0, le=1)] | None
    reason: str = Field("", description="why this score, or why there is none")
    answer: str | None = Field(None, description="what the model said, untrusted")
    target: str | None = None
    finish_reason: str | None = None
    error: str | None = Field(None, description="infrastructure error; then score is None")
    sent: Epoch | None = None
    e2e_latency: Seconds | None = None
    prompt_tokens: Count | None = None
    output_tokens: Count | None = None


class RequestRecord(Contract):
    """One request of a load run or of live traffic.

    `scheduled` is when the profile wanted it sent, `sent` when it was. Latencies from `scheduled` include the
    client's own delay, so that a late client cannot make a server look fast.
    """

    schema_version: Literal[1] = 1
    id: Count = Field(description="position in the schedule")
    scheduled: Epoch
    sent: Epoch
    first_token: Epoch | None = Field(None, description="first chunk with non-empty content or reasoning")
    last_token: Epoch | None = None
    done: Epoch = Field(description="when the outcome was known")
    ok: bool = Field(description="a complete answer arrived")
    status: Annotated[int, Field(ge=100, le=599)] | None = Field(None, description="HTTP status, none if no answer")
    error: str | None = Field(
        None, description="kind of failure: connect, timeout, http_500, stream_error, truncated, …"
    )
    slot: Slot | None = Field(None, description="which slot answered, if the data plane says so")
    finish_reason: str | None = None
    prompt_tokens: Count | None = None
    output_tokens: Count | None = None
    tokens_from: Literal["usage", "chunks"] | None = Field(None, description="how output_tokens was counted")
    chunks: Count = Field(0, description="chunks with content")
    gaps: tuple[Seconds, ...] = Field((), description="seconds between chunks with content")
    tags: tuple[str, ...] = ()

    @property
    def ttft(self) -> float | None:
        """Seconds from sent to first token."""
        return None if self.first_token is None else self.first_token - self.sent

    @property
    def e2e_latency(self) -> float | None:
        """Seconds from sent to last token, of complete answers."""
        return None if self.last_token is None or not self.ok else self.last_token - self.sent

    @property
    def tpot(self) -> float | None:
        """Mean seconds per output token after the first chunk: (last - first) / (tokens - tokens of first chunk).

        Chunks carry one token each unless the server batches them; then the first chunk's share is the mean.
        """
        if self.first_token is None or self.last_token is None or not self.output_tokens or not self.chunks:
            return None
        after_first = self.output_tokens * (1 - 1 / self.chunks)
        return (self.last_token - self.first_token) / after_first if after_first > 0 else None


class SlotTick(Contract):
    """What one slot did in one tick of a canary: deltas since the tick before, never running totals."""

    requests: Count | None = Field(None, description="finished in the tick; none when nothing could be read")
    failures: Count | None = None
    set_apart: Count = Field(0, description="failures put down to pods that the platform took away; not in failures")
    ttft_p50: Seconds | None = Field(None, description="from bucket edges, for showing only")
    ttft_p95: Seconds | None = Field(None, description="from bucket edges, for showing only")
    running: float | None = None
    waiting: float | None = None
    kv_cache_usage: float | None = None
    ready: bool | None = None


class Evidence(Contract):
    """One check's evidence at one tick: the e-value compared with its limit, both as natural logarithms."""

    check: str
    log_e: float = Field(description="natural logarithm of the e-value against the release")
    log_limit: float = Field(description="at or above this the check fires")
    promote_log_e: float | None = Field(None, description="evidence that the release is not worse")
    promote_log_limit: float | None = None


class CanaryTick(Contract):
    """One line of the canary timeline."""

    schema_version: Literal[1] = 1
    at: Epoch
    phase: str = Field(description="state of the rollout, such as STEP, HELD, ROLLING_BACK")
    step: Count | None = None
    weights: dict[Slot, Annotated[float, Field(ge=0, le=100)]] = Field(description="percent of traffic per slot")
    stable: Slot
    candidate: Slot | None = None
    slots: dict[Slot, SlotTick] = Field(default_factory=dict)
    evidence: tuple[Evidence, ...] = ()
    reason: str = Field("", description="why something changed at this tick, in one sentence")


R = TypeVar("R", bound=Contract)


def write_records(path: Path, records: Iterable[Contract]) -> str:
    """Write a JSON Lines sidecar whole and return its digest."""
    write_atomic(path, "".join(record.model_dump_json() + "\n" for record in records).encode())
    return sha256_file(path)


def read_records(path: Path, kind: type[R]) -> Iterator[R]:
    """Read a JSON Lines sidecar.

    Raises:
        ConfigError: the file cannot be read, or a line is not such a record (with its number).
    """
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    try:
                        yield kind.model_validate_json(line)
                    except ValidationError as error:
                        first = error.errors(include_url=False)[0]
                        where = ".".join(str(part) for part in first["loc"])
                        said = one_line(f"{where}: {first['msg']}")
                        raise ConfigError(f"{path}:{number}: not a {kind.__name__}: {said}") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def to_line(record: Contract) -> str:
    """One record as a line of JSON, for appending."""
    return json.dumps(record.model_dump(mode="json"), ensure_ascii=False, allow_nan=False) + "\n"
