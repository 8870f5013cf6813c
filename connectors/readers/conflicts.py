"""Conflicts in SQL: two events that claim one id, and what was decided about them.

The other side of a conflict is a dead letter with the cause `conflict`, known by its id `topic/partition/offset`; the
first side is the stored event. A decision touches the payload of the stored event only: id, session, type, times and
fingerprint stay those of the first, so that dedup and sync-back go on knowing it by what it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from connectors.model import conflict_resolutions, dead_letters, events, sessions
from connectors.readers import shape
from connectors.rollup import END, SESSION_TYPES, START, Delta, fold
from connectors.rows import EVENT_TYPES
from schemas.event import Flag, HookEvent, IdOrigin, LoggedEvent, Position
from schemas.jsontext import jsonb_text
from schemas.query import Resolution

_PLACE = ("topic", "partition", "offset")
_OF_ONE_LETTER = sa.and_(*(conflict_resolutions.c[name] == dead_letters.c[name] for name in _PLACE))
_BODY = Flag.REDACTED | Flag.TRUNCATED | Flag.SANITIZED | Flag.DUPLICATE_KEYS


def conflict_rows(*more: sa.Column[Any]) -> sa.Select[Any]:
    """One row a conflict: the columns of the letter (without its bytes), the first one's place, the decision."""
    columns = [column for column in dead_letters.c if column.key not in {"key", "value"}]
    first = events.c.ingest_partition.label("first_partition"), events.c.ingest_offset.label("first_offset")
    joined = dead_letters.outerjoin(events, events.c.event_id == dead_letters.c.event_id).outerjoin(
        conflict_resolutions, _OF_ONE_LETTER
    )
    query = sa.select(*columns, *first, conflict_resolutions.c.strategy, *more).select_from(joined)
    return query.where(dead_letters.c.cause == "conflict", dead_letters.c.event_id.is_not(None))


def text_of(row: Mapping[str, Any]) -> str:
    """The payload as it was sent, of a row with `payload` as text."""
    raw: str | None = row["payload_raw"]
    return raw if raw is not None else str(row["payload"])


# --- the transaction -------------------------------------------------------------------------------------------------


async def resolve(connection: AsyncConnection, wanted: Resolution) -> int:
    """Close the conflicts named in `wanted`, replace the payload where it says so; returns how many were closed.

    Letters that are closed already are passed over; when none is left nothing is changed.
    """
    still_open = [key for id in wanted.letters if (key := shape.split_letter_id(id)) and await _lock(connection, key)]
    if not still_open:
        return 0
    before = after = None
    if wanted.payload is not None:
        before, after = await _replace(connection, wanted), wanted.payload
    for place in still_open:
        await connection.execute(
            sa.insert(conflict_resolutions).values(
                **dict(zip(_PLACE, place, strict=True)),
                event_id=wanted.event_id,
                strategy=wanted.strategy,
                resolved_at=wanted.at,
                payload_before=_value(before),
                payload_after=_value(after),
            )
        )
        await connection.execute(sa.update(dead_letters).where(*_at(place)).values(resolved_at=wanted.at))
    return len(still_open)


def _at(place: tuple[str, int, int]) -> list[sa.ColumnElement[bool]]:
    return [dead_letters.c[name] == part for name, part in zip(_PLACE, place, strict=True)]


async def _lock(connection: AsyncConnection, place: tuple[str, int, int]) -> bool:
    """Whether this letter waits for a decision; it is ours until the end of the transaction then."""
    waiting = (dead_letters.c.cause == "conflict", dead_letters.c.resolved_at.is_(None))
    query = sa.select(dead_letters.c.offset).where(*_at(place), *waiting).with_for_update()
    return (await connection.execute(query)).first() is not None


def _value(text: str | None) -> Any:
    return None if text is None else msgspec.json.decode(jsonb_text(text))


async def _replace(connection: AsyncConnection, wanted: Resolution) -> str:
    """The new payload goes in; the session follows where the payload says something about it. Returns the old one."""
    columns = (events.c.session_id, events.c.event_type, events.c.payload_raw, events.c.flags)
    query = sa.select(*columns, sa.cast(events.c.payload, sa.Text).label("payload"))
    query = query.where(events.c.event_id == wanted.event_id).with_for_update()
    old = (await connection.execute(query)).mappings().one()
    text, flags = wanted.payload or "{}", wanted.flags
    keep_raw = flags & (Flag.SANITIZED | Flag.DUPLICATE_KEYS)
    await connection.execute(
        sa.update(events)
        .where(events.c.event_id == wanted.event_id)
        .values(
            payload=_value(text),
            payload_raw=text if keep_raw else None,
            flags=int((old["flags"] & ~_BODY) | (flags & _BODY)),
        )
    )
    if old["event_type"] in (START, END):
        await _refold(connection, old["session_id"])
    return text_of(dict(old))


async def _refold(connection: AsyncConnection, session_id: str) -> None:
    """What only starts and ends tell of a session, worked out again from all of them.

    The session's row is locked first: a batch that adds a start or an end waits for it, and merges after us.
    """
    held = sa.select(sessions).where(sessions.c.session_id == session_id).with_for_update()
    row = (await connection.execute(held)).mappings().first()
    if row is None:
        return
    names = [name for name in EVENT_TYPES if name not in {"payload", "metadata"}]
    query = sa.select(*(events.c[name] for name in names), sa.cast(events.c.payload, sa.Text).label("payload"))
    query = query.where(events.c.session_id == session_id, events.c.event_type.in_((START, END)))
    told = fold([_logged(dict(found)) for found in (await connection.execute(query)).mappings()])
    if told:
        new = msgspec.structs.replace(told[0], last_active_at=row["last_active_at"])
        await connection.execute(
            sa.update(sessions).where(sessions.c.session_id == session_id).values(**_told_by_payloads(new))
        )


def _told_by_payloads(delta: Delta) -> dict[str, Any]:
    names = ("git_branch", "git_commit", "git_at", "last_end_at", "last_end_status", "status", "ended_at")
    return {name: getattr(delta, name) for name in names if name in SESSION_TYPES}


def _logged(row: Mapping[str, Any]) -> LoggedEvent:
    event = HookEvent(
        event_id=row["event_id"],
        fingerprint=row["fingerprint"],
        id_origin=IdOrigin(row["id_origin"]),
        session_id=row["session_id"],
        event_type=row["event_type"],
        occurred_at=row["occurred_at"],
        received_at=row["received_at"],
        source=row["source"],
        payload=text_of(row),
    )
    ingest = Position(row["ingest_partition"], row["ingest_offset"])
    return LoggedEvent(event=event, ingest=ingest, events=Position(-1, row["events_offset"]), value=b"")


# --- as the API shows them -------------------------------------------------------------------------------------------


def conflict(row: Mapping[str, Any]) -> dict[str, Any]:
    """One conflict in a list."""
    strategy = row["strategy"] or ("new_id" if row["replayed_as"] is not None else None)
    return {
        "event_id": str(row["event_id"]),
        "letter": shape.letter_id(row),
        "session_id": row["session_id"],
        "stage": row["stage"],
        "first": shape.position(row["first_partition"], row["first_offset"]),
        "other": shape.position(row["ingest_partition"], row["ingest_offset"]),
        "found_at": shape.iso(row["failed_at"]),
        "resolved_at": shape.iso(row["resolved_at"]),
        "strategy": strategy,
    }


def witness_queries(partition: int, first: int, last: int, ids: Sequence[Any]) -> tuple[sa.Select[Any], ...]:
    """What the database knows of ingest records [first, last] of one partition with these ids: events, then letters."""
    stored = sa.select(
        events.c.event_id, events.c.ingest_partition, events.c.ingest_offset, events.c.fingerprint
    ).where(events.c.event_id.in_(ids))
    letter = dead_letters.c
    columns = (letter.event_id, letter.ingest_partition, letter.ingest_offset, letter.cause)
    here = sa.and_(letter.ingest_partition == partition, letter.ingest_offset.between(first, last))
    return stored, sa.select(*columns).where(sa.or_(here, letter.event_id.in_(ids)))
