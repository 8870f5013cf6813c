"""What searching for words means, the same in every store: each word asked for begins a word of the text. Pure."""

from __future__ import annotations

import string
from typing import Final

from schemas.errors import Refused

#: Words of one question, and characters of one word.
MAX_WORDS, MAX_WORD = 10, 100
#: Characters of a text that are looked at.
SEARCHED: Final = 32_768
#: Characters of the piece of text that is shown for a hit.
SNIPPET: Final = 200
_BLANKS: Final = str.maketrans(dict.fromkeys(string.punctuation + string.whitespace, " "))


def words(text: str) -> list[str]:
    """In lower case, in order; ASCII punctuation parts them as blanks do."""
    return text.translate(_BLANKS).lower().split()


def question(text: str, pointer: str = "/q") -> tuple[str, ...]:
    """The words that somebody asks for. Raises `Refused` (422) for none, too many, or one that is too long."""
    found = tuple(dict.fromkeys(words(text)))
    if not found:
        raise Refused(422, "bad_parameter", "There is no word in it: letters or digits are looked for.", pointer)
    if len(found) > MAX_WORDS:
        raise Refused(422, "bad_parameter", f"At most {MAX_WORDS} words can be looked for at once.", pointer)
    if max(map(len, found)) > MAX_WORD:
        raise Refused(422, "bad_parameter", f"A word may have {MAX_WORD} characters.", pointer)
    return found


def matches(text: str, wanted: tuple[str, ...]) -> bool:
    """Whether each wanted word begins a word of the text (its first 32,768 characters)."""
    there = words(text[:SEARCHED])
    return all(any(one.startswith(word) for one in there) for word in wanted)


def snippet(text: str, wanted: tuple[str, ...]) -> str:
    """The piece of the text around the first place where a wanted word begins."""
    searched = text[:SEARCHED]
    level = searched.translate(_BLANKS).lower()
    places = [at for word in wanted if (at := f" {level}".find(f" {word}")) >= 0]
    begin = max(0, min(places, default=0) - SNIPPET // 4)
    end = begin + SNIPPET
    return ("…" if begin else "") + text[begin:end] + ("…" if end < len(text) else "")
