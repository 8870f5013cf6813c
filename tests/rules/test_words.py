"""What searching for words means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import words
from schemas.errors import Refused


@pytest.mark.parametrize(
    ("text", "asked", "found"),
    [
        ("Mend the parser", "PARS", True),
        ("Mend the parser", "arser", False),
        ("src/lexer_v2.py", "lexer v2", True),
        ("src/lexer_v2.py", "src/lexer", True),
        ("eins zwei", "zwei drei", False),
        ("ÄRGER", "ärg", True),
        ("", "a", False),
    ],
)
def test_each_word_begins_a_word(text: str, asked: str, found: bool) -> None:
    """In any order and case; punctuation parts words."""
    assert words.matches(text, words.question(asked)) is found


@pytest.mark.parametrize("bad", ["", "  ", "--- !?", "a " * 3 + " ".join(map(str, range(10))), "x" * 101])
def test_a_question_without_words_or_with_too_many_is_refused(bad: str) -> None:
    """With a pointer to it."""
    with pytest.raises(Refused) as refused:
        words.question(bad)
    assert (refused.value.status, refused.value.pointer) == (422, "/q")


def test_a_snippet_shows_the_place() -> None:
    """Some text before it, more behind it; marks where something is left out."""
    text = "a" * 300 + " needle in " + "b" * 400
    shown = words.snippet(text, ("need",))
    assert "needle in" in shown
    assert (shown[0], shown[-1]) == ("…", "…")
    assert len(shown) == words.SNIPPET + 2
    assert words.snippet("short needle", ("need",)) == "short needle"


@given(st.text(max_size=80), st.text(max_size=20))
def test_nothing_that_people_type_raises_anything_else(text: str, asked: str) -> None:
    """A question is refused or answered; a hit has a snippet, and the snippet is of the text."""
    try:
        wanted = words.question(asked)
    except Refused:
        return
    if words.matches(text, wanted):
        assert words.snippet(text, wanted).strip("…") in text
