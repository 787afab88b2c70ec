"""Environment and arguments of the container → the command line of `vllm serve`, checked before anything is loaded.

    SERVE_MODEL=org/name              the model: vLLM's positional argument
    SERVE_ARG_MAX_MODEL_LEN=4096      --max-model-len 4096: any flag this version has
    SERVE_ARG_ENFORCE_EAGER=true      --enforce-eager; false: --no-enforce-eager
    SERVE_ARG_SERVED_MODEL_NAME=["a","b"]   a flag that takes several values: a JSON list, or one value
    SERVE_DRAIN_SECONDS, SERVE_DRAIN_QUIET_SECONDS   how it stops (stop.py)

Arguments of the container follow and are vLLM's own. A flag given in both places is an error, not a matter of order.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from servegate.serving.flags import Flag, Flags

_PREFIX = "SERVE_ARG_"
_OWN = ("SERVE_MODEL", "SERVE_DRAIN_SECONDS", "SERVE_DRAIN_QUIET_SECONDS")
# Kubernetes puts these into every container of a namespace that has a Service called `serve`.
_SERVICE_LINKS = re.compile(r"SERVE_(SERVICE_(HOST|PORT)(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(ADDR|PORT|PROTO))?)?)")
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")
_SECRET = ("--api-key", "--hf-token")


class UsageError(Exception):
    """The configuration is wrong: one line per problem."""


@dataclass(frozen=True)
class Serve:
    """What to run.

    Attributes:
        arguments: of `vllm serve`, in order.
        port: on which it will listen.
        tls: whether it will speak TLS there.
        drain: seconds that requests get to finish when the container is stopped.
        quiet: seconds without a request after which nobody is expected any more.
    """

    arguments: tuple[str, ...]
    port: int
    tls: bool
    drain: float
    quiet: float

    def shown(self) -> str:
        """The command line for a log: keys are not in it."""
        words, hide = [], False
        for word in self.arguments:
            name, equals, _ = word.partition("=")
            secret = name.replace("_", "-") in _SECRET
            hide = hide and not word.startswith("-")
            words.append(f"{name}=***" if secret and equals else "***" if hide else word)
            hide = hide or (secret and not equals)
        return " ".join(["vllm serve", *words])


def build(environ: Mapping[str, str], extra: Sequence[str], flags: Flags) -> Serve:
    """Put the command line together and check it.

    Args:
        environ: the container's environment.
        extra: the container's arguments.

    Raises:
        UsageError: with every problem found.
    """
    problems: list[str] = []
    given: dict[Flag, str] = {}
    from_environ = _from_environ(environ, flags, given, problems)
    model = environ.get("SERVE_MODEL", "").strip()
    positional = _check(extra, flags, given, problems)
    if model and positional:
        problems.append(f"the model is named twice: SERVE_MODEL={model} and argument {positional}")
    if not model and not positional and not any("--model" in flag.names for flag in given):
        problems.append("no model: set SERVE_MODEL, or name it as the first argument")
    arguments = [*([model] if model else []), *extra[: 1 if positional else 0], *from_environ]
    arguments += extra[1 if positional else 0 :]
    timeout = _value(arguments, "--shutdown-timeout")
    drain = _seconds("SERVE_DRAIN_SECONDS", environ.get("SERVE_DRAIN_SECONDS") or timeout, 60.0, problems)
    quiet = _seconds("SERVE_DRAIN_QUIET_SECONDS", environ.get("SERVE_DRAIN_QUIET_SECONDS"), 5.0, problems)
    if timeout is None and flags.find("--shutdown-timeout") is not None:
        # After a second signal vLLM drains by itself; its own default is to abort.
        arguments += ["--shutdown-timeout", str(round(drain))]
    port = _value(arguments, "--port")
    if port is not None and not (port.isdecimal() and 0 < int(port) < 65536):
        problems.append(f"--port: {port!r} is not a port")
    if problems:
        raise UsageError("\n".join(problems))
    return Serve(tuple(arguments), *listens_at({}, arguments), drain, quiet)


def listens_at(environ: Mapping[str, str], arguments: Sequence[str]) -> tuple[int, bool]:
    """Port of an engine that is started so, and whether it speaks TLS there."""
    port = _value(arguments, "--port") or environ.get(f"{_PREFIX}PORT") or "8000"
    certificate = _value(arguments, "--ssl-certfile") or environ.get(f"{_PREFIX}SSL_CERTFILE")
    return int(port), certificate is not None


def _from_environ(environ: Mapping[str, str], flags: Flags, given: dict[Flag, str], problems: list[str]) -> list[str]:
    arguments: list[str] = []
    for name in sorted(name for name in environ if name.startswith("SERVE_")):
        if name in _OWN or _SERVICE_LINKS.fullmatch(name):
            continue
        if not name.startswith(_PREFIX):
            near = difflib.get_close_matches(name, _OWN, n=1, cutoff=0.6)
            problems.append(f"{name}: unknown; did you mean {near[0] if near else _PREFIX + name[len('SERVE_') :]}?")
            continue
        option = "--" + name.removeprefix(_PREFIX).lower().replace("_", "-")
        flag = flags.find(option)
        if flag is None:
            near_flag = flags.near(option)
            hint = f"; did you mean {_PREFIX}{near_flag[2:].replace('-', '_').upper()}?" if near_flag else ""
            problems.append(f"{name}: vLLM {flags.version} has no flag {option}{hint}")
            continue
        given[flag] = name
        arguments += _words(name, option, flag, environ[name], problems)
    return arguments


def _words(name: str, option: str, flag: Flag, value: str, problems: list[str]) -> list[str]:
    if flag.values == "none":
        if value.lower() in _TRUE:
            return [option]
        negative = f"--no-{option[2:]}"
        if value.lower() not in _FALSE:
            problems.append(f"{name}: takes true or false (found {value!r})")
        elif negative in flag.names:
            return [negative]
        return []
    values = _several(value) if flag.values == "many" else None
    problems.extend(_wrong_choices(name, flag, values or [value]))
    # `--flag=value` keeps a value that begins with a dash from being read as a flag.
    return [option, *values] if values else [f"{option}={value}"]


def _several(value: str) -> list[str] | None:
    if value.lstrip().startswith("["):
        try:
            found = json.loads(value)
        except ValueError:  # one text that begins with a bracket
            return None
        if isinstance(found, list) and all(isinstance(item, str) for item in found):
            return found
    return [value]


def _check(extra: Sequence[str], flags: Flags, given: dict[Flag, str], problems: list[str]) -> str | None:
    """Check the container's arguments; the model, where it is the first of them."""
    positional = extra[0] if extra and not extra[0].startswith("-") else None
    rest = list(extra[1:] if positional else extra)
    position = 0
    while position < len(rest):
        word = rest[position]
        position += 1
        if not word.startswith("-"):
            problems.append(f"argument {word!r} belongs to no flag")
            continue
        name, equals, value = word.partition("=")
        flag = _find(flags, name)
        if flag is None:
            near = flags.near(name)
            problems.append(f"{name}: vLLM {flags.version} has no such flag{f'; did you mean {near}?' if near else ''}")
        elif flag in given and not flag.repeatable and "." not in name:
            problems.append(f"{name}: given twice ({given[flag]} and the container's arguments)")
        values = [value] if equals else []
        while position < len(rest) and not equals and not _is_flag(rest[position], flags):
            values.append(rest[position])
            position += 1
        if flag is None:
            continue
        given.setdefault(flag, "the container's arguments")
        _check_values(name, flag, values, problems)
    return positional


def _check_values(name: str, flag: Flag, values: list[str], problems: list[str]) -> None:
    most = {"none": 0, "one": 1, "optional": 1, "many": len(values)}[flag.values]
    if len(values) > most:
        problems.append(f"{name}: takes {'no' if most == 0 else 'one'} value; {values[most]!r} belongs to no flag")
    elif not values and flag.values in ("one", "many") and not name.startswith("-O"):
        problems.append(f"{name}: needs a value")
    problems.extend(_wrong_choices(name, flag, values[:most]))


def _find(flags: Flags, name: str) -> Flag | None:
    """The flag behind a spelling: `--json-flag.key` sets one key of a JSON value, `-O3` an optimisation level."""
    if re.fullmatch(r"-O\w+", name):
        return flags.find("--optimization-level")
    return flags.find(name.partition(".")[0])


def _is_flag(word: str, flags: Flags) -> bool:
    return word.startswith("--") or (word.startswith("-") and _find(flags, word.partition("=")[0]) is not None)


def _wrong_choices(name: str, flag: Flag, values: Sequence[str]) -> list[str]:
    problems = []
    for value in values:
        if flag.choices and value not in flag.choices:
            near = difflib.get_close_matches(value, flag.choices, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            problems.append(f"{name}: {value!r} is not one of {', '.join(flag.choices)}{hint}")
    return problems


def _seconds(name: str, text: str | None, default: float, problems: list[str]) -> float:
    if text is None:
        return default
    if re.fullmatch(r"\d{1,5}(\.\d+)?", text.strip()):
        return float(text)
    problems.append(f"{name}: is a number of seconds (found {text!r})")
    return default


def _value(arguments: Sequence[str], option: str) -> str | None:
    """The last value of an option."""
    found = None
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name.replace("_", "-") == option:
            found = value if equals else following
    return found
