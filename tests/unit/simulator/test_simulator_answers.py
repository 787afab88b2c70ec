"""Answers take the shape that was asked for, and a mistaken model is wrong in every shape."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servegate.simulator import tokens
from servegate.simulator.answers import Answer, Wanted, answer, continuation, split_options
from servegate.simulator.knowledge import DEFAULT_FILE, load

KNOWLEDGE = load(DEFAULT_FILE)
STATUS = {"type": "object", "properties": {"status": {"type": "string"}, "eta_days": {"type": "integer"}}}


def say(question: str, mistaken: bool = False, seed: int = 0, **shape: Any) -> Answer:
    return answer(Wanted(question, **shape), KNOWLEDGE, seed=seed, mistaken=mistaken)


@pytest.mark.parametrize(
    ("question", "text"),
    [
        ("How long is the warranty?", "Electronics come with a warranty of 2 years."),
        ("How long is the warranty? Answer with the period only.", "2 years"),
        ("보증 기간은 몇 년인가요? 단답으로 답해 주세요.", "2년"),
        ("비회원도 주문되나요? 예/아니요로 답해 주세요.", "예"),
        ("How much is express delivery?\nA) 9,000 won\nB) 2,000 won\nC) 5,000 won\nD) free", "C"),
        ("How much is express delivery?\n(A) KRW 5000\n(B) 2,000 won", "A"),
        ("반품은 며칠 안에 해야 하나요? A) 3일 B) 60일 C) 14일 D) 30일", "C"),
        ("쿠폰을 중복해서 쓸 수 있나요?\nA. 예\nB. 아니요", "B"),
        ("Classify: “When do I get my money back?” into orders, shipping, refunds or payment.", "refunds"),
        ('다음 문의를 분류해 주세요: "쿠폰 두 장을 같이 쓸 수 있나요?"', "쿠폰"),
        ('Status of HM-10023 as JSON with the keys "status" and "eta_days".', '{"status":"shipped","eta_days":2}'),
        ("무료배송 기준을 JSON으로 알려 주세요. 키: free_shipping_from_krw", '{"free_shipping_from_krw":50000}'),
        ("Is PayPal possible? Reply as JSON.", '{"paypal":false}'),
    ],
)
def test_shapes_that_the_question_asks_for(question: str, text: str) -> None:
    said = say(question)
    assert (said.text, said.mistaken) == (text, False)
    wrong = say(question, mistaken=True)
    assert wrong.mistaken
    assert wrong.text != text


def test_choice_may_be_texts_topics_or_letters() -> None:
    assert say("How long is the warranty?", choice=("10 years", "2 years")).text == "2 years"
    assert say("How long is the warranty?", choice=("10 years", "24 months")).text == "24 months"
    assert say("Where is my refund?", choice=("shipping", "refunds")).text == "refunds"
    lettered = "How long is the warranty?\nA) 1 year\nB) 2 years"
    assert say(lettered, choice=("A", "B")).text == "B"
    assert say(lettered, choice=("A", "B"), mistaken=True).text == "A"


def test_twelve_is_not_found_in_one_hundred_and_twenty() -> None:
    assert say("How many countries do you ship to?", choice=("120 countries", "12 countries")).text == "12 countries"


def test_regex_takes_what_is_known_else_makes_something_that_matches() -> None:
    assert say("How long is the warranty?", regex=r"\d+ years").text == "2 years"
    assert say("보증 기간은 몇 년인가요?", regex=r"\d+년").text == "2년"
    assert say("What is your phone number?", regex=r"\d{4}-\d{4}").text == "1588-0100"
    assert say("Say something", regex=r"[A-Z]{3}-\d{2}").text == "AAA-11"


def test_schema_takes_what_is_known_and_is_mistaken_on_demand() -> None:
    question = "Where is order HM-10023?"
    assert json.loads(say(question, schema=STATUS).text) == {"status": "shipped", "eta_days": 2}
    assert json.loads(say(question, schema=STATUS, mistaken=True).text)["status"] != "shipped"
    assert json.loads(say("Gibberish?", schema=STATUS).text) == {"status": "unknown", "eta_days": 0}
    assert json.loads(say(question, json_object=True).text)["order_id"] == "HM-10023"


def test_unknown_questions_get_talk_of_realistic_length_in_their_language() -> None:
    for number in range(50):
        english, korean = say(f"Tell me about topic {number}"), say(f"{number}번째 이야기를 들려주세요")
        assert english.fact is None
        assert korean.fact is None
        assert 30 <= len(tokens.split(english.text)) <= 80
        assert 30 <= len(tokens.split(korean.text)) <= 80
        assert english.text.isascii()
        assert not korean.text.isascii()


def test_explanations_are_long_and_still_hold_the_answer() -> None:
    said = say("Please explain in detail how long a refund takes.")
    assert "5 business days" in said.text
    assert 30 <= len(tokens.split(said.text)) <= 80


def test_where_nothing_is_known_there_is_nothing_to_be_mistaken_about() -> None:
    assert not say("What is the capital of France?", mistaken=True).mistaken


def test_the_same_seed_makes_the_same_mistake() -> None:
    question = "How long is the warranty?"
    assert say(question, mistaken=True, seed=3) == say(question, mistaken=True, seed=3)
    assert len({say(question, mistaken=True, seed=seed).text for seed in range(20)}) > 1


def test_options_are_taken_out_of_the_question() -> None:
    stem, options = split_options("Refund?\nA) 5 days\nB) 7 days\nReply with a letter.")
    assert options == {"A": "5 days", "B": "7 days"}
    assert "days" not in stem
    assert "Reply" in stem
    assert split_options("Plan A) is fine") == ("Plan A) is fine", {})


def test_talk_goes_on_for_as_long_as_wanted() -> None:
    pieces = continuation("Hello there.", 500, seed=1)
    assert len(pieces) >= 500
    assert "".join(pieces).startswith("Hello there. ")


@given(st.text(max_size=400), st.booleans())
def test_any_question_gets_some_answer(question: str, mistaken: bool) -> None:
    assert say(question, mistaken=mistaken).text
