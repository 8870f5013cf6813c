"""The spool's file: opening, checking, and saving what can be read of a corrupt one.

A corrupt file is replaced in steps that a crash may cut anywhere:
1. copy every readable row into `<file>.building` and close it (an unfinished one is thrown away by the next start);
2. rename it to `<file>.salvaged`: from here on the old file is no longer the truth;
3. move the old file and its write-ahead log aside, the log first: SQLite would apply it to whatever has the name;
4. rename `.salvaged` to the file. A start that finds `.salvaged` goes on at step 3.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import zlib
from pathlib import Path
from typing import Final

import msgspec
import structlog

from schemas.errors import Misconfigured

log = structlog.get_logger(__name__)

#: How long a start waits for a predecessor that is just dying with the file locked.
BUSY_SECONDS: Final = 2.0

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS spool (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at REAL NOT NULL,
    crc INTEGER NOT NULL,
    record BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS refused (
    seq INTEGER PRIMARY KEY,
    at REAL NOT NULL,
    cause TEXT NOT NULL,
    record BLOB NOT NULL
);
"""

Row = tuple[int, float, int, bytes]


class Salvage(msgspec.Struct, frozen=True):
    """What was done with a corrupt file: where it is now, rows brought over, rows lost (None: cannot be told)."""

    quarantined: str
    rows: int
    lost: int | None


def open_file(path: Path, now: float) -> Salvage | None:
    """Make sure that `path` is a sound spool; returns what had to be saved, if anything. `now` names the quarantine.

    Raises `Misconfigured` when another process has the file or it cannot be opened for reasons of the system.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _side(path, ".building").unlink(missing_ok=True)
        aside = _side(path, f".corrupt-{int(now)}")
        if _side(path, ".salvaged").exists():
            _swap(path, aside)
        fault = _fault(path)
        return None if fault is None else _replace(path, aside, fault)
    except OSError as error:
        raise Misconfigured(f"The spool {path} cannot be opened: {error}.", "Make its folder writable.") from error


def connect(path: Path) -> sqlite3.Connection:
    """The file for its one writer: exclusive, durable. Raises `Misconfigured` when another process has it."""
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA journal_size_limit = 67108864")
        connection.executescript(_SCHEMA)
        connection.execute("PRAGMA user_version = 1")  # the first write takes the lock; the connection keeps it
    except sqlite3.OperationalError as error:
        connection.close()
        if error.sqlite_errorcode & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            raise Misconfigured(
                f"The spool {path} is in use by another process.",
                "Give each ingest process a state directory of its own.",
            ) from error
        if error.sqlite_errorcode & 0xFF in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FULL}:
            raise Misconfigured(
                f"The spool {path} cannot be opened: {error}.", "Make its folder writable and free some disk space."
            ) from error
        raise
    except BaseException:
        connection.close()
        raise
    return connection


def _fault(path: Path) -> str | None:
    """What is wrong with the file, or None. A missing file is made."""
    try:
        with contextlib.closing(connect(path)) as connection:
            found = [row[0] for row in connection.execute("PRAGMA quick_check(3)")]
        return None if found == ["ok"] else "; ".join(found)
    except sqlite3.DatabaseError as error:
        return str(error)


def _replace(path: Path, aside: Path, fault: str) -> Salvage:
    rows, lost = _readable(path)
    with contextlib.closing(connect(_side(path, ".building"))) as fresh:
        fresh.execute("BEGIN")
        fresh.executemany("INSERT INTO spool (seq, at, crc, record) VALUES (?, ?, ?, ?)", rows)
        fresh.execute("COMMIT")
    _side(path, ".building").rename(_side(path, ".salvaged"))
    _swap(path, aside)
    log.error("spool.corrupt", fault=fault, quarantined=str(aside), rows_saved=len(rows), rows_lost=lost)
    return Salvage(quarantined=str(aside), rows=len(rows), lost=lost)


def _swap(path: Path, aside: Path) -> None:
    for suffix in ("-wal", "-shm", ""):
        with contextlib.suppress(FileNotFoundError):
            _side(path, suffix).rename(_side(aside, suffix))
    _side(path, ".salvaged").rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _side(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _readable(path: Path) -> tuple[list[Row], int | None]:
    """Every sound row that can be reached from either end, in order, and how many are missing between them."""
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)) as connection:
            head, whole = _scan(connection, "ASC")
            tail, _ = ([], True) if whole else _scan(connection, "DESC")
            last = _last_seq(connection)
    except sqlite3.Error:
        return [], None
    rows = {row[0]: row for row in (*head, *tail)}
    sound = [row for _, row in sorted(rows.items()) if isinstance(row[3], bytes) and zlib.crc32(row[3]) == row[2]]
    if whole and not rows:
        return [], 0
    if not head or last is None:
        return sound, None
    return sound, last - head[0][0] + 1 - len(sound)


def _scan(connection: sqlite3.Connection, direction: str) -> tuple[list[Row], bool]:
    """(rows up to the first that cannot be read, whether all could be)."""
    rows: list[Row] = []
    try:
        for row in connection.execute(f"SELECT seq, at, crc, record FROM spool ORDER BY seq {direction}"):
            rows.append(row)  # noqa: PERF402  # not list(): what was read before the fault must be kept
    except sqlite3.Error:
        return rows, False
    return rows, True


def _last_seq(connection: sqlite3.Connection) -> int | None:
    try:
        found = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'spool'").fetchone()
    except sqlite3.Error:
        return None
    return found[0] if found else None
