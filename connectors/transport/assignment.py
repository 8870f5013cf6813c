"""The consumer's half that keeps the ledgers: where to begin, what to commit, what to do when partitions go.

Order of a rebalance: stop handing out, let the agents finish what they hold (bounded), commit, forget, let Faust do its
part; then ask the broker and `resume` where to begin, seek there, open new ledgers, go on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from typing import Any, cast

from faust.exceptions import ImproperlyConfigured
from faust.transport.drivers.aiokafka import Consumer
from faust.types import TP

from connectors.transport.flow import start_offset
from connectors.transport.ledger import PartitionLedger
from connectors.transport.producer import ChunkProducer
from connectors.transport.settings import Options
from connectors.transport.thread import ChunkConsumerThread, Place

#: Seconds for each last commit of a stopping app; what it misses is read again.
STOP_TIMEOUT = 1.5
#: Seconds for the agents of a stopping app to finish what they hold: with the commit after it within the process's end.
STOP_DRAIN = 2.0


class LedgerConsumer(Consumer):
    """Faust's consumer with the ack ledger, the commit and the seek replaced."""

    _thread: ChunkConsumerThread
    _epoch = 0  # the seek that the open ledgers begin at; the thread counts them

    def __init__(self, transport: Any, *args: Any, **kwargs: Any) -> None:
        self.options: Options = transport.options
        super().__init__(transport, *args, **kwargs)
        if self.in_transaction:
            raise ImproperlyConfigured("the chunk transport needs processing_guarantee=at_least_once")
        self.ledgers: dict[TP, PartitionLedger] = {}
        self.ends: dict[TP, int] = {}
        self.progress_at: dict[TP, float] = {}
        self._moved = asyncio.Event()  # some ledger moved
        self._commit_lock = asyncio.Lock()

    def _new_consumer_thread(self) -> ChunkConsumerThread:
        return ChunkConsumerThread(self, loop=self.loop, beacon=self.beacon)

    # --- where to begin ----------------------------------------------------------------------------------------------

    def stop_flow(self) -> None:
        """See Consumer.stop_flow. What is being polled now will be thrown away, so a seek must come before the next."""
        super().stop_flow()
        self._turn += 1
        self._sought = self._open = False

    def resume_flow(self) -> None:
        """See Consumer.resume_flow. Faust empties the agents' queues just before this, so nothing is put in earlier."""
        super().resume_flow()
        self._open = self._sought

    async def perform_seek(self) -> None:
        """Seek every stream partition to its start and open its ledger (Faust calls this after table recovery).

        Never raises: while the broker does not answer, nothing is sought and the drain loop calls this again.
        """
        try:
            await self._seek_streams()
        except Exception as exc:
            self.log.warning("Cannot find where to begin, will try again: %r", exc)

    async def _seek_streams(self) -> None:
        self._forget()
        turn = self._turn
        tps = {tp for tp in self.assignment() if self._is_stream(tp)}
        places = await self._thread.places(tps, timeout=self.options.resume_timeout) if tps else {}
        durable = await self._durable({tp: p.committed for tp, p in places.items() if p.committed is not None})
        starts = {tp: self._start(tp, place, durable.get(tp)) for tp, place in places.items()}
        if turn != self._turn:  # another rebalance came in between and has its own seek
            return
        epoch = await self._thread.seek_streams(starts) if starts else self._epoch
        if turn != self._turn:
            return
        self._epoch = epoch
        for tp, start in starts.items():
            self.ends[tp] = places[tp].end
            self._open_ledger(tp, start, committed=places[tp].committed)
        self._sought = True

    def _is_stream(self, tp: TP) -> bool:
        return self.app.topics.acks_enabled_for(tp.topic) and not self._is_changelog_tp(tp)

    async def _durable(self, committed: Mapping[TP, int]) -> Mapping[TP, int]:
        if self.options.resume is None:
            return {}
        try:
            async with asyncio.timeout(self.options.resume_timeout):
                return await self.options.resume(committed)
        except Exception as exc:  # whatever it is: the group's offset is never ahead of what was acked
            self.log.warning("Durable progress unknown, beginning at the group's offsets: %r", exc)
            return {}

    def _start(self, tp: TP, place: Place, durable: int | None) -> int:
        start = start_offset(
            committed=place.committed,
            durable=durable if tp.topic in self.options.chunked else None,
            begin=place.begin,
            end=place.end,
            reset=self.app.conf.consumer_auto_offset_reset,
        )
        if start.clamped_from is not None:
            self.log.error(
                "%s/%s has offsets %d to %d, wanted %d: beginning at the oldest",
                tp.topic, tp.partition, place.begin, place.end, start.clamped_from,
            )  # fmt: skip
        return start.offset

    def _open_ledger(self, tp: TP, start: int, *, committed: int | None) -> PartitionLedger:
        def moved() -> None:
            self.progress_at[tp] = time.monotonic()
            self._moved.set()

        ledger = PartitionLedger(start, generation=self._turn, committed=committed, on_progress=moved)
        self.ledgers[tp] = ledger
        self.progress_at[tp] = time.monotonic()
        self._committed_offset[tp] = start  # Faust's streams look it up when they ack single messages
        return ledger

    def _forget(self) -> None:
        """What was polled, handed out or acked so far belongs to an assignment that is over."""
        self._turn += 1
        self._sought = self._open = False
        for ledger in self.ledgers.values():
            ledger.close()
        self.ledgers.clear()
        self.ends.clear()
        self.progress_at.clear()
        self._acked.clear()
        self._acked_index.clear()
        for message in list(self._unacked_messages):
            message.acked = True  # an ack that comes late does nothing
        self._unacked_messages.clear()

    # --- what to commit ----------------------------------------------------------------------------------------------

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """Commit what the ledgers allow. Never raises; what failed is kept and tried again. True when committed."""
        if self.app.client_only:
            return False
        async with self._commit_lock:  # Faust lets the second caller go away without a commit
            done: bool = await self.force_commit(topics, start_new_transaction=start_new_transaction)
            return done

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        self._collect_single_acks()
        return (tp for tp in list(self.ledgers) if topics is None or tp in topics or tp.topic in topics)

    def _collect_single_acks(self) -> None:
        """Faust's streams ack single messages into these two; for chunks only `Chunk.ack` counts."""
        for tp, offsets in self._acked.items():
            ledger = self.ledgers.get(tp)
            if ledger is not None and tp.topic not in self.options.chunked:
                for offset in offsets:
                    ledger.ack_offset(offset)
        self._acked.clear()
        self._acked_index.clear()

    def _new_offset(self, tp: TP) -> int | None:
        ledger = self.ledgers.get(tp)
        return None if ledger is None else ledger.committable()

    def _should_commit(self, tp: TP, offset: int) -> bool:
        return True  # the ledger has decided

    async def _commit_offsets(self, offsets: Mapping[TP, int], start_new_transaction: bool = True) -> bool:
        ledgers = {tp: self.ledgers[tp] for tp in offsets}
        timeout = self.options.commit_timeout
        if self.app.should_stop:  # a broker that is away must not hold the exit
            timeout = min(timeout, STOP_TIMEOUT)
        try:
            await cast(ChunkProducer, self.app.producer).settle(timeout=timeout)
            await self._thread.commit_within(offsets, timeout=timeout)
        except Exception as exc:
            self._commit_failed(offsets, exc)
            return False
        for tp, ledger in ledgers.items():
            ledger.committed = offsets[tp]
        self.app.tables.on_commit(dict(offsets))
        self.app.monitor.on_tp_commit(dict(offsets))
        return True

    def _commit_failed(self, offsets: Mapping[TP, int], exc: BaseException) -> None:
        self.log.warning("Offsets of %d partitions not committed, kept for the next try: %r", len(offsets), exc)
        self.options.metrics.inc("chronicle_commit_failures_total", role=self.options.role)
        if self.options.on_commit_failure is not None:
            self.options.on_commit_failure(offsets, exc)

    # --- when partitions go ------------------------------------------------------------------------------------------

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Let the agents finish, commit, forget; then Faust's part."""
        if not self.should_stop:
            self.stop_flow()
            self.app.flow_control.suspend()
            self.app.flow_control.clear()  # what no agent has taken yet will be read again
            await self.drain()
        self._forget()
        await super().on_partitions_revoked(revoked)

    async def drain(self) -> None:
        """Wait until the agents have acked what they hold, at most `drain_timeout` seconds; then commit.

        A stopping app waits for STOP_DRAIN at most: while a sink is away a held batch does not end, and what was acked
        must be committed all the same.
        """
        longest = self.options.drain_timeout
        try:
            async with asyncio.timeout(min(longest, STOP_DRAIN) if self.app.should_stop else longest):
                while any(self._held()):
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            left = ", ".join(f"{tp.topic}/{tp.partition} from {self.ledgers[tp].position}" for tp in self._held())
            self.log.warning("Agents still hold %s: will be read again", left)
        await self.commit()

    def _held(self) -> Iterator[TP]:
        """Partitions of which an agent has taken chunks and not acked them."""
        for tp, ledger in self.ledgers.items():
            if any(getattr(span.tag, "tracked", False) for span in ledger.outstanding() if not span.is_done):
                yield tp

    async def wait_empty(self) -> None:
        """Faust's wait without an end, bounded."""
        await self.drain()

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Faust's livelock messages know nothing of chunks; `positions` and `last_progress` tell more."""

    def _reset_state(self) -> None:
        super()._reset_state()  # called by Faust's __init__, before ours
        self._turn = getattr(self, "_turn", 0) + 1  # grows whenever what was handed out so far became worthless
        self._sought = False  # the streams of this assignment stand where they begin
        self._open = False  # chunks may be handed out
