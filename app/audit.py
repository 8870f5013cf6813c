"""The audit of single records: what became of each one of the ingest topic. Pure.

The ledger adds up counters; this looks at the records themselves and asks the databases about each id, so that both
can be held against each other, and what is missing has a name.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal
from uuid import UUID

import msgspec

from schemas.errors import Poison
from schemas.event import IdOrigin, Position
from schemas.query import Witnesses
from schemas.topics import POSITION_HEADER

Fate = Literal["stored", "duplicates", "rejected", "dead", "pending", "missing"]
FATES: Final[tuple[Fate, ...]] = ("stored", "duplicates", "rejected", "dead", "pending", "missing")
_position = struct.Struct(">iq")


class Look(msgspec.Struct, frozen=True):
    """One record of the ingest topic as the audit sees it; `id` is None where its head cannot be read."""

    place: Position
    id: UUID | None
    fingerprint: bytes


def look(
    partition: int, offset: int, value: bytes | None, peek: Callable[[bytes | None], tuple[bytes, bytes, IdOrigin]]
) -> Look:
    """Read the head of a record."""
    place = Position(partition, offset)
    try:
        event_id, fingerprint, _ = peek(value)
    except Poison:
        return Look(place, None, b"")
    return Look(place, UUID(bytes=event_id), fingerprint)


def fates(records: Iterable[Look], known: Sequence[Witnesses], pending_from: int) -> list[tuple[Look, Fate]]:
    """What became of each record. `known` is what the databases say, `pending_from` the first offset under way."""
    stored = {id: found for one in reversed(known) for id, found in one.stored.items()}
    letters = [letter for one in known for letter in one.letters]
    by_place = {place: cause for _, place, cause in letters if place is not None}
    dead_ids = {id for id, _, _ in letters if id is not None}
    return [(record, _fate(record, stored, by_place, dead_ids, pending_from)) for record in records]


def _fate(
    record: Look,
    stored: dict[UUID, tuple[Position, bytes]],
    letters: dict[Position, str],
    dead_ids: set[UUID],
    pending_from: int,
) -> Fate:
    found = stored.get(record.id) if record.id is not None else None
    if found is not None and found[0] == record.place:
        return "stored"
    if (cause := letters.get(record.place)) is not None:
        return "rejected" if cause == "conflict" else "dead"
    if found is not None and found[1] == record.fingerprint:
        return "duplicates"
    if record.place.offset >= pending_from:
        return "pending"
    if found is None and record.id in dead_ids:  # a copy of an event that is a dead letter itself
        return "duplicates"
    return "missing"


def count(found: Iterable[tuple[Look, Fate]]) -> dict[str, int]:
    """How many of each fate."""
    sums: dict[str, int] = dict.fromkeys(FATES, 0)
    for _, fate in found:
        sums[fate] += 1
    return sums


def position_of(headers: Iterable[tuple[str, bytes]]) -> int | None:
    """The ingest offset a record of `chronicle.events` came from; None when it does not say."""
    for name, value in headers:
        if name == POSITION_HEADER and len(value) == _position.size:
            return int(_position.unpack(value)[1])
    return None
