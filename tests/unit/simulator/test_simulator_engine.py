"""The engine without a clock: batching, queueing, memory, preemption, and that no block is ever lost."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servegate.simulator.engine import Engine, EngineConfig, Generation

QUIET = {"input_processing": 0.0, "input_noise": 0.0, "step_noise": 0.0}


def engine(**changes: Any) -> Engine:
    settings_: dict[str, Any] = {
        **QUIET,
        "num_blocks": 64,
        "block_size": 4,
        "max_num_seqs": 8,
        "max_num_batched_tokens": 32,
        "prefill_tokens_per_second": 1000.0,
        "decode_step": 0.010,
        "decode_step_per_request": 0.001,
        **changes,
    }
    return Engine(EngineConfig(**settings_))


def generation(prompt: int, output: int, name: str = "x") -> Generation:
    return Generation([f"{name}{i}" for i in range(prompt)], [f"{name}-out{i}" for i in range(output)])


def run(machine: Engine, until: float = 100.0, start: float = 0.0) -> tuple[float, list[tuple[float, Generation]]]:
    """Step exactly when the engine asks for it; when it was idle, and all tokens with their times."""
    now, tokens = start, []
    machine.step(now)
    while (due := machine.due) is not None and due <= until:
        now = due
        tokens += [(now, sequence) for sequence, _previous in machine.step(now).emitted]
    return now, tokens


def test_one_request_takes_prefill_then_one_token_a_step() -> None:
    machine, request = engine(), generation(10, 3)
    machine.submit(request, 0.0)
    _now, tokens = run(machine)
    assert [round(at, 6) for at, _ in tokens] == [0.021, 0.032, 0.043]  # 10 + 1 ms, and 10 ms of prefill once
    assert request.done
    assert request.scheduled_at == 0.0
    assert machine.pool.used == 0


def test_a_larger_batch_takes_longer_steps_but_more_tokens_a_second() -> None:
    def tokens_per_second(requests: int) -> tuple[float, float]:
        machine = engine(max_num_batched_tokens=1000)
        for number in range(requests):
            machine.submit(generation(4, 20, f"r{number}-"), 0.0)
        end, tokens = run(machine)
        return len(tokens) / end, end / 20

    slow, short = tokens_per_second(1)
    fast, long = tokens_per_second(8)
    assert long > short
    assert fast > 4 * slow


def test_a_long_prompt_is_read_in_chunks_while_others_go_on() -> None:
    machine, short, long = engine(), generation(4, 10, "a"), generation(100, 2, "b")
    machine.submit(short, 0.0)
    machine.step(0.0)
    machine.submit(long, 0.001)
    _now, tokens = run(machine)
    first_of_long = next(index for index, (_at, sequence) in enumerate(tokens) if sequence is long)
    assert first_of_long >= 4  # four chunks of at most 31 tokens, each together with a token of the short one


def test_no_more_than_max_num_seqs_run_and_the_rest_wait_in_order() -> None:
    machine = engine(max_num_seqs=2)
    requests = [generation(4, 3, f"r{number}-") for number in range(5)]
    for request in requests:
        machine.submit(request, 0.0)
    machine.step(0.0)
    assert (len(machine.running), len(machine.waiting), machine.unfinished) == (2, 3, 5)
    run(machine)
    finished = [request.last_token_at for request in requests]
    assert None not in finished
    assert finished == sorted(finished, key=lambda at: at or 0.0)
    assert requests[4].scheduled_at is not None
    assert requests[4].scheduled_at > requests[4].queued_at


def test_a_shared_beginning_is_not_computed_twice() -> None:
    machine = engine(max_num_batched_tokens=1000)
    machine.submit(generation(41, 2), 0.0)
    run(machine)
    again = generation(41, 2)
    machine.submit(again, 10.0)
    _now, tokens = run(machine, start=10.0)
    assert again.cached == 40  # all full blocks
    assert machine.counts.prefix_hits == 40
    assert machine.counts.prefix_queries == 82
    assert tokens[0][0] == pytest.approx(10.012)  # one prompt token instead of 41


def test_the_last_prompt_token_is_always_computed() -> None:
    machine = engine()
    for start in (0.0, 10.0):
        request = generation(8, 2)
        machine.submit(request, start)
        run(machine, start=start)
    assert request.cached == 4


def test_without_prefix_caching_nothing_is_looked_up() -> None:
    machine = engine(prefix_caching=False)
    for start in (0.0, 10.0):
        machine.submit(generation(40, 2), start)
        run(machine, start=start)
    assert machine.counts.prefix_queries == machine.counts.prefix_hits == 0


def test_the_youngest_gives_way_when_memory_is_short_and_still_finishes() -> None:
    machine = engine(num_blocks=8, prefix_caching=False)
    old, young = generation(12, 12, "a"), generation(12, 12, "b")
    machine.submit(old, 0.0)
    machine.submit(young, 0.0)
    _now, tokens = run(machine)
    assert young.preemptions > 0
    assert old.preemptions == 0
    assert machine.counts.preemptions == young.preemptions
    assert old.done
    assert young.done
    assert sum(sequence is young for _at, sequence in tokens) == 12  # no token is said twice
    assert machine.pool.used == 0


def test_a_request_that_could_never_run_is_refused() -> None:
    with pytest.raises(ValueError, match="more KV blocks"):
        engine(num_blocks=2).submit(generation(8, 8), 0.0)


def test_a_leak_starves_the_engine_without_ending_it() -> None:
    machine, request = engine(num_blocks=8), generation(12, 12)
    machine.pool.leak(6)
    assert machine.pool.usage == pytest.approx(0.75)
    machine.submit(request, 0.0)
    _now, tokens = run(machine, until=1.0)
    assert not tokens
    assert len(machine.waiting) == 1
    machine.abort(request)
    assert machine.due is None or not run(machine, until=2.0, start=1.0)[1]
    assert machine.pool.leaked == 6


def test_a_stalled_request_keeps_its_memory_and_others_go_on() -> None:
    machine, stalled, other = engine(), generation(4, 5, "a"), generation(4, 5, "b")
    stalled.stall_after, stalled.stall_seconds = 2, 3.0
    machine.submit(stalled, 0.0)
    machine.submit(other, 0.0)
    _now, tokens = run(machine)
    times = [at for at, sequence in tokens if sequence is stalled]
    assert times[2] - times[1] >= 3.0
    assert max(at for at, sequence in tokens if sequence is other) < 0.2


def test_factors_change_one_latency_and_leave_the_other() -> None:
    def times(ttft: float, itl: float) -> tuple[float, float]:
        machine, request = engine(input_processing=0.04, max_num_batched_tokens=1000), generation(150, 20)
        machine.ttft_factor, machine.itl_factor = ttft, itl
        machine.submit(request, 0.0)
        _now, tokens = run(machine)
        return tokens[0][0], (tokens[-1][0] - tokens[0][0]) / 19

    ttft, itl = times(1.0, 1.0)
    slow_first, same_itl = times(2.0, 1.0)
    same_first, slow_itl = times(1.0, 2.0)
    assert slow_first / ttft == pytest.approx(2.0, rel=0.05)
    assert same_itl == pytest.approx(itl)
    assert slow_itl / itl == pytest.approx(2.0)
    assert same_first == pytest.approx(ttft, rel=0.1)


def test_a_late_timer_does_not_shift_the_next_step_but_a_long_pause_does() -> None:
    machine = engine()
    machine.submit(generation(4, 10), 0.0)
    machine.step(0.0)
    due = machine.due
    assert due is not None
    machine.step(due + 0.001)
    assert machine.due == pytest.approx(due + 0.011)
    second = machine.due
    assert second is not None
    machine.step(second + 1.0)
    assert machine.due == pytest.approx(second + 1.0 + 0.011)


def test_the_same_seed_gives_the_same_times() -> None:
    def times(seed: int) -> list[float]:
        machine = Engine(EngineConfig(seed=seed))
        for number in range(5):
            machine.submit(generation(100, 10, f"r{number}-"), number * 0.02)
        return [at for at, _sequence in run(machine)[1]]

    assert times(1) == times(1)
    assert times(1) != times(2)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_blocks_are_conserved_and_everybody_ends(data: st.DataObject) -> None:
    """Whatever arrives, leaves or leaks: free + used + leaked = total, and used is what the requests hold."""
    machine = engine(
        num_blocks=24,
        max_num_seqs=data.draw(st.integers(1, 5)),
        max_num_batched_tokens=data.draw(st.integers(5, 40)),
        prefix_caching=data.draw(st.booleans()),
    )
    now, alive = 0.0, []

    def check() -> None:
        pool = machine.pool
        holders = [*machine.running, *machine.waiting]
        assert pool.free + pool.used + pool.leaked == pool.total
        assert len({block for sequence in holders for block in sequence.blocks}) == pool.used
        assert all(not sequence.blocks for sequence in machine.waiting)

    for _ in range(data.draw(st.integers(1, 40))):
        action = data.draw(st.sampled_from(["submit", "submit", "step", "step", "step", "abort", "leak"]))
        if action == "submit":
            shared = data.draw(st.sampled_from(["a", "b"]))
            alive.append(generation(data.draw(st.integers(1, 40)), data.draw(st.integers(1, 20)), shared))
            machine.submit(alive[-1], now)
        elif action == "abort" and alive:
            machine.abort(alive.pop(data.draw(st.integers(0, len(alive) - 1))))
        elif action == "leak":
            machine.pool.leak(data.draw(st.integers(0, 2)))
        else:
            now = max(now, machine.due or now)
            machine.step(now)
        check()
    # A leak may have left too little for the largest; then waiting for ever is right.
    largest = max((len(request.prompt) + len(request.output) for request in alive), default=0)
    if (machine.pool.total - machine.pool.leaked) * 4 < largest:
        return
    while (due := machine.due) is not None:
        assert due < 1000.0, "the engine makes no progress"
        now = due
        machine.step(now)
        check()
    assert machine.unfinished == 0
    assert all(request.generated == len(request.output) for request in alive)
    assert machine.pool.used == 0
