"""What holds for every sequence of observations, however broken: hypothesis draws them."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

from decide_bench import Bench, delta
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from servegate.rollout.decide import decide
from servegate.rollout.deltas import between
from servegate.rollout.model import Buckets, Phase, SlotDelta, State
from servegate.rollout.plan import TTFT_EDGES
from servegate.rollout.ports import Histogram, Observed, PodSample
from servegate.rollout.seen import Asked

EDGES = st.sampled_from([TTFT_EDGES, TTFT_EDGES[:-1], (0.1, 1.0), (0.1,)])


@st.composite
def buckets(draw: st.DrawFn) -> Buckets:
    edges = draw(EDGES)
    counts = draw(st.lists(st.integers(0, 20), min_size=len(edges) + 1, max_size=len(edges) + 1))
    return Buckets(edges=edges, counts=tuple(map(float, counts)))


@st.composite
def slot(draw: st.DrawFn) -> SlotDelta | None:
    """A slot's tick: healthy, broken, silent, half measured, not there."""
    kind = draw(
        st.sampled_from(["fine", "fine", "failing", "none", "zero", "odd buckets", "unread", "reclaimed", "queue"])
    )
    n = draw(st.integers(1, 30))
    match kind:
        case "none":
            return None
        case "zero":
            return delta(0)
        case "failing":
            return delta(n, draw(st.integers(0, n)))
        case "odd buckets":
            return delta(n, histograms={"ttft": draw(buckets())})
        case "unread":
            return SlotDelta(gateway=True, missing={"x/0": "timed out"})
        case "reclaimed":
            return delta(n, n, reclaimed={"green/0": "evicted"})
        case "queue":
            return delta(n, gauges={"running": 8.0, "waiting": float(n)})
        case _:
            return delta(n)


@cache
def _started() -> tuple[State, float]:
    bench = Bench()
    bench.until(Phase.STEP, 1)
    return bench.state, bench.now


def at_ten_percent() -> Bench:
    """A healthy rollout in its second step."""
    state, now = _started()
    bench = Bench(state=state)
    bench.now, bench.served = now, dict(state.weights)
    return bench


def asked() -> st.SearchStrategy[Asked]:
    score = st.one_of(st.none(), st.floats(0, 1))
    return st.builds(
        Asked,
        check=st.sampled_from(["quality", "another"]),
        suite=st.sampled_from(["sha256:" + digit * 64 for digit in "12"]),
        position=st.integers(0, 300),
        item=st.text(max_size=5),
        candidate=score,
        stable=score,
        candidate_error=st.text(max_size=5),
        stable_error=st.text(max_size=5),
    )


@st.composite
def tick(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "slots": {name: found for name in ("blue", "green") if (found := draw(slot())) is not None},
        "moves": draw(st.sampled_from([1.0, 1.0, 1.0, 0.0, -30.0, 45.0])),
        "ready": draw(st.sampled_from([(1, 1), (1, 1), (1, 1), (0, 1), (1, 0)])),
        "asked": tuple(draw(st.lists(asked(), max_size=3))),
    }


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(tick(), min_size=1, max_size=25))
def test_whatever_is_seen_the_state_is_sound(ticks: list[dict[str, Any]]) -> None:
    bench = at_ten_percent()
    state, now = bench.state, bench.now
    for seen in ticks:
        now += seen["moves"]
        observation = bench.observation(ready=seen["ready"]).model_copy(
            update={"at": now, "slots": seen["slots"], "asked": seen["asked"]}
        )
        decision = decide(bench.plan, state, observation, now)
        assert decide(bench.plan, state, observation, now) == decision  # pure
        assert decision.state.updated >= state.updated  # time that goes backwards stands still
        state = decision.state
        text = state.model_dump_json()
        assert State.model_validate_json(text) == state
        for gathered in state.checks.values():
            for wealth in (gathered.against, gathered.promote, gathered.stable):
                assert wealth is None or all(not math.isnan(value) for value in wealth.log_wealth)
            for filtered in (gathered.shift, gathered.shift_for):
                assert filtered is None or math.isfinite(filtered.log_e)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sampled_from(["nothing", "zero", "stable gone", "both unread"]), min_size=1, max_size=40))
def test_no_data_is_neither_a_failure_nor_a_pass(kinds: list[str]) -> None:
    bench = at_ten_percent()
    before = {name: gathered.against for name, gathered in bench.state.checks.items()}
    shifts = {name: gathered.shift for name, gathered in bench.state.checks.items()}
    unread = SlotDelta(gateway=True, missing={"x/0": "timed out"})
    for kind in kinds:
        slots = {
            "nothing": {},
            "zero": {"blue": delta(0), "green": delta(0)},
            "stable gone": {"green": delta(0)},
            "both unread": {"blue": unread, "green": unread},
        }[kind]
        bench.tick(bench.observation().model_copy(update={"at": bench.now + 1, "slots": slots}))
        assert bench.state.phase not in (Phase.ROLLING_BACK, Phase.PROMOTED, Phase.BAKING)
    assert {name: gathered.shift for name, gathered in bench.state.checks.items()} == shifts
    for name, gathered in bench.state.checks.items():
        assert gathered.against.n <= before[name].n + 1  # an interval that was open may still have closed


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-5, 40), st.integers(0, 3)), min_size=2, max_size=20))
def test_deltas_are_never_negative_and_a_scrape_counts_once(moves: list[tuple[int, int]]) -> None:
    # Totals that fall (a restart, or nonsense) and readings that come twice or late.
    readings, total, now, counted, last = None, 0.0, 100.0, 0.0, None
    for grows, repeats in moves:
        total = max(0.0, total + grows)
        now += 1
        sample = PodSample(
            pod="green/0",
            slot="green",
            at=now,
            counters={"http_requests": total},
            histograms={"ttft": Histogram((0.1, math.inf), (total, total), 0.0)},
        )
        for repeat in range(1 + repeats):
            deltas, readings = between(readings, Observed(at=now + repeat, pods=(sample,)))
            got = deltas["green"].counters.get("http_requests", 0.0)
            assert got >= 0
            assert all(count >= 0 for one in deltas["green"].histograms.values() for count in one.counts)
            if repeat:
                assert got == 0  # the same scrape again
            counted += got
        rise = 0.0 if last is None else (total - last if total >= last else total)
        assert counted >= 0
        counted -= rise if last is not None else 0.0
        assert abs(counted) < 1e-9
        last = total
