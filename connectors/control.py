"""The compacted control topic: worker status (each worker a key, the newest value its status) and failover ranges.

Everybody reads the topic from its beginning without a consumer group and keeps the last value of each key, which is
what compaction keeps as well: it does not matter how much of the past has been compacted away.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from connectors.memory import fresh
from connectors.ports import EventLog, Record
from schemas.clock import Clock
from schemas.errors import ChronicleError, Unavailable

log = structlog.get_logger(__name__)

#: A post is for now: the next one comes in a second.
POST_SECONDS: Final = 1.0
#: Pauses between tries to reach the broker.
RETRY_SECONDS: Final = (0.2, 2.0)
#: A read that ends with nothing tells only that nothing came; a dead connection shows in the same time.
POLL_MS: Final = 500

#: Keys that begin like this are failover ranges, no statuses (`connectors.ranges`).
RANGES: Final = "range/"

#: Told each key of a range and its value; None when it was removed.
Follower = Callable[[str, bytes | None], None]


class KafkaStatusBoard:
    """Implements `connectors.ports.StatusBoard`; `follow` tells the failover ranges that are in the same topic.

    `open` does not need the broker: the reader goes on trying until `close`. The log is the caller's.
    """

    def __init__(self, brokers: str, topic: str, log: EventLog, clock: Clock) -> None:
        self._brokers = brokers
        self._topic = topic
        self._log = log
        self._clock = clock
        self._all: dict[str, Mapping[str, Any]] = {}
        self._unposted: dict[str, bytes] = {}
        self._own: set[str] = set()
        self._returned: float | None = None
        self._reader: asyncio.Task[None] | None = None
        self._follower: Follower | None = None
        self._consumer: Any = None
        self._next = 0  # everything before it has been applied
        self._moved = asyncio.Event()

    def follow(self, follower: Follower) -> None:
        """Tell `follower` what is under the keys of `RANGES`. Call it before `open`."""
        self._follower = follower

    async def caught_up(self, timeout: float) -> None:
        """Return when everything that is in the topic now has been applied. Raises `Unavailable` after `timeout` s."""
        try:
            async with asyncio.timeout(timeout):
                while self._consumer is None:
                    await self._step()
                place = TopicPartition(self._topic, 0)
                end = (await self._consumer.end_offsets([place]))[place]
                while self._next < end:
                    await self._step()
        except TimeoutError as error:
            raise Unavailable("kafka", f"{self._topic} is not read to its end within {timeout:g} s") from error
        except (KafkaError, AttributeError) as error:  # AttributeError: the reader went between two lines
            raise Unavailable("kafka", f"{self._topic} cannot be read: {error!r}") from error

    async def _step(self) -> None:
        """Until something was applied, or it is time to look again."""
        self._moved.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(POLL_MS / 1000):
                await self._moved.wait()

    async def open(self) -> None:
        """Start reading."""
        self._reader = asyncio.get_running_loop().create_task(self._read_forever())

    async def post(self, worker: str, status: Mapping[str, Any]) -> None:
        """As `StatusBoard.post`; what could not be posted before goes along, newest first for each worker."""
        self._own.add(worker)
        self._unposted[worker] = msgspec.json.encode(status)
        posting = dict(self._unposted)
        records = [Record(key.encode(), value, partition=0) for key, value in posting.items()]
        try:
            await self._log.send(self._topic, records, timeout=POST_SECONDS)
        except ChronicleError as error:
            log.debug("status.not_posted", worker=worker, error=str(error))
            return
        for key, value in posting.items():
            if self._unposted.get(key) is value:
                del self._unposted[key]

    def statuses(self) -> Mapping[str, Mapping[str, Any]]:
        """As `StatusBoard.statuses`: those of the last 15 seconds."""
        return fresh(self._all, self._clock.now())

    def forget(self) -> None:
        """The log is another one: what was told through the old one counts no longer."""
        self._all.clear()
        self._returned = None

    def last_known(self) -> Mapping[str, Mapping[str, Any]]:
        """The last status of every worker, however old: counters outlive the worker that posted them."""
        return dict(self._all)

    def round_trip_at(self) -> float | None:
        """As `StatusBoard.round_trip_at`."""
        return self._returned

    async def close(self) -> None:
        """Stop reading."""
        if self._reader is not None:
            self._reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reader
            self._reader = None

    async def _read_forever(self) -> None:
        pause = RETRY_SECONDS[0]
        while True:
            try:
                await self._read()
            except (KafkaError, OSError) as error:
                log.debug("status.reader_lost", error=str(error))
            except Exception:  # the board must come back by itself whatever aiokafka does
                log.exception("status.reader_failed")
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
        try:
            await consumer.start()
            place = TopicPartition(self._topic, 0)
            consumer.assign([place])
            await consumer.end_offsets([place])  # no topic yet, no leader: an error here, and a new try
            # Going on where we were: read from its beginning once more, what was overwritten would count for a moment.
            consumer.seek(place, self._next)
            self._consumer = consumer
            while True:
                for records in (await consumer.getmany(timeout_ms=POLL_MS)).values():
                    for record in records:
                        self._apply(record.key, record.value)
                self._next = await consumer.position(place)
                self._moved.set()
        finally:
            self._consumer = None
            await consumer.stop()

    def _apply(self, key: bytes | None, value: bytes | None) -> None:
        """The newest value of a key counts; what is not ours is passed over."""
        name = (key or b"").decode("utf-8", "replace")
        if name.startswith(RANGES):
            if self._follower is not None:
                self._follower(name, value)
            return
        try:
            worker = (key or b"").decode()
            status = msgspec.json.decode(value, type=dict[str, Any]) if value else None
        except (UnicodeDecodeError, msgspec.MsgspecError):
            return
        if status is None:
            self._all.pop(worker, None)
            return
        self._all[worker] = status
        if worker in self._own:
            self._returned = self._clock.now()
