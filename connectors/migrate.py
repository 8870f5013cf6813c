"""Brings a database to the schema this code writes. One set of Alembic scripts for Postgres and SQLite.

DSNs: `postgresql://…` as asyncpg reads it, `sqlite:///relative/path` or `sqlite:////absolute/path`. Alembic and
SQLAlchemy are imported only when there is something to do: an up-to-date database is told by one plain query.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import sqlite3
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import asyncpg
import msgspec

from connectors.pgerrors import classify, unavailable
from schemas.errors import Misconfigured, Unavailable

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection

MIGRATIONS: Final = Path(__file__).parent / "migrations"
#: Revision ids in order, read from the file names; the last one is the schema this code writes.
REVISIONS: Final = tuple(sorted(path.name.partition("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py")))
HEAD: Final = REVISIONS[-1]
REMEDY: Final = "Run `chronicle db migrate`."
#: Whoever migrates one Postgres holds this; any fixed number of our own.
LOCK_ID: Final = 7_305_808_869_231_650
BUSY_S: Final = 30.0

pg_connect: Any = asyncpg.connect  # asyncpg tells no types
#: `alembic.context` is one for the whole process. Taken after the database's lock, and each upgrade has its own thread.
_one_at_a_time = threading.Lock()

Dialect = Literal["postgresql", "sqlite"]


class SchemaStatus(msgspec.Struct, frozen=True):
    """Which revision a database is at (None: no Chronicle tables) and which ones are still to come."""

    dialect: Dialect
    current: str | None
    head: str
    pending: tuple[str, ...]

    @property
    def known(self) -> bool:
        """False when a newer Chronicle has been here."""
        return self.current is None or self.current in REVISIONS


async def upgrade(dsn: str, *, timeout: float = 3600.0) -> list[str]:
    """Apply what is missing; returns the applied revisions. Safe to call from many processes at once.

    `timeout` seconds in all: an index over many events takes its time, and whoever comes second waits for the first.

    All of it commits or none. Raises `Unavailable` when the database is away, `Misconfigured` when it is newer than
    this code or the role may not make tables.
    """
    before = await status(dsn)
    _refuse_newer(before)
    if not before.pending:
        return []
    if before.dialect == "sqlite":
        after = await asyncio.to_thread(upgrade_sqlite, sqlite_path(dsn))
    else:
        after = await asyncio.to_thread(lambda: asyncio.run(_upgrade_postgres(dsn, timeout)))
    return after


async def status(dsn: str) -> SchemaStatus:
    """Where the database stands. Raises `Unavailable`, or `Misconfigured` for a DSN nobody understands."""
    dialect = dialect_of(dsn)
    if dialect == "sqlite":
        current = await asyncio.to_thread(sqlite_revision, sqlite_path(dsn))
    else:
        current = await _postgres_revision(dsn)
    return SchemaStatus(dialect=dialect, current=current, head=HEAD, pending=pending_after(current))


async def check(dsn: str) -> None:
    """Raises `Misconfigured` unless the database has exactly the schema this code writes."""
    found = await status(dsn)
    _refuse_newer(found)
    if found.pending:
        at = f"at revision {found.current}" if found.current else "empty"
        raise Misconfigured(f"The database schema is older than this Chronicle: it is {at}, needed is {HEAD}.", REMEDY)


def script(dialect: Dialect, *, since: str | None = None) -> str:
    """The SQL that `upgrade` would run, for a database administrator to read or run."""
    from alembic import command

    out = io.StringIO()
    config = alembic_config(out)
    config.attributes["dialect"] = dialect
    command.upgrade(config, f"{since or 'base'}:head", sql=True)
    return out.getvalue()


def pending_after(current: str | None) -> tuple[str, ...]:
    """The revisions after `current`; none for one we do not know."""
    if current is None:
        return REVISIONS
    return REVISIONS[REVISIONS.index(current) + 1 :] if current in REVISIONS else ()


def dialect_of(dsn: str) -> Dialect:
    """Raises `Misconfigured`."""
    scheme = dsn.partition(":")[0]
    if scheme in ("postgresql", "postgres"):
        return "postgresql"
    if scheme == "sqlite":
        return "sqlite"
    raise Misconfigured(
        f"A database URL beginning with {scheme[:20]!r} is not supported.", "Use postgresql://… or sqlite:///path."
    )


def sqlite_path(dsn: str) -> Path:
    """`sqlite:///a.db` -> a.db, `sqlite:////a.db` -> /a.db."""
    return Path(dsn.removeprefix("sqlite:///"))


def sqlite_dsn(path: Path) -> str:
    """The other way round."""
    return f"sqlite:///{path}"


def _refuse_newer(found: SchemaStatus) -> None:
    if not found.known:
        raise Misconfigured(
            f"The database schema is newer than this Chronicle: it is at revision {found.current}, known is {HEAD}.",
            "Run the newer version of Chronicle.",
        )


# --- SQLite ----------------------------------------------------------------------------------------------------------


def sqlite_revision(path: Path) -> str | None:
    """None for a missing or empty file. Raises `Unavailable` when the file cannot be read."""
    if not path.exists():
        return None
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=BUSY_S)) as connection:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return None
        raise Unavailable("sqlite", f"cannot read {path}: {error}") from error
    except sqlite3.DatabaseError as error:
        raise Unavailable("sqlite", f"cannot read {path}: {error}") from error
    return str(row[0]) if row else None


def upgrade_sqlite(path: Path) -> list[str]:
    """`upgrade` for a file, blocking: the SQLite sink calls it from its own thread. Raises `Unavailable`."""
    import sqlalchemy as sa

    path.parent.mkdir(parents=True, exist_ok=True)

    def connect() -> sqlite3.Connection:
        # For its owner only: payloads hold code and keys. Never done to a file that is there: closing it again would
        # take away the locks that other connections of this process hold on it (POSIX).
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        return sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)

    engine = sa.create_engine("sqlite://", creator=connect, poolclass=sa.pool.NullPool)
    sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    try:
        with engine.begin() as connection:
            return run(connection)
    except (sa.exc.OperationalError, sa.exc.DatabaseError, OSError) as error:
        raise Unavailable("sqlite", f"cannot migrate {path}: {error}") from error
    finally:
        engine.dispose()


# --- Postgres --------------------------------------------------------------------------------------------------------


async def _postgres_revision(dsn: str, timeout: float = 5.0) -> str | None:
    try:
        async with asyncio.timeout(timeout):
            connection = await pg_connect(dsn)
            try:
                if await connection.fetchval("SELECT to_regclass('alembic_version')") is None:
                    return None
                revision: str | None = await connection.fetchval("SELECT version_num FROM alembic_version")
                return revision
            finally:
                connection.terminate()
    except Exception as error:
        raise unavailable(error) from error


async def _upgrade_postgres(dsn: str, timeout: float) -> list[str]:
    import sqlalchemy as sa
    from sqlalchemy.ext.asyncio import create_async_engine

    async def connect() -> Any:
        return await pg_connect(dsn, timeout=5, server_settings={"lock_timeout": f"{timeout:.0f}s"})

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=sa.pool.NullPool)
    try:
        async with asyncio.timeout(timeout), engine.begin() as connection:
            return await connection.run_sync(run)
    except Exception as error:
        cause = _driver_error(error)
        if classify(cause).kind == "configuration":
            raise Misconfigured(f"The migration was refused: {cause}.", "Give the role the right to create.") from error
        raise unavailable(cause) from error
    finally:
        await engine.dispose()


def _driver_error(error: BaseException) -> BaseException:
    """SQLAlchemy wraps the driver's error in two of its own."""
    original = getattr(error, "orig", None)
    return (original.__cause__ or original) if original is not None else error


# --- both ------------------------------------------------------------------------------------------------------------


def lock(connection: Connection) -> None:
    """Called by env.py inside the transaction. SQLite's BEGIN IMMEDIATE is its own lock."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK_ID})")


def run(connection: Connection) -> list[str]:
    """Upgrade over an open connection, in its transaction; returns the applied revisions."""
    from alembic import command
    from alembic.runtime.migration import MigrationContext

    lock(connection)
    before = MigrationContext.configure(connection).get_current_revision()
    config = alembic_config()
    config.attributes["connection"] = connection
    with _one_at_a_time:
        command.upgrade(config, "head")
    return list(pending_after(before))


def alembic_config(out: io.StringIO | None = None) -> Config:
    from alembic.config import Config

    config = Config(stdout=io.StringIO(), output_buffer=out)
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config
