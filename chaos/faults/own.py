"""What a fault does with its own hands: events of its own, under sessions that begin with `fault-`, and a look at what
became of them. The checker leaves these sessions to the fault that made them.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
from asyncpg import exceptions

PREFIX = "fault-"
connect: Any = asyncpg.connect  # asyncpg tells no types
#: Seconds until events of a fault are stored once all is healed; sync-back and restarts included.
STORED_S = 60.0
TAKEN = frozenset({202, 204})


async def until(condition: Callable[[], bool | Awaitable[bool]], seconds: float) -> bool:
    """Whether it came true within `seconds`; looked at twenty times a second."""
    end = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer if isinstance(answer, bool) else await answer:
            return True
        if time.monotonic() >= end:
            return False
        await asyncio.sleep(0.05)


@dataclass(frozen=True)
class Answer:
    """What one request was told; no status: nothing (refused, cut, timed out). `took` in seconds."""

    status: int | None
    body: Any
    took: float


async def post(url: str, events: Sequence[Mapping[str, Any]], *, timeout: float = 10.0) -> Answer:
    """POST /events with all of them in one request. Never raises for what the server or the way to it does."""
    began = time.monotonic()
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(timeout)) as http,
            http.post(f"{url}/events", json={"events": events}) as answer,
        ):
            body = await answer.json(content_type=None)
            return Answer(answer.status, body, time.monotonic() - began)
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
        return Answer(None, None, time.monotonic() - began)


async def rows(dsn: str, sql: str, *args: Any) -> list[Any]:
    """One query; raises asyncpg's errors and OSError."""
    connection = await connect(dsn, timeout=10)
    try:
        found: list[Any] = await connection.fetch(sql, *args, timeout=30)
        return found
    finally:
        await connection.close()


async def stored(dsn: str, ids: Iterable[str]) -> Counter[str]:
    """How many rows of `events` there are of each id."""
    sql = "SELECT event_id::text AS id, count(*) AS n FROM events WHERE event_id = ANY($1::uuid[]) GROUP BY 1"
    return Counter({row["id"]: row["n"] for row in await rows(dsn, sql, list(ids))})


async def missing_after(dsn: str, ids: Sequence[str], seconds: float = STORED_S) -> list[str]:
    """Which of the ids are still not in Postgres after waiting for them."""
    left = list(ids)

    async def all_there() -> bool:
        nonlocal left
        try:
            there = await stored(dsn, left)
        except (OSError, exceptions.PostgresError):
            return False
        left = [one for one in left if one not in there]
        return not left

    await until(all_there, seconds)
    return left


@dataclass
class Own:
    """Events of one round of one fault. `acked` were answered with 2xx, `open` with nothing that can be relied on."""

    fault: str
    chance: random.Random
    acked: dict[str, dict[str, Any]] = field(default_factory=dict)
    open: dict[str, dict[str, Any]] = field(default_factory=dict)
    statuses: Counter[int | None] = field(default_factory=Counter)
    slowest_s: float = 0.0

    def __post_init__(self) -> None:
        self.session = f"{PREFIX}{self.fault}-{self.chance.getrandbits(48):012x}"

    def events(self, count: int, **payload: Any) -> list[dict[str, Any]]:
        """New ones."""
        return [
            {
                "event_id": str(uuid.UUID(int=self.chance.getrandbits(128), version=4)),
                "session_id": self.session,
                "event_type": "fault_probe",
                "payload": {"number": self.chance.getrandbits(32), **payload},
            }
            for _ in range(count)
        ]

    async def send(self, url: str, events: Sequence[dict[str, Any]], *, timeout: float = 10.0) -> Answer:
        """All of them in one request; notes what was told of them."""
        answer = await post(url, events, timeout=timeout)
        self.statuses[answer.status] += 1
        self.slowest_s = max(self.slowest_s, answer.took)
        into = self.acked if answer.status in TAKEN else self.open
        for event in events:
            into[event["event_id"]] = event
        return answer

    async def send_again(self, url: str, seconds: float = STORED_S) -> bool:
        """Send what is open once more, with the same ids, until it is taken; whether it was."""

        async def taken() -> bool:
            for event_id, event in list(self.open.items()):
                if (await post(url, [event])).status in TAKEN:
                    self.acked[event_id] = self.open.pop(event_id)
            return not self.open

        return await until(taken, seconds)

    async def broken(self, dsn: str) -> list[str]:
        """One sentence for each promise that was not kept: acked exactly once, the others at most once."""
        lost = await missing_after(dsn, list(self.acked))
        there = await stored(dsn, [*self.acked, *self.open])
        twice = [event_id for event_id, count in there.items() if count > 1]
        found = [f"{event_id} is stored {there[event_id]} times" for event_id in twice]
        if lost:
            found.append(f"{len(lost)} of {len(self.acked)} acked events of {self.session} are lost, e.g. {lost[0]}")
        return found


# --- SQLite and processes, from outside ------------------------------------------------------------------------------


def waiting_ids(path: Path) -> list[str]:
    """Ids that SQLite holds for Postgres; empty when it cannot be read."""
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=1.0)) as connection:
            return [str(row[0]) for row in connection.execute("SELECT event_id FROM outbox WHERE state = 'pending'")]
    except sqlite3.Error:
        return []


async def sqlite_takes(path: Path, *, at_least: int = 1, seconds: float = 20.0) -> list[str]:
    """Wait until SQLite holds events for Postgres; their ids, fewer than `at_least` if it did not come to that."""
    await until(lambda: len(waiting_ids(path)) >= at_least, seconds)
    return waiting_ids(path)


def worker_name(pid: int) -> str | None:
    """What a worker process was told to be called (`--name`); None when it is gone."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    except OSError:
        return None
    return words[words.index("--name") + 1] if "--name" in words else None
