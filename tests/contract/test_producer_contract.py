"""`EventLog`: one suite over the memory log and Kafka."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, get_args

import pytest
from aiokafka import AIOKafkaConsumer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from connectors.memory import MemoryLog, partition_of
from connectors.ports import EventLog, Record
from connectors.producer import MAX_RECORD_BYTES, Compression, KafkaLog
from connectors.topics import ensure
from schemas.errors import Poison, Unavailable
from schemas.event import Position
from schemas.topics import TopicSpec


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.e2e)])
async def log(request: pytest.FixtureRequest, topic: str) -> AsyncIterator[EventLog]:
    made: EventLog = MemoryLog(partitions=4)
    if request.param == "kafka":
        brokers = request.getfixturevalue("kafka")
        await ensure(brokers, [TopicSpec(name=topic, partitions=4, cleanup="delete", retention_ms=-1, doc="test")])
        made = KafkaLog(brokers, "test")
    await made.open()
    yield made
    await made.close()


@pytest.fixture
def topic(topic_prefix: str) -> str:
    return f"{topic_prefix}.log"


async def test_positions_come_in_the_order_of_the_records(log: EventLog, topic: str) -> None:
    """Each record's own place, explicit partitions included."""
    records = [Record(None, b"%d" % index, partition=index % 4) for index in range(40)]
    assert await log.send(topic, records) == [Position(index % 4, index // 4) for index in range(40)]


async def test_a_key_decides_the_partition_as_in_java(log: EventLog, topic: str) -> None:
    """murmur2, so that our keys lie where any other producer would put them."""
    keys = [b"", b"s", b"session-1", b"5c1f3a52-0f3e-4c0a-9d0e-2d2f4b1c7a90", "é".encode() * 9]
    positions = await log.send(topic, [Record(key, b"v") for key in keys if key])
    assert [position.partition for position in positions] == [partition_of(key, 4) for key in keys if key]


async def test_calls_made_one_after_the_other_keep_their_order(log: EventLog, topic: str) -> None:
    """Also when they are in flight together."""
    calls = [asyncio.ensure_future(log.send(topic, [Record(b"k", b"%d" % index)])) for index in range(100)]
    offsets = [(await call)[0].offset for call in calls]
    assert offsets == sorted(offsets)


async def test_nothing_to_send_is_acked_at_once(log: EventLog, topic: str) -> None:
    """An empty call has no positions."""
    assert await log.send(topic, []) == []


async def test_a_record_too_large_is_poison_and_nothing_of_its_call_is_sent(log: EventLog, topic: str) -> None:
    """It could never be sent; holding it would block what follows."""
    with pytest.raises(Poison) as caught:
        await log.send(topic, [Record(b"k", b"small", partition=0), Record(b"k", b"x" * (3 << 20), partition=0)])
    assert caught.value.cause == "oversize"
    assert await log.send(topic, [Record(b"k", b"next", partition=0)]) == [Position(0, 0)]


async def test_probe_answers(log: EventLog, topic: str) -> None:
    """A living log proves itself without an error."""
    await log.probe()


async def test_a_broker_that_is_not_there_is_unavailable_in_time(topic: str) -> None:
    """Within the timeout, for `send` and for `probe`; nothing has been sent, and the error says so."""
    log = KafkaLog("127.0.0.1:1", "test")
    await log.open()
    with pytest.raises(Unavailable) as caught:
        async with asyncio.timeout(2):
            await log.send(topic, [Record(b"k", b"v")], timeout=0.3)
    assert not caught.value.unknown
    assert "no broker answers at 127.0.0.1:1" in str(caught.value)
    with pytest.raises(Unavailable):
        async with asyncio.timeout(2):
            await log.probe(0.3)
    await log.close()


@pytest.mark.e2e
async def test_a_topic_that_is_not_there_holds_up_its_own_calls_alone(kafka: str, topic: str) -> None:
    """Until they are given up; the same for a partition that the topic does not have."""
    await ensure(kafka, [TopicSpec(name=topic, partitions=1, cleanup="delete", retention_ms=-1, doc="test")])
    log = KafkaLog(kafka, "test")
    await log.open()
    absent = [(f"{topic}.absent", -1), (topic, 7)]
    lost = [
        asyncio.ensure_future(log.send(name, [Record(b"k", b"v", partition=partition)], timeout=3.0))
        for name, partition in absent
    ]
    assert await log.send(topic, [Record(b"k", b"here")], timeout=2.0) == [Position(0, 0)]
    assert not any(call.done() for call in lost)
    errors = [error for error in await asyncio.gather(*lost, return_exceptions=True) if isinstance(error, Unavailable)]
    assert [error.unknown for error in errors] == [False, False]
    await log.close()


@pytest.mark.e2e
async def test_calls_larger_than_a_request_keep_their_order(kafka: str, topic: str) -> None:
    """They go in several, a record near the limit in one of its own."""
    await ensure(kafka, [TopicSpec(name=topic, partitions=2, cleanup="delete", retention_ms=-1, doc="test")])
    sizes = [10, MAX_RECORD_BYTES - 1, 400_000, 400_000, 400_000, 10, 900_000, 900_000, 900_000, 10] * 2
    records = [Record(b"k", b"x" * size, partition=index % 2) for index, size in enumerate(sizes)]
    assert await sent_together(kafka, topic, [records[:7], records[7:]]) == [
        Position(index % 2, index // 2) for index in range(len(sizes))
    ]


async def sent_together(kafka: str, topic: str, calls: list[list[Record]]) -> list[Position]:
    """The positions of several calls at once, as one list."""
    log = KafkaLog(kafka, "test")
    await log.open()
    try:
        found = await asyncio.gather(*(log.send(topic, records, timeout=20) for records in calls))
    finally:
        await log.close()
    return [position for positions in found for position in positions]


@pytest.mark.e2e
@pytest.mark.parametrize("compression", get_args(Compression))
async def test_compressed_records_are_read_back_as_they_were(kafka: str, topic: str, compression: Compression) -> None:
    """By the client that Faust reads with: key, value, headers."""
    await ensure(kafka, [TopicSpec(name=topic, partitions=1, cleanup="delete", retention_ms=-1, doc="test")])
    values = [b'{"command":"%d %s"}' % (number, b"x" * 5000) for number in range(20)]
    headers = (("chronicle-position", b"\x00\x01"),)
    await sent(kafka, topic, compression, [Record(b"k", value, headers=headers) for value in values])
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=kafka, auto_offset_reset="earliest")
    await consumer.start()
    try:
        async with asyncio.timeout(20):
            found = [await consumer.getone() for _ in values]
    finally:
        await consumer.stop()
    assert [(one.key, one.value, tuple(one.headers)) for one in found] == [(b"k", value, headers) for value in values]


@pytest.mark.e2e
@pytest.mark.parametrize("compression", get_args(Compression))
async def test_the_broker_gets_the_records_compressed(kafka: str, topic: str, compression: Compression) -> None:
    """A topic that takes 20 kB takes 100 kB of the same letter, but not as they are."""
    admin = AdminClient({"bootstrap.servers": kafka})
    made = admin.create_topics([NewTopic(topic, 1, 1, config={"max.message.bytes": "20000"})])
    await asyncio.to_thread(made[topic].result, 10)
    large = [Record(b"k", b"x" * 100_000)]
    if compression == "none":
        with pytest.raises(Poison):
            await sent(kafka, topic, compression, large)
    else:
        assert await sent(kafka, topic, compression, large) == [Position(0, 0)]


async def sent(kafka: str, topic: str, compression: Compression, records: list[Record]) -> list[Position]:
    """Through a log of one's own."""
    log = KafkaLog(kafka, "test", compression=compression)
    await log.open()
    try:
        return await log.send(topic, records, timeout=10)
    finally:
        await log.close()


async def test_a_memory_log_plays_its_script() -> None:
    """The fake fails as told: before writing, after it, and half way."""
    log = MemoryLog(partitions=1)
    log.script.extend(["down", "unknown", "partly", "ok"])
    outcomes: list[Any] = []
    for index in range(4):
        try:
            outcomes.append(await log.send("t", [Record(None, b"%d" % index), Record(None, b"+")]))
        except Unavailable as error:
            outcomes.append(error.unknown)
    assert outcomes == [False, True, True, [Position(0, 3), Position(0, 4)]]
