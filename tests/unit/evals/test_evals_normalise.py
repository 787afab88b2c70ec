"""Two short answers that say the same are the same; two that do not, stay apart."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servegate.evals.scorers.normalise import Form, Ignore, normalise

DEFAULT: tuple[Ignore, ...] = ("case", "punctuation")


def plain(text: str, form: Form = "NFKC", ignore: tuple[Ignore, ...] = DEFAULT) -> str:
    return normalise(text, form, ignore)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("3,000 won", "3000 won"),
        ("1,234,567원", "1234567원"),
        ("Yes.", "yes"),
        ("“No”", "No"),
        ("**14 days**", "14 days"),
        ("  배송 중입니다。 ", "배송 중입니다"),
        (unicodedata.normalize("NFD", "한진택배"), "한진택배"),
        ("１０％", "10%"),
        ("「내 주문」", "내 주문"),
        ("아니\u200b요", "아니요"),
        ("배송\u00a0중", "배송 중"),
        ("STRASSE", "straße"),
    ],
)
def test_same(one: str, other: str) -> None:
    assert plain(one) == plain(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("10%", "10"),
        ("-5", "5"),
        ("10.5", "105"),
        ("9:00", "900"),
        ("3,5", "35"),
        ("$5", "5"),
        ("배송 중", "배송중"),
        ("아니요", "아니오"),
        ("1588-0100", "15880100"),
        ("yes", "no"),
    ],
)
def test_different(one: str, other: str) -> None:
    assert plain(one) != plain(other)


def test_spacing_of_korean_can_be_ignored() -> None:
    ignore: tuple[Ignore, ...] = ("case", "punctuation", "spacing")
    assert plain("배송 중 입니다", ignore=ignore) == plain("배송중입니다.", ignore=ignore)


def test_nfc_keeps_width_but_composes_syllables() -> None:
    assert plain("１０", form="NFC") != plain("10", form="NFC")
    assert plain(unicodedata.normalize("NFD", "환불"), form="NFC") == "환불"


def test_nothing_ignored_keeps_case_and_marks() -> None:
    assert plain("Yes.", ignore=()) == "Yes."


@given(st.text())
def test_normalising_twice_changes_nothing_more(text: str) -> None:
    once = plain(text, ignore=())
    assert plain(once, ignore=()) == once


@given(st.text())
def test_any_text_is_survived(text: str) -> None:
    assert "  " not in plain(text)
