"""The queries, once for both databases: SQLAlchemy Core over `connectors.model`, keyset paging, never OFFSET."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from connectors.model import Id, Micros, dead_letters, duplicates, events, logs, sessions, sink_progress
from connectors.readers import conflicts, shape
from schemas.errors import Refused, Unavailable
from schemas.event import Position
from schemas.query import Cursor, EventFilter, Page, Resolution, SessionFilter, Witnesses

T = TypeVar("T")

#: Everything of an event the API shows; JSON columns as text, so that nobody parses and dumps them.
_JSON_TEXT = [
    sa.cast(events.c.payload, sa.Text).label("payload"),
    sa.cast(events.c.metadata, sa.Text).label("metadata"),
]
_EVENT = [column for column in events.c if column.key not in {"payload", "metadata", "fingerprint"}] + _JSON_TEXT
_LETTER = [column for column in dead_letters.c if column.key not in {"key", "value"}]


class TooSlow(Unavailable):
    """The database is here, but this question took too long: asking another database would not be an answer."""


class QueryFailed(Unavailable):
    """The database is here and answers others, but not this question: a column is missing, a right was not granted."""


# --- statements (pure) -----------------------------------------------------------------------------------------------


def events_page(wanted: EventFilter) -> sa.Select[Any]:
    """One row more than the page, so that the reader knows whether there is a next one."""
    table = events.c
    equal = (
        (table.session_id, wanted.session_id),
        (table.event_type, wanted.event_type),
        (table.tool_name, wanted.tool_name),
    )
    query = sa.select(*_EVENT).where(*(column == value for column, value in equal if value is not None))
    query = _between(query, table.occurred_at, table.occurred_at, wanted.since, wanted.until)
    if wanted.ids:
        query = query.where(table.event_id.in_(wanted.ids))
    keys = (table.occurred_at, table.event_id)
    if wanted.cursor is not None:
        at, id = _instant(wanted.cursor), _uuid(wanted.cursor)
        query = query.where(_beyond(keys, (sa.literal(at, Micros()), sa.literal(id, Id())), wanted.ascending))
    return _ordered(query, keys, wanted.ascending).limit(wanted.limit + 1)


def sessions_page(wanted: SessionFilter) -> sa.Select[Any]:
    """Sessions that had events between `since` and `until`, latest activity first."""
    table = sessions.c
    query = _between(sa.select(sessions), table.last_event_at, table.first_event_at, wanted.since, wanted.until)
    if wanted.status is not None:
        query = query.where(table.status == wanted.status)
    keys = (table.last_event_at, table.session_id)
    if wanted.cursor is not None:
        place = (sa.literal(_instant(wanted.cursor), Micros()), sa.literal(wanted.cursor.id, sa.Text()))
        query = query.where(_beyond(keys, place, False))
    return _ordered(query, keys, False).limit(wanted.limit + 1)


def letters_page(limit: int, after: str | None, cause: str | None) -> sa.Select[Any]:
    """Dead letters, latest first."""
    table = dead_letters.c
    query = sa.select(*_LETTER)
    if cause is not None:
        query = query.where(table.cause == cause)
    keys = (table.failed_at, table.topic, table.partition, table.offset)
    return _letters_after(query, keys, after).limit(limit + 1)


def conflicts_page(limit: int, after: str | None, still_open: bool) -> sa.Select[Any]:
    """Conflicts, latest first."""
    table = dead_letters.c
    query = conflicts.conflict_rows()
    if still_open:
        query = query.where(table.resolved_at.is_(None))
    keys = (table.failed_at, table.topic, table.partition, table.offset)
    return _letters_after(query, keys, after).limit(limit + 1)


def _letters_after(query: sa.Select[Any], keys: Sequence[sa.Column[Any]], after: str | None) -> sa.Select[Any]:
    if after is not None:
        cursor = Cursor.decode(after)
        parts = shape.split_letter_id(cursor.id) or _bad_cursor()
        place = (sa.literal(_instant(cursor), Micros()), *(sa.literal(part) for part in parts))
        query = query.where(_beyond(keys, place, False))
    return _ordered(query, keys, False)


def persist_dead() -> sa.ColumnElement[bool]:
    """Letters of records that passed dedup: those before are in the counters of the dedup table.

    A letter that was put back into `chronicle.events` at its own position is on its way again and no longer dead.
    """
    table = dead_letters.c
    replaced = sa.and_(table.resolved_at.is_not(None), table.cause != "conflict")
    return sa.and_(table.stage == "persist", table.ingest_partition.is_not(None), sa.not_(replaced))


def letters_where(*conditions: sa.ColumnElement[bool]) -> sa.ScalarSelect[int]:
    """How many dead letters."""
    return sa.select(sa.func.count()).select_from(dead_letters).where(*conditions).scalar_subquery()


def ledger_query(unsynced: sa.ScalarSelect[int] | sa.ColumnElement[int]) -> sa.Select[Any]:
    """All counts in one statement, so that they are of one snapshot."""
    conflict = dead_letters.c.cause == "conflict"
    stored = sa.select(sa.func.coalesce(sa.func.sum(sink_progress.c.stored), 0)).scalar_subquery()
    return sa.select(
        sa.cast(stored, sa.BigInteger).label("stored"),
        sa.select(sa.func.count()).select_from(duplicates).scalar_subquery().label("duplicates"),
        letters_where(conflict, persist_dead()).label("rejected"),
        letters_where(sa.not_(conflict), persist_dead()).label("dead"),
        letters_where(dead_letters.c.resolved_at.is_(None)).label("dead_open"),
        letters_where(conflict, dead_letters.c.resolved_at.is_(None)).label("conflicts_open"),
        unsynced.label("unsynced"),
        sa.select(sa.func.coalesce(sa.func.max(logs.c.earlier), 0)).scalar_subquery().label("earlier"),
    )


def _between(
    query: sa.Select[Any], last: sa.Column[Any], first: sa.Column[Any], since: int | None, until: int | None
) -> sa.Select[Any]:
    if since is not None:
        query = query.where(last >= since)
    return query if until is None else query.where(first < until)


def _ordered(query: sa.Select[Any], keys: Sequence[sa.Column[Any]], ascending: bool) -> sa.Select[Any]:
    return query.order_by(*(key.asc() if ascending else key.desc() for key in keys))


def _beyond(keys: Sequence[Any], place: Sequence[Any], ascending: bool) -> sa.ColumnElement[bool]:
    here, there = sa.tuple_(*keys), sa.tuple_(*place)
    return here > there if ascending else here < there


def _instant(cursor: Cursor) -> int:
    return cursor.at if 0 <= cursor.at <= shape.MAX_MICROS else _bad_cursor()


def _uuid(cursor: Cursor) -> UUID:
    try:
        return UUID(cursor.id)
    except ValueError:
        return _bad_cursor()


def _bad_cursor() -> NoReturn:
    raise Refused(422, "bad_cursor", "The cursor belongs to another list; start without it.", "/cursor")


# --- the reader ------------------------------------------------------------------------------------------------------


class SqlReader:
    """`ports.Reader` over any database that holds the model. A subclass runs the statements."""

    name = "sql"

    async def rows(self, statement: sa.Executable) -> Sequence[Mapping[str, Any]]:
        """Run one query. Raises `Unavailable` for whatever goes wrong, `TooSlow` when the database is well."""
        raise NotImplementedError

    async def change(self, statement: sa.Update) -> None:
        """Run one change in a transaction. Raises `Unavailable`."""
        raise NotImplementedError

    async def transact(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run `work` in a transaction. Raises `Unavailable`; nothing of it is there then."""
        raise NotImplementedError

    def unsynced(self) -> sa.ColumnElement[int]:
        """How many rows Postgres does not have yet."""
        return sa.literal(0)

    async def events(self, filter: EventFilter) -> Page:
        return _page(await self.rows(events_page(filter)), filter.limit, shape.event, shape.event_cursor)

    async def event(self, event_id: UUID) -> dict[str, Any] | None:
        found = await self.rows(sa.select(*_EVENT).where(events.c.event_id == event_id))
        return shape.event(found[0]) if found else None

    async def sessions(self, filter: SessionFilter) -> Page:
        return _page(await self.rows(sessions_page(filter)), filter.limit, shape.session, shape.session_cursor)

    async def session(self, session_id: str) -> dict[str, Any] | None:
        found = await self.rows(sa.select(sessions).where(sessions.c.session_id == session_id))
        return shape.session(found[0]) if found else None

    async def trace(self, event_id: UUID) -> dict[str, Any]:
        dupes = sa.select(duplicates).where(duplicates.c.event_id == event_id)
        letters = sa.select(*_LETTER).where(dead_letters.c.event_id == event_id)
        marked = sa.select(events.c.event_id).where(events.c.suspected_duplicate_of == event_id)
        places = sa.select(events.c.events_offset).where(events.c.event_id == event_id)
        found = await self.rows(places)
        return {
            "event": await self.event(event_id),
            "events_offset": found[0]["events_offset"] if found else None,
            "duplicates": [shape.duplicate(row) for row in await self.rows(dupes.limit(100))],
            "dead_letters": [shape.dead_letter(row) for row in await self.rows(letters.limit(100))],
            "suspected_duplicates": [str(row["event_id"]) for row in await self.rows(marked.limit(100))],
        }

    async def ledger(self) -> Mapping[str, int]:
        found = await self.rows(ledger_query(self.unsynced()))
        return {name: int(value) for name, value in found[0].items()} if found else dict.fromkeys(LEDGER_FIELDS, 0)

    async def progress(self) -> Mapping[int, int]:
        found = await self.rows(sa.select(sink_progress.c.partition, sink_progress.c.next_offset))
        return {row["partition"]: row["next_offset"] for row in found}

    async def dead_letters(self, *, limit: int, after: str | None = None, cause: str | None = None) -> Page:
        found = await self.rows(letters_page(limit, after, cause))
        return _page(found, limit, shape.dead_letter, shape.letter_cursor)

    async def dead_letter(self, id: str) -> dict[str, Any] | None:
        key = _letter_key(id)
        found = [] if key is None else await self.rows(sa.select(dead_letters).where(*key))
        return shape.dead_letter(found[0], with_bytes=True) if found else None

    async def resolve_dead_letter(self, id: str, *, replayed_as: UUID | None, at: int) -> None:
        key = _letter_key(id)
        if key is not None:
            await self.change(sa.update(dead_letters).where(*key).values(resolved_at=at, replayed_as=replayed_as))

    async def conflicts(self, *, limit: int, after: str | None = None, still_open: bool = False) -> Page:
        found = await self.rows(conflicts_page(limit, after, still_open))
        return _page(found, limit, conflicts.conflict, shape.letter_cursor)

    async def conflicts_of(self, event_id: UUID) -> list[dict[str, Any]]:
        query = conflicts.conflict_rows(dead_letters.c.value).where(dead_letters.c.event_id == event_id)
        found = await self.rows(query.order_by(dead_letters.c.failed_at.desc()).limit(MOST_CONFLICTS))
        return [conflicts.conflict(row) | {"value": shape.base64_of(row["value"])} for row in found]

    async def resolve_conflicts(self, wanted: Resolution) -> int:
        return await self.transact(lambda connection: conflicts.resolve(connection, wanted))

    async def witnesses(self, partition: int, first: int, last: int, ids: Sequence[UUID]) -> Witnesses:
        stored, letters = conflicts.witness_queries(partition, first, last, ids)
        found = {
            row["event_id"]: (Position(row["ingest_partition"], row["ingest_offset"]), row["fingerprint"])
            for row in await self.rows(stored)
        }
        return Witnesses(found, [_letter_witness(row) for row in await self.rows(letters)])

    async def probe(self) -> None:
        await self.rows(sa.select(sink_progress.c.partition).limit(1))  # a table, so that SQLite opens the file


LEDGER_FIELDS = ("stored", "duplicates", "rejected", "dead", "dead_open", "conflicts_open", "unsynced", "earlier")

#: Conflicts of one id that are shown; more than that is one broken sender.
MOST_CONFLICTS = 100


def _letter_witness(row: Mapping[str, Any]) -> tuple[UUID | None, Position | None, str]:
    partition, offset = row["ingest_partition"], row["ingest_offset"]
    place = None if partition is None else Position(partition, offset)
    return row["event_id"], place, row["cause"]


def _letter_key(id: str) -> tuple[sa.ColumnElement[bool], ...] | None:
    parts = shape.split_letter_id(id)
    if parts is None:
        return None
    columns = (dead_letters.c.topic, dead_letters.c.partition, dead_letters.c.offset)
    return tuple(column == part for column, part in zip(columns, parts, strict=True))


def _page(
    rows: Sequence[Mapping[str, Any]],
    limit: int,
    show: Callable[[Mapping[str, Any]], dict[str, Any]],
    cursor: Callable[[Mapping[str, Any]], Cursor],
) -> Page:
    more = len(rows) > limit
    return Page(items=[show(row) for row in rows[:limit]], next=cursor(rows[limit - 1]) if more else None)
