"""`StatusBoard`: one suite over the memory board and the control topic."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from uuid import UUID

import pytest

from connectors.control import KafkaStatusBoard
from connectors.memory import MemoryLog, MemoryStatusBoard, NullStatusBoard
from connectors.ports import StatusBoard
from connectors.producer import KafkaLog
from connectors.topics import ensure
from schemas.topics import TopicSpec


class HandClock:
    """A wall clock that a test sets."""

    def __init__(self) -> None:
        self.at = 1_000_000.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return time.monotonic()

    def new_id(self) -> UUID:
        raise NotImplementedError


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.e2e)])
async def boards(
    request: pytest.FixtureRequest, clock: HandClock, topic_prefix: str
) -> AsyncIterator[tuple[StatusBoard, StatusBoard]]:
    """Two boards of two processes."""
    if request.param == "memory":
        shared: dict[str, object] = {}
        yield MemoryStatusBoard(clock, shared), MemoryStatusBoard(clock, shared)  # type: ignore[arg-type]
        return
    brokers, topic = request.getfixturevalue("kafka"), f"{topic_prefix}.control"
    await ensure(brokers, [TopicSpec(name=topic, partitions=1, cleanup="compact", retention_ms=-1, doc="test")])
    log = KafkaLog(brokers, "test")
    await log.open()
    made = KafkaStatusBoard(brokers, topic, log, clock), KafkaStatusBoard(brokers, topic, log, clock)
    for board in made:
        await board.open()
    yield made
    for board in made:
        await board.close()
    await log.close()


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def post_until(
    board: StatusBoard, worker: str, status: dict[str, object], condition: Callable[[], bool], seconds: float = 15
) -> None:
    """As workers do: again and again, for a post may fail while the broker is still waking up."""
    async with asyncio.timeout(seconds):
        while not condition():
            await board.post(worker, {"worker": worker, "roles": [], **status})
            await asyncio.sleep(0.02)


async def test_everybody_reads_what_everybody_posts(boards: tuple[StatusBoard, StatusBoard], clock: HandClock) -> None:
    """The newest status of each worker."""
    one, two = boards
    for number in (1, 2):
        await post_until(
            one,
            "w1",
            {"at": clock.now(), "n": number},
            lambda number=number: two.statuses().get("w1", {}).get("n") == number,  # type: ignore[misc]
        )
    await post_until(two, "w2", {"at": clock.now()}, lambda: set(one.statuses()) == {"w1", "w2"})
    await until(lambda: set(two.statuses()) == {"w1", "w2"})
    assert one.statuses()["w1"]["n"] == 2


async def test_a_round_trip_proves_the_broker(boards: tuple[StatusBoard, StatusBoard], clock: HandClock) -> None:
    """Only our own status coming back proves it."""
    one, two = boards
    assert one.round_trip_at() is None
    await post_until(one, "w1", {"at": clock.now()}, lambda: one.round_trip_at() == clock.now())
    assert two.round_trip_at() is None


async def test_a_status_older_than_15_seconds_is_gone(
    boards: tuple[StatusBoard, StatusBoard], clock: HandClock
) -> None:
    """Its last counters can still be asked for."""
    one, two = boards
    await post_until(one, "w1", {"at": clock.now()}, lambda: "w1" in two.statuses())
    clock.at += 16
    assert two.statuses() == {}
    assert set(two.last_known()) == {"w1"}  # type: ignore[attr-defined]


async def test_a_post_that_failed_goes_along_with_the_next(clock: HandClock) -> None:
    """Posting never raises."""
    log = MemoryLog(partitions=1)
    board = KafkaStatusBoard("127.0.0.1:1", "control", log, clock)
    log.down = True
    await board.post("failover", {"at": 1})
    assert log.records("control") == []
    log.down = False
    await board.post("w1", {"at": 2})
    await board.post("w1", {"at": 3})
    assert [record.key for record in log.records("control")] == [b"failover", b"w1", b"w1"]


async def test_a_board_opens_without_a_broker(clock: HandClock) -> None:
    """It goes on trying by itself, and closes at once."""
    board = KafkaStatusBoard("127.0.0.1:1", "control", MemoryLog(), clock)
    await board.open()
    assert board.statuses() == {}
    async with asyncio.timeout(3):
        await board.close()


async def test_the_null_board_says_nothing() -> None:
    """For processes without a broker."""
    board = NullStatusBoard()
    await board.post("w", {"at": 1})
    assert (board.statuses(), board.round_trip_at()) == ({}, None)
