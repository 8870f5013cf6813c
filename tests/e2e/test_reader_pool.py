"""What the reader of Postgres is told: how many questions at once, and how long one may run."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import sqlalchemy as sa

from connectors import migrate
from connectors.readers.errors import QueryFailed, TooSlow
from connectors.readers.failover import FailoverReader
from connectors.readers.postgres import PostgresReader
from connectors.readers.sqlite import SqliteReader
from fakes_persist import CountingMetrics
from schemas.errors import Unavailable

pytestmark = pytest.mark.e2e


async def test_a_question_may_run_as_long_as_it_was_told(postgres: str) -> None:
    """`statement_timeout_s` decides, and the sentence names it."""
    reader = PostgresReader(postgres, statement_timeout_s=0.25)
    await reader.open()
    try:
        with pytest.raises(TooSlow) as caught:
            await reader.rows(sa.select(sa.func.pg_sleep(30)))
        assert "0.25 s" in caught.value.detail
        assert caught.value.retry_after == 0.25
    finally:
        await reader.close()


@pytest.mark.parametrize("size", [1, 3])
async def test_the_pool_is_as_large_as_it_was_told(postgres: str, size: int) -> None:
    """Eight questions at once take `pool_size` connections; the rest wait for one, and the metric says so."""
    metrics = CountingMetrics()
    reader = PostgresReader(postgres, pool_size=size, metrics=metrics)
    await reader.open()
    try:
        asked = [asyncio.ensure_future(reader.rows(sa.select(sa.func.pg_sleep(0.05)))) for _ in range(8)]
        await asyncio.sleep(0)
        assert metrics.counts[("chronicle_reader_queries",)] == 8
        await asyncio.gather(*asked)
        ours = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        (row,) = await reader.rows(sa.text(ours))
        assert row["count"] == size
        assert metrics.counts[("chronicle_reader_queries",)] == 0
    finally:
        await reader.close()


async def test_a_pool_that_is_busy_is_no_outage(postgres: str, tmp_path: Path) -> None:
    """The probe has a connection of its own; whoever waited too long is told to ask again, not answered from SQLite."""
    await migrate.upgrade(postgres)
    primary = PostgresReader(postgres, pool_size=1)
    reader = FailoverReader(primary, SqliteReader(tmp_path / "failover.sqlite"))
    await reader.open()
    heavy = asyncio.ensure_future(primary.rows(sa.select(sa.func.pg_sleep(4))))
    try:
        await asyncio.sleep(0)
        with pytest.raises(TooSlow, match="busy"):
            await reader.ask(lambda one: one.progress())
        await heavy
        assert (await reader.ask(lambda one: one.progress())).source == "postgres"
    finally:
        heavy.cancel()
        await reader.close()


@pytest.mark.parametrize("query", ["SELECT nothing FROM pg_class", "SELECT 1 FROM nowhere", "SELECT 1/0"])
async def test_a_query_that_the_server_refuses_is_no_outage(postgres: str, query: str) -> None:
    """`QueryFailed`: the server has answered, and answers the next question."""
    reader = PostgresReader(postgres)
    await reader.open()
    try:
        with pytest.raises(QueryFailed):
            await reader.rows(sa.text(query))
        assert len(await reader.rows(sa.text("SELECT 1"))) == 1
    finally:
        await reader.close()


async def test_a_database_that_is_not_there_is_an_outage_for_all(postgres: str) -> None:
    """An operator's mistake too, but no question gets past it."""
    reader = PostgresReader(postgres + "-renamed")
    await reader.open()
    try:
        with pytest.raises(Unavailable, match="does not exist") as caught:
            await reader.probe()
        assert not isinstance(caught.value, QueryFailed)
    finally:
        await reader.close()
