"""Each scorer: what is right, what is wrong, what is neither, and what a dataset row must have."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import Any

import pytest

from servegate.evals.item import Item
from servegate.evals.scorers import Choice, Exact, Json, Regex, ScoringError, bounded
from servegate.evals.scorers.choice import read


def item(**fields: Any) -> Item:
    return Item.model_validate({"id": "q", "input": "?", **fields})


@pytest.fixture(autouse=True, scope="module")
def impatient() -> Iterator[None]:
    """A helper with a shorter limit, so that what must be stopped is stopped sooner."""
    helper, usual = bounded.Helper(seconds=0.3), bounded._HELPER
    bounded._HELPER = helper
    yield
    bounded._HELPER = usual
    helper.close()


class TestExact:
    def test_any_target_counts(self) -> None:
        asked = item(target=["3,000원", "삼천 원"])
        assert Exact()("3000원.", asked).value == 1
        assert Exact()("삼천 원", asked).value == 1

    def test_the_whole_answer_counts(self) -> None:
        score = Exact()("It costs 3,000 won", item(target="3,000 won"))
        assert score.value == 0
        assert "It costs" in score.reason

    def test_empty_answer_is_wrong_and_says_so(self) -> None:
        assert Exact()("  ", item(target="x")).reason == "empty answer"

    @pytest.mark.parametrize("target", [None, {"a": 1}, [], "...", ["ok", "!"]])
    def test_needs_a_text_that_is_left_after_normalising(self, target: Any) -> None:
        with pytest.raises(ValueError, match="target"):
            Exact().check(item(target=target))


class TestRegex:
    def test_found_anywhere(self) -> None:
        asked = item(target=r"(?<!\d)3\s*(영업)?일")
        assert Regex()("일반 배송은 영업일 기준 3일이 걸립니다.", asked).value == 1
        assert Regex()("13일 걸립니다.", asked).value == 0

    def test_decomposed_korean_is_found(self) -> None:
        assert Regex()(unicodedata.normalize("NFD", "한진택배"), item(target="한진")).value == 1

    def test_ignore_case(self) -> None:
        assert Regex()("SHIPPED", item(target="shipped")).value == 0
        assert Regex(ignore_case=True)("SHIPPED", item(target="shipped")).value == 1

    def test_any_of_several(self) -> None:
        assert Regex()("cancelled", item(target=["shipped", "cancel"])).value == 1

    def test_a_pattern_that_never_ends_gives_no_score(self) -> None:
        asked = item(target=r"(a|a)*$")
        with pytest.raises(ScoringError, match="processor time"):
            Regex()("a" * 60 + "b", asked)
        # and the next question is not affected
        assert Regex()("3 days", item(target=r"\d days")).value == 1

    @pytest.mark.parametrize("target", [None, "(", "a{2,1}", "", "x" * 3000, {"a": 1}])
    def test_needs_a_pattern(self, target: Any) -> None:
        with pytest.raises(ValueError, match="target"):
            Regex().check(item(target=target))


OPTIONS = ("3 days", "5 days", "2 weeks", "never")


class TestChoice:
    @pytest.mark.parametrize(
        "answer",
        [
            "B",
            "b",
            " (B) ",
            "**B**",
            "B.",
            "Ｂ",
            "Ⓑ",
            "B번",
            "B) 5 days",
            "B. 5 days",
            "**B)** 5 days",
            "B)",
            "The answer is B.",
            "Answer: B",
            "The correct option is (B).",
            "The answer is B because it says so.",
            "정답은 B입니다.",
            "정답: B",
            "답은 B 입니다",
            "5 days",
            "5 DAYS.",
            "Let me think about it.\n\nB) 5 days",
            "The answer is **B**",
        ],
    )
    def test_reads_b(self, answer: str) -> None:
        assert read(answer, OPTIONS) == {1}

    @pytest.mark.parametrize(
        "answer",
        [
            "",
            "A refund takes a week",
            "I think so",
            "E",
            "The answer is a matter of taste",
            "The answer is A matter of taste",
            "The answer is A's",
            "It is not 5 days, I believe",
            "B-side of the record",
            "정답은 모르겠습니다",
            "Be careful",
        ],
    )
    def test_guesses_nothing(self, answer: str) -> None:
        assert read(answer, OPTIONS) == set()

    @pytest.mark.parametrize(
        "answer",
        ["A) 3 days\nB) 5 days", "B) 3 days", "The answer is A.\nNo, the answer is B.", "A) or\nB)"],
    )
    def test_ambiguous_is_wrong_and_says_so(self, answer: str) -> None:
        assert read(answer, OPTIONS) == {0, 1}
        score = Choice()(answer, item(choices=OPTIONS, target="5 days"))
        assert score.value == 0
        assert "ambiguous: names A and B" in score.reason

    def test_target_as_text_or_letter(self) -> None:
        assert Choice()("B", item(choices=OPTIONS, target="5 days")).value == 1
        assert Choice()("B", item(choices=OPTIONS, target="B")).value == 1
        wrong = Choice()("C", item(choices=OPTIONS, target="B"))
        assert (wrong.value, wrong.reason) == (0, "chose C, not B")

    def test_options_that_are_single_letters(self) -> None:
        assert read("b", ("B", "A")) == {0}
        with pytest.raises(ValueError, match="target"):  # the text B or the letter B?
            Choice().check(item(choices=("B", "A"), target="B"))

    def test_a_hostile_answer_is_read_quickly(self) -> None:
        for piece in ("answer ", "A) ", "(", "\n", "정답 ", "*", "answer is ("):
            assert len(read(piece * 100_000, OPTIONS)) <= 1

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"target": "x"}, "choices"),
            ({"choices": OPTIONS, "target": "6 days"}, "target"),
            ({"choices": OPTIONS, "target": ["5 days"]}, "target"),
            ({"choices": OPTIONS}, "target"),
            ({"choices": ("Yes", "yes."), "target": "Yes"}, "same once normalised"),
        ],
    )
    def test_needs_options_and_one_right(self, fields: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Choice().check(item(**fields))

    def test_structured_output(self) -> None:
        asked = item(choices=("Yes", "No"), target="No")
        assert Choice().request(asked) == {}
        assert Choice(structured="letters").request(asked) == {"structured_outputs": {"choice": ["A", "B"]}}
        assert Choice(structured="texts").request(asked) == {"structured_outputs": {"choice": ["Yes", "No"]}}


SCHEMA = {
    "type": "object",
    "properties": {"days": {"type": "integer"}, "city": {"type": "string"}},
    "required": ["days"],
}


def scorer(**options: Any) -> Json:
    return Json.model_validate({"kind": "json", **options})


class TestJson:
    def test_valid_json_is_enough_without_schema_and_target(self) -> None:
        assert scorer()('[1, "a"]', item()).value == 1

    @pytest.mark.parametrize(
        "answer", ["{'a': 1}", "{", '{"a": NaN}', '{"a": 1, "a": 2}', '{"a": 1} thanks', "1e999x", "[" * 100_000]
    )
    def test_what_is_not_json_is_wrong(self, answer: str) -> None:
        score = scorer()(answer, item())
        assert score.value == 0
        assert score.reason

    def test_schema(self) -> None:
        assert scorer(schema=SCHEMA)('{"days": 3}', item()).value == 1
        score = scorer(schema=SCHEMA)('{"days": "three"}', item())
        assert score.value == 0
        assert "days" in score.reason

    def test_expected_values(self) -> None:
        asked = item(target={"days": 3, "city": "서울"})
        assert scorer()('{"days": 3.0, "city": "서울", "more": 1}', asked).value == 1
        assert "missing" in scorer()('{"days": 3}', asked).reason
        assert scorer()('{"days": 3, "city": "부산"}', asked).value == 0
        assert scorer()("[3]", asked).value == 0

    def test_true_is_not_one(self) -> None:
        assert scorer()('{"paid": 1}', item(target={"paid": True})).value == 0
        assert scorer()('{"n": true}', item(target={"n": 1})).value == 0
        assert scorer()('{"a": [1, {"b": null}]}', item(target={"a": [1, {"b": None}]})).value == 1

    def test_code_block_only_where_allowed(self) -> None:
        answer = 'Here you are:\n```json\n{"days": 3}\n```\nBye'
        assert scorer()(answer, item()).value == 0
        assert scorer(fenced=True)(answer, item(target={"days": 3})).value == 1
        assert scorer(fenced=True)('{"days": 3}', item()).value == 1
        assert "ambiguous" in scorer(fenced=True)(answer * 2, item()).reason

    def test_a_schema_cannot_reach_out(self) -> None:
        remote = {"$ref": "http://127.0.0.1:9/schema.json"}
        with pytest.raises(ScoringError, match="not in it"):
            scorer(schema=remote)("{}", item())

    def test_a_schema_that_never_ends_gives_no_score(self) -> None:
        slow = {"type": "string", "pattern": "^(a|a)*$"}
        with pytest.raises(ScoringError, match="processor time"):
            scorer(schema=slow)('"' + "a" * 60 + 'b"', item())

    def test_an_endless_schema_gives_no_score(self) -> None:
        with pytest.raises(ScoringError):
            scorer(schema={"$ref": "#"})("{}", item())

    def test_deep_answers_are_survived(self) -> None:
        for depth in (200, 900, 5_000):
            answer = "[" * depth + "]" * depth
            assert scorer(schema={"type": "object"})(answer, item(target={"a": 1})).value == 0

    @pytest.mark.parametrize(
        ("options", "target", "message"),
        [
            ({"schema": {"type": "integr"}}, None, "not a JSON Schema"),
            ({"schema": {"required": "days"}}, None, "not a JSON Schema"),
            ({}, "text", "target"),
        ],
    )
    def test_needs_a_schema_that_is_one(self, options: dict[str, Any], target: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            scorer(**options).check(item(target=target))

    def test_structured_output(self) -> None:
        assert scorer().request(item()) == {}
        assert scorer(structured=True).request(item()) == {"response_format": {"type": "json_object"}}
        sent = scorer(structured=True, schema=SCHEMA).request(item(id="주문-1"))["response_format"]
        assert sent["json_schema"]["schema"] == SCHEMA
        assert sent["json_schema"]["name"] == "__-1"
