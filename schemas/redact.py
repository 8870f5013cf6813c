"""Blank secrets in a JSON text before it is stored anywhere; what was blanked stays visible as `[redacted:label]`.

One automaton looks for all literals at once (about 1 ns a byte); only where one stands is anything judged. The text is
edited in place, never parsed and written again: everything else stays byte for byte, and the result is valid JSON if
the input was. Secrets are found at any depth, in JSON inside strings, in `NAME=value`, headers, URLs and command
lines. `schemas.secrets` holds the patterns and names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Final

from ahocorasick_rs import BytesAhoCorasick, Implementation, MatchKind

from schemas.secrets import (
    DECOY_NEEDLES,
    HARMLESS_TOKENS,
    NAME_LABELS,
    NAME_NEEDLES,
    SECRET_ENDINGS,
    SECRET_HEADERS,
    TOKEN_RULES,
    TRAILING_WORDS,
    TokenRule,
)

#: (start, end, label): bytes to replace by the label's mark. A label that ends in `"` stands for a mark in quotes.
Span = tuple[int, int, str]
#: (text, start, end of a needle, end of what was blanked before it) -> what to blank, and up to where the text needs no
#: second look. No word and no name runs out of what was blanked into what follows it.
_Judge = Callable[[bytes, int, int, int], tuple[list[Span], int]]

#: ASCII written as escapes (`\u0073k-…`, `https:\/\/`): legal JSON that would hide a literal from the automaton.
_HIDING: Final = (*(b"\\u00%d" % digit for digit in range(2, 8)), b"\\/")
_HIDDEN: Final = re.compile(rb"(\\+)(?:u00([2-7][0-9a-fA-F])|/)")
_MARK: Final = b"[redacted:"
_WORD: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")
_TOKEN_CHARS: Final = _WORD | frozenset(b"_-")
_NAME: Final = _TOKEN_CHARS | frozenset(b".")
_MAX_NAME: Final = 64
_WORDS: Final = re.compile(rb"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_SPACE: Final = rb"(?:\s|\\+[nrt])*"
_AFTER_KEY: Final = re.compile(_SPACE + rb"(?:\])?" + _SPACE + rb"(?::|=>|=(?!=))" + _SPACE)
_ASSIGN: Final = re.compile(rb"[ \t]*(?::=|=(?![=>~])|:)[ \t]*(?:[frbu]{1,2}(?=\\*[\"']))?")
_COMMA: Final = re.compile(_SPACE + b"," + _SPACE)
_BLANKS: Final = re.compile(_SPACE)
_QUOTE: Final = re.compile(rb"(\\*)\"|'")
_APOSTROPHE_TEXT: Final = re.compile(rb"[^'\"\\\r\n]*")
_NUMBER: Final = re.compile(rb"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_DIGIT: Final = re.compile(rb"[0-9]")
_ENV_VALUE: Final = re.compile(rb"=(?P<value>[^\s\"'\\;&|<>(){}\[\],`]+)(?P<end>.?)", re.DOTALL)
_QUERY_VALUE: Final = re.compile(rb"=(?P<value>[^\s\"'\\&#<>]+)")
_FLAG_VALUE: Final = re.compile(rb"[ =](?P<value>[^\s\"'\\;&|<>(){}\[\],`-][^\s\"'\\;&|<>(){}\[\],`]*)")
_SCHEME: Final = rb"(?:(?:[Bb]earer|[Bb]asic|[Tt]oken|[Dd]igest)[ ]+)?"
_HEADER_VALUE: Final = re.compile(
    rb"[ \t]*:[ \t]*(?!" + _SCHEME + rb"\[redacted:)" + _SCHEME + rb"(?P<value>[^\s\"'\\<>{}$][^\"'\\\r\n]*)"
)
_COOKIE_VALUE: Final = re.compile(rb"[ \t]*:[ \t]*(?P<value>[A-Za-z0-9_.-]{1,128}=[^\"'\\\r\n]*)")
_YAML_VALUE: Final = re.compile(rb":[ \t]+(?P<value>[^\s\"'\\;,<>(){}\[\]`$]{6,})(?=[ \t]*(?:\\+[nr]|[\"\r\n]|$))")
_REFERENCE: Final = re.compile(
    _SCHEME + rb"(?:\$\{[^}]*\}?|\$[A-Za-z_0-9]+|\$\([^)]*\)?|#?\{[^{}]*\}|<[^>]*>|\{\{.*\}\}|%[A-Za-z_]+%"
    rb"|\*+|[xX]{3,}|\.{3}|[Nn]one|null|NULL|true|false|True|False|undefined|string|str)",
    re.DOTALL,
)
_PATH: Final = re.compile(rb"[/~.]|[A-Za-z]:[\\/]|\$")


class Redactor:
    """Callable: JSON text (UTF-8) in, the same object out when nothing was blanked, else the blanked text.

    Applying it twice gives the same as once. Never raises for content; text that is no JSON is handled as if it were.
    """

    def __init__(self) -> None:
        judges: dict[bytes, _Judge | None] = {}
        for rule in TOKEN_RULES:
            for needle in rule.needles:
                judges[needle] = _token_judge(rule)
        judges |= dict.fromkeys(NAME_NEEDLES, _judge_name)
        judges |= dict.fromkeys((*DECOY_NEEDLES, *_HIDING), None)
        needles = list(judges)
        self._judges: Final = list(judges.values())
        self._hiding: Final = frozenset(index for index, needle in enumerate(needles) if needle in _HIDING)
        automaton = BytesAhoCorasick(needles, matchkind=MatchKind.LeftmostLongest, implementation=Implementation.DFA)
        self._find: Final = automaton.find_matches_as_indexes

    def __call__(self, text: bytes) -> bytes:
        hits = self._find(text)
        if not hits:
            return text
        if any(index in self._hiding for index, _, _ in hits):
            spans = self._spans_of_hidden(text)
        else:
            spans = self._spans(text, hits)
        return _blank(text, spans) if spans else text

    def _spans(self, text: bytes, hits: list[tuple[int, int, int]]) -> list[Span]:
        spans: list[Span] = []
        seen = blanked = 0
        for index, start, end in hits:
            judge = self._judges[index]
            if judge is None or start < seen:  # what one judge has seen no other looks at: time stays linear
                continue
            found, seen = judge(text, start, end, blanked)
            spans.extend(self._named(text, span) for span in found)
            blanked = spans[-1][1] if spans else 0
        return spans

    def _named(self, text: bytes, span: Span) -> Span:
        """A secret found by its name but known by its looks has the more telling label."""
        start, end, label = span
        for index, at, to in self._find(text[start:end])[:1] if label in NAME_LABELS else ():
            judge = self._judges[index]
            if judge is not None and judge is not _judge_name and at == 0:
                exact, _ = judge(text, start, start + to, 0)
                return next((found for found in exact if found[:2] == (start, end)), span)
        return span

    def _spans_of_hidden(self, text: bytes) -> list[Span]:
        """Judge the text with ASCII escapes undone, then carry the spans back to where they were."""
        plain, places = _unhide(text)
        spans = self._spans(plain, self._find(plain))
        return [(places[start], places[end], label) for start, end, label in spans]


def mark(label: str) -> bytes:
    """What stands where a secret was."""
    return b"[redacted:%s]" % label.encode()


# --- spans -----------------------------------------------------------------------------------------------------------


def _blank(text: bytes, spans: list[Span]) -> bytes:
    """Replace the spans, which do not overlap."""
    parts, at = [], 0
    for start, end, label in spans:
        parts += [text[at:start], b'"%s"' % mark(label[:-1]) if label.endswith('"') else mark(label)]
        at = end
    return b"".join((*parts, text[at:]))


def _unhide(text: bytes) -> tuple[bytes, list[int]]:
    """The text with escaped printable ASCII written plainly, and for each of its bytes (and its end) the old place."""
    plain, at = bytearray(), 0
    places: list[int] = []
    for match in _HIDDEN.finditer(text):
        code, slashes = match[2], len(match[1])
        char = b"/" if code is None else bytes((int(code, 16),))
        if char in (b'"', b"\\") or slashes & (slashes + 1):  # a quote stays an escape; so does what is no escape
            continue
        plain += text[at : match.start()] + char
        places += [*range(at, match.start()), match.start()]
        at = match.end()
    return bytes(plain + text[at:]), [*places, *range(at, len(text) + 1)]


# --- tokens ----------------------------------------------------------------------------------------------------------


def _token_judge(rule: TokenRule) -> _Judge:
    match, group, label, word = rule.pattern.match, "secret" in rule.pattern.groupindex, rule.label, rule.word

    def judge(text: bytes, start: int, end: int, blanked: int) -> tuple[list[Span], int]:
        if word and start != blanked and not _begins_word(text, start):
            return [], end
        found = match(text, start)
        if found is None:
            return [], end
        first, last = found.span("secret") if group else found.span()
        if text.startswith(_MARK, first):
            return [], end
        return [(first, last, label)], last

    return judge


def _begins_word(text: bytes, at: int) -> bool:
    """Whether no word runs into `at`; the letter of an escape (`\\n`, `\\u000a`) is not part of one."""
    if at == 0 or text[at - 1] not in _TOKEN_CHARS:
        return True
    return _escape_ends(text, at)


def _escape_ends(text: bytes, at: int) -> bool:
    if text[at - 2 : at - 1] == b"\\":
        return text[at - 1] in b"nrtbf"
    return text[at - 6 : at - 4] == b"\\u" if at >= 6 else False


# --- names -----------------------------------------------------------------------------------------------------------


def _judge_name(text: bytes, start: int, end: int, blanked: int) -> tuple[list[Span], int]:
    """Judge the name around a needle: is it a secret's, and what is its value?"""
    first, last = _name_bounds(text, start, end, blanked)
    label = label_of(text[first:last])
    if label is None:
        return [], last
    if text[first - 1 : first] in (b'"', b"'") and text[last : last + 1] in (b'"', b"'", b"\\"):
        spans = list(_values_of_key(text, first, last, label))
    else:
        spans = list(_value_of_word(text, first, last, label))
    return spans, max([last, *(span[1] for span in spans)])


def _name_bounds(text: bytes, start: int, end: int, floor: int) -> tuple[int, int]:
    first, last = start, end
    while first > floor and start - first < _MAX_NAME and text[first - 1] in _NAME:
        first -= 1
    if floor < first < start and text[first - 1] == 0x5C:  # the letter (or code) of an escape
        first += 5 if text[first] == 0x75 and start - first >= 5 else 1
    while last > first and text[last - 1] not in _NAME:  # a needle may end in a quote or equals sign
        last -= 1
    while last < len(text) and last - end < _MAX_NAME and text[last] in _NAME:
        last += 1
    return first, last


@lru_cache(maxsize=2048)
def label_of(name: bytes) -> str | None:
    """The label of a secret's name, or None: `GITHUB_TOKEN` is a token, `max_tokens` and `secretary` are nothing."""
    words = [word.lower().decode() for word in _WORDS.findall(name)]
    while len(words) > 1 and words[-1] in TRAILING_WORDS:
        words.pop()
    if words[-1:] == ["token"] and HARMLESS_TOKENS.intersection(words):
        return None
    for length in (2, 1):
        label = SECRET_ENDINGS.get(tuple(words[-length:]))
        if label is not None:
            return label
    return None


def _values_of_key(text: bytes, first: int, last: int, label: str) -> Iterator[Span]:
    """`"name": value`, at any level of escaping: strings, strings in a list, numbers of a password."""
    opening = _quote_before(text, first)
    if not text.startswith(opening, last):
        return
    colon = _AFTER_KEY.match(text, last + len(opening))
    if colon is None:
        return
    at = colon.end()
    if text.startswith(b"[", at):
        strings = _strings_of_list(text, at + 1)
    elif string := _string_at(text, at):
        strings = iter((string,))
    else:
        number = _NUMBER.match(text, at) if label == "password" and opening == b'"' else None
        if number:
            yield number.start(), number.end(), label + '"'
        return
    for start, end, _ in strings:
        if _worth(text[start:end], text[first:last]):
            yield start, end, label


def _strings_of_list(text: bytes, at: int) -> Iterator[tuple[int, int, int]]:
    """The strings a list begins with; it ends at the first element that is none."""
    while string := _string_at(text, _past_space(text, at)):
        yield string
        comma = _COMMA.match(text, string[2])
        if comma is None:
            return
        at = comma.end()


def _value_of_word(text: bytes, first: int, last: int, label: str) -> Iterator[Span]:
    """A name outside quotes: headers, assignments, `NAME=value`, query parameters, command-line flags, YAML lines."""
    name = text[first:last]
    value: tuple[int, int] | None
    if name.lower().decode() in SECRET_HEADERS and text[last : last + 1] in (b":", b" "):
        value = _span((_COOKIE_VALUE if label == "cookie" else _HEADER_VALUE).match(text, last))
    elif assigned := _ASSIGN.match(text, last):
        value = _quoted(text, assigned.end()) or _bare(text, first, last)
    elif text[max(0, first - 2) : first] == b"--" or name.startswith(b"--"):
        value = _quoted(text, last + 1) or _span(_FLAG_VALUE.match(text, last))
    else:
        return
    if value and _worth(text[slice(*value)], name):
        yield *value, label


def _quoted(text: bytes, at: int) -> tuple[int, int] | None:
    """A quoted literal of at least four characters without a blank: prose in quotes is no secret.

    A word outside quotes stands inside a JSON string. So a bare `"` after it ends that string and opens nothing, and
    so does, deeper down, a quote with punctuation behind it.
    """
    string = None if text.startswith(b'"', at) else _string_at(text, at)
    if string is None or string[1] - string[0] < 4 or b" " in text[string[0] : string[1]]:
        return None
    if text[string[0]] in b",:]}":
        return None
    return string[0], string[1]


def _bare(text: bytes, first: int, last: int) -> tuple[int, int] | None:
    name = text[first:last]
    if text[first - 1 : first] in (b"?", b"&") and first:
        return _span(_QUERY_VALUE.match(text, last))
    if name.startswith(b"--"):
        return _span(_FLAG_VALUE.match(text, last))
    found = _ENV_VALUE.match(text, last)
    if found is None:
        return _yaml(text, last)
    if name.upper() == name:
        return found.span("value")
    value = found["value"]
    certain = len(value) >= 6 and _DIGIT.search(value) is not None and found["end"] not in (b"(", b"[")
    return found.span("value") if certain else None


def _yaml(text: bytes, last: int) -> tuple[int, int] | None:
    found = _YAML_VALUE.match(text, last)
    return found.span("value") if found and _DIGIT.search(found["value"]) else None


def _span(found: re.Match[bytes] | None) -> tuple[int, int] | None:
    return found.span("value") if found else None


def _worth(value: bytes, name: bytes) -> bool:
    """Not empty, not yet blanked, no reference to a variable, and no working directory under `pwd`."""
    if not value.strip() or value.startswith(_MARK) or _REFERENCE.fullmatch(value):
        return False
    return not (name.lower().endswith(b"pwd") and _PATH.match(value))


# --- strings at any level of escaping --------------------------------------------------------------------------------


def _quote_before(text: bytes, first: int) -> bytes:
    """The quote sign with its backslashes that ends right before `first`."""
    at = first - 1
    while at and text[at - 1] == 0x5C:
        at -= 1
    return text[at:first]


def _past_space(text: bytes, at: int) -> int:
    found = _BLANKS.match(text, at)
    return found.end() if found else at


def _string_at(text: bytes, at: int) -> tuple[int, int, int] | None:
    """(start, end, place after the closing quote) of the string that opens at `at`.

    `n` backslashes before its quotes (0, 1, 3, 7 …) tell how deep it is nested in other strings. A string that an
    outer level's quote cuts off ends there.
    """
    opening = _QUOTE.match(text, at)
    if opening is None:
        return None
    if opening.group() == b"'":
        return _apostrophe_string(text, opening.end())
    depth = len(opening[1])
    if depth & (depth + 1):
        return None
    place = start = opening.end()
    while True:
        place = text.find(b'"', place)
        if place < 0:
            return None
        slashes = _slashes_before(text, place, start)
        level = depth
        while level >= 0:
            if slashes % (2 * (level + 1)) == level:
                return start, max(start, place - level), place + 1
            level = (level + 1) // 2 - 1 if level else -1
        place += 1


def _apostrophe_string(text: bytes, start: int) -> tuple[int, int, int] | None:
    """Up to the next apostrophe in the same line and string."""
    found = _APOSTROPHE_TEXT.match(text, start)
    end = found.end() if found else start
    return (start, end, end + 1) if text[end : end + 1] == b"'" else None


def _slashes_before(text: bytes, at: int, floor: int) -> int:
    place = at
    while place > floor and text[place - 1] == 0x5C:
        place -= 1
    return at - place
