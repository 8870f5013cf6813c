"""What faults look at: is work under way, who has taken over, what waits in SQLite, what came back from it."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import asyncpg

from chaos.host import get_json
from chaos.model import Place

connect: Any = asyncpg.connect  # asyncpg tells no types
POLL_S: Final = 0.05


async def until(condition: Callable[[], Awaitable[bool]], seconds: float) -> float | None:
    """Seconds until it held; None when it never did."""
    began = time.monotonic()
    while not await condition():
        if time.monotonic() - began > seconds:
            return None
        await asyncio.sleep(POLL_S)
    return time.monotonic() - began


async def under_way(place: Place, seconds: float = 3.0) -> bool:
    """Whether accepted events are being worked on now; waits a moment for it, since lag falls to 0 between two."""

    async def lagging() -> bool:
        return await place.lag() > 0

    return await until(lagging, seconds) is not None


async def persist_status(place: Place) -> dict[str, Mapping[str, Any]]:
    """What each stream worker that is heard of says of its sink (GET /stats), by name."""
    body = await get_json(f"{place.url}/stats", timeout=3.0)
    workers: Mapping[str, Mapping[str, Any]] = (body or {}).get("workers") or {}
    return {name: worker["persist"] for name, worker in workers.items() if worker.get("persist")}


async def ready_status(place: Place) -> str:
    """The word of /ready; empty when nothing answers."""
    return str((await place.ready() or {}).get("status", ""))


@asynccontextmanager
async def admin(place: Place, *, database: str | None = None) -> AsyncIterator[Any]:
    """A connection of the owner, past the proxy and past read-only."""
    connection = await connect(place.dsn, timeout=5, **({"database": database} if database else {}))
    try:
        await connection.execute("SET default_transaction_read_only = off")
        yield connection
    finally:
        connection.terminate()


async def ask(place: Place, sql: str, *args: object) -> Any:
    """One value of Postgres."""
    async with admin(place) as connection:
        return await connection.fetchval(sql, *args)


def sqlite_taken(path: Path) -> int:
    """How many rows SQLite has ever taken; it only grows. 0 while there is no file."""
    return _sqlite(path, "SELECT seq FROM sqlite_sequence WHERE name = 'outbox'")


def sqlite_waiting(path: Path) -> int:
    """Rows that Postgres does not have yet."""
    return _sqlite(path, "SELECT count(*) FROM outbox WHERE state = 'pending'")


def _sqlite(path: Path, sql: str) -> int:
    if not path.exists():
        return 0
    with (
        contextlib.suppress(sqlite3.Error),
        contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db,
    ):
        row = db.execute(sql).fetchone()
        return int(row[0]) if row else 0
    return 0


class Takeover:
    """Watches for SQLite's first commit from `begin` on; `seconds` are since `hurt`."""

    def __init__(self, place: Place) -> None:
        self._path = place.sqlite
        self._before = sqlite_taken(self._path)
        self._hurt_at = time.monotonic()
        self._task: asyncio.Task[None] = asyncio.create_task(self._watch())
        self.at: float | None = None

    def hurt(self) -> None:
        """Now it is done."""
        self._hurt_at = time.monotonic()

    @property
    def seconds(self) -> float | None:
        """From the fault to the first commit; None when there was none."""
        return None if self.at is None else max(0.0, self.at - self._hurt_at)

    async def taken(self, seconds: float) -> bool:
        """Whether it comes within `seconds` from now."""
        await asyncio.wait({self._task}, timeout=seconds)
        return self.at is not None

    def end(self) -> None:
        """Watch no longer."""
        self._task.cancel()

    async def _watch(self) -> None:
        while await asyncio.to_thread(sqlite_taken, self._path) <= self._before:
            await asyncio.sleep(POLL_S)
        self.at = time.monotonic()


class SyncBack:
    """The runs of sync-back in Postgres after the moment it was made."""

    def __init__(self, last_id: int) -> None:
        self._last_id = last_id

    @classmethod
    async def now(cls, place: Place) -> SyncBack:
        """From here on."""
        return cls(await ask(place, "SELECT coalesce(max(id), 0) FROM sync_runs"))

    async def runs(self, place: Place) -> list[Any]:
        """started_at (with zone), rows, stored, verified; oldest first."""
        async with admin(place) as connection:
            sql = "SELECT started_at, rows, stored, verified FROM sync_runs WHERE id > $1 ORDER BY started_at"
            found: list[Any] = await connection.fetch(sql, self._last_id)
            return found


def epoch(at: datetime) -> float:
    """Seconds since 1970."""
    return at.timestamp()
