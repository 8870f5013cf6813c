"""Faults of Postgres: it is there and refuses, or waits for a lock, or has the wrong schema. Lists all of Postgres."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

import asyncpg

from chaos.faults import postgres_gone
from chaos.faults.looking import admin, ask, connect, persist_status, until
from chaos.faults.own import PREFIX, STORED_S, Own, rows, stored
from chaos.faults.postgres_away import HANGING_S, PostgresAway
from chaos.model import Fault, Place


class PostgresReadOnly(PostgresAway):
    """F18."""

    name = "postgres-read-only"
    rows = ("F18",)
    what = "default_transaction_read_only is on for the whole server for 12 s"

    async def _hurt(self, place: Place) -> None:
        async with admin(place) as connection:
            await connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
            await connection.execute("SELECT pg_reload_conf()")

    async def _mend(self, place: Place) -> None:
        async with admin(place) as connection:
            await connection.execute("ALTER SYSTEM RESET default_transaction_read_only")
            await connection.execute("SELECT pg_reload_conf()")


class _RefusedLogin(PostgresAway):
    """Common to what keeps Chronicle's role out. The drill's own connections are of another role."""

    rows = ("F19",)
    _role = ""

    async def _hurt(self, place: Place) -> None:
        async with admin(place) as connection:
            self._role = await connection.fetchval("SELECT tableowner FROM pg_tables WHERE tablename = 'events'")
            await self._refuse(connection)
            await _end_sessions(connection, self._role)

    async def _refuse(self, connection: Any) -> None:
        raise NotImplementedError

    def cannot(self, place: Place) -> str | None:
        """Both roles are looked at when it is done; see `inject`."""
        return None


class PostgresNoConnections(_RefusedLogin):
    """F19, 53300."""

    name = "postgres-no-connections"
    what = "Chronicle's role may have no connection more (53300) for 12 s"

    async def _refuse(self, connection: Any) -> None:
        await connection.execute(f'ALTER ROLE "{self._role}" CONNECTION LIMIT 0')

    async def _mend(self, place: Place) -> None:
        if self._role:
            async with admin(place) as connection:
                await connection.execute(f'ALTER ROLE "{self._role}" CONNECTION LIMIT -1')


class PostgresWrongPassword(_RefusedLogin):
    """F19, 28P01."""

    name = "postgres-wrong-password"
    what = "Chronicle's role has another password (28P01) for 12 s"
    _verifier = ""

    async def _refuse(self, connection: Any) -> None:
        self._verifier = await connection.fetchval("SELECT rolpassword FROM pg_authid WHERE rolname = $1", self._role)
        await connection.execute(f"ALTER ROLE \"{self._role}\" PASSWORD 'another'")

    async def _mend(self, place: Place) -> None:
        if self._verifier:
            async with admin(place) as connection:
                await connection.execute(f"ALTER ROLE \"{self._role}\" PASSWORD '{self._verifier}'")


class PostgresNoDatabase(PostgresAway):
    """F19, 3D000. Nobody reaches the database meanwhile, the drill neither."""

    name = "postgres-no-database"
    rows = ("F19",)
    what = "the database has another name (3D000) for 12 s"
    ELSEWHERE: ClassVar[str] = "postgres"

    async def _hurt(self, place: Place) -> None:
        name = _database(place)
        async with admin(place, database=self.ELSEWHERE) as connection:
            await connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
            await _end_sessions(connection, None, database=name)
            await connection.execute(f'ALTER DATABASE "{name}" RENAME TO "{name}_away"')

    async def _mend(self, place: Place) -> None:
        name = _database(place)
        async with admin(place, database=self.ELSEWHERE) as connection:
            if await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", f"{name}_away"):
                await connection.execute(f'ALTER DATABASE "{name}_away" RENAME TO "{name}"')
            await connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')


class PostgresRefusesARow(Fault):
    """F23: nothing in our own checks sees it coming; a constraint that somebody adds does the same."""

    name = "postgres-refuses-a-row"
    rows = ("F23",)
    what = "one event in fifty violates a constraint of the table (23514): dead letters, and all others are stored"
    hold_s = 0.0
    CONSTRAINT: ClassVar[str] = "drill_refuses"

    async def inject(self, place: Place) -> bool:
        """See the contract."""
        self.well, self.ill = Own(self.name, self.chance), Own("refused", self.chance)
        rule = f"CHECK (session_id NOT LIKE '{PREFIX}refused-%') NOT VALID"
        async with admin(place) as connection:
            await connection.execute(f"ALTER TABLE events ADD CONSTRAINT {self.CONSTRAINT} {rule}")
        for _ in range(10):
            await self.ill.send(place.url, self.ill.events(1))
            await self.well.send(place.url, self.well.events(49))
        return len(self.ill.acked) == 10 and await self._letters(place) is not None

    async def _letters(self, place: Place) -> float | None:
        sql = (
            "SELECT count(*) AS n FROM dead_letters "
            "WHERE event_id = ANY($1::uuid[]) AND cause = 'refused_by_database' AND value IS NOT NULL"
        )

        async def all_there() -> bool:
            return bool((await rows(place.dsn, sql, list(self.ill.acked)))[0]["n"] == len(self.ill.acked))

        return await until(all_there, STORED_S)

    async def heal(self, place: Place) -> None:
        """See the contract."""
        async with admin(place) as connection:
            await connection.execute(f"ALTER TABLE events DROP CONSTRAINT IF EXISTS {self.CONSTRAINT}")

    async def verify(self, place: Place) -> None:
        """See the contract."""
        self.found.broken += await self.well.broken(place.dsn)
        if await self._letters(place) is None:
            self.found.broken.append(f"not all {len(self.ill.acked)} refused events are dead letters with their bytes")
        if stored_ones := await stored(place.dsn, self.ill.acked):
            self.found.broken.append(f"{len(stored_ones)} refused events are stored")


class PostgresLocked(PostgresAway):
    """F20."""

    name = "postgres-locked"
    rows = ("F20",)
    what = "events locked in ACCESS EXCLUSIVE mode by another session for 25 s"
    hold_s = 25.0
    takeover_s = HANGING_S
    _holder: Any = None

    async def _hurt(self, place: Place) -> None:
        self._holder = await connect(place.dsn, timeout=5)
        await self._holder.execute("BEGIN; LOCK TABLE events IN ACCESS EXCLUSIVE MODE")

    async def _mend(self, place: Place) -> None:
        if self._holder is not None:
            self._holder.terminate()


class PostgresDeadlock(PostgresAway):
    """F20, 40P01: another session takes sessions and sink_progress in the other order than Chronicle does."""

    name = "postgres-deadlock"
    rows = ("F20",)
    what = "another writer takes the same rows crosswise until Postgres ends a transaction of Chronicle (40P01)"
    hold_s = 0.0
    TRIES: ClassVar[int] = 20

    async def _hurt(self, place: Place) -> None:
        before = await _deadlocks(place)
        async with admin(place) as connection:
            # Chronicle's transaction is to be the one that looks for the deadlock first, and so the one that is ended
            await connection.execute("SET deadlock_timeout = '5s'; SET lock_timeout = '3s'")
            for _ in range(self.TRIES):
                if await _cross(connection):
                    break
                await asyncio.sleep(self.chance.uniform(0.01, 0.1))
        self.found.times["deadlocks"] = float(await _deadlocks(place) - before)

    async def during(self, place: Place) -> None:
        """One try more is enough: SQLite need not take over."""
        if not self.found.times["deadlocks"]:
            self.found.broken.append(f"{self.name}: no deadlock came about in {self.TRIES} tries")

    async def _mend(self, place: Place) -> None:
        """The other session is gone already."""


class PostgresMissingColumn(PostgresAway):
    """F22: the schema is behind the code."""

    name = "postgres-missing-column"
    rows = ("F22",)
    what = "a column of events has another name (42703) for 12 s"
    COLUMN: ClassVar[str] = "agent_type"

    async def _hurt(self, place: Place) -> None:
        await self._rename(place, self.COLUMN, f"{self.COLUMN}_away")

    async def _mend(self, place: Place) -> None:
        if await ask(
            place,
            "SELECT true FROM information_schema.columns WHERE table_name = 'events' AND column_name = $1",
            f"{self.COLUMN}_away",
        ):
            await self._rename(place, f"{self.COLUMN}_away", self.COLUMN)

    async def _rename(self, place: Place, old: str, new: str) -> None:
        async with admin(place) as connection:
            await connection.execute(f"ALTER TABLE events RENAME COLUMN {old} TO {new}")

    async def during(self, place: Place) -> None:
        """An operator is told what to do."""
        await super().during(place)
        said = [str(each.get("last_error")) for each in (await persist_status(place)).values()]
        if not any("chronicle db migrate" in error for error in said):
            self.found.broken.append(f"{self.name}: no worker names the remedy: {said}")


async def _end_sessions(connection: Any, role: str | None, *, database: str | None = None) -> None:
    """End all other sessions of the role or in the database, and wait until they are gone."""
    where = "(usename = $1 OR datname = $2) AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
    sql = f"SELECT count(pg_terminate_backend(pid, 2000)) FROM pg_stat_activity WHERE {where}"
    for _ in range(50):
        if not await connection.fetchval(sql, role, database):
            return
        await asyncio.sleep(0.1)


async def _cross(connection: Any) -> bool:
    """Whether a deadlock came about: ours was ended, or one was counted."""
    before = await connection.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    try:
        async with connection.transaction():
            await connection.execute("SELECT 1 FROM sink_progress ORDER BY partition FOR UPDATE")
            await asyncio.sleep(0.3)  # a transaction of Chronicle has its sessions and waits for sink_progress now
            await connection.execute("SELECT 1 FROM sessions FOR UPDATE")
    except asyncpg.DeadlockDetectedError:
        return True
    except asyncpg.exceptions.PostgresError:
        return False
    sql = "SELECT pg_stat_clear_snapshot(), deadlocks FROM pg_stat_database WHERE datname = current_database()"
    row = await connection.fetchrow(sql)
    return bool(row["deadlocks"] > before)


async def _deadlocks(place: Place) -> int:
    return int(await ask(place, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"))


def _database(place: Place) -> str:
    return urlsplit(place.dsn).path.lstrip("/")


FAULTS: Final[tuple[type[Fault], ...]] = (
    *postgres_gone.FAULTS,
    PostgresReadOnly,
    PostgresNoConnections,
    PostgresWrongPassword,
    PostgresNoDatabase,
    PostgresLocked,
    PostgresDeadlock,
    PostgresMissingColumn,
)
