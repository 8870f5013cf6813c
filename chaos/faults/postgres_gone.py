"""Faults of Postgres itself and of the line to it: gone, hanging, flapping, cut off, its disk full."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol, runtime_checkable

import asyncpg

from chaos.faults import small_disk
from chaos.faults.looking import admin, ask
from chaos.faults.postgres_away import GONE_S, HANGING_S, PostgresAway
from chaos.model import Expected, Fault, Place

#: COMMIT as asyncpg's simple query sends it: 'Q', length, text, zero. Its own transactions end with "COMMIT;".
COMMIT: Final = b"Q\x00\x00\x00\x0bCOMMIT\x00"


@runtime_checkable
class Immediate(Protocol):
    """A database that can be stopped without a goodbye."""

    def stop_immediate(self) -> None: ...


class PostgresStop(PostgresAway):
    """F14."""

    name = "postgres-stop"
    rows = ("F14", "F45")
    what = "stop Postgres at once (immediate), start it after 15 s: SQLite takes over within 5 s and is synced back"
    short = True
    hold_s = 15.0

    async def _hurt(self, place: Place) -> None:
        unit = place.postgres
        await asyncio.to_thread(unit.stop_immediate if isinstance(unit, Immediate) else unit.kill)

    async def _mend(self, place: Place) -> None:
        await asyncio.to_thread(place.postgres.start)


class PostgresFlap(PostgresAway):
    """F15: whether each stop is long enough for SQLite is not said, so it need not take over."""

    name = "postgres-flap"
    rows = ("F15",)
    what = "restart Postgres every 10 s, four times"
    hold_s = 42.0
    expected = Expected(ready_s=60.0, lag_zero_s=60.0, degraded=True)
    _task: asyncio.Task[None] | None = None

    async def _hurt(self, place: Place) -> None:
        self._task = asyncio.create_task(self._flap(place))

    async def _flap(self, place: Place) -> None:
        for _ in range(4):
            await asyncio.to_thread(place.postgres.kill)
            await asyncio.sleep(self.chance.uniform(0.5, 3.0))
            await asyncio.to_thread(place.postgres.start)
            await asyncio.sleep(8.0)

    async def during(self, place: Place) -> None:
        """Nothing has to hold but what the load measures."""

    async def _mend(self, place: Place) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await asyncio.to_thread(place.postgres.start)


class PostgresPause(PostgresAway):
    """F16: it takes connections and never answers."""

    name = "postgres-pause"
    rows = ("F16", "F45")
    what = "SIGSTOP of Postgres for 15 s, then SIGCONT"
    short = True
    hold_s = 15.0
    takeover_s = HANGING_S

    async def _hurt(self, place: Place) -> None:
        await asyncio.to_thread(place.postgres.pause)

    async def _mend(self, place: Place) -> None:
        await asyncio.to_thread(place.postgres.resume)


class PostgresBlackhole(PostgresAway):
    """F16: the packets go nowhere."""

    name = "postgres-blackhole"
    rows = ("F16", "F45")
    what = "everything between Chronicle and Postgres swallowed for 15 s; nobody is told"
    hold_s = 15.0
    takeover_s = HANGING_S

    async def _hurt(self, place: Place) -> None:
        await asyncio.to_thread(place.postgres_proxy.half_open)

    async def _mend(self, place: Place) -> None:
        await asyncio.to_thread(place.postgres_proxy.heal)


class PostgresCut(PostgresBlackhole):
    """F10 for Postgres: told at once."""

    name = "postgres-cut"
    what = "all connections to Postgres reset and new ones refused for 12 s"
    hold_s = 12.0
    takeover_s = GONE_S

    async def _hurt(self, place: Place) -> None:
        await asyncio.to_thread(place.postgres_proxy.cut)


class PostgresCutAfterCommit(PostgresAway):
    """F17: Postgres has it, nobody knows. One cut is one failed try, so SQLite need not take over."""

    name = "postgres-cut-after-commit"
    rows = ("F17",)
    what = "the connection is reset after COMMIT was sent and before it is answered, five times"
    short = True
    hold_s = 1.0
    CUTS: ClassVar[int] = 5

    async def _hurt(self, place: Place) -> None:
        before = _cuts(place)
        for _ in range(self.CUTS):
            await asyncio.to_thread(place.postgres_proxy.cut_after, COMMIT)
            await asyncio.sleep(self.chance.uniform(0.5, 1.0))
        self.found.times["cuts"] = _cuts(place) - before

    async def during(self, place: Place) -> None:
        """It was really cut."""
        if not self.found.times["cuts"]:
            self.found.broken.append(f"{self.name}: no COMMIT came by")

    async def _mend(self, place: Place) -> None:
        await asyncio.to_thread(place.postgres_proxy.heal)


class PostgresDiskFull(PostgresAway):
    """F21: the table of events is moved to a small tablespace, where another table takes the rest."""

    name = "postgres-disk-full"
    rows = ("F21",)
    what = "the disk with the table events is full (53100) for 12 s"
    SPACE: ClassVar[str] = "drill_small"
    _folder: Path | None = None

    def cannot(self, place: Place) -> str | None:
        """See the contract."""
        return small_disk.cannot_mount()

    async def _hurt(self, place: Place) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="chronicle-drill-"))
        owner = Path(f"/proc/{place.postgres.pid}").stat()
        size = await ask(place, "SELECT pg_table_size('events')") + 16 * small_disk.MIB
        small_disk.mount(self._folder, size, owner=(owner.st_uid, owner.st_gid))
        async with admin(place) as connection:
            await connection.execute(f"CREATE TABLESPACE {self.SPACE} LOCATION '{self._folder}'")
            await connection.execute(f"ALTER TABLE events SET TABLESPACE {self.SPACE}")
            await connection.execute(f"CREATE TABLE drill_ballast (filler text) TABLESPACE {self.SPACE}")
            await connection.execute("ALTER TABLE drill_ballast ALTER COLUMN filler SET STORAGE PLAIN")
            for rows in (256, 1):  # 2 MiB at a time, then page by page
                await _insert_until_full(connection, rows)

    async def _mend(self, place: Place) -> None:
        if self._folder is None:
            return
        async with admin(place) as connection:
            await connection.execute("DROP TABLE IF EXISTS drill_ballast")
            await connection.execute("ALTER TABLE events SET TABLESPACE pg_default")
            await connection.execute("CHECKPOINT")  # files that were emptied are kept until the next one
            await connection.execute(f"DROP TABLESPACE IF EXISTS {self.SPACE}")
        small_disk.unmount(self._folder)
        shutil.rmtree(self._folder, ignore_errors=True)


async def _insert_until_full(connection: Any, rows: int) -> None:
    sql = "INSERT INTO drill_ballast SELECT repeat('x', 8000) FROM generate_series(1, $1)"
    with contextlib.suppress(asyncpg.exceptions.DiskFullError):
        while True:
            await connection.execute(sql, rows)


def _cuts(place: Place) -> float:
    return float(getattr(place.postgres_proxy, "cuts", 0))


FAULTS: Final[tuple[type[Fault], ...]] = (
    PostgresStop,
    PostgresFlap,
    PostgresPause,
    PostgresBlackhole,
    PostgresCut,
    PostgresCutAfterCommit,
    PostgresDiskFull,
)
