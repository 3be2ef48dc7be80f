"""What two questions are compared by: normalised text, its tokens, and what in it must not differ."""

from __future__ import annotations

import re
import unicodedata

_HAN = "\u3400-\u4dbf\u4e00-\u9fff"
_TOKEN = re.compile(rf"(?<!\w)\.\d+|\d+(?:[.,:]\d+)*|[{_HAN}\u3040-\u30ff]|[^\W\d_{_HAN}\u3040-\u30ff]+|[^\w\s]|_")
_HYPHEN = re.compile(  # of words: x-y is a difference
    r"(?<=[^\W\d_]{2})[-‐‑](?=[^\W\d_])|(?<=[^\W\d_])[-‐‑](?=[^\W\d_]{2})|(?<=[^\W\d_]{2})['’](?=[^\W\d_])"
)
_DROPPED = frozenset('.,;:?"`$“”。、')  # not "!" and "'": 5! and f'(x) are no 5 and f(x)
_RAISED = {
    number: mark + "".join(chr(int(code, 16)) for code in codes)
    for number in range(0x3000)  # the rest are phonetic and annotations
    for kind, *codes in [unicodedata.decomposition(chr(number)).split() or [""]]
    if (mark := {"<super>": "^", "<sub>": "_"}.get(kind))
}
_ARTICLES = frozenset("ai")


def tokens(text: str) -> list[str]:
    """Words, numbers and symbols in one case and form, without what ends or quotes a sentence.

    ``tokens("Is 3.5 + x  even?") == ["is", "3.5", "+", "x", "even"]``. Numbers and operators stay: they are what a
    question asks. A Han or kana character is a word, and ``10²`` is ``10^2``, not 102, ``2ⁿ`` no ``2n``.
    """
    plain = _HYPHEN.sub(" ", unicodedata.normalize("NFKC", text.translate(_RAISED)).casefold())
    return [token for token in _TOKEN.findall(plain) if token not in _DROPPED]


def is_fixed(token: str) -> bool:
    """Whether two wordings of one question must share this token: a number, a symbol, a variable of one letter.

    ``a`` and ``i`` are words; a single Han character is one as well.
    """
    return not token[0].isalpha() or (len(token) == 1 and token.isascii() and token not in _ARTICLES)


def without_digits(text: str) -> str:
    """Letters alone, in one case: Light-R1 compares questions after deleting digits and what is no word character
    (replications 1.5 B), which finds the same problem with new numbers."""
    return "".join(character for character in text.casefold() if character.isalpha())


def spaced_words(text: str) -> list[str]:
    """Words as Open-R1's script splits them: lower case, at white space alone, punctuation left on (replications 1.5
    A). Han characters, which have no spaces between them, are words each."""
    return _EACH_HAN.sub(r" \g<0> ", text.lower()).split()


_EACH_HAN = re.compile(f"[{_HAN}]")
