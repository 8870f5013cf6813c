"""One flight: the records that go to the log in the next request, a batch for each partition.

Rules, but for the builders, which are aiokafka's. `murmur2` is the Java client's hash of keys, by aiokafka: the same
key lands where every other producer puts it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Final

from aiokafka.partitioner import murmur2

from connectors.ports import Record
from schemas.event import Position

#: Of one partition in one request; a record larger than this goes alone. Below the topics' max.message.bytes.
BATCH_BYTES: Final = 1 << 20
#: Of all partitions in one request: it is in memory some four times while it is made.
FLIGHT_BYTES: Final = 4 << 20
#: Keys whose hash is remembered: in plain Python it costs ten times what else a record does.
KEYS: Final = 16_384

_hash = lru_cache(KEYS)(murmur2)
_NO_HEADERS: Final[list[Any]] = []


class Call:
    """One `send`: its records, where each went, and whom to tell. `done` is resolved when there is an outcome."""

    __slots__ = ("batches", "done", "highest", "places", "records", "topic")

    def __init__(self, topic: str, records: Sequence[Record], done: asyncio.Future[None]) -> None:
        self.topic = topic
        self.records = records
        self.done = done
        self.highest = max(record.partition for record in records)
        self.places: list[tuple[Batch, int]] = []
        self.batches: list[Batch] = []

    @property
    def packed(self) -> bool:
        """Whether all of it is in batches."""
        return len(self.places) == len(self.records)

    @property
    def acked(self) -> bool:
        """Whether the log has all of it."""
        return self.packed and all(batch.acked for batch in self.batches)

    @property
    def error(self) -> Exception | None:
        """Why the log did not take a part of it, None as far as is known."""
        return next((batch.error for batch in self.batches if batch.error is not None), None)

    def positions(self) -> list[Position]:
        """Of the records, in their order; all must be acked."""
        return [Position(batch.partition, batch.base + at if batch.base >= 0 else -1) for batch, at in self.places]


class Batch:
    """What one partition gets. `base` is the offset of its first record once it is acked, -1 where nobody knows."""

    __slots__ = ("acked", "base", "builder", "count", "error", "partition", "topic")

    def __init__(self, builder: Any, topic: str, partition: int) -> None:
        self.builder = builder
        self.topic = topic
        self.partition = partition
        self.count = 0
        self.acked = False
        self.base = -1
        self.error: Exception | None = None

    def landed(self, ack: asyncio.Future[Any]) -> None:
        """What came of it, by its future: aiokafka's metadata of the first record, or an error."""
        self.builder = None  # the bytes
        if ack.cancelled():
            return
        error = ack.exception()
        if isinstance(error, Exception):
            self.error = error
        else:
            self.acked, self.base = True, ack.result().offset


class Flight:
    """Batches being filled, in the order of the calls. `make` gives an empty builder of aiokafka."""

    def __init__(self, make: Callable[[], Any], max_bytes: int = FLIGHT_BYTES) -> None:
        self._make = make
        self._room = max_bytes
        self._batches: dict[tuple[str, int], Batch] = {}
        self._calls: dict[Call, None] = {}
        self.full = False

    @property
    def batches(self) -> list[Batch]:
        """One for each partition that gets something."""
        return list(self._batches.values())

    def take(self, call: Call, partitions: int, most: int) -> int:
        """Take up to `most` records of a call that come next; how many it was. Fewer: `full`, or no more are left."""
        self._calls[call] = None
        first = len(call.places)
        for record in call.records[first : first + most]:
            if self._room <= 0 or not self._append(call, record, partitions):
                self.full = True
                break
        return len(call.places) - first

    def outcomes(self) -> Iterator[Call]:
        """The calls whose outcome is known: acked, or refused in part."""
        return (call for call in self._calls if call.acked or call.error is not None)

    def _append(self, call: Call, record: Record, partitions: int) -> bool:
        partition = record.partition if record.partition >= 0 else _partition(record.key, partitions)
        at = (call.topic, partition)
        batch = self._batches.get(at)
        if batch is None:
            batch = self._batches[at] = Batch(self._make(), call.topic, partition)
        added = batch.builder.append(
            timestamp=record.timestamp_ms or None,
            key=record.key,
            value=record.value,
            headers=list(record.headers) if record.headers else _NO_HEADERS,
        )
        if added is None:
            return False
        if batch not in call.batches:
            call.batches.append(batch)
        call.places.append((batch, batch.count))
        batch.count += 1
        self._room -= added.size
        return True


def _partition(key: bytes | None, partitions: int) -> int:
    return random.randrange(partitions) if key is None else (_hash(key) & 0x7FFFFFFF) % partitions
