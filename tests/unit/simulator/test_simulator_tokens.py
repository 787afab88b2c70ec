"""Tokens: nothing is lost, nothing is broken in two, and there are about as many as a real tokenizer makes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from servegate.simulator import tokens


@given(st.text())
def test_tokens_join_to_the_text_and_their_number_is_bounded(text: str) -> None:
    pieces = tokens.split(text)
    assert "".join(pieces) == text
    assert tokens.fewest(text) <= len(pieces)
    assert all(0 < len(piece) <= tokens.LONGEST_TOKEN for piece in pieces)


def test_english_has_about_four_characters_a_token() -> None:
    text = "You can return an item within fourteen days after it was delivered to your address in Seoul."
    assert 3.5 < len(text) / len(tokens.split(text)) < 5.5


def test_hangul_has_one_to_two_characters_a_token() -> None:
    text = "상품을 받은 날부터 십사 일 이내에 반품할 수 있으며 배송비는 고객님이 부담하셔야 합니다."
    syllables = sum("가" <= letter <= "힣" for letter in text)
    assert 1.0 < syllables / len(tokens.split(text)) < 2.0


def test_emoji_are_whole() -> None:
    assert tokens.split("👍🏽") == ["👍", "🏽"]
