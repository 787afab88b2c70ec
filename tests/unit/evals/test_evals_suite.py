"""Suites and datasets: everything wrong is found before anything is asked, and says where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from servegate.errors import ConfigError
from servegate.evals.scorers import Exact
from servegate.evals.suite import Suite, load_suite


def write(folder: Path, rows: list[Any], suite: str = "") -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    (folder / "data.jsonl").write_text("\n".join(lines), encoding="utf-8")
    path = folder / "suite.yaml"
    path.write_text(f"version: 1\nname: s\ndataset: data.jsonl\n{suite}", encoding="utf-8")
    return path


def load(folder: Path, rows: list[Any], suite: str = "") -> Suite:
    return load_suite(write(folder, rows, suite))


def refused(folder: Path, rows: list[Any], suite: str = "") -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder, rows, suite)
    return str(caught.value).replace(str(folder) + "/", "")


GOOD = {"id": "a", "input": "?", "target": "x"}


def test_defaults_and_scorers(tmp_path: Path) -> None:
    rows = [
        GOOD,
        {**GOOD, "id": "b", "scorer": "regex"},
        {**GOOD, "id": "c", "scorer": "exact"},
        {**GOOD, "id": "d", "scorer": {"kind": "exact", "form": "NFC"}},
    ]
    suite = load(tmp_path, rows, "scorer: {kind: exact, ignore: [spacing]}\n")
    kinds = [task.scorer.kind for task in suite.tasks]
    assert kinds == ["exact", "regex", "exact", "exact"]
    # Naming the suite's kind means the suite's options; options of one's own stand alone.
    assert suite.tasks[0].scorer == suite.tasks[2].scorer == Exact(ignore=("spacing",))
    assert suite.tasks[3].scorer == Exact(form="NFC")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "data.jsonl:2: not JSON: "),
        ("[1]", "data.jsonl:2: a row must be an object, not list"),
        ('{"id": "b", "input": "?", "target": NaN}', "data.jsonl:2: NaN is not JSON"),
        ('{"id": "b", "id": "c", "input": "?", "target": "x"}', "data.jsonl:2: key 'id' stands twice"),
        ('{"id": "b", "input": "\\ud83d", "target": "x"}', "data.jsonl:2: text with half a surrogate pair"),
        ("[" * 5000, "data.jsonl:2: nested too deeply"),
        (
            {"id": "b", "input": "?", "target": "x", "tag": ["t"]},
            "data.jsonl:2: tag: unknown key; did you mean 'tags'?",
        ),
        ({"id": "b", "target": "x"}, "data.jsonl:2: needs `input` or `messages`, and not both"),
        ({"id": "b c", "input": "?", "target": "x"}, "data.jsonl:2: id: "),
        ({"id": "b", "input": "?", "target": "x", "tags": ["a=b"]}, "data.jsonl:2: tags.0: "),
        ({"id": "b", "messages": [], "target": "x"}, "data.jsonl:2: `messages` must end with a turn of the user"),
        (
            {"id": "b", "messages": [{"role": "assistant", "content": "hi"}], "target": "x"},
            "data.jsonl:2: `messages` must end with a turn of the user",
        ),
        ({"id": "b", "input": "?", "target": "x", "scorer": "regx"}, "did you mean 'regex'?"),
        ({"id": "b", "input": "?", "target": "x", "scorer": {"kind": "regx"}}, "data.jsonl:2: scorer: "),
        ({"id": "b", "input": "?", "target": "(", "scorer": "regex"}, "data.jsonl:2: target: not a regular expression"),
        ({"id": "b", "input": "?"}, "data.jsonl:2: target: exact needs a text"),
        ({"id": "b", "input": "?", "target": "x", "choices": ["x", "x"]}, "`choices` has the same option twice"),
        (GOOD, "data.jsonl:2: id 'a' is already on line 1"),
    ],
)
def test_a_bad_row_names_its_line(tmp_path: Path, row: Any, message: str) -> None:
    assert message in refused(tmp_path, [GOOD, row])


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    path = write(tmp_path, [GOOD])
    (tmp_path / "data.jsonl").write_bytes(b'{"id": "a", "input": "\xff", "target": "x"}\n')
    with pytest.raises(ConfigError, match=r"data\.jsonl:1: not UTF-8: byte 0xff"):
        load_suite(path)


def test_all_problems_are_told_at_once_up_to_a_limit(tmp_path: Path) -> None:
    message = refused(tmp_path, ["{"] * 50)
    assert message.count("data.jsonl:") == 21
    assert "data.jsonl:20:" in message
    assert "perhaps more" in message


def test_empty_and_missing_datasets(tmp_path: Path) -> None:
    assert "data.jsonl: has no items" in refused(tmp_path, ["", "  "])
    path = write(tmp_path, [GOOD])
    (tmp_path / "data.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"data\.jsonl: cannot be read: No such file"):
        load_suite(path)


@pytest.mark.parametrize(
    ("suite", "message"),
    [
        ("concurency: 3\n", "suite.yaml:4:1: concurency: unknown key; did you mean 'concurrency'?"),
        ("concurrency: 0\n", "suite.yaml:4:1: concurrency: "),
        ("request: {temprature: 0}\n", "suite.yaml:4:11: request.temprature: unknown key; did you mean 'temperature'?"),
        ("prompt: 'no place for it'\n", "suite.yaml:4:1: prompt: must contain {input}"),
        ("scorer: {kind: exakt}\n", "suite.yaml:4:"),
        ("max_unanswered: 1.5\n", "suite.yaml:4:1: max_unanswered: "),
    ],
)
def test_a_bad_suite_names_line_and_key(tmp_path: Path, suite: str, message: str) -> None:
    assert message in refused(tmp_path, [GOOD], suite)


def test_identity_is_the_content_not_the_spelling(tmp_path: Path) -> None:
    one = load(tmp_path, [GOOD])
    two = load(tmp_path, ["", '{"target":"x",   "input":"?","id":"a"}', ""], "concurrency: 3\ntimeout: 9\n")
    assert one.dataset_sha256 == two.dataset_sha256
    assert one.tasks[0].sha256 == two.tasks[0].sha256
    assert one.sha256 == two.sha256
    other = load(tmp_path, [{**GOOD, "target": "y"}], "system: be brief\n")
    assert other.dataset_sha256 != one.dataset_sha256
    assert other.tasks[0].sha256 != one.tasks[0].sha256
    assert other.sha256 != one.sha256
    assert one.with_seed(5).sha256 == one.sha256


def test_a_limit_draws_a_nested_sample_by_the_seed(tmp_path: Path) -> None:
    rows = [{**GOOD, "id": f"q{number}"} for number in range(40)]
    suite = load(tmp_path, rows)

    def ids(drawn: Suite) -> list[str]:
        return [task.item.id for task in drawn.tasks]

    small, large = ids(suite.limited(10)), ids(suite.limited(20))
    assert len(small) == 10
    assert set(small) < set(large)
    assert small == sorted(small, key=ids(suite).index)
    assert small != ids(suite)[:10]
    assert small != ids(suite.with_seed(1).limited(10))
    assert ids(load(tmp_path, rows[::-1]).limited(10))[::-1] == small
    with pytest.raises(ConfigError, match="nothing to ask"):
        suite.limited(0)
    with pytest.raises(ConfigError, match="seed"):
        suite.with_seed(-1)


def test_more_answers_ask_for_more_items_and_then_for_repeats(tmp_path: Path) -> None:
    suite = load(tmp_path, [{**GOOD, "id": f"q{number}"} for number in range(40)])

    def asked(answers: int) -> tuple[int, int, int | None]:
        found = suite.answering(answers)
        return len(found.tasks), found.config.repeats, found.limit

    assert [asked(answers) for answers in (1, 39, 40, 41, 81)] == [
        (1, 1, 1), (39, 1, 39), (40, 1, None), (40, 2, None), (40, 3, None)
    ]  # fmt: skip
    assert suite.answering(81).sha256 == suite.sha256
    for answers, says in ((0, "nothing to ask"), (40_001, "more than 1,000 to each of 40 items")):
        with pytest.raises(ConfigError, match=says):
            suite.answering(answers)


def test_conversations(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    rows = [
        {"id": "a", "input": "왜 {input}?", "target": "x"},
        {"id": "b", "messages": [*messages, {"role": "user", "content": "bye"}], "target": "x"},
        {"id": "c", "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "q"}], "target": "x"},
        {"id": "d", "input": "which?", "choices": ["one", "two"], "target": "two", "scorer": "choice"},
    ]
    a, b, c, d = (task.item for task in load(tmp_path, rows).tasks)
    assert a.conversation("S", "Q: {input}", True) == [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "Q: 왜 {input}?"},
    ]
    assert [turn["content"] for turn in b.conversation("S", "<{input}>", True)] == ["S", "hi", "hello", "<bye>"]
    assert [turn["content"] for turn in c.conversation("other", "{input}", True)] == ["S", "q"]
    assert d.conversation(None, "{input}", True)[-1]["content"] == "which?\n\nA) one\nB) two"
    assert d.conversation(None, "{input}", False)[-1]["content"] == "which?"
