"""Knowledge: each fact answers the questions it is there for, and a wrong file is refused with its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servegate.simulator.knowledge import DEFAULT_FILE, KnowledgeError, load

KNOWLEDGE = load(DEFAULT_FILE)
QUESTIONS = [
    ("order-10023-status-en", "What is the status of my order HM-10023?"),
    ("order-10023-carrier-en", "Which carrier is delivering HM-10023?"),
    ("order-10023-eta-en", "When will order HM-10023 arrive?"),
    ("order-10047-status-en", "Where is my package hm-10047?"),
    ("order-10051-status-en", "Has order HM-10051 been paid and shipped?"),
    ("order-10088-status-en", "Tell me about HM-10088."),
    ("order-unknown-en", "Where is my order HM-77777?"),
    ("order-cancel-en", "Until when can I cancel my order for free?"),
    ("order-address-en", "Can I still change the delivery address?"),
    ("shipping-standard-en", "How long does delivery take?"),
    ("shipping-express-en", "How fast is express delivery?"),
    ("shipping-express-fee-en", "How much is express delivery?"),
    ("shipping-fee-en", "How much does standard shipping cost?"),
    ("shipping-free-en", "How much do I have to spend to get free shipping?"),
    ("shipping-abroad-en", "Do you ship abroad?"),
    ("shipping-countries-en", "To how many countries do you deliver?"),
    ("shipping-pobox-en", "Can you deliver to a P.O. box?"),
    ("return-window-en", "How many days do I have to return an item?"),
    ("return-fee-en", "How much is the return shipping fee?"),
    ("return-opened-en", "Can I return opened cosmetics?"),
    ("return-label-en", "Where do I print the return label?"),
    ("exchange-en", "Can I exchange a shirt for another size?"),
    ("refund-time-en", "When do I get my money back?"),
    ("refund-method-en", "Will the refund go to my card?"),
    ("refund-shipping-en", "Is the shipping fee refunded as well?"),
    ("refund-partial-en", "Is a partial refund possible?"),
    ("warranty-length-en", "How long is the warranty on electronics?"),
    ("warranty-water-en", "Does the warranty cover water damage?"),
    ("warranty-proof-en", "What do I need to claim the warranty?"),
    ("repair-time-en", "How long does a repair take?"),
    ("hours-weekday-en", "What are the opening hours of customer service?"),
    ("hours-weekend-en", "Are you open on Saturday?"),
    ("hours-lunch-en", "When is your lunch break?"),
    ("phone-en", "What is your phone number?"),
    ("payment-methods-en", "Which payment methods do you accept?"),
    ("payment-paypal-en", "Can I pay with PayPal?"),
    ("payment-installments-en", "For how many months can I pay in instalments?"),
    ("payment-deadline-en", "How long do I have to make the bank transfer?"),
    ("payment-invoice-en", "Can I get an invoice?"),
    ("coupon-welcome-en", "How big is the welcome discount?"),
    ("coupon-stack-en", "Can I combine several coupons?"),
    ("coupon-expiry-en", "How long is a coupon valid?"),
    ("coupon-birthday-en", "What do I get on my birthday?"),
    ("account-password-en", "I forgot my password. What now?"),
    ("account-delete-en", "How soon is my data erased when I delete my account?"),
    ("account-points-en", "How many points do I earn?"),
    ("account-guest-en", "Can I order without an account?"),
    ("order-20015-status-ko", "주문번호 HM-20015의 상태를 알려 주세요."),
    ("order-20015-carrier-ko", "HM-20015는 어느 택배사로 오나요?"),
    ("order-20015-eta-ko", "HM-20015는 언제 도착하나요?"),
    ("order-20031-status-ko", "주문HM-20031은 어디에 있나요?"),
    ("order-20044-status-ko", "HM-20044 주문이 왜 발송되지 않나요?"),
    ("order-unknown-ko", "주문 HM-99999 배송 상태가 궁금해요."),
    ("order-cancel-ko", "주문 취소는 몇 시간 안에 해야 하나요?"),
    ("order-address-ko", "배송지를 바꿀 수 있나요?"),
    ("shipping-standard-ko", "배송은 며칠 걸리나요?"),
    ("shipping-express-ko", "빠른 배송은 언제 도착하나요?"),
    ("shipping-express-fee-ko", "빠른 배송은 얼마인가요?"),
    ("shipping-fee-ko", "배송비는 얼마예요?"),
    ("shipping-free-ko", "얼마 이상 사면 배송비가 무료인가요?"),
    ("shipping-abroad-ko", "해외로도 배송하나요?"),
    ("shipping-countries-ko", "해외 몇 개국으로 배송하나요?"),
    ("shipping-jeju-ko", "제주도는 배송비가 얼마나 추가되나요?"),
    ("return-window-ko", "반품은 며칠 안에 해야 하나요?"),
    ("return-fee-ko", "반품 배송비는 얼마인가요?"),
    ("return-opened-ko", "개봉한 화장품도 반품할 수 있나요?"),
    ("return-how-ko", "반품 신청은 어떻게 하나요?"),
    ("exchange-ko", "다른 사이즈로 교환할 수 있나요?"),
    ("refund-time-ko", "환불은 얼마나 걸리나요?"),
    ("refund-method-ko", "환불은 어떤 수단으로 받나요?"),
    ("refund-shipping-ko", "환불할 때 배송비도 돌려주나요?"),
    ("refund-partial-ko", "상품 일부만 환불받을 수 있나요?"),
    ("warranty-length-ko", "보증 기간은 몇 년인가요?"),
    ("warranty-water-ko", "침수된 제품도 보증이 되나요?"),
    ("warranty-proof-ko", "보증 수리를 신청하려면 무엇이 필요한가요?"),
    ("repair-time-ko", "수리는 얼마나 걸리나요?"),
    ("hours-weekday-ko", "고객센터 운영 시간이 어떻게 되나요?"),
    ("hours-weekend-ko", "주말에도 상담이 되나요?"),
    ("hours-lunch-ko", "점심시간은 언제예요?"),
    ("phone-ko", "고객센터 전화번호가 뭐예요?"),
    ("payment-methods-ko", "결제 수단은 무엇이 있나요?"),
    ("payment-paypal-ko", "페이팔로 결제할 수 있나요?"),
    ("payment-installments-ko", "무이자 할부는 몇 개월까지 되나요?"),
    ("payment-deadline-ko", "무통장 입금은 언제까지 해야 하나요?"),
    ("payment-receipt-ko", "현금 영수증을 받을 수 있나요?"),
    ("coupon-welcome-ko", "신규 회원 할인 쿠폰은 몇 퍼센트인가요?"),
    ("coupon-stack-ko", "쿠폰을 중복해서 쓸 수 있나요?"),
    ("coupon-expiry-ko", "쿠폰 유효 기간은 며칠인가요?"),
    ("coupon-birthday-ko", "생일 쿠폰은 얼마짜리인가요?"),
    ("account-password-ko", "비밀번호를 잊어버렸어요."),
    ("account-delete-ko", "탈퇴하면 개인 정보는 언제 삭제되나요?"),
    ("account-points-ko", "적립금은 얼마나 쌓이나요?"),
    ("account-guest-ko", "비회원으로도 살 수 있나요?"),
]


@pytest.mark.parametrize(("fact", "question"), QUESTIONS)
def test_a_question_finds_its_fact(fact: str, question: str) -> None:
    found = KNOWLEDGE.find(question)
    assert found is not None
    assert found.id == fact


def test_every_fact_is_asked_for_above() -> None:
    assert {fact for fact, _question in QUESTIONS} == {fact.id for fact in KNOWLEDGE.facts}


def test_there_are_facts_enough_in_both_languages() -> None:
    korean = sum(fact.lang == "ko" for fact in KNOWLEDGE.facts)
    assert len(KNOWLEDGE.facts) >= 70
    assert 0.4 < korean / len(KNOWLEDGE.facts) < 0.6


@pytest.mark.parametrize("question", ["What is the capital of France?", "바다는 왜 푸른가요?", "", "1 + 1 = ?"])
def test_what_is_not_known_is_not_found(question: str) -> None:
    assert KNOWLEDGE.find(question) is None


@pytest.mark.parametrize("fact", KNOWLEDGE.facts, ids=lambda fact: fact.id)
def test_a_mistaken_fact_is_wrong_everywhere(fact: object) -> None:
    from servegate.simulator.knowledge import Fact

    assert isinstance(fact, Fact)
    for index in range(len(fact.wrong)):
        mistaken = fact.mistaken(index)
        assert mistaken.short != fact.short
        assert mistaken.answer != fact.answer
        assert dict(mistaken.data) != dict(fact.data)
        assert mistaken.data.keys() == fact.data.keys()
        assert [type(value) for value in mistaken.data.values()] == [type(value) for value in fact.data.values()]


@given(st.text(max_size=300))
def test_any_text_can_be_asked(text: str) -> None:
    KNOWLEDGE.find(text)


def test_spacing_width_and_case_do_not_matter() -> None:
    for question in ("무료배송 기준은?", "무 료 배 송 기준은?", "ＦＲＥＥ　ＳＨＩＰＰＩＮＧ?", "free SHIPPING"):
        found = KNOWLEDGE.find(question)
        assert found is not None
        assert found.id.startswith("shipping-free")


FACT = {
    "id": "a",
    "lang": "en",
    "topic": "t",
    "ask": ["warranty"],
    "short": "2 years",
    "answer": "It is 2 years.",
    "data": {"years": 2},
    "wrong": ["5 years"],
}


def test_json_lines_are_read_with_their_line_numbers(tmp_path: Path) -> None:
    file = tmp_path / "k.jsonl"
    file.write_text(json.dumps(FACT) + "\n\n" + json.dumps({**FACT, "id": "b"}) + "\n", encoding="utf-8")
    assert [fact.id for fact in load(file).facts] == ["a", "b"]
    file.write_text(json.dumps(FACT) + "\n\n" + json.dumps(FACT) + "\n", encoding="utf-8")
    with pytest.raises(KnowledgeError, match=r"k\.jsonl:3: id 'a' was used in line 1"):
        load(file)
    file.write_text(json.dumps(FACT) + "\n{oops\n", encoding="utf-8")
    with pytest.raises(KnowledgeError, match=r"k\.jsonl:2: not JSON"):
        load(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": "It is long."}, "`answer` does not contain `short`"),
        ({"ask": []}, "`ask` must not be empty"),
        ({"ask": ["a||", "|"]}, "empty term"),
        ({"short": 12}, "`short` must be a text"),
        ({"wrong": ["five years"], "data": {"length": 7}}, "nothing in `data` would be wrong"),
        ({"data": {}}, "`data` must be a mapping"),
        ({"data": {"a": None}}, "values in `data`"),
        ({"priority": "high"}, "`priority` must be a whole number"),
        ({"prioritty": 1}, "unknown key 'prioritty'"),
    ],
)
def test_a_wrong_fact_is_refused_with_its_line(tmp_path: Path, change: dict[str, object], message: str) -> None:
    file = tmp_path / "k.jsonl"
    file.write_text("\n" + json.dumps({**FACT, **change}), encoding="utf-8")
    with pytest.raises(KnowledgeError, match=f"k.jsonl:2: .*{message}"):
        load(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("version: 1\nfacts:\n  - id: [\n", r"k\.yaml:4: "),
        ("version: 2\nfacts: []\n", r"k\.yaml:1: version must be 1"),
        ("version: 1\nfactz: []\n", r"k\.yaml:1: expected a mapping with `facts`"),
        ("version: 1\nextra: 1\nfacts: []\n", r"k\.yaml:2: unknown key 'extra'"),
        ("version: 1\nfacts: []\n", r"k\.yaml:1: no facts"),
        ("version: 1\nfacts:\n  - id: a\n", r"k\.yaml:3: `lang` must be a text"),
        ("", r"k\.yaml:1: expected a mapping"),
    ],
)
def test_a_wrong_yaml_file_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "k.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(KnowledgeError, match=message):
        load(file)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(KnowledgeError, match="cannot be read: No such file"):
        load(tmp_path / "none.yaml")
    (tmp_path / "k.txt").write_text("x")
    with pytest.raises(KnowledgeError, match=r"must end with \.yaml"):
        load(tmp_path / "k.txt")
    (tmp_path / "k.yaml").write_bytes(b"version: 1\n\xff\xfe")
    with pytest.raises(KnowledgeError, match="not UTF-8"):
        load(tmp_path / "k.yaml")
