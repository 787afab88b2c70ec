"""Faults as data: how they are written, when they are in force, what they remember."""

from __future__ import annotations

from typing import Any

import pytest

from servegate.simulator.faults import FaultError, Faults, duration, parse


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def faults(*specs: str, seed: int = 0) -> tuple[Faults, Clock]:
    clock = Clock()
    found = Faults(seed, clock)
    for spec in specs:
        found.add(parse(spec))
    return found, clock


def test_a_spec_may_be_text_or_mapping() -> None:
    text = parse("latency:factor=2,what=ttft,after=500ms,duration=2m")
    assert (text.kind, dict(text.parameters)) == ("latency", {"factor": 2.0, "what": "ttft"})
    assert (text.after, text.duration) == (0.5, 120.0)
    assert parse({"kind": "latency", "factor": 2, "what": "ttft", "after": "500ms", "duration": 120}) == parse(
        "latency:factor=2,what=ttft,after=500ms,duration=120"
    )
    assert parse("hang").text == "hang"


@pytest.mark.parametrize(("text", "seconds"), [("1.5", 1.5), ("500ms", 0.5), ("30s", 30), ("2m", 120), ("1h", 3600)])
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("latencyy:factor=2", "did you mean 'latency'"),
        ("nonsense", "known are latency"),
        ("errors", "needs rate"),
        ("errors:rate=1.5", "not a rate"),
        ("errors:rate=nan", "not a rate"),
        ("errors:rat=0.1", "did you mean 'rate'"),
        ("errors:rate=0.1,rate=0.2", "twice"),
        ("errors:rate=0.1,on=5s", "both `on` and `every`"),
        ("errors:rate=0.1,on=30s,every=5s", "no longer than `every`"),
        ("latency:factor=-1", "not a number above 0"),
        ("latency:factor=inf", "not a number above 0"),
        ("latency:factor=2,what=all", "not one of both, ttft, itl"),
        ("stall:seconds=soon", "not a duration"),
        ("leak", "either blocks_per_second or blocks_per_request"),
        ("slow_start:seconds=3,after=2s", "neither"),
        ("crash:exit_code=-1", "whole number"),
        ({"kind": ["latency"]}, "unknown fault"),
    ],
)
def test_wrong_specs_say_what_is_allowed(spec: Any, message: str) -> None:
    with pytest.raises(FaultError, match=message):
        parse(spec)


def test_a_fault_has_a_beginning_and_an_end() -> None:
    found, clock = faults("errors:rate=1,after=10s,duration=5s")
    states = []
    for now in (1000, 1009.9, 1010, 1014.9, 1015, 2000):
        clock.now = now
        states.append((found.report()["faults"][0]["state"], found.strike("errors") is not None))
    active = ("active", True)
    assert states == [("pending", False), ("pending", False), active, active, ("ended", False), ("ended", False)]


def test_bursts_come_and_go() -> None:
    found, clock = faults("errors:rate=1,on=2s,every=10s,after=100s")
    for seconds, on in (
        (0, False),
        (100, True),
        (101.9, True),
        (102, False),
        (109.9, False),
        (110, True),
        (112, False),
    ):
        clock.now = 1000.0 + seconds
        assert (found.strike("errors") is not None) is on, seconds


def test_a_rate_strikes_that_share_and_the_same_ones_for_a_seed() -> None:
    def strikes(seed: int) -> list[bool]:
        found, _clock = faults("errors:rate=0.1", seed=seed)
        return [found.strike("errors") is not None for _ in range(2000)]

    assert 150 < sum(strikes(1)) < 250
    assert strikes(1) == strikes(1)
    assert strikes(1) != strikes(2)


def test_the_first_effect_is_remembered_and_requests_are_counted() -> None:
    found, clock = faults("wrong:rate=1")
    assert found.report()["faults"][0]["first_effect_at"] is None
    for clock.now in (1003.0, 1007.0):
        found.note(found.current[0])
    report = found.report()["faults"][0]
    assert (report["first_effect_at"], report["last_effect_at"], report["affected_requests"]) == (1003.0, 1007.0, 2)


def test_replacing_keeps_what_is_the_same_and_remembers_what_is_gone() -> None:
    found, clock = faults("wrong:rate=1", "errors:rate=0.5")
    wrong = found.current[0]
    found.note(wrong)
    clock.now = 1005.0
    found.replace([parse("latency:factor=2"), parse("wrong:rate=1")])
    assert wrong in found.current
    assert [fault.spec.kind for fault in found.current] == ["wrong", "latency"]
    past = found.report()["past"]
    assert [(fault["kind"], fault["state"], fault["ends_at"]) for fault in past] == [("errors", "ended", 1005.0)]
    found.replace([])
    assert found.report()["past"][1]["first_effect_at"] == 1000.0
    assert not found.active("wrong")


def test_there_is_a_limit_to_faults() -> None:
    found, _clock = faults()
    with pytest.raises(FaultError, match="no more than 100"):
        found.replace([parse("wrong:rate=1")] * 101)
