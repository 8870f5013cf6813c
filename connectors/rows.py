"""Events and dead letters as rows: the column lists and the mapping both databases share. Pure.

`payload` and `metadata` go into JSON columns. Where such a column cannot give back the value that was sent (U+0000
and lone surrogates are replaced, -0.0 becomes 0.0, of a repeated key only the last value stays), the payload's text as
sent is kept in `payload_raw`. Elsewhere blanks, the order of keys and the spelling of numbers are the column's own.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final, Literal
from uuid import UUID

import msgspec

from connectors.ports import Span
from schemas.event import DeadLetter, Flag, LoggedEvent, Position
from schemas.jsontext import jsonb_text, last_keys

#: Columns of `events` that a sink writes, with their Postgres types; `stored_at` is the database's.
EVENT_TYPES: Final[dict[str, str]] = {
    "event_id": "uuid",
    "session_id": "text",
    "event_type": "text",
    "hook_event_name": "text",
    "occurred_at": "timestamptz",
    "received_at": "timestamptz",
    "source": "text",
    "tool_name": "text",
    "tool_use_id": "text",
    "agent_id": "text",
    "agent_type": "text",
    "prompt_id": "text",
    "cwd": "text",
    "suspected_duplicate_of": "uuid",
    "id_origin": "smallint",
    "flags": "integer",
    "payload": "jsonb",
    "payload_raw": "text",
    "metadata": "jsonb",
    "fingerprint": "bytea",
    "ingest_partition": "integer",
    "ingest_offset": "bigint",
    "events_offset": "bigint",
}
EVENT_COLUMNS: Final = tuple(EVENT_TYPES)
LETTER_TYPES: Final[dict[str, str]] = {
    "topic": "text",
    "partition": "integer",
    "offset": "bigint",
    "ingest_partition": "integer",
    "ingest_offset": "bigint",
    "stage": "text",
    "cause": "text",
    "detail": "text",
    "key": "bytea",
    "value": "bytea",
    "event_id": "uuid",
    "session_id": "text",
    "failed_at": "timestamptz",
}
LETTER_COLUMNS: Final = tuple(LETTER_TYPES)

_KEEP_RAW = int(Flag.SANITIZED | Flag.DUPLICATE_KEYS)
_SANITIZED = int(Flag.SANITIZED)


def event_row(logged: LoggedEvent) -> tuple[Any, ...]:
    """One row in the order of `EVENT_COLUMNS`; times stay microseconds, ids stay `UUID`."""
    event = logged.event
    flags = event.flags
    payload, metadata, raw = event.payload, event.metadata, None
    if flags & _KEEP_RAW:
        raw = payload
        payload, metadata = _for_column(payload, flags), _for_column(metadata, flags)
    return (
        event.event_id,
        event.session_id,
        event.event_type,
        event.hook_event_name,
        event.occurred_at,
        event.received_at,
        event.source,
        event.tool_name,
        event.tool_use_id,
        event.agent_id,
        event.agent_type,
        event.prompt_id,
        event.cwd,
        event.suspected_duplicate_of,
        event.id_origin,
        flags,
        payload,
        raw,
        metadata,
        event.fingerprint,
        logged.ingest.partition,
        logged.ingest.offset,
        logged.events.offset,
    )


def _for_column(text: str, flags: int) -> str:
    """As jsonb would keep it, also for a column that keeps the text: SQLite finds the first of two equal keys."""
    return last_keys(jsonb_text(text) if flags & _SANITIZED else text)


def letter_row(letter: DeadLetter) -> tuple[Any, ...]:
    """One row in the order of `LETTER_COLUMNS`. Nothing in it can be refused: a dead letter has nowhere else to go."""
    ingest = letter.ingest
    return (
        letter.topic,
        letter.partition,
        letter.offset,
        ingest.partition if ingest else None,
        ingest.offset if ingest else None,
        letter.stage,
        letter.cause,
        clean(letter.detail),
        letter.key,
        letter.value,
        letter.event_id,
        clean(letter.session_id) if letter.session_id is not None else None,
        letter.failed_at,
    )


def letter_of(row: tuple[Any, ...]) -> DeadLetter:
    """The other way round, for rows whose `event_id` is text or None."""
    values = dict(zip(LETTER_COLUMNS, row, strict=True))
    partition, offset = values.pop("ingest_partition"), values.pop("ingest_offset")
    event_id = values.pop("event_id")
    return DeadLetter(
        ingest=None if partition is None else Position(partition, offset),
        event_id=None if event_id is None else UUID(str(event_id)),
        **values,
    )


def clean(text: str) -> str:
    """Text that a Postgres text column takes: U+0000 becomes U+2400, a lone surrogate U+FFFD."""
    return text.replace("\0", "\u2400").encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


# --- who was first ---------------------------------------------------------------------------------------------------

Verdict = Literal["replay", "duplicate", "conflict"]


class Known(msgspec.Struct, frozen=True):
    """What a database holds under an event id: the place the row came from and its fingerprint."""

    ingest: Position
    fingerprint: bytes


def known(logged: LoggedEvent) -> Known:
    """What a database will hold once this event is in it."""
    return Known(logged.ingest, logged.event.fingerprint)


def judge(logged: LoggedEvent, there: Known) -> Verdict:
    """An id that is there already: the same record again, a repeat of the same event, or another event's claim."""
    if there.ingest == logged.ingest:
        return "replay"
    return "duplicate" if there.fingerprint == logged.event.fingerprint else "conflict"


def split_repeats(events: Iterable[LoggedEvent]) -> tuple[dict[UUID, LoggedEvent], list[LoggedEvent]]:
    """The first of each id in log order, and the rest."""
    firsts: dict[UUID, LoggedEvent] = {}
    rest: list[LoggedEvent] = []
    for logged in events:
        event_id = logged.event.event_id
        if event_id in firsts:
            rest.append(logged)
        else:
            firsts[event_id] = logged
    return firsts, rest


# --- count and hash --------------------------------------------------------------------------------------------------


def checksum(pairs: Iterable[tuple[UUID, bytes]]) -> tuple[int, int]:
    """(count, hash) of (event id, fingerprint) pairs; order does not matter. The hash is 56 bits, fit for a bigint.

    Give each id once: two equal pairs cancel each other out of an xor.
    """
    count, total = 0, 0
    for event_id, fingerprint in pairs:
        count += 1
        total ^= int.from_bytes(hashlib.blake2b(event_id.bytes + fingerprint, digest_size=7).digest())
    return count, total


def expected(events: Iterable[LoggedEvent]) -> tuple[int, int]:
    """What `PostgresSink.verify` must answer once these events are stored; repeats of one id count once."""
    return checksum({logged.event.event_id: logged.event.fingerprint for logged in events}.items())


def progress_rows(spans: Iterable[Span], fresh: Iterable[LoggedEvent]) -> list[tuple[int, int, int]]:
    """(partition, next_offset, newly stored), sorted; next_offset 0 where a batch tells no span (sync-back)."""
    ends: dict[int, int] = {}
    for span in spans:
        ends[span.partition] = max(span.end, ends.get(span.partition, 0))
    stored = Counter(logged.events.partition for logged in fresh)
    return [(part, ends.get(part, 0), stored[part]) for part in sorted(ends.keys() | stored.keys())]
