"""`ports.Reader` over any database that holds the model: it runs `connectors.readers.queries` and shows the rows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from connectors.model import dead_letters, duplicates, events, sessions, sink_progress
from connectors.readers import calls_sql, conflicts, queries, shape
from connectors.readers.paging import page
from schemas.event import Position
from schemas.query import CallFilter, EventFilter, Page, Resolution, SessionFilter, Witnesses

T = TypeVar("T")

#: What a probe asks: a table, so that SQLite opens the file.
PROBE: Final = sa.select(sink_progress.c.partition).limit(1)


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
        found = await self.rows(queries.events_page(filter))
        return page(found, filter.limit, shape.event, shape.event_cursor, filter.cursor)

    async def event(self, event_id: UUID) -> dict[str, Any] | None:
        found = await self.rows(sa.select(*queries.EVENT).where(events.c.event_id == event_id))
        return shape.event(found[0]) if found else None

    async def sessions(self, filter: SessionFilter) -> Page:
        found = await self.rows(queries.sessions_page(filter))
        return page(found, filter.limit, shape.session, shape.session_cursor(filter.sort), filter.cursor)

    async def session(self, session_id: str, *, idle_before: int | None = None) -> dict[str, Any] | None:
        query = sa.select(*queries.session_columns(idle_before))
        found = await self.rows(query.where(sessions.c.session_id == session_id))
        return shape.session(found[0]) if found else None

    async def calls(self, filter: CallFilter) -> Page:
        return await calls_sql.calls(self.rows, filter)

    async def trace(self, event_id: UUID) -> dict[str, Any]:
        dupes = sa.select(duplicates).where(duplicates.c.event_id == event_id)
        letters = sa.select(*queries.LETTER).where(dead_letters.c.event_id == event_id)
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
        found = await self.rows(queries.ledger_query(self.unsynced()))
        return {name: int(value) for name, value in found[0].items()} if found else dict.fromkeys(LEDGER_FIELDS, 0)

    async def progress(self) -> Mapping[int, int]:
        found = await self.rows(sa.select(sink_progress.c.partition, sink_progress.c.next_offset))
        return {row["partition"]: row["next_offset"] for row in found}

    async def dead_letters(self, *, limit: int, after: str | None = None, cause: str | None = None) -> Page:
        found = await self.rows(queries.letters_page(limit, after, cause))
        return page(found, limit, shape.dead_letter, shape.letter_cursor)

    async def dead_letter(self, id: str) -> dict[str, Any] | None:
        key = _letter_key(id)
        found = [] if key is None else await self.rows(sa.select(dead_letters).where(*key))
        return shape.dead_letter(found[0], with_bytes=True) if found else None

    async def resolve_dead_letter(self, id: str, *, replayed_as: UUID | None, at: int) -> None:
        key = _letter_key(id)
        if key is not None:
            await self.change(sa.update(dead_letters).where(*key).values(resolved_at=at, replayed_as=replayed_as))

    async def conflicts(self, *, limit: int, after: str | None = None, still_open: bool = False) -> Page:
        found = await self.rows(queries.conflicts_page(limit, after, still_open))
        return page(found, limit, conflicts.conflict, shape.letter_cursor)

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
        await self.rows(PROBE)


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
