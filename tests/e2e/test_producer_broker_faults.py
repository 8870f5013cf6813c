"""KafkaLog and the spool through what brokers do: die, hang, come back."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from app.stack.kafka import Kafka
from app.stack.ports import free_port
from connectors.control import KafkaStatusBoard
from connectors.intake import LogOrSpool
from connectors.ports import Record
from connectors.producer import KafkaLog
from connectors.spool import Spool
from connectors.topics import ensure
from schemas.clock import SystemClock
from schemas.errors import Unavailable
from schemas.topics import TopicSpec

pytestmark = pytest.mark.e2e

Restart = Callable[[], Awaitable[None]]


@pytest.fixture(scope="module")
def starter() -> Iterator[ThreadPoolExecutor]:
    """The one thread that starts brokers: a child dies with the thread that started it, so it must live on."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.fixture(scope="module")
def own_kafka(workplace: Path, starter: ThreadPoolExecutor) -> Iterator[Kafka]:
    """A broker these tests may kill."""
    broker = Kafka(workplace / "own-kafka", free_port())
    starter.submit(broker.start).result()
    yield broker
    broker.stop()


@pytest.fixture
def restart(own_kafka: Kafka, starter: ThreadPoolExecutor) -> Restart:
    """Start the broker again while the loop goes on."""
    return lambda: asyncio.get_running_loop().run_in_executor(starter, own_kafka.start)


@pytest.fixture
async def topic(own_kafka: Kafka, topic_prefix: str) -> str:
    name = f"{topic_prefix}.log"
    await ensure(own_kafka.address, [TopicSpec(name=name, partitions=2, cleanup="delete", retention_ms=-1, doc="t")])
    return name


@pytest.fixture
async def log(own_kafka: Kafka) -> AsyncIterator[KafkaLog]:
    made = KafkaLog(own_kafka.address, "test")
    await made.open()
    yield made
    await made.close()


@contextlib.contextmanager
def frozen(broker: Kafka) -> Iterator[None]:
    os.kill(broker.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(broker.pid, signal.SIGCONT)


@contextlib.asynccontextmanager
async def turns() -> AsyncIterator[list[int]]:
    """How often another task got its turn, as the one item of the list; about 800 times a second on an idle loop."""
    count = [0]

    async def watch() -> None:
        while True:
            await asyncio.sleep(0.001)
            count[0] += 1

    watcher = asyncio.ensure_future(watch())
    try:
        yield count
    finally:
        watcher.cancel()


async def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def read_all(brokers: str, topic: str, partitions: int = 2) -> list[tuple[bytes, bytes]]:
    """(key, value) of everything in the topic, per partition in order."""
    consumer = Consumer({"bootstrap.servers": brokers, "group.id": "none", "enable.auto.commit": False})
    found: list[tuple[bytes, bytes]] = []
    for partition in range(partitions):
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)
        consumer.assign([TopicPartition(topic, partition, low)])
        count = high - low
        while count:
            message = consumer.poll(10)
            assert message is not None
            assert message.error() is None
            found.append((message.key(), message.value()))
            count -= 1
    consumer.close()
    return found


async def test_a_frozen_broker_fails_in_time_and_what_follows_works(
    own_kafka: Kafka, log: KafkaLog, topic: str
) -> None:
    """SIGSTOP: `Unavailable` with unknown outcome right after the timeout; after SIGCONT the same log goes on."""
    await log.send(topic, [Record(b"k", b"before")])
    with frozen(own_kafka):
        async with turns() as others:
            started = time.perf_counter()
            results = await asyncio.gather(
                *(log.send(topic, [Record(b"k", b"during")], timeout=1.0) for _ in range(20)), return_exceptions=True
            )
            took = time.perf_counter() - started
    assert all(isinstance(result, Unavailable) and result.unknown for result in results)
    assert took < 4
    assert others[0] > 50
    await until_sent(log, topic, b"after")
    values = [value for _, value in await asyncio.to_thread(read_all, own_kafka.address, topic)]
    assert values[0] == b"before"
    assert values[-1] == b"after"


async def until_sent(log: KafkaLog, topic: str, value: bytes) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                await log.send(topic, [Record(b"k", value)])
                return
            except Unavailable:
                continue


async def test_what_was_given_up_leaves_nothing_behind(own_kafka: Kafka, log: KafkaLog, topic: str) -> None:
    """No task goes on and no producer with its records stays, however often a frozen broker is given up."""
    await log.send(topic, [Record(b"k", b"before")])
    before = len(asyncio.all_tasks())
    with frozen(own_kafka):
        for _ in range(4):
            with pytest.raises(Unavailable):
                await log.send(topic, [Record(b"k", b"x" * 500_000)] * 4, timeout=0.3)
    await until_sent(log, topic, b"after")
    await until(lambda: gc.collect() >= 0 and producers() == 1)
    await until(lambda: len(asyncio.all_tasks()) <= before)


def producers() -> int:
    return sum(isinstance(thing, AIOKafkaProducer) for thing in gc.get_objects())


async def test_what_the_broker_refuses_for_now_is_given_up_quietly(own_kafka: Kafka, log: KafkaLog, topic: str) -> None:
    """A batch that waits for its next try when its call ends leaves no error on the loop."""
    errors: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    await log.send(topic, [Record(b"k", b"before")])
    admin = AdminClient({"bootstrap.servers": own_kafka.address})
    await asyncio.to_thread(admin.delete_topics([topic])[topic].result, 10)
    with pytest.raises(Unavailable):
        await log.send(topic, [Record(b"k", b"x" * 500)] * 4, timeout=1.0)
    await log.close()
    gc.collect()
    await asyncio.sleep(0)
    assert not errors


async def test_nothing_is_sent_after_its_call_was_given_up(
    own_kafka: Kafka, restart: Restart, log: KafkaLog, topic: str
) -> None:
    """A broker that comes back finds none of the records of failed calls, for they never left the process."""
    await log.send(topic, [Record(b"k", b"before")])
    own_kafka.kill()
    with pytest.raises(Unavailable):
        await log.send(topic, [Record(b"k", b"given up")], timeout=0.5)
    await restart()
    await until_sent(log, topic, b"after")
    values = [value for _, value in await asyncio.to_thread(read_all, own_kafka.address, topic)]
    assert values == [b"before", b"after"]


async def test_accepted_events_survive_a_killed_and_a_frozen_broker_in_order(
    own_kafka: Kafka, restart: Restart, log: KafkaLog, topic: str, tmp_path: Path
) -> None:
    """Under load, kill -9 and restart, then freeze: every take is answered in 3 s, none is lost, no key overtaken."""
    intake = LogOrSpool(log, Spool(tmp_path / "spool.db", clock=SystemClock()), topic, clock=SystemClock())
    await intake.open()
    acked: dict[bytes, list[bytes]] = {b"session-%d" % number: [] for number in range(8)}
    slowest, durabilities, running = 0.0, set(), True

    async def session(key: bytes) -> None:
        nonlocal slowest
        number = 0
        while running:
            number += 1
            value = b"%s/%d" % (key, number)
            started = time.perf_counter()
            durabilities.add((await intake.take([Record(key, value)])).durability)
            slowest = max(slowest, time.perf_counter() - started)
            acked[key].append(value)
            await asyncio.sleep(0.002)

    sessions = [asyncio.ensure_future(session(key)) for key in acked]

    def all_reach(more: int) -> Callable[[], bool]:
        goals = {key: len(values) + more for key, values in acked.items()}
        return lambda: all(len(acked[key]) >= goal for key, goal in goals.items())

    await until(all_reach(50))
    own_kafka.kill()
    await until(lambda: intake.state()["mode"] == "spool")
    await until(all_reach(50))
    await restart()
    await until(lambda: intake.state()["mode"] == "log")
    await until(all_reach(50))
    with frozen(own_kafka):
        await until(lambda: intake.state()["mode"] == "spool")
        await until(all_reach(50))
    await until(lambda: intake.state()["mode"] == "log")
    running = False
    await asyncio.gather(*sessions)
    await intake.close()
    in_log = await asyncio.to_thread(read_all, own_kafka.address, topic)
    for key, values in acked.items():
        assert list(dict.fromkeys(value for found, value in in_log if found == key)) == values
    assert durabilities == {"log", "spool"}
    assert slowest < 3.0


async def test_the_status_board_comes_back_with_the_broker(
    own_kafka: Kafka, restart: Restart, log: KafkaLog, topic: str
) -> None:
    """Its reader needs no help after kill -9 and restart, and shows what is posted then."""
    board = KafkaStatusBoard(own_kafka.address, topic, log, SystemClock())
    await board.open()

    async def posted(number: int) -> None:
        async with asyncio.timeout(30):
            while board.last_known().get("w", {}).get("n") != number:
                await board.post("w", {"worker": "w", "at": time.time(), "n": number})
                await asyncio.sleep(0.05)

    await posted(1)
    own_kafka.kill()
    await restart()
    await posted(2)
    await board.close()


async def test_many_records_in_one_call_leave_the_loop_free(own_kafka: Kafka, log: KafkaLog, topic: str) -> None:
    """Others get their turn while 20,000 records are handed over and acked."""
    await log.send(topic, [Record(b"k", b"warm")])
    async with turns() as others:
        records = [Record(b"%d" % index, b"v" * 500) for index in range(20_000)]
        positions = await log.send(topic, records, timeout=20)
    assert len({(position.partition, position.offset) for position in positions}) == 20_000
    assert others[0] > 20
