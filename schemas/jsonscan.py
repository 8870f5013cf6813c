"""Cut a JSON array or object into the texts of its parts without judging what is inside them.

The fast way (msgspec) refuses a whole body for one bad part. This scanner finds where each part begins and ends from
brackets and strings alone, without recursion, so that a neighbour of a broken, bottomless or ill-coded part is never
lost. Each part is judged afterwards, alone.
"""

from __future__ import annotations

import re
from typing import Final

_TOKEN: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\],:]', re.DOTALL)
_CLOSES: Final = {b"}": b"{", b"]": b"["}
#: A body of nothing but brackets must not take seconds; ordinary bodies have far fewer.
MAX_TOKENS: Final = 2_000_000


def elements(text: bytes) -> list[bytes]:
    """The texts of an array's elements. Raises ValueError when the brackets do not close or it is no array."""
    return _parts(text, b"[", b",")


def members(text: bytes) -> list[tuple[bytes, bytes]]:
    """The (key, value) texts of an object's members, quotes included. Raises ValueError like `elements`."""
    found = []
    for part in _parts(text, b"{", b","):
        key = _TOKEN.match(part)
        if key is None or not key.group().startswith(b'"'):
            raise ValueError("an object's key must be a string")
        rest = part[key.end() :].lstrip()
        if not rest.startswith(b":"):
            raise ValueError("a colon must follow an object's key")
        found.append((key.group(), rest[1:].strip()))
    return found


def _parts(text: bytes, opening: bytes, separator: bytes) -> list[bytes]:
    text = text.strip()
    if not text.startswith(opening):
        raise ValueError(f"expected {opening.decode()}")
    parts: list[bytes] = []
    stack: list[bytes] = []
    start = 1
    for count, match in enumerate(_TOKEN.finditer(text)):
        token = match.group()
        if count > MAX_TOKENS:
            raise ValueError("too many tokens to be cut into parts")
        if token in (b"[", b"{"):
            stack.append(token)
        elif token in _CLOSES:
            if not stack or stack.pop() != _CLOSES[token]:
                raise ValueError(f"unexpected {token.decode()} at byte {match.start()}")
            if not stack:
                return _finish(text, parts, text[start : match.start()], match.end())
        elif token == separator and len(stack) == 1:
            parts.append(text[start : match.start()].strip())
            start = match.end()
    raise ValueError("the JSON text ends too early")


def _finish(text: bytes, parts: list[bytes], last: bytes, end: int) -> list[bytes]:
    if end != len(text):
        raise ValueError(f"trailing characters after byte {end}")
    last = last.strip()
    if last or parts:
        parts.append(last)
    return parts
