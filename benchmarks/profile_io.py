"""Stages that need a broker or a database: CPU of this process (its client libraries' threads too) in µs an event,
beside the bare client calls that the stage cannot do without. What the servers spend is told by process.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from confluent_kafka import Consumer, Producer, TopicPartition
from rocksdict import Cache, Rdict, WriteBatch

from benchmarks import sinks, transport
from benchmarks.fill import records
from benchmarks.streams import PARTITIONS, TOPICS, Where, somewhere
from connectors import migrate, pgsql
from connectors.pglink import PostgresLink
from connectors.ports import Record
from connectors.postgres import PostgresSink
from connectors.producer import KafkaLog
from connectors.rows import EVENT_COLUMNS, event_row
from tables.rocks import BLOCK_CACHE_BYTES, options

EVENTS: Final = 100_000
#: Events of a chunk and of a batch, as shipped.
CHUNK: Final = 2_000
#: Bytes that the changelog of `seen` keeps an id.
ID_BYTES: Final = 34
#: Stage -> (ours, the bare calls); None where there is nothing to be held against.
Costs = dict[str, tuple[float, float | None]]


def costs(decode_us: float) -> Costs:
    """All of them, on a broker and a database made for it. `decode_us`: what decoding an event costs, in µs; the stage
    `fetch` is measured with it."""
    with somewhere() as where:
        found = _produced(where)
        ours = transport.in_fresh_process("ours", where.broker, TOPICS.ingest.name, EVENTS)["cpu_us_per_event"]
        found["fetch"] = (ours - decode_us, _cost(_consume(where), EVENTS))
        found["COPY and commit"] = asyncio.run(_copied(where))
    return found


def dedupe_floor() -> float:
    """Look up and store ids by RocksDB alone, in the batches of a chunk."""
    made = [[os.urandom(16) for _ in range(CHUNK)] for _ in range(20)]
    with tempfile.TemporaryDirectory(prefix="chronicle-bench-") as folder:
        store: Any = Rdict(str(Path(folder) / "ids"), options(Cache(BLOCK_CACHE_BYTES)))
        began = time.process_time()
        for keys in made:
            store.get(keys)
            batch = WriteBatch(raw_mode=True)
            for key in keys:
                batch.put(key, b"")
            store.write(batch)
        spent = time.process_time() - began
        store.close()
    return spent / (len(made) * CHUNK) * 1e6


def _cost(work: Awaitable[None], events: int) -> float:
    async def run() -> float:
        began = time.process_time()
        await work
        return (time.process_time() - began) / events * 1e6

    return asyncio.run(run())


# --- produce, changelog ----------------------------------------------------------------------------------------------


def _produced(where: Where) -> Costs:
    """Fills the ingest topic once, which is what `fetch` reads; all else goes to topics that nobody reads here."""
    few = records(PARTITIONS, 0, CHUNK, last=CHUNK, public=True)
    made = [Record(one.key.encode(), one.value, partition=one.partition) for one in few]
    ids = [Record(b"chunk", os.urandom(CHUNK * ID_BYTES), partition=0)]
    times = EVENTS // CHUNK
    return {
        "produce": (_ours(where, TOPICS.ingest.name, made, times), _bare(where, TOPICS.events.name, made, times)),
        "changelog": (_ours(where, TOPICS.seen.name, ids, times), _bare(where, TOPICS.control.name, ids, times)),
    }


def _ours(where: Where, topic: str, made: Sequence[Record], times: int) -> float:
    async def send() -> None:
        log = KafkaLog(where.broker, "profile")
        await log.open()
        for _ in range(times):
            await log.send(topic, made, timeout=10.0)
        await log.close()

    return _cost(send(), EVENTS)


def _bare(where: Where, topic: str, made: Sequence[Record], times: int) -> float:
    settings = {"bootstrap.servers": where.broker, "acks": "all", "enable.idempotence": True, "linger.ms": 0}
    producer: Any = Producer(settings)

    async def send() -> None:
        for _ in range(times):
            for one in made:
                producer.produce(topic, value=one.value, key=one.key, partition=one.partition)
            producer.flush(10)

    return _cost(send(), EVENTS)


async def _consume(where: Where) -> None:
    settings = {"bootstrap.servers": where.broker, "group.id": "profile", "enable.auto.commit": False}
    consumer = Consumer(settings)
    consumer.assign([TopicPartition(TOPICS.ingest.name, number, 0) for number in range(PARTITIONS)])
    left = EVENTS
    while left > 0:
        got = len(consumer.consume(CHUNK, timeout=10.0))
        if not got:
            raise RuntimeError(f"{left} of {EVENTS} records did not come")
        left -= got
    consumer.close()


# --- COPY and commit -------------------------------------------------------------------------------------------------


async def _copied(where: Where) -> tuple[float, float]:
    await migrate.upgrade(where.dsn)
    sink = PostgresSink(where.dsn, worker="profile", timeout_s=60)
    batches = list(sinks.batches(CHUNK, EVENTS // CHUNK // 2, 0))
    events = sum(len(batch.events) for batch in batches)
    began = time.process_time()
    for batch in batches:
        await sink.write(batch)
    ours = (time.process_time() - began) / events * 1e6
    await sink.close()
    return ours, await _bare_copy(where.dsn, [list(map(event_row, batch.events)) for batch in batches], events)


async def _bare_copy(dsn: str, batches: Sequence[Sequence[Any]], events: int) -> float:
    link = PostgresLink(dsn, name="profile", timeout_s=60.0, connect_timeout_s=5.0)
    connection: Any = await link.connect()  # with our codec for times, and the table that is copied into
    began = time.process_time()
    for rows in batches:
        async with connection.transaction():
            await connection.copy_records_to_table(pgsql.STAGE, records=rows, columns=EVENT_COLUMNS)
    spent = time.process_time() - began
    await connection.close()
    return spent / events * 1e6


def told(found: Costs) -> Iterator[tuple[str, dict[str, float | None]]]:
    """For the JSON."""
    for name, (ours, floor) in found.items():
        yield name, {"ours": round(ours, 2), "floor": None if floor is None else round(floor, 2)}
