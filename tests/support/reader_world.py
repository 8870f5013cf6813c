"""A reader of any kind, and the way to put rows under it."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from connectors import model
from connectors.readers.memory import MemoryReader
from connectors.readers.postgres import PostgresReader
from connectors.readers.sqlite import SqliteReader

AnyReader = MemoryReader | SqliteReader | PostgresReader
Row = dict[str, Any]


class World:
    """A reader and the way to put rows under it."""

    def __init__(self, reader: AnyReader, url: str | None) -> None:
        self.reader = reader
        self._url = url

    async def put(self, **tables: list[Row]) -> None:
        """Rows by table: events, sessions, dead_letters, duplicates, sink_progress, outbox."""
        if isinstance(self.reader, MemoryReader):
            self._put_memory(tables)
            return
        engine = create_async_engine(self._url or "")
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
