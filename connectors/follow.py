"""Follow a topic in all of its partitions without a consumer group: each process that asks for it reads all of it.

A compacted topic is followed from its beginning: compaction keeps the newest value under each key, which is all that
counts, so it does not matter how much of the past is gone. A stream is followed from its end.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from schemas.errors import Unavailable

log = structlog.get_logger(__name__)

#: Pauses between tries to reach the broker.
RETRY_SECONDS: Final = (0.2, 2.0)
#: A read that ends with nothing tells only that nothing came; a dead connection shows in the same time.
POLL_MS: Final = 500
#: Records handled before the event loop is let go: about 5 ms.
STEP: Final = 500

#: Told the partition and each record: offset, key, value, headers as aiokafka gives them.
Follower = Callable[[int, Any], None]
#: Told the next offset of each partition, in order, when reading begins anew.
Begin = Callable[[Sequence[int]], None]


class TopicFollower:
    """Tells `follower` the records of `topic`. `open` does not need the broker; it goes on trying until `close`.

    With `begin` it reads from the end, and `begin` hears where that is. After an outage it goes on where it was. A
    follower that raises is a bug; it is logged, and the record passed over.
    """

    def __init__(
        self, brokers: str, topic: str, partitions: int, follower: Follower, begin: Begin | None = None
    ) -> None:
        self._brokers, self._topic, self._follower, self._begin = brokers, topic, follower, begin
        self._places = [TopicPartition(topic, number) for number in range(partitions)]
        self._next: dict[TopicPartition, int] = {}
        self._ends: dict[TopicPartition, int] = {}
        self._task: asyncio.Task[None] | None = None
        self._consumer: Any = None
        self._moved = asyncio.Event()
        self._log = 0  # which log is read: one more each time the one before is forgotten

    @property
    def caught_up(self) -> bool:
        """Whether everything that was there when reading began has been told."""
        return bool(self._ends) and all(self._next.get(place, 0) >= end for place, end in self._ends.items())

    @property
    def read(self) -> tuple[int, ...]:
        """The next offset of each partition, in order; it moves with every record."""
        return tuple(self._next.get(place, 0) for place in self._places)

    async def reach_end(self, timeout: float) -> None:
        """Return when everything that is in the topic now has been told. Raises `Unavailable` after `timeout` s."""
        try:
            async with asyncio.timeout(timeout):
                while self._consumer is None:
                    await self._step()
                ends = await self._consumer.end_offsets(self._places)
                while any(self._next.get(place, 0) < end for place, end in ends.items()):
                    await self._step()
        except TimeoutError as error:
            raise Unavailable("kafka", f"{self._topic} is not read to its end within {timeout:g} s") from error
        except (KafkaError, AttributeError) as error:  # AttributeError: the reader went between two lines
            raise Unavailable("kafka", f"{self._topic} cannot be read: {error!r}") from error

    async def _step(self) -> None:
        """Until something was told, or it is time to look again."""
        self._moved.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(POLL_MS / 1000):
                await self._moved.wait()

    def forget(self) -> None:
        """The log is another one: begin anew, with a connection of its own."""
        self._log += 1
        self._next.clear()
        self._ends.clear()

    async def open(self) -> None:
        """Start reading."""
        self._task = asyncio.get_running_loop().create_task(self._read_forever())

    async def close(self) -> None:
        """Stop reading. One who opens meanwhile has a reader of their own."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _read_forever(self) -> None:
        pause = RETRY_SECONDS[0]
        while True:
            try:
                await self._read()
            except (KafkaError, OSError) as error:
                log.debug("follow.reader_lost", topic=self._topic, error=str(error))
            except Exception:  # it must come back by itself whatever aiokafka does
                log.exception("follow.reader_failed", topic=self._topic)
            await asyncio.sleep(pause)
            pause = min(pause * 2, RETRY_SECONDS[1])

    async def _read(self) -> None:
        consumer: Any = AIOKafkaConsumer(  # type: ignore[no-untyped-call]
            bootstrap_servers=self._brokers,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            request_timeout_ms=5_000,
            retry_backoff_ms=200,
        )
        log_ = self._log
        try:
            await consumer.start()
            consumer.assign(self._places)
            ends = await consumer.end_offsets(self._places)  # no topic yet: an error here, and a new try
            if log_ != self._log:
                return
            if self._begin is not None and not self._next:
                self._next = dict(ends)
                self._begin([ends[place] for place in self._places])
            # Going on where we were: read from its beginning once more, what was overwritten would count for a moment.
            for place in self._places:
                consumer.seek(place, self._next.get(place, 0))
            self._ends = dict(ends)
            self._consumer = consumer
            while True:
                found = await consumer.getmany(timeout_ms=POLL_MS, max_records=STEP)
                if log_ != self._log:
                    return
                for place, records in found.items():
                    for record in records:
                        self._tell(place.partition, record)
                stands = {place: await consumer.position(place) for place in self._places}
                if log_ != self._log:
                    return
                self._next.update(stands)
                self._moved.set()
                await asyncio.sleep(0)
        finally:
            self._consumer = None
            await consumer.stop()

    def _tell(self, partition: int, record: Any) -> None:
        try:
            self._follower(partition, record)
        except Exception:  # see the class
            log.exception("follow.record_passed_over", topic=self._topic, partition=partition, offset=record.offset)
