"""What the SQLite file says of the ranges it took, and of itself: what is read again from the log if it is lost."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from connectors.ports import Batch, Span
from connectors.sqlite import SqliteSink
from sink_events import batch, decode, logged


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "failover.db"


@pytest_asyncio.fixture
async def sink(path: Path) -> AsyncIterator[SqliteSink]:
    made = SqliteSink(path, decode=decode)
    await made.open()
    yield made
    await made.close()


async def test_ranges_grow_and_close(sink: SqliteSink) -> None:
    """Adjoining batches are one range; it closes when everything written into it is synced."""
    await sink.write(batch([logged(n) for n in range(10, 15)]))
    await sink.write(batch([logged(n) for n in range(15, 20)]))
    await sink.write(batch([logged(n) for n in range(40, 42)]))
    assert await sink.ranges() == [Span(0, 10, 20), Span(0, 40, 42)]
    await sink.mark_synced((await sink.peek(10))[-1].seq)
    assert await sink.ranges() == [Span(0, 40, 42)]
    await sink.mark_synced((await sink.peek(10))[-1].seq)
    assert await sink.ranges() == []


async def test_a_receipt_names_the_ranges_the_batch_is_in(sink: SqliteSink) -> None:
    """They grow with the batches; the file itself says the same, and which of them are synced."""
    await sink.write(batch([logged(n) for n in range(10, 15)]))
    receipt = await sink.write(batch([logged(n) for n in range(15, 20)]))
    [one] = receipt.ranges
    assert (one.partition, one.start, one.end) == (0, 10, 20)
    have = await sink.holdings()
    assert (have.store, have.scope) == (one.store, one.scope)
    assert [(row.range, row.synced) for row in have.ranges] == [(one, False)]
    await sink.mark_synced((await sink.peek(10))[-1].seq)
    assert [(row.range, row.synced) for row in (await sink.holdings()).ranges] == [(one, True)]
    [other] = (await sink.write(batch([logged(20)]))).ranges
    assert (other.start, other.key == one.key) == (20, False)


async def test_a_range_without_events_is_synced_by_itself(sink: SqliteSink) -> None:
    """Only dead letters were read there: nothing waits for Postgres."""
    await sink.write(Batch([], [Span(0, 5, 9)]))
    assert [(row.range.start, row.synced) for row in (await sink.holdings()).ranges] == [(5, True)]
    assert await sink.ranges() == []


async def test_a_file_keeps_its_id_and_a_new_one_has_another(sink: SqliteSink, path: Path) -> None:
    """By the id the ranges in the control topic tell whether the file that took them is still there."""
    first = (await sink.holdings()).store
    other = SqliteSink(path, decode=decode)
    assert (await other.holdings()).store == first
    await other.close()
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    assert (await sink.holdings()).store != first


@pytest.mark.parametrize("harm", ["substr(value, 1, 9)", "x'00'"])
async def test_a_record_that_is_not_what_was_put_in_sets_the_file_aside(
    sink: SqliteSink, path: Path, harm: str
) -> None:
    """SQLite has no checksums; sync-back must neither stop for ever nor bring home something else."""
    await sink.write(batch([logged(n) for n in range(3)]))
    first = (await sink.holdings()).store
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute(f"UPDATE outbox SET value = {harm} WHERE seq = 2")
    other.close()
    assert await sink.peek(10) == []
    assert [found.spans for found in sink.quarantines] == [(Span(0, 0, 3),)]
    assert (await sink.holdings()).store != first


async def test_a_record_in_the_place_of_another_sets_the_file_aside(sink: SqliteSink, path: Path) -> None:
    """It decodes, but it is not the event of its row."""
    await sink.write(batch([logged(1), logged(2)]))
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("UPDATE outbox SET value = (SELECT value FROM outbox WHERE seq = 2) WHERE seq = 1")
    other.close()
    assert await sink.peek(10) == []
    assert len(sink.quarantines) == 1
