"""The changelog record of the table `seen`: one a chunk, packed. Big-endian throughout; pure.

key    bucket u32 · base u64 · generation u32
value  version u8 · bucket u32 · head 9 x i64 · number of entries u32, fresh u32, and then
       entries: id 16 · first offset u64 · fingerprint 8
       fresh:   entry index u32 · timestamp ms i64
       marks:   entry index u32 · suspected id 16, up to the end
The generation of the consumer group is in the key so that a fenced worker's late record never replaces, in compaction,
the one its successor wrote for the same offsets.
"""

from __future__ import annotations

import struct
from itertools import chain
from typing import NamedTuple

from tables.seen import Decision, Head

VERSION = 1

_KEY = struct.Struct(">IQI")
_HEADER = struct.Struct(">BI9qII")
_FRESH = struct.Struct(">Iq")
_MARK = struct.Struct(">I16s")
_ENTRY = struct.Struct("16s16s")


class Undecodable(ValueError):
    """The bytes are not a changelog record of this version."""


class Remembered(NamedTuple):
    """A changelog record read back. `entries` are ids with what is remembered of them, see `seen.remember`;
    `fresh` are (kept fingerprint, timestamp in ms, event id)."""

    bucket: int
    head: Head
    entries: list[tuple[bytes, bytes]]
    fresh: list[tuple[bytes, int, bytes]]


def pack_key(bucket: int, base: int, generation: int) -> bytes:
    """The key of the record; its first four bytes order keys by bucket."""
    return _KEY.pack(bucket, base, generation & 0xFFFFFFFF)


def bucket_of(key: bytes) -> int:
    """The bucket in a key. Raises `Undecodable`."""
    if len(key) != _KEY.size:
        raise Undecodable(f"A key has {_KEY.size} bytes, not {len(key)}.")
    return int.from_bytes(key[:4], "big")


def pack(decision: Decision) -> bytes:
    """What there is to remember of a decision."""
    entries = decision.entries
    header = _HEADER.pack(VERSION, decision.bucket, *decision.head, len(entries), len(decision.fresh))
    plain = ((key, value[:16]) for key, value in entries) if decision.suspects else entries
    parts = [header, *chain.from_iterable(plain)]
    parts += [_FRESH.pack(*fresh) for fresh in decision.fresh]
    if decision.suspects:
        parts += [_MARK.pack(index, value[16:]) for index, (_, value) in enumerate(entries) if len(value) > 16]
    return b"".join(parts)


def unpack(value: bytes) -> Remembered:
    """The record again. Raises `Undecodable`."""
    try:
        version, bucket, *rest = _HEADER.unpack_from(value)
    except struct.error as error:
        raise Undecodable(f"Too short: {len(value)} bytes.") from error
    if version != VERSION:
        raise Undecodable(f"Version {version}; this one reads {VERSION}.")
    entries_end = _HEADER.size + rest[9] * _ENTRY.size
    fresh_end = entries_end + rest[10] * _FRESH.size
    if len(value) < fresh_end or (len(value) - fresh_end) % _MARK.size:
        raise Undecodable(f"Torn: {len(value)} bytes.")
    entries: list[tuple[bytes, bytes]] = list(_ENTRY.iter_unpack(value[_HEADER.size : entries_end]))
    try:
        for index, suspect in _MARK.iter_unpack(value[fresh_end:]):
            event_id, seen = entries[index]
            entries[index] = (event_id, seen + suspect)
        fresh = [
            (entries[index][1][8:16], at, entries[index][0])
            for index, at in _FRESH.iter_unpack(value[entries_end:fresh_end])
        ]
    except IndexError as error:
        raise Undecodable("A fresh or marked id is not among the entries.") from error
    return Remembered(bucket, Head(*rest[:9]), entries, fresh)
