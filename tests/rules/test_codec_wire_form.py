"""The wire form: what is written, what is read back, what is poison."""

from __future__ import annotations

from uuid import UUID

import msgspec
import pytest

from schemas.codec import AvroCodec
from schemas.errors import Poison
from schemas.event import Flag, HookEvent, IdOrigin

CODEC = AvroCodec()
EVENT = HookEvent(
    event_id=UUID(int=7),
    fingerprint=bytes(range(16)),
    id_origin=IdOrigin.NATURAL,
    session_id="s",
    event_type="tool_pre_use",
    occurred_at=1,
    received_at=-2,
    source="test",
    payload='{"a":"é"}',
    suspected_duplicate_of=UUID(int=9),
    flags=Flag.REDACTED | Flag.SANITIZED,
)
VALUE = CODEC.encode(EVENT)


def changed(**fields: object) -> HookEvent:
    return msgspec.structs.replace(EVENT, **fields)


def test_the_head_of_a_record_lies_at_fixed_bytes() -> None:
    """Dedupe and others' tools read id, fingerprint and origin without decoding."""
    assert VALUE[:5] == b"\0\0\0\0\1"
    assert VALUE[5:21] == EVENT.event_id.bytes
    assert VALUE[21:37] == EVENT.fingerprint
    assert [CODEC.encode(changed(id_origin=origin))[37] for origin in IdOrigin] == [0, 2, 4]


def test_peek_reads_the_head() -> None:
    """The same three values as a decode gives."""
    assert CODEC.peek(VALUE) == (EVENT.event_id.bytes, EVENT.fingerprint, IdOrigin.NATURAL)


def test_remark_changes_the_mark_and_nothing_else() -> None:
    """A suspected duplicate keeps its id and its body."""
    marked = CODEC.decode(CODEC.remark(VALUE, UUID(int=5)))
    assert marked == changed(suspected_duplicate_of=UUID(int=5))


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        (None, "undecodable"),
        (b"", "undecodable"),
        (b"\0\0\0", "undecodable"),
        (b"\1" + VALUE[1:], "undecodable"),
        (b"\0\0\0\0\x63" + VALUE[5:], "unknown_schema"),
        (VALUE[:53], "undecodable"),
        (VALUE[:37] + b"\6" + VALUE[38:], "undecodable"),
        (VALUE[:37] + b"\1" + VALUE[38:], "undecodable"),
    ],
    ids=["tombstone", "empty", "short frame", "no frame", "unknown id", "short body", "origin 3", "origin -1"],
)
def test_a_broken_head_is_poison_for_peek_and_decode(value: bytes | None, cause: str) -> None:
    """Both name the same cause, so a record has one fate."""
    for read in (CODEC.peek, CODEC.decode):
        with pytest.raises(Poison) as caught:
            read(value)
        assert caught.value.cause == cause


@pytest.mark.parametrize("bits", range(1, 64))
@pytest.mark.parametrize("sign", [1, -1])
def test_numbers_of_every_length_come_back(bits: int, sign: int) -> None:
    """Short ones, long ones and times are written and read in ways of their own."""
    for number in ((1 << bits) - 1, 1 << bits - 1, (1 << bits) // 3):
        written = changed(occurred_at=sign * number, received_at=-sign * number)
        assert CODEC.decode(CODEC.encode(written)) == written


def test_every_truncation_is_poison() -> None:
    """However much of the end is missing, nothing is guessed."""
    for end in range(len(VALUE)):
        with pytest.raises(Poison):
            CODEC.decode(VALUE[:end])


@pytest.mark.parametrize(
    "value",
    [
        VALUE + b"\0",
        VALUE[:38] + b"\xff" * 2_000_000,
        VALUE[:38] + b"\1" + VALUE[39:],
        VALUE.replace(b"{", b"\xff"),
        VALUE.replace(b"-0000-", b"-zzzz-", 1),
    ],
    ids=["bytes after the end", "an endless number", "negative length", "not UTF-8", "a mark that is no UUID"],
)
def test_a_broken_body_is_poison(value: bytes) -> None:
    """The cause is `undecodable`; the record goes to the dead letters."""
    assert value != VALUE
    with pytest.raises(Poison) as caught:
        CODEC.decode(value)
    assert caught.value.cause == "undecodable"


def test_a_broken_record_does_not_cost_its_neighbours() -> None:
    """`decode_many` gives each record its own fate."""
    first, broken, last = CODEC.decode_many([VALUE, b"junk!", VALUE])
    assert (first, last) == (EVENT, EVENT)
    assert isinstance(broken, Poison)


@pytest.mark.parametrize(
    "fields",
    [
        {"occurred_at": True},
        {"occurred_at": 1.5},
        {"occurred_at": 1 << 63},
        {"flags": 1 << 31},
        {"flags": False},
        {"session_id": b"bytes"},
        {"payload": "\ud83d"},
        {"fingerprint": b"short"},
        {"tool_name": 5},
        {"event_id": b"0123456789abcdef"},
    ],
    ids=str,
)
def test_encode_refuses_what_the_types_forbid(fields: dict[str, object]) -> None:
    """fastavro would write a bool, or 1.5 as 1, without a word."""
    with pytest.raises((TypeError, ValueError, AttributeError)):
        CODEC.encode(changed(**fields))
