"""Reading from the local SQLite store while Postgres is away: read-only connections beside the sink's writer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from connectors.model import dead_letter_outbox, dead_letters, outbox
from connectors.readers.sql import SqlReader, letters_where, persist_dead
from schemas.errors import Unavailable

T = TypeVar("T")

#: Seconds a query waits for a writer's lock (WAL readers hardly ever do), and the longest a query may take.
BUSY_S = 2.0
QUERY_S = 5.0


class SqliteReader(SqlReader):
    """`ports.Reader` over the file the SQLite sink writes. A file that is not there yet reads as an empty store."""

    name = "sqlite"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._engine: AsyncEngine | None = None

    async def open(self) -> None:
        # A connection a query: the file may be taken away and made anew under a process that lives for weeks.
        self._engine = self._create("ro")

    async def close(self) -> None:
        if self._engine is not None:
            await self._engine.dispose()
            self._engine = None

    async def rows(self, statement: sa.Executable) -> Sequence[Mapping[str, Any]]:
        if self._engine is None:
            raise Unavailable("sqlite", "the reader is not open")
        if not self._path.exists():
            return []
        try:
            async with asyncio.timeout(QUERY_S), self._engine.connect() as connection:
                found: Sequence[Any] = (await connection.execute(statement)).mappings().all()
                return found
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            raise _unavailable(error) from error

    async def change(self, statement: sa.Update) -> None:
        await self.transact(lambda connection: connection.execute(statement))

    async def transact(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        engine = self._create("rw")
        try:
            async with asyncio.timeout(QUERY_S), engine.begin() as connection:
                return await work(connection)
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            raise _unavailable(error) from error
        finally:
            await engine.dispose()

    def unsynced(self) -> sa.ColumnElement[int]:
        pending = sa.select(sa.func.count()).select_from(outbox).where(outbox.c.state == "pending")
        return pending.scalar_subquery()

    async def backlog(self) -> Mapping[str, int]:
        """What Postgres does not have yet: `stored` rows, `rejected` and `dead` letters of the persist stage."""
        here, key = dead_letters.c, dead_letter_outbox.c
        waiting = sa.exists().where(key.topic == here.topic, key.partition == here.partition, key.offset == here.offset)
        conflict = here.cause == "conflict"
        query = sa.select(
            self.unsynced().label("stored"),
            letters_where(waiting, conflict, persist_dead()).label("rejected"),
            letters_where(waiting, sa.not_(conflict), persist_dead()).label("dead"),
        )
        found = await self.rows(query)
        return {name: int(value) for name, value in found[0].items()} if found else {}

    def _create(self, mode: str) -> AsyncEngine:
        url = f"sqlite+aiosqlite:///file:{quote(str(self._path))}?mode={mode}&uri=true&timeout={BUSY_S}"
        return create_async_engine(url, poolclass=NullPool)


def _unavailable(error: BaseException) -> Unavailable:
    cause = getattr(error, "orig", None) or error
    return Unavailable("sqlite", f"{type(cause).__name__}: {str(cause) or 'no answer'}")
