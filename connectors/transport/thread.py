"""The consumer's own thread: fetching, heartbeats and commits, each bounded in time.

Faust runs the Kafka consumer in a thread of its own and so do we: heartbeats go on while the main loop decodes or waits
for RocksDB, so a long step costs latency, never the partitions; a main loop that hangs for good stops polling, and
after `broker_max_poll_interval` its partitions go to someone else. Everything that touches aiokafka runs here by
`call_thread`; the ledgers are touched on the main loop alone. So nothing is shared and nothing is locked.
The thread has two hands (mode's method queue): one may be in `poll`, the other serves commits. A call without an end
would tie one up for good, hence the time limits in here and not around `call_thread`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, cast

import aiokafka
from aiokafka.consumer.fetcher import FetchResult
from aiokafka.errors import ConsumerStoppedError, IllegalStateError, KafkaError
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.transport.consumer import ensure_TP
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread
from faust.types import TP

#: How long the broker holds an empty fetch. A record that arrives ends the wait at once; but a partition left out of a
#: running fetch (its buffer was full, it has just been sought) must wait for its end, with Faust's 1500 ms for 1.5 s.
FETCH_MAX_WAIT_MS = 200


class Place(NamedTuple):
    """What the broker knows about a partition: the group's offset (None: none) and the log's first and end offset."""

    committed: int | None
    begin: int
    end: int


class Poll(NamedTuple):
    """What one poll gave. `epoch` counts the seeks before it: the records follow the position of that very seek."""

    epoch: int
    records: Mapping[TP, Sequence[Any]]


class ChunkConsumerThread(AIOKafkaConsumerThread):
    """Gives whole polls instead of single messages, and commits without ever crashing the worker.

    A poll takes its records off the consumer's position. Whoever drops them must know that this position has been set
    anew since, else they are skipped. So seeks of streams are counted, in this thread, and a poll that waited across
    one gives nothing and goes back to its first record.
    """

    _epoch = 0

    def _create_worker_consumer(self, transport: Any) -> aiokafka.AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        # Faust has no setting for it; aiokafka reads it when it starts. Until Faust offers one.
        consumer._fetch_max_wait_ms = FETCH_MAX_WAIT_MS
        return consumer

    async def on_start(self) -> None:
        """See ServiceThread.on_start."""
        await super().on_start()
        chunked = cast(Any, self.consumer).options.chunked
        keep_as_read(self._kafka()._fetcher, lambda topic: topic in chunked)

    def _kafka(self) -> Any:
        """The aiokafka consumer; Any, since its types stop at the private parts we need."""
        return self._ensure_consumer()

    async def poll(self, tps: Collection[TP], *, timeout: float, max_records: int) -> Poll:
        """What has been fetched for these partitions, waiting up to `timeout` seconds for the first record."""
        epoch, found = await self.call_thread(self._poll, tps, timeout, max_records)
        return Poll(epoch, {ensure_TP(tp): records for tp, records in found.items()})

    async def _poll(
        self, tps: Collection[TP], timeout: float, max_records: int
    ) -> tuple[int, Mapping[Any, Sequence[Any]]]:
        consumer, epoch = self._kafka(), self._epoch
        if not self.consumer.flow_active:  # a rebalance came first; waiting here would keep it from going on
            return epoch, {}
        if consumer._closed or consumer._fetcher._closed:
            raise ConsumerStoppedError
        with consumer._fetcher._subscriptions.fetch_context():
            found: Mapping[Any, Sequence[Any]] = await consumer._fetcher.fetched_records(
                tps, timeout=timeout, max_records=max_records
            )
        for tp in found:  # to the back of the queue, else a full partition starves the others until it is empty
            if tp in consumer._fetcher._records:
                consumer._fetcher._records.move_to_end(tp)
        if epoch == self._epoch:
            return epoch, found
        for tp, records in found.items():
            with contextlib.suppress(IllegalStateError):  # no longer ours
                consumer.seek(tp, records[0].offset)
        return self._epoch, {}

    async def seek_streams(self, starts: Mapping[TP, int]) -> int:
        """Read on from `starts`; the epoch that begins with it. Raises when a partition is no longer ours."""
        epoch: int = await self.call_thread(self._seek_streams, starts)
        return epoch

    async def _seek_streams(self, starts: Mapping[TP, int]) -> int:
        self._epoch += 1
        epoch = self._epoch
        await self._seek_wait(self._kafka(), starts)
        return epoch

    async def touch(self) -> None:
        """Tell the group we are alive while nothing may be fetched, else a held sink would cost us the partitions."""
        await self.call_thread(self._touch)

    async def _touch(self) -> None:
        with self._kafka()._fetcher._subscriptions.fetch_context():
            pass

    async def places(self, tps: Collection[TP], *, timeout: float) -> Mapping[TP, Place]:
        """Where each partition stands. Raises TimeoutError when the broker does not tell in time."""
        places: Mapping[TP, Place] = await self.call_thread(self._places, tps, timeout)
        return places

    async def _places(self, tps: Collection[TP], timeout: float) -> Mapping[TP, Place]:
        consumer = self._kafka()
        wanted = [TopicPartition(tp.topic, tp.partition) for tp in tps]
        async with asyncio.timeout(timeout):
            begins = await consumer.beginning_offsets(wanted)
            ends = await consumer.end_offsets(wanted)
            committed = [await consumer.committed(tp) for tp in wanted]
        return {
            ensure_TP(tp): Place(offset, begins[tp], ends[tp]) for tp, offset in zip(wanted, committed, strict=True)
        }

    async def commit_within(self, offsets: Mapping[TP, int], *, timeout: float) -> None:
        """Commit, or raise: KafkaError, TimeoutError. A commit that timed out may still happen; again is harmless."""
        await self.call_thread(self._commit_within, offsets, timeout)

    async def _commit_within(self, offsets: Mapping[TP, int], timeout: float) -> None:
        # aiokafka itself tries for ever while the coordinator is away.
        async with asyncio.timeout(timeout):
            await self._kafka().commit(
                {TopicPartition(tp.topic, tp.partition): OffsetAndMetadata(at, "") for tp, at in offsets.items()}
            )

    def end_offset(self, tp: TP) -> int | None:
        """The log's end as the last fetch told it, None before the first one. Reads only; safe from the main loop."""
        try:
            end: int | None = self._kafka().highwater(TopicPartition(tp.topic, tp.partition))
        except KafkaError:  # no longer assigned
            return None
        return end


def keep_as_read(fetcher: Any, chunked: Callable[[str], bool]) -> None:
    """Let chunks hold the records as aiokafka's C parser made them.

    Copying each into a `ConsumerRecord` of eleven fields costs more than reading it, and chunks want six of them.
    Until aiokafka lets a consumer choose (0.14 does not).
    """
    fetch = fetcher._proc_fetch_request

    async def kept(assignment: Any, node_id: Any, request: Any) -> bool:
        found: bool = await fetch(assignment, node_id, request)
        for tp, result in fetcher._records.items():  # no await since they were put there: nobody has read of them yet
            if isinstance(result, FetchResult) and result._partition_records is not None and chunked(tp.topic):
                result._partition_records._consumer_record = _as_read
        return found

    fetcher._proc_fetch_request = kept


def _as_read(_: TopicPartition, record: Any) -> Any:
    return record
