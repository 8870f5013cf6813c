"""What dedupe can write again: key, value and headers count together, and a letter fits its topic whatever it holds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from agents.dedupe import MAX_LETTER_BYTES, MAX_RECORD_BYTES, output, read
from agents.quarantine import decode
from schemas.event import IdOrigin
from tables.seen import Decision, Head, Verdict

TOPIC_LIMIT = 2 << 20


def record(key: bytes | None, value: bytes | None, *headers: tuple[str, bytes | None]) -> Any:
    """As the transport delivers it."""
    return SimpleNamespace(offset=7, timestamp=1, key=key, value=value, headers=headers)


def peek(value: bytes | None) -> tuple[bytes, bytes, IdOrigin]:
    """Every value is an event of one id."""
    return bytes(range(16)), bytes(16), IdOrigin.CLIENT


@pytest.mark.parametrize(
    "large",
    [
        record(b"k", b"v" * (MAX_RECORD_BYTES + 1)),
        record(b"k" * MAX_RECORD_BYTES, b"v"),
        record(b"k", b"v", ("a", b"x" * MAX_RECORD_BYTES)),
        record(b"k", b"v", *(("name", b"") for _ in range(MAX_RECORD_BYTES // 4 + 1))),
    ],
    ids=["value", "key", "header", "header names"],
)
def test_dedupe_sets_aside_what_cannot_be_written_again(large: Any) -> None:
    """A record over the limit by value, key or headers is oversize: producing it would fail for ever."""
    assert read([large], peek).poisons[0].cause == "oversize"


def test_dedupe_reads_headers_without_a_value() -> None:
    """A foreign header may hold nothing."""
    assert read([record(None, b"v", ("a", None))], peek).poisons == {}


def test_dedupe_letter_fits_its_topic_with_the_largest_key_and_value() -> None:
    """Base64 makes a third more of both, and the topic's limit holds for the whole."""
    large = record(b"k" * MAX_RECORD_BYTES, b"v" * MAX_RECORD_BYTES)
    seen = read([large], peek)
    decision = Decision([Verdict.DEAD], {}, [], [], Head(), 0, 0)
    letter = output("t", 0, [large], seen, decision, lambda value, _: value, 0).letters[0]
    assert letter.value is not None
    assert len(letter.value) < TOPIC_LIMIT - 10_000
    assert len(decode(letter.value).value or b"") == MAX_LETTER_BYTES
