"""A stand-in for GitHub, and a verdict to show."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from github_server import TOKEN, GitHub, serve

from servegate.github.api import Client
from servegate.report.verdict import CheckResult, Outcome, Verdict

HASH = "sha256:" + "4b" * 32


class Clock:
    """Time that passes only while somebody waits."""

    def __init__(self) -> None:
        self.now = 1_790_000_000.0
        self.waits: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def github() -> Iterator[GitHub]:
    with serve() as found:
        yield found


@pytest.fixture
def client(github: GitHub, clock: Clock) -> Client:
    return Client(
        github.address, f"{github.address}/graphql", TOKEN, clock=lambda: clock.now, sleep=clock.sleep, patience=120
    )


def make_verdict(
    *outcomes: Outcome,
    text: str = "it is too slow",
    file: str | None = "gates/release.yaml",
    effect: Outcome | None = None,
) -> Verdict:
    """A verdict with one check per outcome."""
    results = tuple(
        CheckResult(check=f"check-{i}", outcome=found, effect=effect or found, message=f"{i}: {text}", line=10 + i)
        for i, found in enumerate(outcomes)
    )
    return Verdict(
        outcome=max((r.effect for r in results), key=[*Outcome].index, default=Outcome.VOID),
        release=HASH,
        release_name="v1.4.0",
        policy="release",
        policy_sha256=HASH,
        policy_file=file,
        reports=(HASH,),
        results=results,
        decided_at=1_790_000_000.0,
        decided_by="test",
        tool="servegate 0.1.0",
    )


@pytest.fixture(scope="session")
def verdict() -> Callable[..., Verdict]:
    return make_verdict
