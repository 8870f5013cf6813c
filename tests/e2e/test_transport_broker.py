"""The chunk transport inside this process, on a real broker."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import faust
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.structs import OffsetAndMetadata
from faust.types import TP

from chunk_runs import PARTITIONS, committed, fill, filled_topic
from connectors.transport import FAUST_SETTINGS, Chunk, chunk_topic, lag, use
from running import until

pytestmark = pytest.mark.e2e

Seen = dict[int, list[int]]


@asynccontextmanager
async def reading(
    broker: str, topic: str, folder: Path, *, group: str = "", act: Callable[[Chunk], Any] = Chunk.ack, **options: Any
) -> AsyncIterator[tuple[faust.App, Seen]]:
    """A running app that notes the offsets it sees and then does `act` (default: ack)."""
    app = faust.App(
        group or f"{topic}-group",
        broker=f"kafka://{broker}",
        store="memory://",
        datadir=str(folder / uuid.uuid4().hex),
        web_enabled=False,
        topic_disable_leader=True,
        **FAUST_SETTINGS,
    )
    use(app, chunked={topic}, role="test", **options)
    seen: Seen = defaultdict(list)

    @app.agent(chunk_topic(app, topic), name="reader")
    async def reader(stream: Any) -> None:
        async for event in stream.noack().events():
            seen[event.value.partition].extend(record.offset for record in event.value.records)
            act(event.value)

    app.finalize()
    await app.start()
    try:
        yield app, seen
    finally:
        await app.stop()


async def have(seen: Seen, count: int) -> None:
    """Wait for so many records."""

    async def enough() -> bool:
        return sum(map(len, seen.values())) >= count

    await until(enough, what=f"{count} records, have {sum(map(len, seen.values()))}")


async def set_group_offsets(broker: str, topic: str, offset: int) -> None:
    """Store the same offset for every partition in the group."""
    consumer = AIOKafkaConsumer(bootstrap_servers=broker, group_id=f"{topic}-group", enable_auto_commit=False)
    await consumer.start()
    tps = [TopicPartition(topic, p) for p in range(PARTITIONS)]
    consumer.assign(tps)
    await consumer.commit({tp: OffsetAndMetadata(offset, "") for tp in tps})
    await consumer.stop()


async def test_transport_resume_lowers_the_start_and_the_group_offset_follows(kafka: str, tmp_path: Path) -> None:
    """The database is behind the group in one partition and ahead in another: the smaller one counts."""

    async def resume(group: Mapping[TP, int]) -> Mapping[TP, int]:
        assert {tp.partition: offset for tp, offset in group.items()} == dict.fromkeys(range(PARTITIONS), 60)
        return {TP(topic, 0): 40, TP(topic, 1): 80}

    async with filled_topic(kafka, 400) as topic:
        await set_group_offsets(kafka, topic, 60)
        async with reading(kafka, topic, tmp_path, resume=resume) as (_, seen):
            await have(seen, 40 * PARTITIONS + 20)
        assert [seen[p][0] for p in range(PARTITIONS)] == [40, 60, 60, 60]
        assert await committed(kafka, topic) == dict.fromkeys(range(PARTITIONS), 100)


async def test_transport_group_offset_beyond_the_log_begins_at_the_oldest(kafka: str, tmp_path: Path) -> None:
    """The log was made anew: everything in it is read, nothing hangs."""
    async with filled_topic(kafka, 400) as topic:
        await set_group_offsets(kafka, topic, 5000)
        async with reading(kafka, topic, tmp_path) as (_, seen):
            await have(seen, 400)
        assert all(seen[p] == list(range(100)) for p in range(PARTITIONS))
        assert await committed(kafka, topic) == dict.fromkeys(range(PARTITIONS), 100)


async def test_transport_apps_of_one_process_are_groups_of_their_own(kafka: str, tmp_path: Path) -> None:
    """One holds all its chunks, the other is not disturbed; what is held is never committed."""
    async with (
        filled_topic(kafka, 4000) as topic,
        reading(kafka, topic, tmp_path, group=f"{topic}-held", act=lambda _: None, drain_timeout=0.5) as (held, some),
        reading(kafka, topic, tmp_path) as (app, seen),
    ):
        await have(seen, 4000)
        await have(some, 100)

        async def worked_off() -> bool:
            return not any(lag(app).values()) and await committed(kafka, topic) == dict.fromkeys(range(4), 1000)

        await until(worked_off)
        assert sum(lag(held).values()) == 4000
        assert app.consumer is not held.consumer


async def test_transport_held_sink_stops_reading_at_the_bound(kafka: str, tmp_path: Path) -> None:
    """Nothing is acked: each partition is read to its bound and no further, and goes on when acks come."""
    chunks: list[Chunk] = []
    async with filled_topic(kafka, 4000) as topic:
        async with reading(kafka, topic, tmp_path, act=chunks.append, max_records=50, max_unacked_records=200) as run:
            app, seen = run
            await have(seen, 200 * PARTITIONS)
            consumer: Any = app.consumer

            async def full() -> bool:
                return all(ledger.records >= 200 for ledger in consumer.ledgers.values())

            await until(full)
            held = sum(map(len, seen.values()))
            polled: list[Any] = consumer._fetchable()
            assert polled[0] == set()
            assert held < 4000, "the bound was never reached"
            while sum(map(len, seen.values())) < 4000:
                while chunks:
                    chunks.pop(0).ack()
                await asyncio.sleep(0.01)
            while chunks:
                chunks.pop(0).ack()
        assert all(seen[p] == list(range(1000)) for p in range(PARTITIONS))
        # The broker forgets the offsets of a deleted topic: look before the topic goes.
        assert await committed(kafka, topic) == dict.fromkeys(range(PARTITIONS), 1000)


async def test_transport_full_partitions_take_turns(kafka: str, tmp_path: Path) -> None:
    """A partition with much to read does not keep the others waiting until it is empty."""
    turns: list[int] = []

    def note(chunk: Chunk) -> None:
        turns.append(chunk.partition)
        chunk.ack()

    async with (
        filled_topic(kafka, 8000) as topic,
        reading(kafka, topic, tmp_path, act=note, max_records=20) as (_, seen),
    ):
        await have(seen, 8000)
    assert set(turns[:40]) == set(range(PARTITIONS))


async def test_transport_stop_while_the_sink_is_held_is_quick(kafka: str, tmp_path: Path) -> None:
    """Unacked chunks do not keep the process from stopping."""
    async with filled_topic(kafka, 400) as topic:
        async with reading(kafka, topic, tmp_path, act=lambda _: None) as (_, seen):
            await have(seen, 400)
            start = time.monotonic()
        assert time.monotonic() - start < 9
        assert await committed(kafka, topic) == {}


async def test_transport_single_event_on_an_idle_system_arrives_within_milliseconds(kafka: str, tmp_path: Path) -> None:
    """Fetches wait at the broker, so the first record ends the wait."""
    arrived: dict[int, float] = {}

    def note(chunk: Chunk) -> None:
        arrived.update({int(record.value or b""): time.perf_counter() for record in chunk.records})
        chunk.ack()

    async with filled_topic(kafka, 4) as topic, reading(kafka, topic, tmp_path, act=note) as (_, seen):
        await have(seen, 4)
        producer = AIOKafkaProducer(bootstrap_servers=kafka)
        await producer.start()
        waits = []
        for value in range(100, 120):
            await asyncio.sleep(0.05)  # idle in between is what is measured
            sent = time.perf_counter()
            await producer.send_and_wait(topic, str(value).encode())
            await have(seen, value - 95)
            waits.append(arrived[value] - sent)
        await producer.stop()
    assert sorted(waits)[len(waits) // 2] < 0.05


async def test_transport_records_that_come_while_running_follow(kafka: str, tmp_path: Path) -> None:
    """Chunks of one partition continue each other without a hole."""
    async with filled_topic(kafka, 400) as topic, reading(kafka, topic, tmp_path) as (_, seen):
        for start in range(400, 2000, 400):
            await fill(kafka, topic, 400, start=start)
        await have(seen, 2000)
    assert all(seen[p] == list(range(500)) for p in range(PARTITIONS))
