"""LogOffsets: where topics begin and end and how far groups have come, for lag and for the loss ledger.

On aiokafka, not on librdkafka's admin client: that one does not get over a broker that was suspended for 20 s, and ends
the whole process now and then when a request to a coordinator fails (confluentinc/librdkafka#4605).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError, for_code

from schemas.errors import Unavailable

#: Answers are at most this old: a page that asks often must not become a load on the broker.
CACHE_SECONDS: Final = 1.0
TIMEOUT: Final = 2.0
#: Partitions of a topic hardly ever change.
PARTITIONS_SECONDS: Final = 60.0
#: Between two tries within the time limit; a broker that has just started knows no leaders for a moment.
RETRY_SECONDS: Final = 0.05

Key = tuple[str, ...]


class _Clients:
    """One consumer without a group and one admin client: opened together, given up together at the first failure."""

    def __init__(self, brokers: str) -> None:
        timeout_ms = int(TIMEOUT * 1000)
        self.consumer: Any = AIOKafkaConsumer(  # type: ignore[no-untyped-call]
            bootstrap_servers=brokers,
            group_id=None,
            enable_auto_commit=False,
            request_timeout_ms=timeout_ms,
        )
        self.admin: Any = AIOKafkaAdminClient(bootstrap_servers=brokers, request_timeout_ms=timeout_ms)

    async def open(self) -> None:
        await self.consumer.start()
        await self.admin.start()

    async def close(self) -> None:
        for end in (self.consumer.stop, self.admin.close):
            with contextlib.suppress(KafkaError, OSError, TimeoutError):
                async with asyncio.timeout(TIMEOUT):
                    await end()


class LogOffsets:
    """Answers are partition -> offset, at most a second old. Every method raises `Unavailable` within 2 seconds.

    Callers who ask the same thing at the same time share one request.
    """

    def __init__(self, brokers: str, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._brokers = brokers
        self._monotonic = monotonic
        self._clients: _Clients | None = None
        self._opening = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()
        self._cache: dict[Key, tuple[float, Mapping[int, int]]] = {}
        self._asking: dict[Key, asyncio.Task[Mapping[int, int]]] = {}

    async def end_offsets(self, topic: str) -> Mapping[int, int]:
        """The offset the next record of each partition will get."""
        return await self._ask(("end", topic), CACHE_SECONDS, lambda: self._edge(topic, "end_offsets"))

    async def begin_offsets(self, topic: str) -> Mapping[int, int]:
        """The oldest offset still there."""
        return await self._ask(("begin", topic), CACHE_SECONDS, lambda: self._edge(topic, "beginning_offsets"))

    async def group_offsets(self, group: str, topic: str) -> Mapping[int, int]:
        """What the group has committed (its next offset); partitions without a commit are absent."""
        return await self._ask(("group", group, topic), CACHE_SECONDS, lambda: self._group(group, topic))

    async def close(self) -> None:
        """Forget the connections."""
        for task in tuple(self._asking.values()):
            task.cancel()
        self._drop()
        if self._closing:
            await asyncio.wait(self._closing)

    async def _ask(self, key: Key, age: float, ask: Callable[[], Awaitable[Mapping[int, int]]]) -> Mapping[int, int]:
        at, answer = self._cache.get(key, (float("-inf"), {}))
        if self._monotonic() - at <= age:
            return answer
        if key not in self._asking:
            self._asking[key] = asyncio.ensure_future(self._fetch(key, ask))
            self._asking[key].add_done_callback(lambda done: self._asked(key, done))
        return await asyncio.shield(self._asking[key])

    def _asked(self, key: Key, done: asyncio.Task[Mapping[int, int]]) -> None:
        self._asking.pop(key, None)
        if not done.cancelled():
            done.exception()  # fetched here, so that an answer nobody waits for any more is not reported as lost

    async def _fetch(self, key: Key, ask: Callable[[], Awaitable[Mapping[int, int]]]) -> Mapping[int, int]:
        started = self._monotonic()
        try:
            async with asyncio.timeout(TIMEOUT):
                answer = await _until_settled(ask)
        except TimeoutError as error:
            self._drop()
            raise Unavailable("kafka", f"no offsets within {TIMEOUT:g} s") from error
        except (KafkaError, OSError) as error:
            self._drop()
            raise Unavailable("kafka", str(error)) from error
        self._cache[key] = (started, answer)
        return answer

    async def _edge(self, topic: str, which: str) -> Mapping[int, int]:
        clients = await self._connected()
        wanted = [TopicPartition(topic, number) for number in await self._partitions(clients, topic)]
        found = await getattr(clients.consumer, which)(wanted)
        return {place.partition: offset for place, offset in found.items()}

    async def _group(self, group: str, topic: str) -> Mapping[int, int]:
        clients = await self._connected()
        found = await clients.admin.list_consumer_group_offsets(group)
        return {
            place.partition: told.offset for place, told in found.items() if place.topic == topic and told.offset >= 0
        }

    async def _partitions(self, clients: _Clients, topic: str) -> Mapping[int, int]:
        key = ("partitions", topic)
        at, answer = self._cache.get(key, (float("-inf"), {}))
        if self._monotonic() - at > PARTITIONS_SECONDS:
            answer = dict.fromkeys(await _partitions(clients, topic), 0)
            self._cache[key] = (self._monotonic(), answer)
        return answer

    async def _connected(self) -> _Clients:
        async with self._opening:
            if self._clients is None:
                clients = _Clients(self._brokers)
                try:
                    await clients.open()
                except BaseException:
                    self._end(clients)
                    raise
                self._clients = clients
            return self._clients

    def _drop(self) -> None:
        """New connections for the next question; what was known of partitions is asked again, too."""
        clients, self._clients = self._clients, None
        self._cache.clear()
        if clients is not None:
            self._end(clients)

    def _end(self, clients: _Clients) -> None:
        task = asyncio.ensure_future(clients.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


async def _partitions(clients: _Clients, topic: str) -> list[int]:
    # All topics, not this one: a request that names a topic would make it on a broker that creates what is asked for.
    for told in await clients.admin.describe_topics():
        if told["topic"] == topic:
            if told["error_code"]:
                raise for_code(told["error_code"])(topic)
            return [part["partition"] for part in told["partitions"]]
    raise Unavailable("kafka", f"{topic}: the broker has no such topic")


async def _until_settled(ask: Callable[[], Awaitable[Mapping[int, int]]]) -> Mapping[int, int]:
    """Ask again while the broker is only settling (no leader yet, no coordinator yet); the caller bounds the time."""
    while True:
        try:
            return await ask()
        except KafkaError as error:
            if not error.retriable:
                raise
        await asyncio.sleep(RETRY_SECONDS)
