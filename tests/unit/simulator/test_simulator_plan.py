"""Where an answer ends: limits, stop strings, minimum lengths."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from servegate.simulator.answers import Wanted
from servegate.simulator.plan import plan
from servegate.simulator.protocol import Request

TEXT = "One two three. Four five six. 일곱 여덟 아홉."


def request(**changes: Any) -> Request:
    fields: dict[str, Any] = {"max_tokens": 100, **changes}
    return Request(chat=True, model=None, wanted=Wanted("q"), prompt=["p"], **fields)


def test_a_whole_answer_ends_with_an_empty_token() -> None:
    planned = plan(request(), TEXT, 0)
    assert "".join(planned.pieces) == TEXT
    assert planned.pieces[-1] == ""
    assert (planned.finish_reason, planned.stop_reason) == ("stop", None)


def test_max_tokens_cuts() -> None:
    planned = plan(request(max_tokens=3), TEXT, 0)
    assert planned.pieces == ["One", " two", " three"]
    assert planned.finish_reason == "length"


def test_a_stop_string_ends_the_answer_and_is_left_out() -> None:
    planned = plan(request(stop=["five", "Four"]), TEXT, 0)
    assert "".join(planned.pieces) == "One two three. "
    assert (planned.finish_reason, planned.stop_reason) == ("stop", "Four")


def test_a_stop_string_may_be_kept() -> None:
    planned = plan(request(stop=["Four"], include_stop=True), TEXT, 0)
    assert "".join(planned.pieces) == "One two three. Four"


def test_a_stop_string_inside_a_token_and_across_tokens() -> None:
    assert "".join(plan(request(stop=["wo thr"]), TEXT, 0).pieces) == "One t"
    assert "".join(plan(request(stop=["덟"]), TEXT, 0).pieces).endswith("일곱 여")


def test_a_stop_string_beyond_the_limit_does_not_count() -> None:
    assert plan(request(stop=["six"], max_tokens=3), TEXT, 0).finish_reason == "length"


def test_min_tokens_and_ignore_eos_go_on_talking() -> None:
    planned = plan(request(min_tokens=60), TEXT, 0)
    assert len(planned.pieces) >= 60
    assert "".join(planned.pieces).startswith(TEXT)
    planned = plan(request(ignore_eos=True), TEXT, 0)
    assert len(planned.pieces) == 100
    assert planned.finish_reason == "length"


def test_min_tokens_delays_a_stop_string() -> None:
    assert "".join(plan(request(stop=["two"]), "two one two", 0).pieces) == ""
    assert "".join(plan(request(stop=["two"], min_tokens=2), "two one two", 0).pieces) == "two one "


@given(
    st.text(min_size=1, max_size=80),
    st.integers(1, 40),
    st.integers(0, 40),
    st.booleans(),
    st.lists(st.text(min_size=1, max_size=3), max_size=3),
)
def test_a_plan_keeps_its_promises(text: str, limit: int, least: int, ignore_eos: bool, stop: list[str]) -> None:
    least = min(least, limit)
    planned = plan(request(max_tokens=limit, min_tokens=least, ignore_eos=ignore_eos, stop=stop), text, 1)
    visible = "".join(planned.pieces)
    assert least <= len(planned.pieces) <= limit
    assert text.startswith(visible) or visible.startswith(text)
    if least == 0:
        assert not any(each in visible for each in stop)
    if planned.stop_reason is None and planned.finish_reason == "stop":
        assert not ignore_eos
        assert visible.startswith(text)
