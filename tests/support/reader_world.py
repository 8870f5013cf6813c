"""A reader of any kind, and the way to put rows under it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from connectors import migrate, model
from connectors.readers.memory import MemoryReader
from connectors.readers.postgres import PostgresReader
from connectors.readers.sqlite import SqliteReader
from schemas.query import Cursor

AnyReader = MemoryReader | SqliteReader | PostgresReader
Row = dict[str, Any]
KINDS = ["memory", "sqlite", pytest.param("postgres", marks=pytest.mark.e2e)]


class World:
    """A reader and the way to put rows under it."""

    def __init__(self, reader: AnyReader, url: str | None) -> None:
        self.reader = reader
        self.url = url

    async def put(self, **tables: list[Row]) -> None:
        """Rows by table: events, sessions, dead_letters, duplicates, sink_progress, outbox."""
        if isinstance(self.reader, MemoryReader):
            self._put_memory(tables)
            return
        engine = create_async_engine(self.url or "")
        async with engine.begin() as connection:
            for name, rows in tables.items():
                if rows:
                    await connection.execute(sa.insert(model.metadata.tables[name]), [_values(row) for row in rows])
        await engine.dispose()

    def _put_memory(self, tables: dict[str, list[Row]]) -> None:
        reader = self.reader
        assert isinstance(reader, MemoryReader)
        lists = {
            "events": reader.event_rows,
            "sessions": reader.session_rows,
            "dead_letters": reader.letter_rows,
            "duplicates": reader.duplicate_rows,
        }
        for name, rows in tables.items():
            if name == "sink_progress":
                reader.next_offsets |= {row["partition"]: row["next_offset"] for row in rows}
                reader.stored = sum(row["stored"] for row in rows)
            else:
                lists[name].extend(rows)


def _values(row: Row) -> Row:
    """A row for the insert: JSON texts as values."""
    values = dict(row)
    if "metadata" in values:
        values["metadata"] = json.loads(values["metadata"])
        values["payload"] = json.loads(values["payload"])
    return values


@asynccontextmanager
async def opened(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    """An empty store of the kind that `request.param` names."""
    if request.param == "memory":
        made = World(MemoryReader(), None)
    elif request.param == "sqlite":
        path = tmp_path / "failover.sqlite"
        migrate.upgrade_sqlite(path)
        made = World(SqliteReader(path), f"sqlite+aiosqlite:///{path}")
    else:
        dsn = request.getfixturevalue("postgres")
        await migrate.upgrade(dsn)
        made = World(PostgresReader(dsn), dsn.replace("postgresql://", "postgresql+asyncpg://"))
    await made.reader.open()
    yield made
    await made.reader.close()


def plain(found: Any) -> Any:
    """What a client sees: the answer through JSON."""
    return msgspec.json.decode(msgspec.json.encode(found))


def numbers(items: list[dict[str, Any]]) -> list[int]:
    """The recognisable ids of a page."""
    return [UUID(item["event_id"]).int for item in items]


async def walk(ask: Callable[[Cursor | None], Any]) -> tuple[list[dict[str, Any]], int]:
    """All rows of a list and the number of pages it took."""
    rows: list[dict[str, Any]] = []
    cursor, pages = None, 0
    while True:
        page = await ask(cursor)
        rows, cursor, pages = rows + page.items, page.next, pages + 1
        if cursor is None:
            return rows, pages
