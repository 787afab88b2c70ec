"""Configuration files: what a person gets to read when one is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from servegate.config import Config, load, parse
from servegate.errors import ConfigError


class Step(Config):
    weight: float
    kind: Literal["a", "b"] = "a"


class Plan(Config):
    version: Literal[1]
    name: str
    steps: tuple[Step, ...] = ()
    limits: dict[str, Step] = Field(default_factory=dict)


def write(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "plan.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def failure(tmp_path: Path, text: str | bytes) -> str:
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, text), Plan)
    return str(caught.value).replace(f"{tmp_path}/", "")


def test_a_good_file(tmp_path: Path) -> None:
    plan = load(write(tmp_path, "version: 1\nname: 한국어\nsteps: [{weight: 1}, {weight: 10}]\n"), Plan)
    assert (plan.name, [step.weight for step in plan.steps]) == ("한국어", [1, 10])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "plan.yaml: is empty"),
        ("version: 1\nname: a\nstep: []\n", "plan.yaml:3:1: step: unknown key; did you mean 'steps'?"),
        (
            "version: 1\nname: a\nsteps:\n  - weight: 1\n    wieght: 2\n",
            "plan.yaml:5:5: steps.0.wieght: unknown key; did you mean 'weight'?",
        ),
        (
            "version: 1\nname: a\nsteps:\n  - weight: 1\n    qq: 2\n",
            "plan.yaml:5:5: steps.0.qq: unknown key; valid: kind, weight",
        ),
        (
            "version: 1\nname: a\nlimits:\n  x:\n    weigth: 2\n    weight: 1\n",
            "plan.yaml:5:5: limits.x.weigth: unknown key; did you mean 'weight'?",
        ),
        ("version: 1\n", "plan.yaml:1:1: name: is required"),
        ("version: 1\nname: a\nsteps:\n  - kind: a\n", "plan.yaml:4:5: steps.0.weight: is required"),
        ("version: 2\nname: a\n", "plan.yaml:1:1: version: Input should be 1 (found 2)"),
        ("version: 1\nname: a\nname: b\n", "plan.yaml:3:1: key 'name' stands twice"),
        ("version: 1\nname: [\n", "plan.yaml:3:1: not YAML: "),
        ("- 1\n", "plan.yaml:1:1: Input should be a valid dictionary"),
        ("version: 1\nname: !!python/object:os.system x\n", "plan.yaml:2:7: "),
        ("version: 1\nname: !x y\n", "plan.yaml:2:7: tag !x is not plain data"),
        (b"version: 1\nname: \xff\n", "plan.yaml:2: not UTF-8: byte 0xff"),
        ("version: 1\nname: a\nsteps: [{weight: .nan}]\n", "plan.yaml:3:10: steps.0.weight: "),
        ("? [a, b]\n: 1\n", "plan.yaml:1:3: a key must be text"),
        ("a: " + "[" * 2000, "plan.yaml"),
    ],
)
def test_every_error_says_where_and_what(tmp_path: Path, text: str | bytes, message: str) -> None:
    assert failure(tmp_path, text).startswith(message)


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    message = failure(tmp_path, "version: 1\nsteps:\n  - wait: 1\n")
    assert len(message.splitlines()) == 3


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load(tmp_path / "no.yaml", Plan)
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path, Plan)


def test_aliases_cannot_grow_without_bound(tmp_path: Path) -> None:
    bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    for name, before in zip("bcdefghi", "abcdefgh", strict=True):
        bomb += f"{name}: &{name} [{', '.join(['*' + before] * 10)}]\n"
    with pytest.raises(ConfigError, match="too large"):
        parse(write(tmp_path, bomb))


def test_a_file_of_absurd_size_is_not_read_as_yaml(tmp_path: Path) -> None:
    assert "bytes; a configuration file may have" in failure(tmp_path, b"#" * (5 * 1024 * 1024))


def test_dates_and_yes_stay_what_they_look_like(tmp_path: Path) -> None:
    data, _ = parse(write(tmp_path, "day: 2026-11-22\nflag: true\nnumber: 1e3\n"))
    assert data["day"] == "2026-11-22"
    assert data["flag"] is True


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | st.text(alphabet="{}[]:-&*!#'\"|>?%@` \nab1", max_size=80).map(str.encode))
def test_whatever_the_file_holds_the_error_is_ours(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "plan.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError):
        load(path, Plan)
