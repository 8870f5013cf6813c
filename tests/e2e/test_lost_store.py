"""SQLite is a cache of the log: whatever happens to its file, and to Postgres, every accepted event comes back."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import aiohttp
import pytest

from app.stack.ports import free_port
from app.stack.postgres import Postgres
from load import Load
from running import Ready, rows, settled, stored_ids, until, up

pytestmark = pytest.mark.e2e


def outbox(path: str) -> int:
    """Events that wait in SQLite for Postgres; 0 while there is no file."""
    if not Path(path).exists():
        return 0
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return int(database.execute("SELECT count(*) FROM outbox WHERE state = 'pending'").fetchone()[0])


def delete(path: str) -> None:
    """The file and its journal."""
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def flip(path: str) -> None:
    """The whole middle of the file, so that no reader can miss it."""
    with closing(sqlite3.connect(path, timeout=5)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with Path(path).open("r+b") as file:
        size = file.seek(0, 2)
        file.seek(size // 4)
        middle = file.read(size // 2)
        file.seek(size // 4)
        file.write(bytes(byte ^ 0xFF for byte in middle))


@contextmanager
def database(folder: Path) -> Iterator[Postgres]:
    """A Postgres of one's own."""
    postgres = Postgres(folder / "pg", free_port())
    postgres.start()
    try:
        yield postgres
    finally:
        postgres.stop()


def options(folder: Path, postgres: Postgres) -> list[str]:
    """For `up`: this Postgres, a port of its own, and no hold-down, which would only be waited for."""
    settings = folder / "chronicle.yaml"
    settings.write_text("failover:\n  hold_down_s: 1\n  probe_max_s: 1\n")
    return ["--database", postgres.dsn, "--port", str(free_port()), "--config", str(settings)]


async def took_over(sqlite: str, *, more_than: int = 0) -> None:
    """Wait until SQLite holds something."""

    async def holds() -> bool:
        return outbox(sqlite) > more_than

    await until(holds, seconds=20, what="SQLite takes over")


async def drained(sqlite: str) -> None:
    """Wait until SQLite holds nothing any more."""

    async def empty() -> bool:
        return outbox(sqlite) == 0

    await until(empty, seconds=40, what="sync-back")


async def all_there_once(http: aiohttp.ClientSession, ready: Ready, postgres: Postgres, load: Load) -> None:
    """Every accepted event is in Postgres, once, and the ledger agrees."""
    sent = load.sent.ok

    async def stored() -> bool:
        return await stored_ids(postgres.dsn, sent) == set(sent)

    await until(stored, seconds=40, what="every accepted event is in Postgres")
    ledger = await settled(http, ready["url"], accepted=len(sent))
    [total] = await rows(postgres.dsn, "SELECT count(*) AS n FROM events")
    sessions = await rows(postgres.dsn, "SELECT session_id, event_count FROM sessions")
    assert (total["n"], ledger["stored"], ledger["difference"]) == (len(sent), len(sent), 0)
    assert {row["session_id"]: row["event_count"] for row in sessions} == {
        session: len(ids) for session, ids in load.sent.order.items()
    }


@pytest.mark.parametrize("harm", [delete, flip])
async def test_a_store_lost_during_a_failover_is_read_again_from_the_log(
    tmp_path: Path, harm: Callable[[str], None]
) -> None:
    """Deleted or corrupted while it held what was acked: the process gives up, begins lower, and all is in Postgres."""
    with database(tmp_path) as postgres:
        async with up(tmp_path, *options(tmp_path, postgres)) as ready, aiohttp.ClientSession() as http:
            sqlite = ready["sqlite"]
            async with Load(ready["url"]) as load:
                await load.accepted(200)
                postgres.stop()
                await took_over(sqlite)
                await load.accepted(300)
                await took_over(sqlite, more_than=200)
            harm(sqlite)
            postgres.start()
            await all_there_once(http, ready, postgres, load)
            await drained(sqlite)

            async def ready_again() -> bool:
                async with http.get(f"{ready['url']}/ready") as answer:
                    return bool((await answer.json())["status"] == "ready")

            await until(ready_again, seconds=20, what="nothing is lost any more")
            log = (tmp_path / "up.log").read_text()
            assert "must be read again" in log
            assert "read again what a lost SQLite store took" in log


async def test_an_older_postgres_gets_back_what_came_after_it(tmp_path: Path) -> None:
    """A backup from before a failover that was long over: the log has the rest, SQLite's old progress hides none."""
    with database(tmp_path) as postgres:
        async with up(tmp_path, *options(tmp_path, postgres)) as ready, aiohttp.ClientSession() as http:
            sqlite, data = ready["sqlite"], postgres.directory.resolve()  # as root it is a link to where it may live
            backup = data.with_name(f"{data.name}.backup")
            async with Load(ready["url"]) as load:
                await load.accepted(200)
                postgres.stop()
                subprocess.run(["cp", "-a", data, backup], check=True)
                await took_over(sqlite)
                await load.accepted(200)
                postgres.start()
                await drained(sqlite)
                await load.accepted(100)
            await all_there_once(http, ready, postgres, load)
            postgres.stop()
            shutil.rmtree(data)
            backup.rename(data)
            postgres.start()
            [restored] = await rows(postgres.dsn, "SELECT count(*) AS n FROM events")
            assert restored["n"] < len(load.sent.ok) - 300
            for pid in ready["pids"]["stream"]:
                os.kill(pid, signal.SIGTERM)
            await all_there_once(http, ready, postgres, load)
