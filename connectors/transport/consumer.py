"""The consumer's reading half: polls become chunks in the agents' queues.

Chunks are handed out only between the seek of an assignment and the next stop; what was polled before is thrown away,
since it will be read again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, cast

from faust.exceptions import ImproperlyConfigured
from faust.transport.conductor import Conductor
from faust.types import TP, ConsumerMessage

from connectors.transport.assignment import LedgerConsumer
from connectors.transport.chunk import Chunk
from connectors.transport.flow import pause
from connectors.transport.ledger import PartitionLedger
from connectors.transport.thread import Poll

#: Seconds a poll waits for a first record; and while a partition is kept out of it for want of room, which should be
#: back in as soon as there is some.
POLL = 1.0
POLL_WITHHELD = 0.05


class ChunkConsumer(LedgerConsumer):
    """Faust's consumer with the drain loop replaced as well."""

    async def _drain_messages(self, fetcher: Any) -> None:
        try:
            while not (self.should_stop or fetcher.should_stop):
                await self._drain_once()
        except self.consumer_stopped_errors:
            if not self.app.should_stop:
                raise
        except asyncio.CancelledError:
            if not self.app.should_stop:
                raise

    async def _drain_once(self) -> None:
        if not self.flow_active:
            await self.wait(self.can_resume_flow.wait())
            return
        if not self._sought and not self.app.rebalancing and self.assignment():
            # The seek of this assignment failed or was cut short; nothing may be handed out before it is done.
            await self._seek_again()
            return
        tps, withheld = self._fetchable()
        if not tps:
            await self._thread.touch()
            await self._wait_for_room()
            return
        generation = self.app.consumer_generation_id
        polled = await self._thread.poll(
            tps, timeout=POLL_WITHHELD if withheld else POLL, max_records=2 * self.options.max_records
        )
        await self._hand_out(polled, generation)
        if seconds := pause(sum(map(len, polled.records.values())), self._behind(polled), self.options):
            await self.sleep(seconds)

    def _behind(self, polled: Poll) -> bool:
        """Whether the log has more of what was polled, by what the fetches told of its end."""
        return any(self.ends.get(tp, 0) > records[-1].offset + 1 for tp, records in polled.records.items())

    async def _seek_again(self) -> None:
        await self.perform_seek()
        if self._sought:
            self._open = self.flow_active
        else:
            await self.sleep(1.0)

    def _fetchable(self) -> tuple[set[TP], bool]:
        """Which partitions to poll, and whether some are kept out of it for want of room."""
        active = self._get_active_partitions()
        tps = {tp for tp in active if self._has_room(tp)}
        return tps, len(tps) < len(active) or bool(self._buffered_partitions)

    def _has_room(self, tp: TP) -> bool:
        if not self.app.topics.acks_enabled_for(tp.topic):
            return True
        ledger = self.ledgers.get(tp)
        return (
            ledger is not None
            and self._open
            and ledger.records < self.options.max_unacked_records
            and ledger.bytes < self.options.max_unacked_bytes
        )

    async def _wait_for_room(self) -> None:
        self._moved.clear()
        try:
            async with asyncio.timeout(POLL / 2):
                await self._moved.wait()
        except TimeoutError:
            return

    async def _hand_out(self, polled: Poll, generation: int) -> None:
        for tp, records in polled.records.items():
            if not self.flow_active or generation != self.app.consumer_generation_id:
                self._dropped(polled)
                return
            if self.app.topics.acks_enabled_for(tp.topic) and not (polled.epoch == self._epoch and self._open):
                self._dropped(polled)
                continue
            self._track_end(tp)
            if tp.topic in self.options.chunked:
                for at in range(0, len(records), self.options.max_records):
                    self._deliver(tp, records[at : at + self.options.max_records])
            else:
                await self._deliver_singly(tp, records)
        await asyncio.sleep(0)

    def _dropped(self, polled: Poll) -> None:
        """Polled before the last seek, they will be read again; polled after it, only a new seek brings them back."""
        if polled.epoch >= self._epoch:
            self._sought = self._open = False

    def _track_end(self, tp: TP) -> None:
        end = self._thread.end_offset(tp)
        if end is not None:
            self.ends[tp] = end
            self.app.monitor.track_tp_end_offset(tp, end)

    def _deliver(self, tp: TP, records: Sequence[Any]) -> None:
        """One chunk into the queue of the one agent of the topic. No await in here: nothing can come between."""
        channels = cast(Conductor, self.app.topics)._tp_index.get(tp) or ()
        if len(channels) != 1:
            raise ImproperlyConfigured(f"{tp.topic} needs exactly one agent in this app, it has {len(channels)}")
        ledger = self._ledger_for(tp, records[0].offset)
        if not ledger.records:
            self.progress_at[tp] = time.monotonic()
        size = sum(len(record.value or b"") for record in records)
        span = ledger.deliver(records[0].offset, records[-1].offset + 1, count=len(records), size=size)
        chunk = Chunk(tp.topic, tp.partition, records, span)
        message = self._to_chunk_message(tp, chunk)
        span.tag = message
        for channel in channels:
            message.incref()
            channel.queue.force_put_nowait(self.app.create_event(None, chunk, None, message))

    def _to_chunk_message(self, tp: TP, chunk: Chunk) -> ConsumerMessage:
        last = chunk.records[-1]
        return ConsumerMessage(
            tp.topic,
            tp.partition,
            chunk.first,
            last.timestamp / 1000.0,
            0,
            None,
            None,
            chunk,  # type: ignore[arg-type]  # Faust says bytes and never looks
            None,
            0,
            0,
            tp,
            generation_id=self.app.consumer_generation_id,
        )

    async def _deliver_singly(self, tp: TP, records: Sequence[Any]) -> None:
        """Faust's way, for every other topic (table changelogs above all), minus the four tasks a message."""
        for record in records:
            if tp in self.ledgers:
                self._ledger_for(tp, record.offset).deliver(record.offset, record.offset + 1)
            delivery = asyncio.ensure_future(self.callback(self._to_message(tp, record)))
            suspend = asyncio.ensure_future(self.suspend_flow.wait())
            try:
                await asyncio.wait({delivery, suspend}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                suspend.cancel()
                if not delivery.done():
                    delivery.cancel()
            if delivery.done() and not delivery.cancelled():
                delivery.result()
            if not self.flow_active:
                return

    def _ledger_for(self, tp: TP, offset: int) -> PartitionLedger:
        """The partition's ledger; a new one when the log went back (truncated or made anew while we read)."""
        ledger = self.ledgers[tp]
        if offset >= ledger.delivered:
            return ledger
        self.log.error("%s/%s went back from offset %d to %d: reading on there", *tp, ledger.delivered, offset)
        ledger.close()
        return self._open_ledger(tp, offset, committed=None)
