"""Spool: records on local disk, in order, until the broker takes them.

One SQLite file (WAL, synchronous=FULL) and one writer thread. All appends that wait at the same time share one
transaction and one fsync. A record is on disk when `append` returns: kill -9 and power loss leave it there. Each row
carries a checksum of its bytes, because SQLite notices a torn page but not a flipped bit.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, Final, TypeVar

import msgspec
import structlog

from connectors import sqlite_many
from connectors.ports import Record
from connectors.room import ROOM, shortage
from connectors.spool_file import Salvage, connect, open_file
from schemas import points
from schemas.clock import Clock
from schemas.errors import Unavailable

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: What a row costs beside its record: numbers, checksum, index. Only the cap uses it.
ROW_OVERHEAD: Final = 40
#: When the spool is full or broken, clients are told to come back after so many seconds.
RETRY_AFTER: Final = 5.0
#: Most jobs taken into one transaction; bounds how long the first of them waits.
GROUP: Final = 512
#: An emptied file above this size gives its pages back to the disk.
SHRINK_BYTES: Final = 16 << 20


class SpoolRow(msgspec.Struct, frozen=True):
    """A record and its place in the spool."""

    seq: int
    record: Record


class _Job:
    """One piece of work for the writer thread. `after` keeps the counters and runs on the loop in any case, `future`
    is the caller's and may have been cancelled by then."""

    __slots__ = ("after", "failed", "future", "work")

    def __init__(
        self,
        work: Callable[[sqlite3.Connection], Any],
        after: Callable[[Any], None],
        failed: Callable[[], None],
        future: asyncio.Future[Any],
    ) -> None:
        self.work, self.after, self.failed, self.future = work, after, failed, future


def _nothing(*_: Any) -> None:
    """No counter changes."""


class Spool:
    """An ordered, durable outbox of records, for one process.

    `append`, `peek`, `drop`, `set_aside` are done in the order they were called. They raise `Unavailable`
    (`retry_after` set) when the spool is full, its disk is broken or has less than `room_bytes` left, or the spool is
    closed; nothing of the call is then promised. All but the file work happens on the event loop that called `open`.
    """

    def __init__(self, path: Path, *, clock: Clock, max_bytes: int = 1 << 30, room_bytes: int = ROOM) -> None:
        self.path = path
        self._clock = clock
        self._max_bytes = max_bytes
        self._room_bytes = room_bytes
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread: Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._next = 1
        self._emptied = False
        #: Rows and bytes handed in and not yet dropped, those whose commit is still on its way included.
        self.pending = 0
        self.bytes = 0
        #: Rows that can never be sent, kept aside.
        self.refused = 0
        #: When the oldest pending row was appended (epoch seconds), as of the last `open`, `peek` or emptiness.
        self.oldest_at: float | None = None
        self.salvage: Salvage | None = None
        self.last_error: str | None = None

    async def open(self) -> None:
        """Open and check the file; a corrupt one is put aside after what can be read was brought over.

        Raises `Misconfigured` when another process has the file or the folder cannot be written.
        """
        self._loop = asyncio.get_running_loop()
        self.salvage = await asyncio.to_thread(open_file, self.path, self._clock.now())
        connection = await asyncio.to_thread(connect, self.path)
        self._next, self.pending, size, self.refused, self.oldest_at = _counters(connection)
        self.bytes = size + self.pending * ROW_OVERHEAD
        self._thread = Thread(target=self._work, args=(connection,), name="spool", daemon=True)
        self._thread.start()

    def append(self, records: Sequence[Record]) -> asyncio.Future[int]:
        """Enqueue now, in call order; the future gives the last row's seq when all rows are fsynced."""
        raws = [msgspec.msgpack.encode(record) for record in records]
        size = sum(map(len, raws)) + len(raws) * ROW_OVERHEAD
        if self.bytes + size > self._max_bytes:
            detail = f"the spool holds {self.bytes} of at most {self._max_bytes} bytes"
            raise Unavailable("spool", detail, retry_after=RETRY_AFTER)
        if short := self._shortage():
            raise Unavailable("spool", short, retry_after=RETRY_AFTER)
        at = self._clock.now()

        def insert(connection: sqlite3.Connection) -> int:
            first = self._next
            self._next += len(raws)
            rows = [(first + index, at, zlib.crc32(raw), raw) for index, raw in enumerate(raws)]
            sqlite_many.insert(connection, "INSERT INTO spool (seq, at, crc, record)", rows)
            return self._next - 1

        future = self._submit(insert, failed=lambda: self._left((len(raws), size)))
        self.pending += len(raws)
        self.bytes += size
        self.oldest_at = at if self.oldest_at is None else self.oldest_at
        return future

    async def peek(self, limit: int, max_bytes: int = 4 << 20) -> Sequence[SpoolRow]:
        """The oldest rows: at most `limit`, about `max_bytes`, at least one if there is any.

        A row whose checksum is wrong ends the batch before it; at the head it is set aside with cause `checksum`.
        """
        rows, oldest_at, broken = await self._submit(lambda connection: _read(connection, limit, max_bytes))
        if broken is not None:
            await self.set_aside(broken, "checksum")
            return await self.peek(limit, max_bytes)
        if rows:
            self.oldest_at = oldest_at
        return rows

    async def drop(self, up_to_seq: int) -> None:
        """Forget every row up to and including this one; call only after the broker has acked them."""
        await self._submit(lambda connection: self._remove(connection, "seq <= ?", up_to_seq), after=self._left)

    async def set_aside(self, seq: int, cause: str) -> None:
        """Move one row that can never be sent out of the way, with its bytes; `refused` counts it."""

        def move(connection: sqlite3.Connection) -> tuple[int, int]:
            connection.execute(
                "INSERT INTO refused (seq, at, cause, record) SELECT seq, at, ?, record FROM spool WHERE seq = ?",
                (cause, seq),
            )
            return self._remove(connection, "seq = ?", seq)

        def after(removed: tuple[int, int]) -> None:
            self.refused += removed[0]
            self._left(removed)

        await self._submit(move, after=after)
        log.error("spool.row_set_aside", seq=seq, cause=cause, file=str(self.path))

    def file_bytes(self) -> int:
        """Size of the file and its write-ahead log on disk."""
        total = 0
        for suffix in ("", "-wal"):
            with contextlib.suppress(OSError):
                total += self.path.with_name(self.path.name + suffix).stat().st_size
        return total

    async def close(self) -> None:
        """Finish what was handed in and close the file; the rows stay."""
        if self._thread is not None:
            thread, self._thread = self._thread, None
            self._jobs.put(None)
            await asyncio.to_thread(thread.join)

    def _shortage(self) -> str | None:
        try:
            return shortage(self.path.parent, self._room_bytes)
        except OSError as error:
            return f"the disk of {self.path.parent} does not tell what it has left: {error}"

    def _left(self, removed: tuple[int, int]) -> None:
        self.pending -= removed[0]
        self.bytes -= removed[1]
        if not self.pending:
            self.oldest_at = None

    def _submit(
        self,
        work: Callable[[sqlite3.Connection], T],
        *,
        after: Callable[[T], None] = _nothing,
        failed: Callable[[], None] = _nothing,
    ) -> asyncio.Future[T]:
        if self._thread is None or self._loop is None:
            raise Unavailable("spool", "the spool is closed", retry_after=RETRY_AFTER)
        future: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put(_Job(work, after, failed, future))
        return future

    # --- the writer thread -------------------------------------------------------------------------------------------

    def _work(self, connection: sqlite3.Connection) -> None:
        """Take all waiting jobs, do them in one transaction, answer after its COMMIT."""
        open_ = True
        while open_:
            jobs: list[_Job] = []
            while not jobs or (len(jobs) < GROUP and not self._jobs.empty()):
                job = self._jobs.get()
                if job is None:
                    open_ = False
                    break
                jobs.append(job)
            if jobs:
                self._answer(jobs, *self._commit(connection, jobs))
                self._shrink(connection)
        connection.close()

    def _commit(self, connection: sqlite3.Connection, jobs: Sequence[_Job]) -> tuple[list[Any], Unavailable | None]:
        before = self._next
        try:
            connection.execute("BEGIN IMMEDIATE")
            results = [job.work(connection) for job in jobs]
            appended = self._next != before
            if appended:
                points.at("spool.before_fsync")
            connection.execute("COMMIT")
            if appended:
                points.at("spool.after_fsync")
        except Exception as error:  # whatever it was, every waiter must get an answer and the thread must go on
            self._next = before
            self.last_error = f"{type(error).__name__}: {error}"
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            return [], Unavailable("spool", f"the file cannot be written: {error}", retry_after=RETRY_AFTER)
        self.last_error = None
        return results, None

    def _answer(self, jobs: Sequence[_Job], results: Sequence[Any], error: Unavailable | None) -> None:
        def resolve() -> None:
            for index, job in enumerate(jobs):
                if error is None:
                    job.after(results[index])
                else:
                    job.failed()
                if job.future.done():
                    continue
                if error is None:
                    job.future.set_result(results[index])
                else:
                    job.future.set_exception(error)

        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
                self._loop.call_soon_threadsafe(resolve)

    def _remove(self, connection: sqlite3.Connection, where: str, seq: int) -> tuple[int, int]:
        rows, size = connection.execute(
            f"SELECT count(*), coalesce(sum(length(record)), 0) FROM spool WHERE {where}", (seq,)
        ).fetchone()
        connection.execute(f"DELETE FROM spool WHERE {where}", (seq,))
        self._emptied = connection.execute("SELECT 1 FROM spool LIMIT 1").fetchone() is None
        return rows, size + rows * ROW_OVERHEAD

    def _shrink(self, connection: sqlite3.Connection) -> None:
        """Give the pages of a long outage back to the disk once the spool is empty."""
        if not self._emptied:
            return
        self._emptied = False
        if self.file_bytes() > SHRINK_BYTES:
            with contextlib.suppress(sqlite3.Error):
                connection.executescript("PRAGMA incremental_vacuum")  # `execute` would stop after one page
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _counters(connection: sqlite3.Connection) -> tuple[int, int, int, int, float | None]:
    """(next seq, rows, bytes of the records, rows set aside, time of the oldest row)."""
    last = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'spool'").fetchone()
    rows, size, oldest_at = connection.execute(
        "SELECT count(*), coalesce(sum(length(record)), 0), min(at) FROM spool"
    ).fetchone()
    refused = connection.execute("SELECT count(*) FROM refused").fetchone()[0]
    return (last[0] if last else 0) + 1, rows, size, refused, oldest_at


def _read(
    connection: sqlite3.Connection, limit: int, max_bytes: int
) -> tuple[list[SpoolRow], float | None, int | None]:
    """(rows, time of the first, seq of a broken row at the head)."""
    rows: list[SpoolRow] = []
    oldest_at: float | None = None
    size = 0
    found = connection.execute("SELECT seq, at, crc, record FROM spool ORDER BY seq LIMIT ?", (limit,))
    for seq, at, crc, raw in found:
        if zlib.crc32(raw) != crc:
            return rows, oldest_at, None if rows else seq
        size += len(raw)
        if rows and size > max_bytes:
            break
        oldest_at = at if oldest_at is None else oldest_at
        rows.append(SpoolRow(seq, msgspec.msgpack.decode(raw, type=Record)))
    return rows, oldest_at, None
