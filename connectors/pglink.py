"""One Postgres connection: opened when needed, thrown away at the first doubt, one user at a time."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final

import asyncpg

from connectors import pgsql

connect: Any = asyncpg.connect  # asyncpg tells no types
#: Postgres counts microseconds from 2000-01-01, we from 1970-01-01.
_POSTGRES_EPOCH: Final = 946_684_800_000_000


def _to_postgres(micros: int) -> tuple[int]:
    return (micros - _POSTGRES_EPOCH,)


def _from_postgres(value: tuple[int]) -> int:
    return value[0] + _POSTGRES_EPOCH


class PostgresLink:
    """Hold `lock` while you use `connection()`; after any error that is not about data, `drop()` it.

    Times are integer microseconds on this connection. `timeout_s` bounds one statement on the server as well, and a
    transaction that its client forgot; `lock_timeout` is a third of it, so that a locked table is told in time.
    """

    def __init__(self, dsn: str, *, name: str, timeout_s: float, connect_timeout_s: float) -> None:
        self.lock = asyncio.Lock()
        self._dsn = dsn
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._settings = {
            "application_name": name,
            "statement_timeout": f"{timeout_s * 1000:.0f}",
            "lock_timeout": f"{timeout_s * 1000 / 3:.0f}",
            "idle_in_transaction_session_timeout": f"{timeout_s * 2000:.0f}",
            "timezone": "UTC",
            "jit": "off",
            "work_mem": "16MB",  # the sort of a full batch stays in memory
        }
        self._connection: Any = None

    async def connection(self) -> Any:
        """The open connection, or a new one. Raises whatever asyncpg or the socket raises."""
        if self._connection is None or self._connection.is_closed():
            self._connection = await self.connect()
        return self._connection

    async def connect(self) -> Any:
        """A new connection of the caller's own, set up the same way."""
        async with asyncio.timeout(self._connect_timeout_s):
            connection = await connect(self._dsn, timeout=self._connect_timeout_s, server_settings=self._settings)
            try:
                await connection.set_type_codec(
                    "timestamptz", schema="pg_catalog", encoder=_to_postgres, decoder=_from_postgres, format="tuple"
                )
                await connection.execute(pgsql.DURABLE)
                await connection.execute(pgsql.MAKE_STAGE)
            except BaseException:
                connection.terminate()
                raise
        return connection

    async def rollback(self) -> None:
        """End the transaction; where that is not answered at once, drop the connection."""
        try:
            async with asyncio.timeout(1.0):
                await self._connection.execute("ROLLBACK")
        except Exception:  # whatever it is: a connection that cannot roll back is of no use
            self.drop()

    def drop(self) -> None:
        """Cut the connection without a word; the server rolls back."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def close(self) -> None:
        """Say goodbye, within a second."""
        if self._connection is not None:
            with contextlib.suppress(Exception):  # closing what is broken already
                await self._connection.close(timeout=1.0)
            self.drop()
