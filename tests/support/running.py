"""Talk to a running `chronicle up` as its users do: over HTTP, and to its Postgres by SQL."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg

Ready = dict[str, Any]


async def until(condition: Callable[[], Awaitable[Any]], *, seconds: float = 30.0, what: str = "") -> Any:
    """The first true result of `condition`; fails loudly when the deadline passes."""
    end = time.monotonic() + seconds
    last: Any = None
    while time.monotonic() < end:
        try:
            last = await condition()
        except (aiohttp.ClientError, OSError, asyncpg.PostgresError) as error:
            last = error
        else:
            if last:
                return last
        await asyncio.sleep(0.1)
    raise AssertionError(f"not within {seconds} s: {what or condition} (last: {last!r})")


@asynccontextmanager
async def up(folder: Path, *options: str, seconds: float = 150.0) -> AsyncIterator[Ready]:
    """A `chronicle up` of one's own, ready; stopped in order at the end."""
    ready_file = folder / "ready.json"
    log = (folder / "up.log").open("w")
    command = [sys.executable, "-m", "chronicle", "up", "--state-dir", str(folder / "state")]
    process = subprocess.Popen(
        [*command, "--ready-file", str(ready_file), *options],
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        end = time.monotonic() + seconds
        while not ready_file.exists():
            assert process.poll() is None, (folder / "up.log").read_text()[-4000:]
            assert time.monotonic() < end, "not ready: " + (folder / "up.log").read_text()[-4000:]
            await asyncio.sleep(0.1)
        yield json.loads(ready_file.read_text())
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        finally:
            log.close()


async def stats(http: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    """The loss ledger."""
    async with http.get(f"{url}/stats") as answer:
        body: dict[str, Any] = await answer.json()
        return body


async def settled(
    http: aiohttp.ClientSession, url: str, *, accepted: int | None = None, seconds: float = 60.0
) -> dict[str, Any]:
    """The ledger once nothing is pending or in SQLite alone (and at least `accepted` are in it).

    SQLite counts as stored, and takes what comes until the hold-down after an outage is over: a test that asks Postgres
    next must wait for the rows to be home.
    """

    async def quiet() -> dict[str, Any] | None:
        told = await stats(http, url)
        ledger: dict[str, Any] = told["ledger"]
        enough = accepted is None or ledger["accepted"] >= accepted
        home = ledger["pending"] == 0 and told["parts"]["stored"]["sqlite"] == 0
        return ledger if enough and home and ledger["balanced"] else None

    result: dict[str, Any] = await until(
        quiet, seconds=seconds, what="nothing pending, all in Postgres, the ledger balanced"
    )
    return result


async def rows(dsn: str, sql: str, *args: Any) -> list[asyncpg.Record]:
    """One query."""
    connection = await asyncpg.connect(dsn, timeout=5)
    try:
        result: list[asyncpg.Record] = await connection.fetch(sql, *args)
        return result
    finally:
        await connection.close()


async def stored_ids(dsn: str, ids: Iterable[str]) -> set[str]:
    """Which of the ids are in Postgres."""
    found = await rows(dsn, "SELECT event_id::text AS id FROM events WHERE event_id = ANY($1::uuid[])", list(ids))
    return {row["id"] for row in found}
