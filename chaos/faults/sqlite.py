"""The SQLite file that stands in for Postgres: lost, broken, read-only, full, locked; Postgres is away in all of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from chaos.faults import small_disk
from chaos.faults.own import Own, missing_after, sqlite_takes, until, waiting_ids
from chaos.model import Expected, Fault, Place
from chaos.units import alive

JOURNALS = ("", "-wal", "-shm")
PAGE = 4096
#: What the small disk has beside what is there already: what Chronicle keeps free, and some for events.
ROOM_BYTES = 128 * small_disk.MIB


class _PostgresAway(Fault):
    """Postgres is stopped and SQLite takes events; then `hurt` is done to the file. All it held must come home."""

    expected = Expected(degraded=True, restarts=True, ready_s=75.0, lag_zero_s=60.0)
    at_least: ClassVar[int] = 50

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        self.held: list[str] = []

    async def inject(self, place: Place) -> bool:
        await asyncio.to_thread(place.postgres.stop)
        self.held = await sqlite_takes(place.sqlite, at_least=self.at_least)
        if not self.held:
            self.found.broken.append("SQLite took nothing within 20 s of the stop of Postgres")
        await self.hurt(place)
        return bool(self.held)

    async def hurt(self, place: Place) -> None:
        raise NotImplementedError

    async def mend(self, place: Place) -> None:
        """Undo what `hurt` did, where that is not Chronicle's own affair."""

    async def heal(self, place: Place) -> None:
        await self.mend(place)
        if not place.postgres.running():
            await asyncio.to_thread(place.postgres.start)

    async def verify(self, place: Place) -> None:
        lost = await missing_after(place.dsn, self.held)
        if lost:
            self.found.broken.append(
                f"{len(lost)} of {len(self.held)} events that SQLite held are lost, e.g. {lost[0]}"
            )


class SqliteDeleted(_PostgresAway):
    name = "sqlite-deleted"
    rows = ("F27",)
    loses_state = True
    what = "Postgres is stopped, SQLite takes events, its file is deleted; what it held must be read again from Kafka."
    short = True

    async def hurt(self, place: Place) -> None:
        for suffix in JOURNALS:
            Path(f"{place.sqlite}{suffix}").unlink(missing_ok=True)


class SqliteCorrupt(_PostgresAway):
    """Pages in the middle of the file and of its write-ahead log are overwritten; the header only in some rounds."""

    name = "sqlite-corrupt"
    rows = ("F24",)
    loses_state = True
    what = "Postgres is stopped, SQLite takes events, random pages of its file and of its log are overwritten."
    # Chronicle is stopped where damage is left at the end, and nobody takes events in then
    expected = Expected(degraded=True, restarts=True, ready_s=75.0, lag_zero_s=60.0, refused_s=30.0)

    async def verify(self, place: Place) -> None:
        """Damage in pages that Chronicle has no reason to read stays unseen: it must not meet the faults that follow,
        which read all of the file. It goes as an operator would do it; what it holds is read again from Kafka."""
        await super().verify(place)
        if await asyncio.to_thread(_damaged, place.sqlite):
            await place.stop_chronicle()
            for path in list(_there(place.sqlite)):
                path.unlink()
            await place.start_chronicle()

    async def hurt(self, place: Place) -> None:
        for suffix in ("", "-wal"):
            with contextlib.suppress(FileNotFoundError):
                self._scribble(Path(f"{place.sqlite}{suffix}"))

    def _scribble(self, path: Path) -> None:
        pages = path.stat().st_size // PAGE
        with path.open("r+b") as file:
            for _ in range(min(pages, 8)):
                file.seek(self.chance.randrange(pages) * PAGE)
                file.write(self.chance.randbytes(PAGE))


class SqliteReadOnly(_PostgresAway):
    """chmod does not bind root, the immutable flag does; where neither is to be had it is skipped."""

    name = "sqlite-read-only"
    rows = ("F24", "F25")
    what = "Postgres is stopped, SQLite takes events, then its file can only be read: nothing is acked until it heals."

    def cannot(self, place: Place) -> str | None:
        if os.geteuid() != 0:
            return None
        with tempfile.NamedTemporaryFile(dir=place.state_dir) as probe:
            done = _immutable(Path(probe.name), True)
            _immutable(Path(probe.name), False)
        return None if done else "as root, and the file system knows no immutable flag"

    async def hurt(self, place: Place) -> None:
        self._protect(place, True)

    async def mend(self, place: Place) -> None:
        self._protect(place, False)

    def _protect(self, place: Place, on: bool) -> None:
        for suffix in ("", "-wal"):
            path = Path(f"{place.sqlite}{suffix}")
            with contextlib.suppress(FileNotFoundError):
                if not _immutable(path, on):
                    path.chmod(0o400 if on else 0o600)


class SqliteFull(_PostgresAway):
    """The file lives on a small disk of its own; Chronicle is stopped to move it there."""

    name = "sqlite-full"
    rows = ("F24", "F25")
    what = "Postgres is stopped and the disk of the SQLite file is filled up: nothing is acked until there is room."
    at_least = 1
    # Chronicle is stopped twice in order to move its file, and nobody takes events in then
    expected = Expected(degraded=True, restarts=True, ready_s=75.0, lag_zero_s=60.0, refused_s=30.0)

    def cannot(self, place: Place) -> str | None:
        return small_disk.cannot_mount()

    async def inject(self, place: Place) -> bool:
        self.disk = place.sqlite.with_name("small-disk")
        self.disk.mkdir(exist_ok=True)
        await place.stop_chronicle()
        try:
            self._move_in(place.sqlite)
        except BaseException:
            small_disk.unmount(self.disk)
            raise
        finally:
            await place.start_chronicle()
        return await super().inject(place)

    def _move_in(self, file: Path) -> None:
        """What was synced long ago leaves room in the file, which SQLite keeps: only what is in use is taken along."""
        with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as connection:
            pages, free, size = (
                connection.execute(f"PRAGMA {what}").fetchone()[0]
                for what in ("page_count", "freelist_count", "page_size")
            )
            small_disk.mount(self.disk, (pages - free) * size + ROOM_BYTES)
            connection.execute("VACUUM INTO ?", (str(self.disk / file.name),))
        for path in list(_there(file)):
            path.unlink()
        file.symlink_to(self.disk / file.name)

    async def hurt(self, place: Place) -> None:
        await asyncio.to_thread(small_disk.fill, self.disk)

    async def mend(self, place: Place) -> None:
        small_disk.empty(self.disk)

    async def verify(self, place: Place) -> None:
        await super().verify(place)
        await until(lambda: not waiting_ids(place.sqlite), 30.0)
        if not place.sqlite.is_symlink():  # it never got there
            return
        await place.stop_chronicle()
        place.sqlite.unlink()
        _move(self.disk / place.sqlite.name, place.sqlite.parent)
        small_disk.unmount(self.disk)
        await place.start_chronicle()


class BothSinksDown(Fault):
    """SQLite is made unwritable by a lock that somebody holds: it binds root, too. Chronicle must hold, not drop."""

    name = "both-sinks-down"
    rows = ("F25",)
    what = "Postgres is stopped and the SQLite file is locked: nothing is acked, ingest goes on taking events."
    short = True
    hold_s = 12.0
    expected = Expected(degraded=True, ready_s=60.0, lag_zero_s=60.0)

    async def inject(self, place: Place) -> bool:
        self.own = Own(self.name, self.chance)
        self.locked = _lock(place.sqlite)
        await asyncio.to_thread(place.postgres.stop)
        return True

    async def during(self, place: Place) -> None:
        for event in self.own.events(20):
            await self.own.send(place.url, [event])
        if self.own.open:
            self.found.broken.append(f"ingest answered {dict(self.own.statuses)} while both databases were away")
        ready = await place.ready()
        if ready is None or ready.get("status") == "ready":
            self.found.broken.append(f"/ready said {ready and ready.get('status')} while both databases were away")
        if await place.lag() == 0:
            self.found.broken.append("nothing waits in the log although no database takes anything")

    async def heal(self, place: Place) -> None:
        self.locked.close()
        if not place.postgres.running():
            await asyncio.to_thread(place.postgres.start)

    async def verify(self, place: Place) -> None:
        self.found.broken += await self.own.broken(place.dsn)


class BothSinksDownSigterm(BothSinksDown):
    name = "both-sinks-down-sigterm"
    rows = ("F3",)
    what = "Both databases are away and a stream worker that holds batches gets SIGTERM: it must end within 10 s."
    short = False
    expected = Expected(degraded=True, restarts=True, ready_s=60.0, lag_zero_s=60.0)
    ends_s: ClassVar[float] = 10.0

    async def during(self, place: Place) -> None:
        await super().during(place)
        pid = self.chance.choice(place.pids()["stream"])
        began = time.monotonic()
        os.kill(pid, signal.SIGTERM)
        if not await until(lambda: not alive(pid), 2 * self.ends_s):
            self.found.broken.append(f"worker {pid} still runs {2 * self.ends_s:.0f} s after SIGTERM")
        self.found.times["sigterm_s"] = ended = time.monotonic() - began
        if ended > self.ends_s:
            self.found.broken.append(f"the worker needed {ended:.1f} s to end")


# --- means -----------------------------------------------------------------------------------------------------------


def _lock(path: Path) -> sqlite3.Connection:
    """A connection that holds the write lock of the file until it is closed."""
    connection = sqlite3.connect(path, timeout=30.0, isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN IMMEDIATE")
    return connection


def _damaged(path: Path) -> bool:
    """Whether something in the file is not as SQLite wrote it."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            return bool(connection.execute("PRAGMA integrity_check(1)").fetchone()[0] != "ok")
    except sqlite3.OperationalError:  # absent, or held by somebody: no sign of damage
        return False
    except sqlite3.DatabaseError:
        return True


def _immutable(path: Path, on: bool) -> bool:
    """Set or clear the immutable flag (chattr +i); False where the file system has none."""
    done = subprocess.run(["chattr", "+i" if on else "-i", str(path)], capture_output=True, check=False)
    return done.returncode == 0


def _move(file: Path, folder: Path) -> None:
    for path in _there(file):
        shutil.move(path, folder / path.name)


def _there(file: Path) -> Iterator[Path]:
    return (path for suffix in JOURNALS if (path := Path(f"{file}{suffix}")).exists())
