"""Requests of the OpenAI protocol, as vLLM reads them: every field checked before anything happens.

What vLLM honours and the simulator cannot (log-probabilities, several choices, forced tool calls) is refused with a 400
that says so. An answer that ignored part of a question would make a test pass for the wrong reason.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

from servegate.simulator import structured, tokens
from servegate.simulator.answers import Wanted

MOST_STOPS = 64
MOST_CHOICES = 1_000
# Around every message, and to open the answer, a chat template adds tokens of its own.
TEMPLATE_TOKENS = 4

_ROLES = {"system", "developer", "user", "assistant", "tool", "function"}
_NAMES = {400: "BadRequestError", 404: "NotFoundError", 500: "InternalServerError", 503: "ServiceUnavailableError"}


class ApiError(Exception):
    """An answer that is an error: HTTP status, message, the field it is about."""

    def __init__(self, message: str, status: int = 400, parameter: str | None = None) -> None:
        super().__init__(message)
        self.message, self.status, self.parameter = message, status, parameter

    def body(self) -> bytes:
        """The JSON that vLLM sends."""
        return error_body(self.message, self.status, self.parameter)


def error_body(message: str, status: int, parameter: str | None = None) -> bytes:
    """An OpenAI error object as vLLM writes it."""
    kind = _NAMES.get(status, "BadRequestError" if status < 500 else "InternalServerError")
    return orjson.dumps({"error": {"message": message, "type": kind, "param": parameter, "code": status}})


@dataclass(slots=True)
class Request:
    """A request in order. Lengths in tokens."""

    chat: bool
    model: str | None
    wanted: Wanted
    prompt: list[str]
    max_tokens: int | None
    min_tokens: int = 0
    ignore_eos: bool = False
    stop: list[str] = field(default_factory=list)
    include_stop: bool = False
    temperature: float = 1.0
    seed: int | None = None
    stream: bool = False
    include_usage: bool = False
    continuous_usage: bool = False


def parse(body: bytes, *, chat: bool, max_model_len: int) -> Request:
    """Read the body of a chat or text completion. Raises ApiError."""
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ApiError(f"The request body is not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise ApiError("The request body must be a JSON object.")
    fields = _Fields(data)
    model = fields.text("model")
    if chat:
        question, prompt = _chat_prompt(data.get("messages"), max_model_len)
        limit_name = "max_completion_tokens" if data.get("max_completion_tokens") is not None else "max_tokens"
        default = None
    else:
        question, prompt = _text_prompt(data.get("prompt"), max_model_len)
        limit_name, default = "max_tokens", 16
    max_tokens = fields.integer(limit_name, low=1)
    request = Request(
        chat=chat,
        model=model,
        wanted=_wanted(data, question),
        prompt=prompt,
        max_tokens=default if max_tokens is None else max_tokens,
        min_tokens=fields.integer("min_tokens", low=0) or 0,
        ignore_eos=fields.flag("ignore_eos"),
        stop=_stops(data.get("stop")),
        include_stop=fields.flag("include_stop_str_in_output"),
        temperature=1.0 if (heat := fields.number("temperature", 0.0)) is None else heat,
        seed=fields.integer("seed", low=-(2**63)),
        stream=fields.flag("stream"),
    )
    _sampling(fields)
    _refuse(data, chat)
    options = data.get("stream_options")
    if options is not None:
        if not isinstance(options, dict):
            raise ApiError("stream_options must be an object.", parameter="stream_options")
        if not request.stream:
            raise ApiError("Stream options can only be defined when `stream=True`.", parameter="stream_options")
        inner = _Fields(options)
        request.include_usage = inner.flag("include_usage")
        request.continuous_usage = request.include_usage and inner.flag("continuous_usage_stats")
    room = max_model_len - len(prompt)
    if room < 1:
        raise too_long(len(prompt), max_model_len)
    if request.max_tokens is not None and request.max_tokens > room:
        if max_tokens is None:
            request.max_tokens = room
        else:
            raise ApiError(
                f"'{limit_name}' is too large: {max_tokens}. This model's maximum context length is {max_model_len} "
                f"tokens and your request has {len(prompt)} input tokens.",
                parameter=limit_name,
            )
    limit = room if request.max_tokens is None else request.max_tokens
    if request.min_tokens > limit:
        raise ApiError(
            f"min_tokens must be less than or equal to max_tokens={limit}, got {request.min_tokens}.",
            parameter="min_tokens",
        )
    request.max_tokens = limit
    return request


def too_long(prompt_tokens: int, max_model_len: int, at_least: bool = False) -> ApiError:
    """The prompt leaves no room for an answer."""
    many = f"at least {prompt_tokens}" if at_least else f"{prompt_tokens}"
    return ApiError(
        f"This model's maximum context length is {max_model_len} tokens. However, your prompt has {many} input "
        "tokens. Please reduce the length of the input.",
        parameter="input_tokens",
    )


class _Fields:
    """Typed access to a JSON object; null is the same as absent."""

    def __init__(self, data: dict[str, Any]) -> None:
        self._data = data

    def text(self, key: str) -> str | None:
        value = self._data.get(key)
        if value is not None and not isinstance(value, str):
            raise ApiError(f"{key} must be a string.", parameter=key)
        return value

    def flag(self, key: str) -> bool:
        value = self._data.get(key)
        if value is not None and not isinstance(value, bool):
            raise ApiError(f"{key} must be true or false.", parameter=key)
        return bool(value)

    def integer(self, key: str, low: int) -> int | None:
        value = self._data.get(key)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool):
            raise ApiError(f"{key} must be an integer.", parameter=key)
        if value < low:
            raise ApiError(f"{key} must be at least {low}, got {value}.", parameter=key)
        return value

    def number(self, key: str, low: float, high: float | None = None) -> float | None:
        value = self._data.get(key)
        if value is None:
            return None
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ApiError(f"{key} must be a number.", parameter=key)
        if value < low or (high is not None and value > high):
            span = f"at least {low:g}" if high is None else f"between {low:g} and {high:g}"
            raise ApiError(f"{key} must be {span}, got {value}.", parameter=key)
        return float(value)


def _sampling(fields: _Fields) -> None:
    """Accepted and checked; a simulated model has no distribution they could shape."""
    top_p = fields.number("top_p", 0.0, 1.0)
    if top_p == 0.0:
        raise ApiError("top_p must be in (0, 1], got 0.0.", parameter="top_p")
    fields.number("min_p", 0.0, 1.0)
    fields.integer("top_k", low=-1)
    fields.number("presence_penalty", -2.0, 2.0)
    fields.number("frequency_penalty", -2.0, 2.0)
    fields.number("repetition_penalty", 0.0)
    fields.text("user")


def _refuse(data: dict[str, Any], chat: bool) -> None:
    """What a real server would honour and this one cannot."""
    for key in ("n", "best_of"):
        value = _Fields(data).integer(key, low=1)
        if value is not None and value > 1:
            raise ApiError(f"The simulator gives one choice per request: {key} must be 1.", parameter=key)
    refused = ["logprobs", "prompt_logprobs", "use_beam_search", "prompt_embeds", "suffix"]
    refused += ["top_logprobs"] if chat else ["echo"]
    for key in refused:
        if data.get(key) not in (None, False, 0, "") or (key == "logprobs" and not chat and data.get(key) == 0):
            raise ApiError(f"The simulator does not support {key}.", parameter=key)
    tools, choice = data.get("tools"), data.get("tool_choice")
    if tools is not None and (not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools)):
        raise ApiError("tools must be a list of objects.", parameter="tools")
    if choice not in (None, "auto", "none"):
        raise ApiError("The simulator calls no tools: tool_choice must be auto or none.", parameter="tool_choice")


def _wanted(data: dict[str, Any], question: str) -> Wanted:
    form, outputs = data.get("response_format"), data.get("structured_outputs")
    given: list[Wanted] = []
    if form is not None:
        kind = form.get("type") if isinstance(form, dict) else None
        if kind == "json_object":
            given.append(Wanted(question, json_object=True))
        elif kind == "json_schema":
            holder = form.get("json_schema")
            schema = holder.get("schema") if isinstance(holder, dict) else None
            given.append(_with_schema(question, schema, "response_format"))
        elif kind != "text":
            raise ApiError(
                "response_format.type must be text, json_object or json_schema.", parameter="response_format"
            )
    if outputs is not None:
        if not isinstance(outputs, dict):
            raise ApiError("structured_outputs must be an object.", parameter="structured_outputs")
        given += [_structured(question, key, value) for key, value in outputs.items() if value not in (None, False)]
    if len(given) > 1:
        raise ApiError("Only one kind of structured output can be asked for.", parameter="structured_outputs")
    return given[0] if given else Wanted(question)


def _structured(question: str, key: str, value: Any) -> Wanted:
    if key == "choice":
        if (
            not isinstance(value, list)
            or not 0 < len(value) <= MOST_CHOICES
            or not all(isinstance(item, str) and item for item in value)
        ):
            raise ApiError(
                f"structured_outputs.choice must be a list of 1 to {MOST_CHOICES} texts.",
                parameter="structured_outputs",
            )
        return Wanted(question, choice=tuple(value))
    if key == "regex":
        try:
            structured.compile_safely(value)
        except structured.UnsupportedError as error:
            raise ApiError(f"structured_outputs.regex: {error}.", parameter="structured_outputs") from None
        return Wanted(question, regex=value)
    if key == "json":
        if isinstance(value, str):
            try:
                value = orjson.loads(value)
            except orjson.JSONDecodeError as error:
                raise ApiError(f"structured_outputs.json: {error}.", parameter="structured_outputs") from None
        return _with_schema(question, value, "structured_outputs")
    if key == "json_object":
        return Wanted(question, json_object=True)
    raise ApiError(f"The simulator does not support structured_outputs.{key}.", parameter="structured_outputs")


def _with_schema(question: str, schema: Any, where: str) -> Wanted:
    try:
        structured.check_schema(schema)
    except (structured.UnsupportedError, RecursionError) as error:
        raise ApiError(f"{where}: {error or 'the JSON schema is too deep'}.", parameter=where) from None
    return Wanted(question, schema=schema)


def _stops(value: Any) -> list[str]:
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise ApiError("stop must be a string or a list of strings.", parameter="stop")
    if len(stops) > MOST_STOPS:
        raise ApiError(f"stop may hold at most {MOST_STOPS} strings.", parameter="stop")
    if "" in stops:
        raise ApiError("stop cannot contain an empty string.", parameter="stop")
    return stops


def _chat_prompt(messages: Any, max_model_len: int) -> tuple[str, list[str]]:
    """The last thing the user said, and the tokens of the whole conversation."""
    if not isinstance(messages, list) or not messages:
        raise ApiError("messages must be a list that is not empty.", parameter="messages")
    question = ""
    parts: list[tuple[str, str]] = []
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            raise ApiError(f"messages[{index}] must be an object with a role.", parameter="messages")
        role, text = message["role"], _content(message.get("content"), message["role"], index)
        parts.append((role, text))
        if role == "user":
            question = text
    lower = sum(tokens.fewest(text) for _role, text in parts) + TEMPLATE_TOKENS * len(parts)
    if lower >= max_model_len:
        raise too_long(lower, max_model_len, at_least=True)
    prompt: list[str] = []
    for role, text in parts:
        prompt += ("<|start|>", role, "\n", *tokens.split(text), "<|end|>")
    return question, [*prompt, "<|start|>", "assistant", "\n"]


def _content(content: Any, role: str, index: int) -> str:
    if isinstance(content, str):
        return content
    if content is None and role in ("assistant", "tool", "function"):
        return ""
    if isinstance(content, list):
        pieces = []
        for part in content:
            if not isinstance(part, dict) or part.get("type") not in ("text", "input_text"):
                raise ApiError(f"messages[{index}]: the model reads text only.", parameter="messages")
            if not isinstance(part.get("text"), str):
                raise ApiError(f"messages[{index}]: a text part needs a text.", parameter="messages")
            pieces.append(part["text"])
        return "\n".join(pieces)
    raise ApiError(f"messages[{index}].content must be a string or a list of text parts.", parameter="messages")


def _text_prompt(prompt: Any, max_model_len: int) -> tuple[str, list[str]]:
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, list) and prompt and all(type(item) is int and item >= 0 for item in prompt):
        if len(prompt) >= max_model_len:
            raise too_long(len(prompt), max_model_len)
        return "", [str(item) for item in prompt]
    if isinstance(prompt, list) and len(prompt) > 1:
        raise ApiError("The simulator takes one prompt per request.", parameter="prompt")
    if not isinstance(prompt, str) or not prompt:
        raise ApiError("prompt must be a text or a list of token ids that is not empty.", parameter="prompt")
    lower = tokens.fewest(prompt)
    if lower >= max_model_len:
        raise too_long(lower, max_model_len, at_least=True)
    return prompt, tokens.split(prompt)
