"""How much the consumer groups still have to do, asked of the broker itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Final, TypeVar

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

TIMEOUT_S: Final = 3.0
POLL_S: Final = 0.1
T = TypeVar("T")
#: A consumer without a group and an admin client of a broker, not started yet.
Connect = Callable[[str], tuple[Any, Any]]


class Lag:
    """`groups`: consumer group -> its topic, in the order an event walks. Bootstraps at `broker`; answers come from
    where the broker advertises. `connect` makes the clients.

    On aiokafka: librdkafka's admin client ends the process when a coordinator is lost (librdkafka#4605).
    """

    def __init__(self, broker: str, groups: Mapping[str, str], connect: Connect | None = None) -> None:
        self._broker = broker
        self._groups = groups
        self._connect = connect or _connect
        self._clients: tuple[Any, Any] | None = None

    async def ask(self, groups: Collection[str] | None = None) -> int:
        """Records between the committed offsets and the ends; -1 when the broker does not tell within 3 s.

        `groups`: only these.
        """
        asked = {group: topic for group, topic in self._groups.items() if groups is None or group in groups}
        try:
            async with asyncio.timeout(TIMEOUT_S):
                consumer, admin = await self._connected()
                return sum([await _of(consumer, admin, group, topic) for group, topic in asked.items()])
        except (KafkaError, OSError, TimeoutError):
            await self.close()  # a client that met a dead broker waits before it tries again; a new one does not
            return -1

    async def worked_off(self) -> None:
        """Return when all that was in the first topic at the call has gone through all groups, in their order.

        A topic's end is looked up when its first group is reached: then what came before is in it. Groups on one topic
        are held to the same end. Under load the number of records behind says nothing: it never is 0, and 0 is soon
        again. Polls for ever.
        """
        found: dict[str, Mapping[TopicPartition, int]] = {}
        for group, topic in self._groups.items():
            if topic not in found:
                found[topic] = await self._told(lambda consumer, admin, topic=topic: _ends(consumer, admin, topic))  # type: ignore[misc]
            ends = found[topic]
            while not await self._told(lambda _, admin, group=group, ends=ends: _done(admin, group, ends)):  # type: ignore[misc]
                await asyncio.sleep(POLL_S)

    async def _told(self, question: Callable[[Any, Any], Awaitable[T]]) -> T:
        while True:
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    return await question(*await self._connected())
            except (KafkaError, OSError, TimeoutError):
                await self.close()
            await asyncio.sleep(POLL_S)

    async def close(self) -> None:
        """Forget the connections."""
        clients, self._clients = self._clients, None
        if clients is not None:
            with contextlib.suppress(KafkaError, OSError, TimeoutError):
                async with asyncio.timeout(TIMEOUT_S):
                    await clients[0].stop()
                    await clients[1].close()

    async def _connected(self) -> tuple[Any, Any]:
        if self._clients is None:
            self._clients = self._connect(self._broker)
            for client in self._clients:
                await client.start()
        return self._clients


def _connect(broker: str) -> tuple[Any, Any]:
    settings = {"bootstrap_servers": broker, "request_timeout_ms": int(TIMEOUT_S * 1000)}
    consumer: Any = AIOKafkaConsumer(group_id=None, **settings)  # type: ignore[no-untyped-call]
    return consumer, AIOKafkaAdminClient(**settings)  # type: ignore[arg-type]


async def _ends(consumer: Any, admin: Any, topic: str) -> dict[TopicPartition, int]:
    found: dict[TopicPartition, int] = await consumer.end_offsets(await _places(admin, topic))
    return found


async def _done(admin: Any, group: str, ends: Mapping[TopicPartition, int]) -> bool:
    committed = await admin.list_consumer_group_offsets(group)
    return all(not end or (place in committed and committed[place].offset >= end) for place, end in ends.items())


async def _places(admin: Any, topic: str) -> list[TopicPartition]:
    told = next((told for told in await admin.describe_topics() if told["topic"] == topic), None)
    if told is None:
        raise KafkaError(f"no topic {topic}")
    return [TopicPartition(topic, part["partition"]) for part in told["partitions"]]


async def _of(consumer: Any, admin: Any, group: str, topic: str) -> int:
    places = await _places(admin, topic)
    done = await admin.list_consumer_group_offsets(group)
    first, last = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
    committed = {place: offset.offset for place, offset in done.items() if offset.offset >= 0}
    return sum(max(0, last[place] - committed.get(place, first[place])) for place in places)
