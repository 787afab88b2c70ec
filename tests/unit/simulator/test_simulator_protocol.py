"""Requests: everything is checked, and what cannot be honoured is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servegate.simulator.protocol import ApiError, Request, parse

MESSAGES = [{"role": "user", "content": "Hi"}]


def chat(**fields: Any) -> Request:
    return parse(json.dumps({"messages": MESSAGES, **fields}).encode(), chat=True, max_model_len=200)


def text(**fields: Any) -> Request:
    return parse(json.dumps({"prompt": "Hello", **fields}).encode(), chat=False, max_model_len=200)


def test_the_question_is_what_the_user_said_last() -> None:
    request = chat(
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "First"},
            {"role": "assistant", "content": None},
            {"role": "user", "content": [{"type": "text", "text": "Second"}, {"type": "text", "text": "line"}]},
        ]
    )
    assert request.wanted.question == "Second\nline"
    assert request.max_tokens == 200 - len(request.prompt)


def test_limits() -> None:
    assert chat(max_completion_tokens=5, max_tokens=7).max_tokens == 5
    assert chat(max_tokens=7).max_tokens == 7
    assert text().max_tokens == 16
    assert text(prompt=[1, 2, 3]).prompt == ["1", "2", "3"]
    assert text(prompt=["Hello"]).wanted.question == "Hello"


@pytest.mark.parametrize(
    ("fields", "parameter"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 2**63}, "max_tokens"),
        ({"max_tokens": 1000}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"stream": "yes"}, "stream"),
        ({"seed": "x"}, "seed"),
        ({"stop": ""}, "stop"),
        ({"stop": [1]}, "stop"),
        ({"stop": ["x"] * 100}, "stop"),
        ({"min_tokens": 10, "max_tokens": 5}, "min_tokens"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"model": 3}, "model"),
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": "x"}, "tools"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"not": {}}}}}, "response_format"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "(a+)+"}}, "structured_outputs"),
        ({"structured_outputs": {"grammar": "x"}}, "structured_outputs"),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs"),
        ({"structured_outputs": {"json": {}, "regex": "a"}}, "structured_outputs"),
    ],
)
def test_what_is_wrong_is_a_400_that_names_the_field(fields: dict[str, Any], parameter: str) -> None:
    with pytest.raises(ApiError) as error:
        chat(**fields)
    assert error.value.status == 400
    assert error.value.parameter == parameter


@pytest.mark.parametrize(
    "fields", [{"prompt": ""}, {"prompt": []}, {"prompt": ["a", "b"]}, {"prompt": [-1]}, {"echo": True}]
)
def test_text_prompts_are_checked(fields: dict[str, Any]) -> None:
    with pytest.raises(ApiError):
        text(**fields)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"messages": "\xff"}',
        b'{"messages":[{"role":"user","content":"\\ud800"}]}',
        b"[" * 100_000,
    ],
)
def test_bodies_that_are_not_an_object_in_json(body: bytes) -> None:
    with pytest.raises(ApiError) as error:
        parse(body, chat=True, max_model_len=100)
    assert error.value.status == 400
    json.loads(error.value.body())


def test_a_long_prompt_is_refused_without_being_tokenized() -> None:
    with pytest.raises(ApiError, match="maximum context length is 200 tokens"):
        chat(messages=[{"role": "user", "content": "word " * 200}])
    with pytest.raises(ApiError, match="at least"):
        chat(messages=[{"role": "user", "content": "x" * 3_000_000}])


NAMES = ["messages", "max_tokens", "stop", "stream", "seed", "temperature", "response_format", "structured_outputs"]
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(st.dictionaries(st.sampled_from(NAMES), ANY_JSON))
def test_any_json_is_a_request_or_a_400(fields: dict[str, Any]) -> None:
    try:
        assert isinstance(chat(**fields), Request)
    except ApiError as error:
        assert error.status == 400
