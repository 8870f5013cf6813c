"""The SQLite file as a thing that can be trusted: one writer thread, durable commits, a cap, quarantine when corrupt.

Several processes of one machine share the file. Each takes a shared lock on `<file>.lock` for each transaction and
looks whether the path still leads to the file it has open; who sets a corrupt file aside takes the lock alone. So
nobody goes on writing into a file that was moved away or deleted.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from connectors import migrate, sqlitesql
from connectors.pgerrors import Kind, SinkDown
from connectors.ports import Span
from connectors.room import shortage
from schemas.clock import Clock
from schemas.errors import Unavailable

log = logging.getLogger(__name__)
T = TypeVar("T")

CORRUPT: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
BUSY: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
PRIMARY_CODE: Final = 0xFF  # extended result codes carry the primary one in the low byte
PAGE: Final = 4096
#: The id of a file is kept in its header (`user_version`, 31 bits): a damaged header is another file, as it should be.
MAX_ID: Final = 2**31 - 1


def store_id(connection: sqlite3.Connection) -> str:
    """Which file this is: random, given once. A file that was deleted and made again has another one."""
    return f"{connection.execute('PRAGMA user_version').fetchone()[0]:08x}"


class Corrupt(Exception):
    """The file is not what was written. Raised out of a function given to `run` it sets the file aside, too."""


class Quarantine(msgspec.Struct, frozen=True):
    """A store file that was set aside. `spans` is what it held for Postgres, None when not even that could be read.

    For people: what is read again from the log is what the `RangeBook` has under the id of the file.
    """

    path: Path
    reason: str
    spans: tuple[Span, ...] | None


class SqliteStore:
    """Runs functions over the connection, one after the other, in a thread of its own."""

    def __init__(
        self, path: Path, *, clock: Clock, max_bytes: int, busy_s: float, timeout_s: float, room_bytes: int
    ) -> None:
        self.path = path
        self.quarantines: list[Quarantine] = []
        self._clock = clock
        self._max_pages = max(max_bytes // PAGE, 64)
        self._busy_s = busy_s
        self._timeout_s = timeout_s
        self._room_bytes = room_bytes
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sqlite-sink")
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._checked = False

    async def run(self, work: Callable[[sqlite3.Connection], T], *, timeout_s: float | None = None) -> T:
        """`work` in one transaction, in the thread. Raises `SinkDown`; errors about data come through as they are."""
        future = asyncio.get_running_loop().run_in_executor(self._thread, self._run, work)
        try:
            async with asyncio.timeout(timeout_s or self._timeout_s):
                return await asyncio.shield(future)
        except TimeoutError as error:
            future.add_done_callback(lambda done: done.cancelled() or done.exception())  # late, and told already
            raise SinkDown("sqlite", "the disk does not answer in time", unknown=True) from error

    def require_room(self) -> None:
        """For work that adds to the file. Raises `SinkDown` when the disk has less left than is kept free."""
        if found := shortage(self.path.parent, self._room_bytes):
            raise SinkDown("sqlite", found)

    async def close(self) -> None:
        """Close the file; what is running in the thread is waited for at most a second."""
        with contextlib.suppress(TimeoutError, RuntimeError):  # RuntimeError: closed before
            async with asyncio.timeout(1.0):
                await asyncio.get_running_loop().run_in_executor(self._thread, self._drop)
        self._thread.shutdown(wait=False)

    # --- in the thread -----------------------------------------------------------------------------------------------

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return self._guarded(work)
        except Corrupt as corrupt:
            self._quarantine(corrupt)
        try:
            return self._guarded(work)  # the fresh file takes it
        except Corrupt as error:
            raise SinkDown("sqlite", f"a fresh file is corrupt too: {error}") from error

    def _guarded(self, work: Callable[[sqlite3.Connection], T]) -> T:
        committing = False
        try:
            with self._shared_lock():
                connection = self._open()
                connection.execute("BEGIN IMMEDIATE")
                result = work(connection)
                committing = True
                connection.execute("COMMIT")
                return result
        except (sqlite3.DataError, sqlite3.IntegrityError):
            self._rollback()
            raise
        except (sqlite3.Error, OSError) as error:
            self._drop()
            raise _judged(error, committing) from error
        except Unavailable:
            self._drop()
            raise
        except BaseException:
            self._rollback()
            raise

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None and not self._moved():
            return self._connection
        self._drop()
        existed = self.path.exists()
        if not existed and self._inode:
            log.error("the SQLite store %s is gone; what it held for Postgres is read again from the log", self.path)
        if existed and not self._checked:
            self._quick_check()
        self._migrate()
        connection = sqlite3.connect(self.path, timeout=self._busy_s, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA wal_autocheckpoint = 4000")  # 16 MB: at the default small batches pay half for it
        connection.execute("PRAGMA journal_size_limit = 67108864")
        connection.execute("PRAGMA cache_size = -16000")
        connection.execute(f"PRAGMA max_page_count = {self._max_pages}")
        self._name(connection)
        self._connection, self._inode, self._checked = connection, self.path.stat().st_ino, True
        return connection

    def _name(self, connection: sqlite3.Connection) -> None:
        """Give a file without an id one: the ranges in the control topic say by it which file took them."""
        if connection.execute("PRAGMA user_version").fetchone()[0]:
            return
        connection.execute("BEGIN IMMEDIATE")
        if not connection.execute("PRAGMA user_version").fetchone()[0]:  # another process may have been quicker
            connection.execute(f"PRAGMA user_version = {self._clock.new_id().int % MAX_ID or 1}")
        connection.execute("COMMIT")

    def _quick_check(self) -> None:
        with contextlib.closing(sqlite3.connect(self.path, timeout=self._busy_s)) as connection:
            verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise Corrupt(verdict)

    def _migrate(self) -> None:
        try:
            current = migrate.sqlite_revision(self.path)
            if current is not None and current not in migrate.REVISIONS:
                raise SinkDown(
                    "sqlite",
                    f"{self.path} was made by a newer Chronicle (revision {current}).",
                    kind="configuration",
                    remedy="Run the newer version, or name another file.",
                )
            if migrate.pending_after(current):
                migrate.upgrade_sqlite(self.path)
        except Unavailable as error:
            cause = error.__cause__
            original = getattr(cause, "orig", None) or cause  # SQLAlchemy wraps the driver's error
            raise _judged(original, False) if isinstance(original, (sqlite3.Error, OSError)) else error from error

    def _moved(self) -> bool:
        try:
            return self.path.stat().st_ino != self._inode
        except FileNotFoundError:
            return True

    @contextlib.contextmanager
    def _shared_lock(self, how: int = fcntl.LOCK_SH) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(f"{self.path}.lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(handle, how)
            yield
        finally:
            os.close(handle)

    def _quarantine(self, corrupt: Corrupt) -> None:
        """Set the file aside with its journal, unless another process has just done so."""
        inode = self._inode
        self._drop()
        with self._shared_lock(fcntl.LOCK_EX):
            if not self.path.exists() or (inode and self.path.stat().st_ino != inode):
                return
            spans = _open_ranges(self.path)
            stamp = datetime.fromtimestamp(self._clock.now(), UTC).strftime("%Y%m%dT%H%M%S%f")
            aside = Path(f"{self.path}.corrupt-{stamp}")
            for suffix in ("", "-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    os.replace(f"{self.path}{suffix}", f"{aside}{suffix}")
        self.quarantines.append(Quarantine(aside, str(corrupt), spans))
        lost = "unknown" if spans is None else [msgspec.structs.astuple(span) for span in spans]
        log.error(
            "SQLite store corrupt (%s): set aside as %s; it held %s of the log for Postgres", corrupt, aside, lost
        )

    def _rollback(self) -> None:
        try:
            if self._connection is not None and self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error:
            self._drop()

    def _drop(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None


def _judged(error: sqlite3.Error | OSError, committing: bool) -> Exception:
    """What an error means: `Corrupt`, or `SinkDown`; a failed COMMIT that reached the disk may hold all the same."""
    code = getattr(error, "sqlite_errorcode", 0) & PRIMARY_CODE
    if code in CORRUPT:
        return Corrupt(str(error))
    kind: Kind = "transient" if code in BUSY else "unavailable"
    unknown = committing and code == sqlite3.SQLITE_IOERR
    return SinkDown("sqlite", str(error), kind=kind, unknown=unknown)


def _open_ranges(path: Path) -> tuple[Span, ...] | None:
    """What a broken file still tells about the ranges it holds."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            return tuple(Span(*row) for row in connection.execute(sqlitesql.OPEN_RANGES))
    except sqlite3.Error:
        return None
