"""Text to tokens, well enough: deterministic, and about as many as a real tokenizer makes.

About 4 characters a token for English, 2 for Hangul, 3 digits a token. A token is a run of whole characters, so a
stream never breaks one in two; `"".join(split(text)) == text` for any text.
"""

from __future__ import annotations

import re

# At most eight characters (one space and seven letters), which `fewest` relies on.
LONGEST_TOKEN = 8
_TOKEN = re.compile(r" ?[A-Za-z]{1,7}| ?[가-힣]{1,2}| ?[0-9]{1,3}|\s{1,8}|[^\s]", re.DOTALL)


def split(text: str) -> list[str]:
    """The tokens of `text`; empty for an empty text."""
    return _TOKEN.findall(text)


def fewest(text: str) -> int:
    """A lower bound of the number of tokens in `text`, without splitting it."""
    return -(-len(text) // LONGEST_TOKEN)
