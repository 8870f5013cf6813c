"""Reading from the local SQLite store while Postgres is away: read-only connections beside the sink's writer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from connectors.model import dead_letter_outbox, dead_letters, outbox
from connectors.readers.errors import TooSlow
from connectors.readers.queries import letters_where, persist_dead
from connectors.readers.search import teach
from connectors.readers.sql import SqlReader
from schemas.errors import Unavailable
from schemas.query import Held

T = TypeVar("T")

#: Seconds a query waits for a writer's lock (WAL readers hardly ever do), and the longest a query may take.
BUSY_S = 2.0
QUERY_S = 5.0
#: Steps of SQLite's machine between two looks at the clock, a fraction of a millisecond; and what it says when stopped.
STEPS, INTERRUPTED = 10_000, "interrupted"

#: The id of the file (`connectors.sqlite_store.store_id`), and its oldest row: sync-back drops from there on.
_HELD: Final = sa.text(
    "SELECT user_version AS store, coalesce((SELECT min(rowid) FROM events), 0) AS first FROM pragma_user_version"
)


class SqliteReader(SqlReader):
    """`ports.Reader` over the file the SQLite sink writes. A file that is not there yet reads as an empty store.

    A question that runs longer than `query_s` seconds is ended and raises `TooSlow`.
    """

    name = "sqlite"

    def __init__(self, path: Path, *, query_s: float = QUERY_S) -> None:
        self._path, self._query_s = path, query_s
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
            async with asyncio.timeout(self._query_s + 1), self._engine.connect() as connection:
                found: Sequence[Any] = (await connection.execute(statement)).mappings().all()
                return found
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            raise _unavailable(error, self._query_s) from error

    async def change(self, statement: sa.Update) -> None:
        await self.transact(lambda connection: connection.execute(statement))

    async def transact(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        engine = self._create("rw")
        try:
            async with asyncio.timeout(self._query_s + 1), engine.begin() as connection:
                return await work(connection)
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            raise _unavailable(error, self._query_s) from error
        finally:
            await engine.dispose()

    def unsynced(self) -> sa.ColumnElement[int]:
        pending = sa.select(sa.func.count()).select_from(outbox).where(outbox.c.state == "pending")
        return pending.scalar_subquery()

    async def held(self) -> Held:
        """What is here now; nothing where there is no file. Raises `Unavailable`."""
        found = await self.rows(_HELD)
        return Held(f"{found[0]['store']:08x}", found[0]["first"]) if found else Held("", 0)

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
        engine = create_async_engine(url, poolclass=NullPool)
        teach(engine.sync_engine)
        sa.event.listen(engine.sync_engine, "connect", lambda connection, _: self._limit(connection))
        return engine

    def _limit(self, connection: Any) -> None:
        """End a statement that runs too long: giving up waiting would leave its thread at it, and closing waits for it.

        A connection is made for one question, so the time begins now.
        """
        end = time.monotonic() + self._query_s
        connection.run_async(lambda driver: driver.set_progress_handler(lambda: time.monotonic() > end, STEPS))


def _unavailable(error: BaseException, query_s: float) -> Unavailable:
    cause = getattr(error, "orig", None) or error
    if str(cause) == INTERRUPTED:
        return TooSlow("sqlite", f"the query took longer than {query_s:g} s; ask for less", retry_after=query_s)
    return Unavailable("sqlite", f"{type(cause).__name__}: {str(cause) or 'no answer'}")
