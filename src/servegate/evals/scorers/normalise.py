"""When two short answers say the same, in Korean and in English.

What is evened out never carries meaning: the Unicode form (Korean typed on macOS is decomposed, numbers typed with a
Korean keyboard may be full width), upper case, blanks around and between words, quotes and sentence marks, the comma
in 3,000. What may carry meaning stays: signs, %, currency, the point in 10.5, the colon in 9:00, and blanks between
words ("배송 중" and "배송중" differ in the default; `ignore: [spacing]` evens that out, as writers of Korean often do).
Unicode: UAX #15 (normalisation forms), The Unicode Standard §5.18 (caseless matching).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Container
from typing import Literal

Form = Literal["NFC", "NFKC"]
Ignore = Literal["case", "punctuation", "spacing"]

# Characters without width: zero width space, word joiner, byte order mark, soft hyphen. Joiners are left: Emoji and
# some scripts need them.
_INVISIBLE = dict.fromkeys(map(ord, "\u200b\u2060\ufeff\u00ad"))
_MARKS = frozenset("\"'`´*.,!?;:…·‥。、，．！？；：“”‘’")
_BRACKETS = frozenset({"Ps", "Pe", "Pi", "Pf"})
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


def normalise(text: str, form: Form, ignore: Container[Ignore]) -> str:
    """Even out what carries no meaning.

    Args:
        text: any text.
        form: Unicode normalisation form; NFKC also folds width (３ → 3) and compatibility characters (㎏ → kg).
        ignore: what else to even out.
    """
    text = unicodedata.normalize(form, text).translate(_INVISIBLE)
    if "case" in ignore:
        text = unicodedata.normalize(form, text.casefold())
    if "punctuation" in ignore:
        text = _without_marks(_THOUSANDS.sub("", text))
    return ("" if "spacing" in ignore else " ").join(text.split())


def _without_marks(text: str) -> str:
    """Drop quotes, brackets, emphasis and sentence marks, except between two digits (10.5, 9:00)."""
    kept = []
    for index, char in enumerate(text):
        if char in _MARKS or unicodedata.category(char) in _BRACKETS:
            inside = 0 < index < len(text) - 1 and text[index - 1].isdigit() and text[index + 1].isdigit()
            if not inside:
                continue
        kept.append(char)
    return "".join(kept)
