"""Reading while a real Postgres hangs, is cut off, and comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from connectors import migrate
from connectors.ports import Reader
from connectors.readers.failover import HOLD_DOWN_S, FailoverReader
from connectors.readers.postgres import PostgresReader
from connectors.readers.sqlite import SqliteReader
from freezing_proxy import FreezingProxy
from reading import ManualClock
from schemas.query import EventFilter, Page

pytestmark = pytest.mark.e2e


class Line:
    """A failover reader whose way to Postgres goes through the proxy."""

    def __init__(self, proxy: FreezingProxy, reader: FailoverReader, clock: ManualClock) -> None:
        self.proxy, self.reader, self.clock = proxy, reader, clock

    async def source(self) -> str:
        """Who answers a list now."""

        async def question(reader: Reader) -> Page:
            return await reader.events(EventFilter(limit=1))

        return (await self.reader.ask(question)).source


@pytest.fixture
async def line(postgres: str, tmp_path: Path) -> AsyncIterator[Line]:
    """Postgres with our tables, and a local store that is there."""
    await migrate.upgrade(postgres)
    local = tmp_path / "failover.sqlite"
    migrate.upgrade_sqlite(local)
    parts = urlsplit(postgres)
    proxy = FreezingProxy(parts.port or 5432)
    user = parts.netloc.rsplit("@", 1)[0]
    dsn = parts._replace(netloc=f"{user}@127.0.0.1:{await proxy.start()}").geturl()
    clock = ManualClock()
    reader = FailoverReader(PostgresReader(dsn), SqliteReader(local), monotonic=clock.monotonic)
    await reader.open()
    yield Line(proxy, reader, clock)
    await proxy.stop()
    await reader.close()


async def test_a_hanging_postgres_is_given_up_within_two_seconds(line: Line) -> None:
    """Also on a connection that worked before; when it comes back it answers again."""
    assert await line.source() == "postgres"
    line.proxy.freeze()
    loop = asyncio.get_running_loop()
    started = loop.time()
    assert await line.source() == "sqlite"
    assert loop.time() - started < 4
    started = loop.time()
    assert await line.source() == "sqlite"
    assert loop.time() - started < 1.5
    line.proxy.thaw()
    line.clock.at += HOLD_DOWN_S
    assert await line.source() == "postgres"


async def test_a_restart_of_postgres_is_not_noticed_by_the_next_question(line: Line) -> None:
    """The pool looks at a connection before it uses it: dead ones are replaced, nobody is sent to SQLite."""
    assert await line.source() == "postgres"
    line.proxy.cut()
    assert await line.source() == "postgres"
