"""LogScan: read a stretch of a topic without joining any group, for looking things up."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

import msgspec
from aiokafka.partitioner import murmur2
from confluent_kafka import OFFSET_INVALID, Consumer, KafkaException, TopicPartition

from schemas.errors import Unavailable

#: Bytes of values held at most, whatever the number of records asked for.
MOST_BYTES: Final = 16 << 20
#: Seconds one call may read; what it has by then is its answer.
LONGEST: Final = 3.0
#: Seconds without a record, and without an answer of where we stand, after which the broker counts as away.
SILENCE: Final = 2.5


class Stretch(msgspec.Struct, frozen=True):
    """Records [start, next) of one partition as (offset, key, value, headers); retention and gaps leave some out."""

    records: list[tuple[int, bytes | None, bytes | None, tuple[tuple[str, bytes], ...]]]
    next: int


class LogScan:
    """One call at a time, each with a consumer of its own: nothing is committed, nobody is rebalanced."""

    def __init__(self, brokers: str) -> None:
        self._brokers = brokers
        self._lock = asyncio.Lock()

    async def read(self, topic: str, partition: int, start: int, end: int, most: int) -> Stretch:
        """Records from `start` on, before `end`, at most `most`. Raises `Unavailable` when the broker is silent."""
        async with self._lock:
            return await asyncio.to_thread(self._read, topic, partition, start, end, most)

    def _read(self, topic: str, partition: int, start: int, end: int, most: int) -> Stretch:
        consumer = Consumer(
            {
                "bootstrap.servers": self._brokers,
                "group.id": "chronicle-audit",  # asked for by the library; never joined
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "enable.partition.eof": False,
                "isolation.level": "read_uncommitted",
                "queued.max.messages.kbytes": 16384,
                "log_level": 0,
            }
        )
        try:
            consumer.assign([TopicPartition(topic, partition, start)])
            return _collect(consumer, TopicPartition(topic, partition), start, end, most)
        except KafkaException as error:
            raise Unavailable("kafka", error.args[0].str()) from error
        finally:
            consumer.close()


def _collect(consumer: Any, place: TopicPartition, start: int, end: int, most: int) -> Stretch:
    records: list[tuple[int, bytes | None, bytes | None, tuple[tuple[str, bytes], ...]]] = []
    at, size, began = start, 0, time.monotonic()
    heard = began
    while at < end and len(records) < most and size < MOST_BYTES:
        now = time.monotonic()
        if records and now - began > LONGEST:
            break
        if now - heard > SILENCE:
            raise Unavailable("kafka", f"no records of {place.topic} within {SILENCE:g} s")
        for message in consumer.consume(min(500, most - len(records)), timeout=0.25):
            if message.error():
                continue
            heard, offset = time.monotonic(), message.offset()
            if offset >= end:
                at = end
                break
            records.append((offset, message.key(), message.value(), tuple(message.headers() or ())))
            at, size = offset + 1, size + len(message.value() or b"")
        stands = consumer.position([place])[0].offset  # past records that are gone (aborted, deleted by retention)
        at = max(at, min(end, stands)) if stands != OFFSET_INVALID else at
    return Stretch(records, at)


def partition_of(key: bytes, partitions: int) -> int:
    """Where a record with this key goes: the Java client's rule, which our producer keeps to as well."""
    hashed: int = murmur2(key)  # type: ignore[no-untyped-call]
    return (hashed & 0x7FFFFFFF) % partitions
