"""LogOffsets: where topics begin and end and how far groups have come, for lag and for the loss ledger."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin import OffsetSpec as _OffsetSpec  # type: ignore[attr-defined]  # re-exported, not listed

from schemas.errors import Unavailable

#: Answers are at most this old: a page that asks often must not become a load on the broker.
CACHE_SECONDS: Final = 1.0
TIMEOUT: Final = 2.0
#: Partitions of a topic hardly ever change.
PARTITIONS_SECONDS: Final = 60.0

#: For a moment after a start or a new topic; the admin client does not try again by itself.
_ELECTING: Final = {KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE}

Key = tuple[str, ...]
OffsetSpec: Any = _OffsetSpec  # untyped upstream


class LogOffsets:
    """Answers are partition -> offset, at most a second old. Every method raises `Unavailable` within 2 seconds.

    Callers who ask the same thing at the same time share one request.
    """

    def __init__(self, brokers: str, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._brokers = brokers
        self._monotonic = monotonic
        self._admin: AdminClient | None = None
        self._cache: dict[Key, tuple[float, Mapping[int, int]]] = {}
        self._asking: dict[Key, asyncio.Task[Mapping[int, int]]] = {}

    async def end_offsets(self, topic: str) -> Mapping[int, int]:
        """The offset the next record of each partition will get."""
        return await self._ask(("end", topic), CACHE_SECONDS, lambda: self._edge(topic, OffsetSpec.latest()))

    async def begin_offsets(self, topic: str) -> Mapping[int, int]:
        """The oldest offset still there."""
        return await self._ask(("begin", topic), CACHE_SECONDS, lambda: self._edge(topic, OffsetSpec.earliest()))

    async def group_offsets(self, group: str, topic: str) -> Mapping[int, int]:
        """What the group has committed (its next offset); partitions without a commit are absent."""
        return await self._ask(("group", group, topic), CACHE_SECONDS, lambda: self._group(group, topic))

    async def close(self) -> None:
        """Forget the connection."""
        for task in tuple(self._asking.values()):
            task.cancel()
        if self._admin is not None:
            admin, self._admin = self._admin, None
            await asyncio.to_thread(lambda held: held.clear(), [admin])

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
                answer = await _with_a_leader(ask)
        except TimeoutError as error:
            raise Unavailable("kafka", f"no offsets within {TIMEOUT:g} s") from error
        except KafkaException as error:
            raise Unavailable("kafka", error.args[0].str()) from error
        self._cache[key] = (started, answer)
        return answer

    async def _edge(self, topic: str, spec: Any) -> Mapping[int, int]:
        partitions = await self._partitions(topic)
        asked = self._client().list_offsets(
            {TopicPartition(topic, partition): spec for partition in partitions}, request_timeout=TIMEOUT
        )
        answers = await asyncio.gather(*(asyncio.wrap_future(done) for done in asked.values()))
        return {key.partition: answer.offset for key, answer in zip(asked, answers, strict=True)}

    async def _group(self, group: str, topic: str) -> Mapping[int, int]:
        asked = self._client().list_consumer_group_offsets(
            [ConsumerGroupTopicPartitions(group)], request_timeout=TIMEOUT
        )
        answer = await asyncio.wrap_future(asked[group])
        return {
            place.partition: place.offset
            for place in answer.topic_partitions
            if place.topic == topic and place.offset >= 0
        }

    async def _partitions(self, topic: str) -> Mapping[int, int]:
        key = ("partitions", topic)
        at, answer = self._cache.get(key, (float("-inf"), {}))
        if self._monotonic() - at > PARTITIONS_SECONDS:
            found = await asyncio.to_thread(self._client().list_topics, topic, TIMEOUT)
            if (error := found.topics[topic].error) is not None:
                raise Unavailable("kafka", f"{topic}: {error.str()}")
            answer = dict.fromkeys(found.topics[topic].partitions, 0)
            self._cache[key] = (self._monotonic(), answer)
        return answer

    def _client(self) -> AdminClient:
        if self._admin is None:
            self._admin = AdminClient(
                {
                    "bootstrap.servers": self._brokers,
                    "socket.timeout.ms": int(TIMEOUT * 1000),
                    "reconnect.backoff.max.ms": 500,
                    "log_level": 0,
                }
            )
        return self._admin


async def _with_a_leader(ask: Callable[[], Awaitable[Mapping[int, int]]]) -> Mapping[int, int]:
    while True:
        try:
            return await ask()
        except KafkaException as error:
            if error.args[0].code() not in _ELECTING:
                raise
        await asyncio.sleep(0.05)
