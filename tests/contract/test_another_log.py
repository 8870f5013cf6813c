"""After Kafka lost its log: new events at old offsets are stored like any other, in both databases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest

from app.ledger import Inputs, StoreCount, add_up
from connectors import migrate
from connectors.ports import Sink
from connectors.postgres import PostgresSink
from connectors.sqlite import SqliteSink
from schemas.event import DeadLetter, Position
from sink_events import batch, decode, logged

connect: Any = asyncpg.connect  # asyncpg tells no types
pg = pytest.mark.e2e


def later(n: int, at: int) -> Any:
    """Event number n, which the new log has at offset `at`."""
    return msgspec.structs.replace(logged(n), ingest=Position(0, at), events=Position(0, at))


def letter(value: bytes, offset: int) -> DeadLetter:
    return DeadLetter(
        topic="chronicle.events",
        partition=0,
        offset=offset,
        ingest=Position(0, offset),
        stage="persist",
        cause="undecodable",
        detail="",
        key=None,
        value=value,
        failed_at=1,
    )


async def begin(sink: Sink, log: str) -> bool:
    assert isinstance(sink, (PostgresSink, SqliteSink))
    return await sink.begin_log(log)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pg)])
async def sink(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    made: Any
    if request.param == "sqlite":
        made = SqliteSink(tmp_path / "failover.db", decode=decode)
    else:
        dsn = request.getfixturevalue("postgres")
        await migrate.upgrade(dsn)
        made = PostgresSink(dsn)
    await made.open()
    yield made
    await made.close()


async def test_events_of_a_new_log_are_stored_at_the_offsets_of_the_old(sink: Sink) -> None:
    """New ids at known places are no replays."""
    await begin(sink, "one")
    await sink.write(batch([logged(n) for n in range(5)]))
    await begin(sink, "two")
    receipt = await sink.write(batch([later(10 + n, n) for n in range(5)]))
    assert (receipt.stored, receipt.replays, receipt.duplicates) == (5, 0, 0)
    if isinstance(sink, SqliteSink):
        assert await sink.pending() == 10


async def test_a_repeat_is_counted_though_the_old_log_had_one_at_its_place(sink: Sink) -> None:
    """The place alone does not say which duplicate it is."""
    await begin(sink, "one")
    await sink.write(batch([logged(0), logged(1)]))
    assert (await sink.write(batch([later(0, 7)]))).duplicates == 1
    await begin(sink, "two")
    assert (await sink.write(batch([later(1, 7)]))).duplicates == 1
    assert (await sink.write(batch([later(1, 7)]))).replays == 1


async def test_the_progress_of_the_old_log_counts_no_longer(sink: Sink) -> None:
    """And that of the new one is not thrown away by the next worker that begins."""
    assert await begin(sink, "one") is False
    await sink.write(batch([logged(n) for n in range(5)]))
    assert await begin(sink, "one") is False
    assert await sink.progress() == {0: 5}
    assert await begin(sink, "two") is True
    assert await sink.progress() == {}
    await sink.write(batch([later(10, 0)]))
    assert await begin(sink, "two") is False
    assert await sink.progress() == {0: 1}


async def test_a_letter_of_the_new_log_does_not_pass_for_one_of_the_old(sink: Sink) -> None:
    """Letters are known by their place; both are kept."""
    await begin(sink, "one")
    assert await sink.write_dead_letters([letter(b"old", 3)]) == 1
    await begin(sink, "two")
    assert await sink.write_dead_letters([letter(b"new", 3)]) == 1
    assert await sink.write_dead_letters([letter(b"new", 3)]) == 0
    if isinstance(sink, SqliteSink):
        waiting = await sink.dead_letters(10)
        assert sorted(one.value or b"" for one in waiting) == [b"new", b"old"]


@pg
async def test_the_ledger_counts_what_the_lost_log_gave(postgres: str) -> None:
    """No end of a topic tells of it any more, so the database keeps the number."""
    await migrate.upgrade(postgres)
    sink = PostgresSink(postgres)
    await sink.open()
    await sink.begin_log("one")
    await sink.write(batch([logged(0), logged(1)]))
    await sink.write(batch([later(0, 7)]))
    await sink.write_dead_letters([letter(b"x", 3)])
    await sink.begin_log("two", waiting=2)
    connection = await connect(postgres)
    rows = await connection.fetch("SELECT log_id, earlier FROM logs ORDER BY began_at")
    await connection.close()
    await sink.close()
    assert [tuple(row) for row in rows] == [("one", 0), ("two", 2 + 1 + 1 + 2)]


def test_a_ledger_over_two_logs_adds_up() -> None:
    """Accepted is what the log of now has, and what those before it gave."""
    sums = add_up(
        Inputs(
            spool=0,
            ingest_end={0: 3},
            dedupe={},
            events_end={},
            persist_next={},
            sqlite=StoreCount(),
            postgres=StoreCount(stored=9, duplicates=1, earlier=10),
        )
    )
    assert sums.parts["accepted"] == {"log": 3, "spool": 0, "earlier": 10}
    assert sums.accepted - sums.pending == sums.stored + sums.duplicates
    assert sums.difference == 0
