"""Profiles and prompts: what is refused, and with which words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from servegate.errors import ConfigError
from servegate.loadtest.profile import load_profile
from servegate.loadtest.prompts import load_prompts
from servegate.units import per_second, seconds

ROOT = Path(__file__).parents[3]
GOOD = """\
version: 1
name: t
arrival: {kind: constant, rate: 20/s}
warm_up: 3s
duration: 20s
prompts: p.jsonl
max_tokens: 40
"""
PROMPTS = (
    '{"id":"a","prompt":"Where is it?","tags":["en"]}\n{"id":"b","messages":[{"role":"user","content":"어디예요?"}]}\n'
)


def written(folder: Path, profile: str = GOOD, prompts: str | bytes = PROMPTS, name: str = "p.jsonl") -> Path:
    path = folder / "profile.yaml"
    path.write_text(profile, encoding="utf-8")
    (folder / name).write_bytes(prompts.encode() if isinstance(prompts, str) else prompts)
    return path


@pytest.mark.parametrize("name", ["release", "live"])
def test_the_profiles_of_this_pipeline_are_valid(name: str) -> None:
    loaded = load_profile(ROOT / f"loadtest/profiles/{name}.yaml")
    assert loaded.profile.name == name
    assert (loaded.profile.duration is None) == (name == "live")
    languages = {tag for prompt in loaded.prompts for tag in prompt.tags}
    assert {"en", "ko"} <= languages


def test_the_gates_prompts_are_many_and_of_differing_length() -> None:
    prompts = load_prompts(ROOT / "loadtest/prompts/support.jsonl")
    lengths = sorted(sum(len(m["content"]) for m in prompt.as_messages()) for prompt in prompts)
    assert len(prompts) >= 60
    assert lengths[-1] >= 8 * lengths[0]


def test_a_profile_reads_back_as_itself_from_another_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    loaded = load_profile(written(tmp_path / "a", GOOD + "slos: {ttft: 500ms}\nseed: 7\n"))
    again = load_profile(loaded.write(tmp_path / "b"))
    assert again.profile_sha256 == loaded.profile_sha256
    assert again.prompts_sha256 == loaded.prompts_sha256
    assert again.prompts == loaded.prompts
    assert again.profile.slos == loaded.profile.slos
    assert again.path == tmp_path / "b" / "profile.json"


def test_the_digest_is_of_the_meaning(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    first = load_profile(written(tmp_path / "a"))
    relaid = GOOD.replace("20s", "20000ms").replace("20/s", "1200 requests/min").replace("p.jsonl", "q.jsonl")
    assert load_profile(written(tmp_path / "b", relaid, name="q.jsonl")).profile_sha256 == first.profile_sha256
    other = load_profile(written(tmp_path / "c", GOOD.replace("40", "41"), PROMPTS.replace("Where", "When")))
    assert other.profile_sha256 != first.profile_sha256
    assert other.prompts_sha256 != first.prompts_sha256


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("20/s}", "20}", 3, "arrival.rate: must be a rate with its unit, such as 20/s or 300/min (found 20)"),
        ("20/s}", "0/s}", 3, "greater than 0"),
        ("20/s}", "-1/s}", 3, "rate with its unit"),
        ("duration: 20s", "duration: 20", 5, "duration: must be a duration with its unit"),
        ("duration: 20s", "duration: 0s", 5, "greater than 0"),
        ("duration: 20s", "duration: 99999h", 5, "less than or equal"),
        ("duration: 20s", "duration: 160h", 1, "5000000 are allowed"),
        ("warm_up", "warmup", 4, "unknown key; did you mean 'warm_up'?"),
        ("constant", "burst", 3, "'constant' or 'poisson'"),
        ("max_tokens: 40", "max_tokens: 0", 7, "greater than or equal to 1"),
        ("max_tokens: 40\n", "", 1, "max_tokens: is required"),
        ("max_tokens: 40", "max_tokens: 40\nstream: false", 8, "stream"),
        ("max_tokens: 40", "max_tokens: 40\nslos: {}", 8, "names no SLO"),
        ("max_tokens: 40", "max_tokens: 40\nslos: {tttft: 1s}", 8, "did you mean 'ttft'?"),
        ("version: 1", "version: 2", 1, "Input should be 1"),
        ("name: t", "name: ../t", 2, "name"),
        ("max_tokens: 40", "max_tokens: 40\nmax_tokens: 41", 8, "stands twice"),
    ],
)
def test_refused_with_file_and_line(tmp_path: Path, old: str, new: str, line: int, said: str) -> None:
    assert old in GOOD
    path = written(tmp_path, GOOD.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        load_profile(path)
    message = str(caught.value)
    assert said in message
    assert message.startswith(f"{path}:{line}:"), message


@pytest.mark.parametrize(
    ("prompts", "line", "said"),
    [
        ('{"id":"a","prompt":"x"}\n{"id":"a","prompt":"y"}\n', 2, "id 'a' stands twice"),
        ('{"id":"a"}\n', 1, "either prompt or messages"),
        ('{"id":"a","prompt":"x","messages":[{"role":"user","content":"x"}]}\n', 1, "either prompt or messages"),
        ('{"id":"a","prompt":"x"}\n\nnot json\n', 3, "not JSON"),
        ('{"id":"a","prompt":NaN}\n', 1, "not JSON"),
        (b'{"id":"a","prompt":"\xff"}\n', 1, "not UTF-8: byte 0xff"),
        ('{"id":"a","prompt":"\\ud800"}\n', 1, "prompt"),
        ('{"id":"a","promt":"x"}\n', 1, "did you mean 'prompt'?"),
        ('{"id":"a","messages":[{"role":"robot","content":"x"}]}\n', 1, "role"),
        ('{"id":"a","prompt":""}\n', 1, "prompt"),
        ("[" * 100_000 + "\n", 1, "not JSON"),
        ('"text"\n', 1, "valid dictionary"),
    ],
)
def test_prompts_refused_with_file_and_line(tmp_path: Path, prompts: str | bytes, line: int, said: str) -> None:
    path = written(tmp_path, prompts=prompts)
    with pytest.raises(ConfigError) as caught:
        load_profile(path)
    assert said in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / 'p.jsonl'}:{line}: ")


def test_prompts_that_are_not_there(tmp_path: Path) -> None:
    path = written(tmp_path, prompts="\n")
    with pytest.raises(ConfigError, match="holds no prompt"):
        load_profile(path)
    (tmp_path / "p.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"p\.jsonl: cannot be read: No such file"):
        load_profile(path)
    with pytest.raises(ConfigError, match=r"\.jsonl, \.yaml or \.yml"):
        load_profile(written(tmp_path, GOOD.replace("p.jsonl", "p.csv"), name="p.csv"))


def test_prompts_as_yaml(tmp_path: Path) -> None:
    turns = "[{role: system, content: s}, {role: user, content: u}]"
    text = f"prompts:\n- {{id: a, prompt: 배송}}\n- id: b\n  messages: {turns}\n"
    loaded = load_profile(written(tmp_path, GOOD.replace("p.jsonl", "p.yaml"), text, "p.yaml"))
    assert loaded.prompts[0].as_messages() == [{"role": "user", "content": "배송"}]
    assert [message["role"] for message in loaded.prompts[1].as_messages()] == ["system", "user"]
    with pytest.raises(ConfigError, match=r"p\.yaml:2:\d+: prompts\.0\.prompts?: "):
        load_profile(
            written(tmp_path, GOOD.replace("p.jsonl", "p.yaml"), "prompts:\n- {id: a, prompts: x}\n", "p.yaml")
        )


def test_no_end_cannot_be_measured(tmp_path: Path) -> None:
    loaded = load_profile(written(tmp_path, GOOD.replace("duration: 20s\n", "")))
    assert loaded.profile.length is None
    with pytest.raises(ConfigError, match="duration: is required to measure"):
        loaded.finite()


@pytest.mark.parametrize(
    ("text", "value"), [("500ms", 0.5), ("20s", 20.0), ("2 min", 120.0), ("1.5h", 5400.0), (".5s", 0.5)]
)
def test_durations(text: str, value: float) -> None:
    assert seconds(text) == pytest.approx(value)


@pytest.mark.parametrize(
    "value", ["20", 20, 1.5, "-1s", "1e3s", "s", "", None, True, ["1s"], "1 s 2", "9" * 400 + "s", "٣s"]
)
def test_no_durations(value: object) -> None:
    with pytest.raises(ValueError, match=r"unit|too large"):
        seconds(value)


@pytest.mark.parametrize(
    ("text", "value"), [("20/s", 20.0), ("20 requests/s", 20.0), ("1 request / min", 1 / 60), ("300/min", 5.0)]
)
def test_rates(text: str, value: float) -> None:
    assert per_second(text) == pytest.approx(value)


@pytest.mark.parametrize("value", ["20", 20, "20s", "20/", "/s", "20 tokens/s", None])
def test_no_rates(value: object) -> None:
    with pytest.raises(ValueError, match="unit"):
        per_second(value)


def test_prompt_lines_are_plain_json() -> None:
    for name in ("support", "longform"):
        text = (ROOT / f"loadtest/prompts/{name}.jsonl").read_text(encoding="utf-8")
        assert all(isinstance(json.loads(line), dict) for line in text.splitlines())
