"""Persist, failover and sync-back over a Postgres that is really stopped, frozen or spoilt, and a real SQLite file."""

from __future__ import annotations

import asyncio
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
import pytest_asyncio

from agents.batching import BatchPolicy
from agents.persist import Persister, PersistStatus
from agents.quarantine import decode
from agents.sync_back import SyncBack
from app.stack.ports import free_port
from app.stack.postgres import Postgres
from connectors import migrate
from connectors.breaker import BreakerPolicy
from connectors.failover import FailoverSink
from connectors.postgres import PostgresSink
from connectors.rows import expected
from connectors.sqlite import SqliteSink
from fakes_persist import CODEC, TOPICS, CountingMetrics, FakeLog, chunk, make_event, record, until
from schemas.clock import SystemClock

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def stoppable(workplace: Path) -> Iterator[tuple[Postgres, ThreadPoolExecutor]]:
    """A Postgres that may be stopped, and the thread it lives by: it ends with the thread that started it."""
    postgres = Postgres(workplace / f"pg-{uuid.uuid4().hex[:8]}", free_port())
    with ThreadPoolExecutor(1) as thread:
        thread.submit(postgres.start).result()
        yield postgres, thread
        thread.submit(postgres.stop).result()


class Server:
    """One database of that Postgres; each test leaves it running."""

    def __init__(self, postgres: Postgres, thread: ThreadPoolExecutor) -> None:
        self._postgres, self._thread = postgres, thread
        self.name = f"test_{uuid.uuid4().hex}"
        self.dsn = urlsplit(postgres.dsn)._replace(path=f"/{self.name}").geturl()

    async def create(self) -> None:
        connection = await asyncpg.connect(self._postgres.dsn)
        await connection.execute(f"CREATE DATABASE {self.name}")
        await connection.close()

    async def start(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._postgres.start)

    async def stop(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._postgres.stop)

    async def kill(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._postgres.kill)

    def processes(self) -> list[int]:
        """The server and all it has started, itself first."""
        pid = self._postgres.pid
        return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


@pytest_asyncio.fixture
async def server(stoppable: tuple[Postgres, ThreadPoolExecutor]) -> Server:
    """An empty database."""
    made = Server(*stoppable)
    await made.create()
    return made


class House:
    """The persist role without Kafka: chunks are handed in, the log is in memory."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server, self.log, self.status = server, FakeLog(), PersistStatus()
        clock, metrics = SystemClock(), CountingMetrics()
        self.sqlite = SqliteSink(folder / "failover.db")
        self.syncing = PostgresSink(server.dsn, worker="sync")
        self.sink = FailoverSink(
            PostgresSink(server.dsn),
            self.sqlite,
            clock=clock,
            metrics=metrics,
            backlog=self.sqlite,
            policy=BreakerPolicy(hold_down=3.0),
        )
        self.persister = Persister(
            sink=self.sink,
            log=self.log,
            codec=CODEC,
            topics=TOPICS,
            policy=BatchPolicy(max_size=100, max_wait_s=0.02),
            clock=clock,
            metrics=metrics,
            status=self.status,
        )
        self.sync = SyncBack(
            backlog=self.sqlite,
            primary=self.syncing,
            gate=self.sink,
            log=self.log,
            topics=TOPICS,
            clock=clock,
            metrics=metrics,
            digest=expected,
            batch=200,
        )
        self.produced = 0
        self.chunks: list[Any] = []

    async def load(self, count: int = 20, *, pause: float = 0.01) -> None:
        """The next events, as one chunk."""
        source = chunk([record(offset) for offset in range(self.produced, self.produced + count)])
        self.produced += count
        self.chunks.append(source)
        await self.persister.take(source)
        await asyncio.sleep(pause)

    async def load_while(self, condition: Callable[[], bool], seconds: float) -> float:
        """Load until the condition is false; how long that took. Fails after `seconds`."""
        began = time.monotonic()
        while condition():
            assert time.monotonic() - began < seconds, self.sink.state()
            await self.load()
        return time.monotonic() - began

    def acked(self) -> bool:
        return self.chunks[-1].acked == self.chunks[-1].next

    async def home(self, seconds: float = 30.0) -> None:
        """Everything is acked and back in Postgres, and the switch is closed."""
        await until(
            lambda: (
                self.acked() and self.sink.state()["breaker"] == "closed" and not self.sink.state()["sqlite_pending"]
            ),
            seconds,
        )

    async def ask(self, sql: str) -> Any:
        connection = await asyncpg.connect(self.server.dsn)
        try:
            return await connection.fetchval(sql)
        finally:
            await connection.close()

    async def everything_once(self) -> None:
        """All events in Postgres, progress and session count exact, every sync run verified."""
        assert await self.ask("SELECT count(*) FROM events") == self.produced
        assert await self.ask("SELECT count(DISTINCT ingest_offset) FROM events") == self.produced
        assert await self.ask("SELECT event_count FROM sessions") == self.produced
        assert await self.ask("SELECT bool_and(verified) FROM sync_runs")
        assert await self.ask("SELECT sum(rows) FROM sync_runs") > 0
        assert self.log.sent == {}


@asynccontextmanager
async def running(server: Server, folder: Path) -> AsyncIterator[House]:
    """Writer and sync-back run."""
    await migrate.upgrade(server.dsn)
    house = House(server, folder)
    await house.sink.open()
    tasks = [asyncio.create_task(house.persister.run()), asyncio.create_task(house.sync.run_forever())]
    try:
        yield house
        assert not any(task.done() for task in tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await house.syncing.close()
        await house.sink.close()


def on_postgres(house: House) -> bool:
    return house.sink.state()["sink"] != "sqlite"


async def test_postgres_killed_under_load_costs_a_switch_and_no_event(server: Server, tmp_path: Path) -> None:
    """Within two seconds SQLite takes the batches; after the restart all of them are in Postgres, once, verified."""
    async with running(server, tmp_path) as house:
        for _ in range(20):
            await house.load()
        await server.kill()
        took = await house.load_while(lambda: on_postgres(house), 10.0)
        for _ in range(30):
            await house.load()
        await until(house.acked)
        assert await house.sqlite.pending() > 0
        await server.start()
        for _ in range(30):
            await house.load()
        await house.home()
        await house.everything_once()
        await house.load()  # the live writer moves the progress, sync-back does not
        await until(house.acked)
        assert await house.sink.progress() == {0: house.produced}
        assert took <= 2.0


async def test_a_frozen_postgres_is_left_within_five_seconds(server: Server, tmp_path: Path) -> None:
    """A server that answers nothing is not waited for; what it did all the same is not there twice."""
    async with running(server, tmp_path) as house:
        for _ in range(10):
            await house.load()
        group = server.processes()
        for pid in group:
            os.kill(pid, signal.SIGSTOP)
        try:
            took = await house.load_while(lambda: on_postgres(house), 10.0)
            await until(house.acked)
        finally:
            for pid in reversed(group):
                os.kill(pid, signal.SIGCONT)
        await house.load()
        await house.home()
        await house.everything_once()
        assert took <= 5.5


async def test_a_spoilt_schema_makes_no_dead_letters(server: Server, tmp_path: Path) -> None:
    """A missing table is an operator's mistake: SQLite takes the batches, and the repair brings them home."""
    async with running(server, tmp_path) as house:
        await house.load()
        await until(house.acked)
        await house.ask("ALTER TABLE events RENAME TO events_gone")
        await house.load_while(lambda: on_postgres(house), 10.0)
        await until(house.acked)
        assert "42P01" in house.sink.state()["last_error"]
        await house.ask("ALTER TABLE events_gone RENAME TO events")
        await house.home()
        await house.everything_once()


async def test_what_only_postgres_refuses_is_a_dead_letter_at_sync_back(server: Server, tmp_path: Path) -> None:
    """SQLite takes a text that Postgres cannot: it is buried with its bytes and does not block those behind it."""
    async with running(server, tmp_path) as house:
        await server.stop()
        bad = make_event(1, session="nul\0session")
        house.chunks.append(chunk([record(0), record(1, bad), record(2)]))
        await house.persister.take(house.chunks[-1])
        await until(house.acked, 15.0)
        await server.start()
        await house.home()
        (dead,) = [decode(item.value or b"") for item in house.log.sent[TOPICS.dead_letters.name]]
        assert (dead.offset, dead.cause, dead.value) == (1, "refused_by_database", CODEC.encode(bad))
        assert await house.ask("SELECT count(*) FROM events") == 2


async def test_both_away_holds_and_nothing_is_lost(server: Server, tmp_path: Path) -> None:
    """With Postgres stopped and SQLite full nothing is acked; when Postgres is back everything is there."""
    async with running(server, tmp_path) as house:
        await house.load()
        await until(house.acked)
        await server.stop()
        real = house.sqlite.write

        async def full(batch: Any) -> Any:
            raise OSError(28, "No space left on device")

        house.sqlite.write = full  # type: ignore[method-assign]
        await house.load()
        await until(lambda: house.status.snapshot()["held_since"] is not None, 15.0)
        assert not house.acked()
        await server.start()
        await until(house.acked, 30.0)
        house.sqlite.write = real  # type: ignore[method-assign]
        await house.home()
        assert await house.ask("SELECT count(*) FROM events") == house.produced
