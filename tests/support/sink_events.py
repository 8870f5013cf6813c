"""Events for the sinks, and a look into what a sink holds."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

import asyncpg
import msgspec

from connectors.memory_sink import MemorySink
from connectors.ports import Batch, Sink, Span
from connectors.rollup import SESSION_TYPES, session_row
from schemas.event import HookEvent, IdOrigin, LoggedEvent, Position

T0 = 1_760_000_000_000_000  # microseconds
decode = msgspec.msgpack.Decoder(HookEvent).decode


def encode(event: HookEvent) -> bytes:
    """A stand-in for the Avro record; empty for what no encoder takes, which is what such a test is about."""
    try:
        return msgspec.msgpack.encode(event)
    except (UnicodeError, OverflowError):
        return b""


def logged(n: int, *, ingest: Position | None = None, partition: int = 0, **fields: Any) -> LoggedEvent:
    """Event number n at its natural place; `fields` overrule HookEvent's."""
    values: dict[str, Any] = {
        "event_id": UUID(int=n + 1),
        "fingerprint": n.to_bytes(16),
        "id_origin": IdOrigin.CLIENT,
        "session_id": f"session-{n % 3}",
        "event_type": "tool_pre_use",
        "tool_name": "Bash",
        "cwd": "/home/ann/shop",
        "occurred_at": T0 + n,
        "received_at": T0 + n,
        "source": "test",
        "payload": f'{{"n": {n}}}',
    }
    event = HookEvent(**(values | fields))
    place = Position(partition, n)
    return LoggedEvent(event=event, ingest=ingest or place, events=place, value=encode(event))


def batch(events: Sequence[LoggedEvent]) -> Batch:
    """The events and the spans they cover."""
    spans = []
    for partition in sorted({one.events.partition for one in events}):
        offsets = [one.events.offset for one in events if one.events.partition == partition]
        spans.append(Span(partition, min(offsets), max(offsets) + 1))
    return Batch(list(events), spans)


class Inside(Protocol):
    """What is really there, read past the sink."""

    async def ids(self) -> list[UUID]: ...

    async def sessions(self) -> dict[str, dict[str, Any]]: ...

    async def stored(self) -> dict[int, int]: ...


class House(msgspec.Struct):
    """A way to make sinks over one database, and to look inside."""

    make: Any
    inside: Any

    async def sink(self) -> Sink:
        made: Sink = self.make()
        await made.open()
        return made


class InMemory:
    def __init__(self) -> None:
        self.sink = MemorySink()

    def make(self) -> MemorySink:
        return self.sink

    async def ids(self) -> list[UUID]:
        return sorted(self.sink.rows)

    async def sessions(self) -> dict[str, dict[str, Any]]:
        rows = map(session_row, self.sink.sessions.values())
        return {row[0]: dict(zip(SESSION_TYPES, row, strict=True)) for row in rows}

    async def stored(self) -> dict[int, int]:
        return {partition: n for partition, n in self.sink.stored.items() if n}


class InSqlite:
    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            return connection.execute(query).fetchall()

    async def ids(self) -> list[UUID]:
        return sorted(UUID(row[0]) for row in self.rows("SELECT event_id FROM events"))

    async def sessions(self) -> dict[str, dict[str, Any]]:
        rows = self.rows(f"SELECT {', '.join(SESSION_TYPES)} FROM sessions")
        return {row[0]: dict(zip(SESSION_TYPES, row, strict=True)) for row in rows}

    async def stored(self) -> dict[int, int]:
        return dict(self.rows('SELECT "partition", stored FROM sink_progress WHERE stored > 0'))


def as_micros(value: str) -> str:
    """A column as microseconds, in SQL."""
    return f"(extract(epoch FROM {value}) * 1000000)::bigint AS {value}"


class InPostgres:
    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    async def rows(self, query: str, *values: Any) -> list[Any]:
        connection = await asyncpg.connect(self.dsn)
        try:
            return list(await connection.fetch(query, *values))
        finally:
            await connection.close()

    async def ids(self) -> list[UUID]:
        return [row[0] for row in await self.rows("SELECT event_id FROM events ORDER BY event_id")]

    async def sessions(self) -> dict[str, dict[str, Any]]:
        columns = [as_micros(name) if kind == "timestamptz" else name for name, kind in SESSION_TYPES.items()]
        rows = await self.rows(f"SELECT {', '.join(columns)} FROM sessions")
        return {row["session_id"]: dict(row) for row in rows}

    async def stored(self) -> dict[int, int]:
        return dict(map(tuple, await self.rows("SELECT partition, stored FROM sink_progress WHERE stored > 0")))
