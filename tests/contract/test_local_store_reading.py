"""Reading the local store: what tells that rows have left it, and that no question runs for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from connectors.readers.errors import TooSlow
from connectors.readers.sqlite import SqliteReader
from connectors.sqlite import SqliteSink
from schemas.query import EventFilter, Held
from sink_events import batch, decode, logged


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "failover.sqlite"


@pytest.fixture
async def reader(path: Path) -> AsyncIterator[SqliteReader]:
    made = SqliteReader(path)
    await made.open()
    yield made
    await made.close()


async def stored(path: Path, count: int) -> SqliteSink:
    sink = SqliteSink(path, decode=decode, keep_events=2)
    await sink.write(batch([logged(n) for n in range(count)]))
    return sink


async def test_what_is_dropped_after_sync_back_shows(path: Path, reader: SqliteReader) -> None:
    """Rows that Postgres has and that are not kept here go; nothing shows as long as rows only come, or are synced."""
    assert await reader.held() == Held("", 0)
    sink = await stored(path, 5)
    before = await reader.held()
    assert not before.lacks(Held("", 0))
    await sink.write(batch([logged(n) for n in range(5, 9)]))
    assert not (await reader.held()).lacks(before)
    await sink.mark_synced(1)
    assert (await reader.held()).lacks(before)
    await sink.close()


async def test_a_question_that_runs_too_long_is_ended(path: Path) -> None:
    """In SQLite itself, not only by who waits; the next one is answered."""
    await (await stored(path, 5)).close()
    reader = SqliteReader(path, query_s=0.2)
    await reader.open()
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    async with asyncio.timeout(10):
        with pytest.raises(TooSlow, match=r"0\.2 s"):
            await reader.rows(sa.text(endless))
        assert len(await reader.rows(sa.text("SELECT 1"))) == 1
        await reader.close()


async def test_a_time_that_no_date_can_tell_breaks_no_list(path: Path, reader: SqliteReader) -> None:
    """SQLite takes any number; a record that somebody else produced must not take the others out of sight."""
    sink = await stored(path, 2)
    await sink.write(batch([logged(5, occurred_at=2**62), logged(6, occurred_at=-(2**62))]))
    await sink.close()
    page = await reader.events(EventFilter())
    told = [item["occurred_at"] for item in page.items]
    assert (told[0], told[-1]) == ("9999-12-31T23:59:59.999999Z", "0001-01-01T00:00:00.000000Z")
    assert len(told) == 4


async def test_another_file_shows(path: Path, reader: SqliteReader) -> None:
    """It was set aside as corrupt, or an operator took it away: as many rows as before are no sign of anything."""
    await (await stored(path, 5)).close()
    before = await reader.held()
    for file in path.parent.iterdir():
        file.unlink()
    assert (await reader.held()).lacks(before)
    await (await stored(path, 5)).close()
    assert (await reader.held()).lacks(before)
