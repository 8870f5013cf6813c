"""The history tables in Postgres: absolute values, upserted, each kept unless a newer one is there.

    1  take out what a rebuild found to be wrong
    2  INSERT … ON CONFLICT DO UPDATE … WHERE the mark is higher, one statement a table
    3  COMMIT; only then does `write` return

Where the database refuses a row for its content, the transaction is done again row by row, in savepoints.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from connectors.pgerrors import classify, unavailable
from connectors.pglink import PostgresLink
from schemas.history import Changes, Place, Removed, Row, ToolRow, UsageRow, Written

#: Columns of a place with their Postgres types, in the order of the primary key; `tool` is of `tool_history` only.
_PLACE: Final = {
    "grain": "text",
    "dimension": "text",
    "value": "text",
    "bucket": "timestamptz",
    "partition": "integer",
}
_TOOL: Final = {**_PLACE, "tool": "text"}
_MARK: Final = {"generation": "bigint", "at": "bigint", "foreign_at": "bigint"}
_USAGE_VALUES: Final = {
    "events": "jsonb",
    "event_count": "bigint",
    "sessions": "bigint",
    "sessions_at_least": "boolean",
}
_TOOL_VALUES: Final = {"calls": "bigint", "failures": "bigint", "durations": "jsonb"}


def _unnest(columns: Iterable[str]) -> str:
    """Arrays from $2 on; $1 is the log."""
    return ", ".join(f"${number}::{kind}[]" for number, kind in enumerate(columns, 2))


def _upsert(table: str, place: dict[str, str], values: dict[str, str]) -> str:
    """Answers with a row for each that was written. Rows are locked in order of their place."""
    columns = {**place, **values, **_MARK}
    names, keys = ", ".join(columns), ", ".join(place)
    changed = ", ".join(f"{name} = excluded.{name}" for name in (*values, *_MARK, "updated_at"))
    new, old = (", ".join(f"{row}.{name}" for name in _MARK) for row in ("excluded", "h"))
    return f"""
INSERT INTO {table} AS h (log_id, {names}, updated_at)
SELECT $1::text, {names}, now() FROM unnest({_unnest(columns.values())}) AS t ({names}) ORDER BY {keys}
ON CONFLICT ({keys}, log_id) DO UPDATE SET {changed} WHERE ({new}) > ({old})
RETURNING 1
"""


def _delete(table: str, place: dict[str, str]) -> str:
    columns = {**place, "generation": "bigint"}
    same = " AND ".join(f"h.{name} = t.{name}" for name in place)
    return f"""
DELETE FROM {table} AS h USING unnest({_unnest(columns.values())}) AS t ({", ".join(columns)})
WHERE h.log_id = $1::text AND {same} AND h.generation < t.generation
RETURNING 1
"""


_UPSERTS: Final = {
    UsageRow: _upsert("usage_history", _PLACE, _USAGE_VALUES),
    ToolRow: _upsert("tool_history", _TOOL, _TOOL_VALUES),
}
_DELETES: Final = {False: _delete("usage_history", _PLACE), True: _delete("tool_history", _TOOL)}


class PostgresHistory:
    """Implements `connectors.ports_history.HistoryStore` over one connection of its own."""

    def __init__(
        self, dsn: str, *, worker: str = "worker", timeout_s: float = 10.0, connect_timeout_s: float = 2.0
    ) -> None:
        name = f"chronicle {worker} history"[:63]
        self._link = PostgresLink(dsn, name=name, timeout_s=timeout_s, connect_timeout_s=connect_timeout_s)
        self._timeout_s = timeout_s

    async def open(self) -> None:
        """Nothing: the first `write` connects."""

    async def write(self, log_id: str, changes: Changes) -> Written:
        """See the contract. Raises `SinkDown`."""
        async with self._link.lock:
            try:
                return await self._transaction(log_id, changes, careful=False)
            except Exception as error:
                self._link.drop()
                if classify(error).kind != "data":
                    raise unavailable(error) from error
            except BaseException:  # cancelled: nobody knows what the connection is in the middle of
                self._link.drop()
                raise
            try:
                return await self._transaction(log_id, changes, careful=True)
            except Exception as error:
                self._link.drop()
                raise unavailable(error) from error
            except BaseException:
                self._link.drop()
                raise

    async def close(self) -> None:
        """See the contract."""
        await self._link.close()

    async def _transaction(self, log_id: str, changes: Changes, *, careful: bool) -> Written:
        async with asyncio.timeout(self._timeout_s):
            connection = await self._link.connection()
            async with connection.transaction():
                removed = await _remove(connection, log_id, changes.removed)
                write = _one_by_one if careful else _all_at_once
                written, refused = await write(connection, log_id, changes.rows)
        return Written(written, len(changes.rows) - written - refused, removed, refused)


async def _remove(connection: Any, log_id: str, removed: Sequence[Removed]) -> int:
    gone = 0
    for of_tools, statement in _DELETES.items():
        rows = [
            (*place_columns(one.place), one.generation)
            for one in removed
            if (one.place.tool is not None) is of_tools and "\0" not in one.place.value + (one.place.tool or "")
        ]
        if rows:
            gone += len(await connection.fetch(statement, log_id, *_columns(rows)))
    return gone


async def _all_at_once(connection: Any, log_id: str, rows: Sequence[Row]) -> tuple[int, int]:
    written = 0
    for kind, statement in _UPSERTS.items():
        of_kind = [row_columns(row) for row in rows if isinstance(row, kind)]
        if of_kind:
            written += len(await connection.fetch(statement, log_id, *_columns(of_kind)))
    return written, 0


async def _one_by_one(connection: Any, log_id: str, rows: Sequence[Row]) -> tuple[int, int]:
    written = refused = 0
    for row in rows:
        try:
            async with connection.transaction():  # a savepoint
                written += (await _all_at_once(connection, log_id, [row]))[0]
        except Exception as error:
            if classify(error).kind != "data":
                raise
            refused += 1
    return written, refused


def place_columns(place: Place) -> tuple[Any, ...]:
    """In the order of the primary key, times in microseconds."""
    columns = (place.grain, place.dimension, place.value, place.bucket * 1_000_000, place.partition)
    return columns if place.tool is None else (*columns, place.tool)


def row_columns(row: Row) -> tuple[Any, ...]:
    """Place, values, mark."""
    place, mark = place_columns(row.place), msgspec.structs.astuple(row.mark)
    if isinstance(row, UsageRow):
        events = msgspec.json.encode(row.events).decode()
        return (*place, events, sum(row.events.values()), row.sessions, row.sessions_at_least, *mark)
    return (*place, row.calls, row.failures, msgspec.json.encode(row.durations).decode(), *mark)


def _columns(rows: Iterable[Sequence[Any]]) -> list[list[Any]]:
    """Rows turned into the arrays that `unnest` takes."""
    return [list(column) for column in zip(*rows, strict=True)]
