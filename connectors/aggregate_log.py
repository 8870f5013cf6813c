"""The aggregate tables as they are in Kafka, for comparing them: values of one partition, and where counting stands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupIdNotFound, KafkaError

from connectors.offsets import LogOffsets
from schemas.errors import Unavailable

#: Milliseconds one fetch waits; seconds without any record after which the broker counts as away.
POLL_MS: Final = 500
SILENCE_S: Final = 15.0
STEP: Final = 1_000
#: Where a group's description has its members, in every version of the answer.
_ERROR, _MEMBERS = 0, 5


class KafkaAggregateLog:
    """Implements `connectors.ports_history.AggregateLog`. `topic` is the changelog, `events` the stream it counts."""

    def __init__(self, brokers: str, topic: str, events: str, group: str) -> None:
        self._brokers, self._topic, self._events, self._group = brokers, topic, events, group
        self._offsets = LogOffsets(brokers)

    async def values(self, partition: int, told: Callable[[int, int], None]) -> dict[bytes, bytes]:
        """See the contract."""
        place = TopicPartition(self._topic, partition)
        async with self._reading(place) as (consumer, end):
            return await _to_end(consumer, place, end, told)

    async def counted(self) -> Mapping[int, int]:
        """See the contract."""
        return await self._offsets.group_offsets(self._group, self._events)

    async def end(self, partition: int) -> int:
        """See the contract. Not from `LogOffsets`: an answer of a second ago is too old to say that nothing came."""
        async with self._reading(TopicPartition(self._events, partition)) as (_, end):
            return end

    async def members(self) -> int:
        """See the contract."""
        admin: Any = AIOKafkaAdminClient(bootstrap_servers=self._brokers, request_timeout_ms=5_000)
        try:
            await admin.start()
            (answer,) = await admin.describe_consumer_groups([self._group])
        except (KafkaError, OSError) as error:
            raise Unavailable("kafka", f"the group {self._group} cannot be described: {error}") from error
        finally:
            await admin.close()
        (group,) = answer.groups
        if group[_ERROR] == GroupIdNotFound.errno:
            return 0
        if group[_ERROR]:
            raise Unavailable("kafka", f"the group {self._group} cannot be described: error {group[_ERROR]}")
        return len(group[_MEMBERS])

    async def close(self) -> None:
        """Forget the connections."""
        await self._offsets.close()

    @asynccontextmanager
    async def _reading(self, place: TopicPartition) -> AsyncIterator[tuple[Any, int]]:
        """A consumer without a group on one partition, and where that ends."""
        consumer: Any = AIOKafkaConsumer(  # type: ignore[no-untyped-call]
            bootstrap_servers=self._brokers,
            group_id=None,
            enable_auto_commit=False,
            request_timeout_ms=10_000,
            auto_offset_reset="earliest",  # no seek: the reset that assigning begins may end after it
        )
        try:
            await consumer.start()
            consumer.assign([place])
            yield consumer, (await consumer.end_offsets([place]))[place]
        except (KafkaError, OSError) as error:
            raise Unavailable("kafka", f"{place.topic} cannot be read: {error}") from error
        finally:
            await consumer.stop()


async def _to_end(
    consumer: Any, place: TopicPartition, end: int, told: Callable[[int, int], None]
) -> dict[bytes, bytes]:
    newest: dict[bytes, bytes] = {}
    at, silent_since = await consumer.position(place), asyncio.get_running_loop().time()
    while at < end:
        found = await consumer.getmany(place, timeout_ms=POLL_MS, max_records=STEP)
        for record in found.get(place, ()):
            if record.value is None:
                newest.pop(record.key or b"", None)
            else:
                newest[record.key or b""] = record.value
        before, at = at, await consumer.position(place)
        now = asyncio.get_running_loop().time()
        if at > before:
            silent_since = now
            told(min(at, end), end)
        elif now - silent_since > SILENCE_S:
            raise Unavailable("kafka", f"no records of {place.topic} within {SILENCE_S:g} s")
    return newest
