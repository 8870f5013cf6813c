"""Reading from Postgres: a small pool of its own, so that queries and the sink never wait for each other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import asyncpg
import sqlalchemy as sa
from asyncpg import exceptions
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from connectors.pgerrors import classify
from connectors.readers.errors import QueryFailed, TooSlow
from connectors.readers.sql import PROBE, SqlReader
from schemas.errors import Unavailable
from schemas.metrics import Metrics, NullMetrics

T = TypeVar("T")

#: Connections of one API process unless told otherwise; a query waits for one at most CONNECT_S.
POOL = 5
#: Seconds until a connection that does not come counts as "Postgres is away".
CONNECT_S = 2.0
#: Seconds one query may run unless told otherwise: above it the question was too large, not the database away.
QUERY_S = 5.0
#: SQLSTATE query_canceled: `statement_timeout` has struck.
CANCELED = "57014"
#: SQLSTATE classes of an operator's mistake that no question gets past: the login and the name of the database.
NOBODY = ("28", "3D")
#: What a driver raises when it cannot answer; everything else is a bug of ours and goes up.
FAULTS = (SQLAlchemyError, exceptions.PostgresError, exceptions.InterfaceError, OSError, TimeoutError)


class PostgresReader(SqlReader):
    """`ports.Reader` over Postgres. `open` does not connect, so it works while Postgres is away.

    At most `pool_size` queries run at once, beside one probe; one that finds no connection for CONNECT_S raises
    `TooSlow`, for Postgres is not away. One that runs longer than `statement_timeout_s` seconds is ended by the
    server and raises `TooSlow`. One that the server refuses, while others may be well, raises `QueryFailed`.
    """

    name = "postgres"

    def __init__(
        self,
        dsn: str,
        *,
        pool_size: int = POOL,
        statement_timeout_s: float = QUERY_S,
        metrics: Metrics | None = None,
    ) -> None:
        self._dsn, self._pool_size, self._query_s = dsn, pool_size, statement_timeout_s
        self._metrics: Metrics = metrics or NullMetrics()
        self._engine: AsyncEngine | None = None
        #: For the probe alone: it must get through while questions hold all other connections.
        self._prober: AsyncEngine | None = None

    async def open(self) -> None:
        self._engine, self._prober = self._create(self._pool_size), self._create(1)

    async def close(self) -> None:
        for engine in (self._engine, self._prober):
            if engine is not None:
                await engine.dispose()
        self._engine = self._prober = None

    async def rows(self, statement: sa.Executable) -> Sequence[Mapping[str, Any]]:
        self._metrics.inc("chronicle_reader_queries")
        try:
            return await self._rows(self._engine, statement)
        finally:
            self._metrics.inc("chronicle_reader_queries", -1)

    async def probe(self) -> None:
        await self._rows(self._prober, PROBE)

    def _create(self, size: int) -> AsyncEngine:
        return create_async_engine(
            "postgresql+asyncpg://",
            async_creator=self._connect,  # asyncpg reads the DSN itself, exactly as the sink does
            pool_size=size,
            max_overflow=0,
            pool_timeout=CONNECT_S,
            pool_pre_ping=True,  # after a restart of Postgres the first query must not fail on a dead connection
        )

    async def _rows(self, engine: AsyncEngine | None, statement: sa.Executable) -> Sequence[Mapping[str, Any]]:
        try:
            # A second above `statement_timeout`: this limit is for a server that does not answer at all.
            async with asyncio.timeout(self._query_s + 1), self._live(engine).connect() as connection:
                autocommit = await connection.execution_options(isolation_level="AUTOCOMMIT")
                found: Sequence[Any] = (await autocommit.execute(statement)).mappings().all()
                return found
        except FAULTS as error:
            raise _unavailable(error, self._query_s) from error

    async def change(self, statement: sa.Update) -> None:
        try:
            async with asyncio.timeout(self._query_s + 1), self._live(self._engine).begin() as connection:
                await connection.execute(statement)
        except FAULTS as error:
            raise _unavailable(error, self._query_s) from error

    async def transact(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        try:
            async with asyncio.timeout(self._query_s + 1), self._live(self._engine).begin() as connection:
                return await work(connection)
        except FAULTS as error:
            raise _unavailable(error, self._query_s) from error

    def _live(self, engine: AsyncEngine | None) -> AsyncEngine:
        if engine is None:
            raise Unavailable("postgres", "the reader is not open")
        return engine

    async def _connect(self) -> Any:
        settings = {"application_name": "chronicle-reader", "statement_timeout": str(max(1, int(self._query_s * 1000)))}
        connect: Any = asyncpg.connect  # untyped
        return await connect(self._dsn, timeout=CONNECT_S, server_settings=settings)


def _unavailable(error: BaseException, query_s: float) -> Unavailable:
    """Says the kind of error and the server's own words; never the statement, never the DSN."""
    if isinstance(error, PoolTimeout):  # who is away is found by the probe, before this
        return TooSlow("postgres", "all connections are busy with other questions; ask again", retry_after=CONNECT_S)
    cause = getattr(error, "orig", None) or error
    if getattr(cause, "sqlstate", None) == CANCELED:
        return TooSlow("postgres", f"the query took longer than {query_s:g} s; ask for less", retry_after=query_s)
    root = cause.__cause__ if isinstance(cause.__cause__, exceptions.PostgresError) else cause
    detail = f"{type(root).__name__}: {str(root).splitlines()[0] if str(root) else 'no answer'}"
    fault = classify(root)
    if fault.sqlstate and fault.kind != "unavailable" and not fault.sqlstate.startswith(NOBODY):
        return QueryFailed("postgres", f"{detail}. {fault.remedy}".rstrip(". "))
    return Unavailable("postgres", detail)
