"""Sentences for what the simulator knows nothing about: fluent, harmless, of realistic length."""

from __future__ import annotations

from typing import Final

SMALL_TALK: Final[dict[str, list[str]]] = {
    "en": [
        "That is a good question, and the answer depends on a few details.",
        "In most cases it helps to start with what you already have and to change one thing at a time.",
        "Please keep the message you received, because it contains the number our colleagues will ask for.",
        "A first attempt usually shows where the difficulty lies, and the rest follows from there.",
        "Some people prefer the quick way, others take their time and compare several possibilities.",
        "If something does not work as expected, write down what you did and what you saw.",
        "It is worth reading the description twice, since small differences matter here.",
        "There is more than one way to get there, and none of them is wrong.",
        "Once that is done, the remaining steps are short and take only a few minutes.",
        "You can come back to this at any time, nothing is lost when you stop halfway.",
        "Many customers ask the same thing, so you are not alone with it.",
        "A simple example makes it clearer than a long explanation would.",
        "Prices and conditions may change, so please look at the page of the product as well.",
        "When in doubt, choose the option that can be undone later.",
        "The most common mistake is to skip the first step because it looks trivial.",
        "I hope this gives you a useful place to begin.",
    ],
    "ko": [
        "좋은 질문입니다. 답은 몇 가지 조건에 따라 달라집니다.",
        "먼저 지금 가지고 계신 정보를 확인하고 하나씩 바꾸어 보시는 것이 좋습니다.",
        "받으신 안내 메일에는 상담에 필요한 번호가 있으니 보관해 주세요.",
        "처음 한 번 해 보시면 어느 부분이 어려운지 쉽게 알 수 있습니다.",
        "빠른 방법을 좋아하는 분도 있고 여러 가지를 비교해 보는 분도 있습니다.",
        "예상과 다르게 동작하면 무엇을 하셨고 무엇이 보였는지 적어 두세요.",
        "작은 차이가 중요할 수 있으니 설명을 두 번 읽어 보시기 바랍니다.",
        "방법은 여러 가지이며 모두 올바른 방법입니다.",
        "그 단계가 끝나면 나머지는 몇 분 안에 마칠 수 있습니다.",
        "중간에 멈추셔도 내용은 그대로 남아 있으니 언제든지 이어서 하실 수 있습니다.",
        "많은 고객님이 같은 내용을 궁금해하십니다.",
        "긴 설명보다 간단한 예를 보시는 편이 이해하기 쉽습니다.",
        "가격과 조건은 바뀔 수 있으므로 상품 페이지도 함께 확인해 주세요.",
        "망설여지실 때는 나중에 되돌릴 수 있는 쪽을 고르세요.",
        "가장 흔한 실수는 쉬워 보이는 첫 단계를 건너뛰는 것입니다.",
        "이 안내가 도움이 되었기를 바랍니다.",
    ],
}

ELABORATION: Final[dict[str, list[str]]] = {
    "en": [
        "You will find the details in the message we sent you when the order was placed.",
        "If your case is different, our customer service will gladly look into it.",
        "The same applies to orders placed in the app.",
        "There is nothing else you need to prepare.",
        "We will let you know by e-mail as soon as something changes.",
        "Public holidays are not counted.",
    ],
    "ko": [
        "자세한 내용은 주문하실 때 보내 드린 안내 메일에서 확인하실 수 있습니다.",
        "경우가 다르다면 고객센터에서 기꺼이 확인해 드리겠습니다.",
        "앱에서 주문하신 경우에도 똑같이 적용됩니다.",
        "그 밖에 따로 준비하실 것은 없습니다.",
        "변경 사항이 생기면 메일로 바로 알려 드립니다.",
        "공휴일은 날짜 계산에 포함되지 않습니다.",
    ],
}
