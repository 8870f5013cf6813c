"""The records of `chronicle.aggregates`: JSON keys and values, for us and for whoever else reads the topic. Pure."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from tables.usage import Key, Names, SessionUse, ToolUse, Usage, Value
from tables.usage_names import Counted
from tables.usage_view import Figures

#: The key under which the newest event time is written with every chunk.
CLOCK: Final[Key] = ("clock",)


class NewestTime(msgspec.Struct):
    """The newest event time of a partition, microseconds."""

    newest: int


_encode = msgspec.json.Encoder().encode
_MARK: Final = re.compile(rb'\{"at":(-?\d+),"foreign_at":(-?\d+),"generation":(\d+)[,}]')
_decode_mark = msgspec.json.Decoder(Counted).decode
_decode_key = msgspec.json.Decoder(tuple[str | int, ...]).decode
#: Table -> what reads its values.
_decoders: Final[dict[str, Any]] = {
    "usage": msgspec.json.Decoder(Usage).decode,
    "tools": msgspec.json.Decoder(ToolUse).decode,
    "session": msgspec.json.Decoder(SessionUse).decode,
    "names": msgspec.json.Decoder(Names).decode,
    "clock": msgspec.json.Decoder(NewestTime).decode,
}


def pack_key(key: Key) -> bytes:
    """The key of the changelog record."""
    return _encode(key)


def pack(value: Value | NewestTime) -> bytes:
    """The value of the changelog record."""
    return _encode(value)


def mark_of(value: bytes) -> tuple[int, int, int]:
    """`Counted.mark` of a packed value, read off the beginning of the text where that is as `pack` writes it."""
    if found := _MARK.match(value):
        at, foreign_at, generation = map(int, found.groups())
        return generation, at, foreign_at
    return _decode_mark(value).mark


def unpack(key: bytes, value: bytes) -> tuple[Key, Value | NewestTime]:
    """Both again. Raises `ValueError` for what is not ours."""
    named = unpack_key(key)
    return named, _decoders[str(named[0])](value)


def follow(figures: Figures, partition: int, record: Any) -> None:
    """Put a record (key, value) of the topic into `figures`. Raises `ValueError` for what is not ours."""
    key = record.key or b""
    if record.value is None:
        figures.put(partition, unpack_key(key), None)
        return
    named, read = unpack(key, record.value)
    if isinstance(read, NewestTime):
        figures.newest = max(figures.newest, read.newest)
    else:
        figures.put(partition, named, read)


def unpack_key(key: bytes) -> Key:
    """Raises `ValueError` for one that is not ours."""
    named: Key = _decode_key(key)
    if not named or named[0] not in _decoders:
        raise ValueError(f"no table has the key {key[:200]!r}")
    return named


def unpack_value(key: Key, value: bytes) -> Value:
    """A value alone, whose key is known."""
    found: Value = _decoders[str(key[0])](value)
    return found
