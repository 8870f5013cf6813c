"""`RangeBook`: one suite over the memory book and the control topic."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest

from connectors.control import KafkaStatusBoard
from connectors.memory import MemoryRangeBook
from connectors.ports import FailoverRange, RangeBook
from connectors.producer import KafkaLog
from connectors.ranges import KafkaRangeBook
from connectors.topics import ensure
from schemas.clock import SystemClock
from schemas.errors import Unavailable
from schemas.topics import TopicSpec

ONE = FailoverRange(store="abc", scope="vm:/state/failover.db", number=1, partition=3, start=10, end=20, at=5)
TWO = msgspec.structs.replace(ONE, number=2, start=40, end=41)


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.e2e)])
async def books(request: pytest.FixtureRequest, topic_prefix: str) -> AsyncIterator[tuple[RangeBook, RangeBook]]:
    """Two books of two processes."""
    if request.param == "memory":
        shared: dict[str, FailoverRange] = {}
        yield MemoryRangeBook(shared), MemoryRangeBook(shared)
        return
    brokers, topic = request.getfixturevalue("kafka"), f"{topic_prefix}.control"
    await ensure(brokers, [TopicSpec(name=topic, partitions=1, cleanup="compact", retention_ms=-1, doc="test")])
    log = KafkaLog(brokers, "test")
    await log.open()
    boards = [KafkaStatusBoard(brokers, topic, log, SystemClock()) for _ in range(2)]
    one, two = (KafkaRangeBook(board, topic, log) for board in boards)
    for board in boards:
        await board.open()
    yield one, two
    for board in boards:
        await board.close()
    await log.close()


async def test_what_one_process_records_every_other_reads_at_once(books: tuple[RangeBook, RangeBook]) -> None:
    """No waiting: a read knows everything that was recorded before it."""
    one, two = books
    assert list(await two.read()) == []
    await one.record([ONE, TWO])
    assert sorted(await two.read(), key=lambda found: found.number) == [ONE, TWO]


async def test_a_range_that_grows_is_one_range(books: tuple[RangeBook, RangeBook]) -> None:
    """The newest record of a key counts, whoever wrote it."""
    one, two = books
    grown = msgspec.structs.replace(ONE, end=99)
    await one.record([ONE])
    await two.record([grown])
    assert list(await one.read()) == [grown]


async def test_what_is_released_is_gone_for_all(books: tuple[RangeBook, RangeBook]) -> None:
    """And releasing it again, or what was never there, does nothing."""
    one, two = books
    await one.record([ONE, TWO])
    await two.release([ONE])
    await two.release([ONE, msgspec.structs.replace(ONE, number=77)])
    assert list(await one.read()) == [TWO]


async def test_nothing_to_record_needs_no_broker(books: tuple[RangeBook, RangeBook]) -> None:
    """Most looks have nothing to say."""
    await books[0].record([])
    await books[0].release([])
    assert list(await books[1].read()) == []


async def test_without_a_broker_every_call_is_unavailable() -> None:
    """Nothing is believed to be recorded, and nothing to be absent."""
    log = KafkaLog("127.0.0.1:9", "test")
    await log.open()
    board = KafkaStatusBoard("127.0.0.1:9", "none", log, SystemClock())
    book = KafkaRangeBook(board, "none", log)
    await board.open()
    try:
        with pytest.raises(Unavailable):
            await book.record([ONE])
        with pytest.raises(Unavailable):
            await book.release([ONE])
        with pytest.raises(Unavailable):
            await book.read()
    finally:
        await board.close()
        await log.close()


@pytest.mark.e2e
async def test_a_book_opened_later_reads_what_is_still_open_and_statuses_do_not_mix_in(
    kafka: str, topic_prefix: str
) -> None:
    """A new process knows the ranges before its first assignment; the board shows no range as a worker."""
    topic = f"{topic_prefix}.control"
    await ensure(kafka, [TopicSpec(name=topic, partitions=1, cleanup="compact", retention_ms=-1, doc="test")])
    log = KafkaLog(kafka, "test")
    await log.open()
    first = KafkaStatusBoard(kafka, topic, log, SystemClock())
    await KafkaRangeBook(first, topic, log).record([ONE])
    await first.post("w1", {"worker": "w1", "roles": [], "at": SystemClock().now()})
    board = KafkaStatusBoard(kafka, topic, log, SystemClock())
    book = KafkaRangeBook(board, topic, log)
    plain = KafkaStatusBoard(kafka, topic, log, SystemClock())
    await board.open()
    await plain.open()
    try:
        assert list(await book.read()) == [ONE]
        await plain.caught_up(5.0)
        assert (set(board.last_known()), set(plain.last_known())) == ({"w1"}, {"w1"})
    finally:
        await board.close()
        await plain.close()
        await log.close()
