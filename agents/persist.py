"""Persist: from `chronicle.events` into a sink, whatever fails.

1. collect without ack · 2. decode (what cannot be is a dead letter) · 3. write one batch in one transaction ·
4. produce the dead letters and await them · 5. ack last.

A crash between any two of these repeats the steps from the last ack on, and the repeat changes nothing: the sink knows
an event by its id and its ingest position, a dead letter is known by the place it was read at. What is away (both
sinks, or the broker for a dead letter) is waited for, for ever; nothing is dropped and nothing is acked meanwhile.

Two coroutines share one `Batcher`: the agent does 1 and 2 while the writer does 3 to 5 with the batch before, one batch
in flight, so that order is kept. The writer has its own timer: a lone event does not wait for a second one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import structlog
from faust.types import TP

from agents.batching import Batcher, BatchPolicy, Cut, Item, Slice
from agents.hold import Hold
from agents.quarantine import MAX_DETAIL, bury, grouped, position_of, set_aside
from connectors.ports import Codec, EventLog, Receipt, Sink
from schemas import points
from schemas.clock import Clock
from schemas.errors import Poison
from schemas.event import DeadLetter, LoggedEvent, Position
from schemas.metrics import Metrics
from schemas.topics import Topics

STEP = 250  # records decoded in one go: about 2 ms, so that the event loop stays free for web and heartbeats

_logger = structlog.get_logger("chronicle.persist")


# --- rules -----------------------------------------------------------------------------------------------------------


def decode(record: Any, *, topic: str, partition: int, codec: Codec, failed_at: int) -> Item:
    """The event of a record, or its dead letter; never raises.

    A record without `chronicle-position` was produced by somebody else. It is stored as well, under the ingest
    position (-1 - partition, its own offset): still unique, and never equal to one that came through ingest.
    """
    ingest = position_of(record.headers)
    try:
        if record.value is None:
            raise Poison("undecodable", "The record has no value.")
        event = codec.decode(record.value)
    except Exception as error:  # a codec's bug is this record's trouble, not that of those behind it
        cause = error.cause if isinstance(error, Poison) else "undecodable"
        return DeadLetter(
            topic=topic,
            partition=partition,
            offset=record.offset,
            ingest=ingest,
            stage="persist",
            cause=cause,
            detail=(str(error) or repr(error))[:MAX_DETAIL],
            key=record.key,
            value=record.value,
            failed_at=failed_at,
        )
    return LoggedEvent(
        event=event,
        ingest=ingest or Position(-1 - partition, record.offset),
        events=Position(partition, record.offset),
        value=record.value,
    )


def slices(chunk: Any, codec: Codec, failed_at: int, step: int = STEP) -> Iterator[Slice]:
    """The chunk decoded, `step` records at a time; together the slices cover [chunk.first, chunk.next)."""
    records = chunk.records
    for at in range(0, max(1, len(records)), step):
        upto = at + step
        yield Slice(
            partition=chunk.partition,
            start=records[at].offset if at else chunk.first,
            end=records[upto].offset if upto < len(records) else chunk.next,
            items=[
                decode(record, topic=chunk.topic, partition=chunk.partition, codec=codec, failed_at=failed_at)
                for record in records[at:upto]
            ],
            chunk=chunk,
            generation=chunk.generation,
        )


def durable_starts(asked: Iterable[TP], durable: Mapping[int, int], topic: str) -> dict[TP, int]:
    """What the sink has of each partition asked for; 0 where it has nothing. Other topics are not its business.

    The transport begins at the smaller of this and the group's offset. A group that is ahead of the sink (an offset
    committed by a fault, a database restored from a backup or new) is set back; what the sink has too is a replay.
    """
    return {tp: durable.get(tp.partition, 0) for tp in asked if tp.topic == topic}


def lowered(
    committed: Mapping[TP, int], durable: Mapping[TP, int], lost: Mapping[int, int], topic: str, letters: str = ""
) -> dict[TP, int]:
    """`durable`, and for each partition with a loss not above where the loss begins; `letters` then from 0."""
    starts = dict(durable)
    for tp, offset in committed.items():
        if tp.topic == topic and tp.partition in lost:
            starts[tp] = min(starts.get(tp, offset), lost[tp.partition])
        elif tp.topic == letters and lost:
            starts[tp] = 0
    return starts


# --- shell -----------------------------------------------------------------------------------------------------------


class PersistStatus:
    """What the agent tells of itself in the worker's status; the house makes one and gives it to `attach`."""

    def __init__(self) -> None:
        self.hold: Hold | None = None
        self.batcher: Batcher | None = None
        self.partitions: dict[int, int] = {}
        self.stored = self.duplicates = self.dead = 0

    def snapshot(self) -> dict[str, Any]:
        """partitions {p: {next}}, stored, duplicates, dead (since start), pending, held_since, held_because."""
        return {
            "partitions": {str(partition): {"next": offset} for partition, offset in self.partitions.items()},
            "stored": self.stored,
            "duplicates": self.duplicates,
            "dead": self.dead,
            "pending": self.batcher.pending if self.batcher else 0,
            "held_since": self.hold.since if self.hold else None,
            "held_because": self.hold.reason if self.hold else None,
        }


class Persister:
    """Steps 1 and 2 in `take`, 3 to 5 in `run`. Both run in one event loop."""

    def __init__(
        self,
        *,
        sink: Sink,
        log: EventLog,
        codec: Codec,
        topics: Topics,
        policy: BatchPolicy,
        clock: Clock,
        metrics: Metrics,
        status: PersistStatus | None = None,
        hold: Hold | None = None,
    ) -> None:
        self._sink, self._log, self._codec, self._topics = sink, log, codec, topics
        self._clock, self._metrics = clock, metrics
        self._batcher = Batcher(policy)
        self._hold = hold or Hold(clock=clock, metrics=metrics)
        self._status = status or PersistStatus()
        self._status.hold, self._status.batcher = self._hold, self._batcher
        self._generations: dict[int, int] = {}
        self._arrived = asyncio.Event()
        self._cut = asyncio.Event()

    async def take(self, chunk: Any) -> None:
        """Steps 1 and 2. Returns when the whole chunk waits in the batcher; waits while that is full (backpressure)."""
        if self._generations.get(chunk.partition, chunk.generation) != chunk.generation:
            again = self._batcher.trim(chunk.partition, chunk.first)
            _logger.info("delivered again after a rebalance", partition=chunk.partition, first=chunk.first, again=again)
        self._generations[chunk.partition] = chunk.generation
        for part in slices(chunk, self._codec, self._now_us()):
            await self._room()
            self._batcher.add(part, self._clock.monotonic())
            self._arrived.set()
            await asyncio.sleep(0)
        points.at("persist.decoded")

    async def run(self) -> None:
        """The writer. Raises only CancelledError, or what is a bug of ours."""
        while True:
            reason = self._batcher.due(self._clock.monotonic())
            if reason is None:
                await self._wait()
                continue
            cut = self._batcher.cut(reason)
            self._cut.set()
            await self.settle(cut)

    async def settle(self, cut: Cut) -> None:
        """Steps 3, 4 and 5 for one batch."""
        began = self._clock.monotonic()
        receipt = await self._hold.until("write a batch", lambda: self._sink.write(cut.batch))  # 3
        refused = set_aside(receipt, topic=self._topics.events.name, failed_at=self._now_us())
        letters = [*cut.letters, *refused]
        await self._bury(letters)  # 4
        points.at("persist.before_ack")
        for part in cut.slices:  # 5
            if part.chunk is not None:
                part.chunk.ack(through=part.end)
        points.at("persist.after_ack")
        self._tell(cut, receipt, letters, self._clock.monotonic() - began)

    async def _bury(self, letters: Sequence[DeadLetter]) -> None:
        topic = self._topics.dead_letters.name
        for group in grouped(letters):
            await self._hold.until(
                "produce dead letters", partial(bury, group, log=self._log, sink=self._sink, topic=topic)
            )

    async def _room(self) -> None:
        while self._batcher.full:
            self._cut.clear()
            await self._cut.wait()

    async def _wait(self) -> None:
        """Until something arrives or the oldest record is old enough."""
        self._arrived.clear()
        deadline = self._batcher.next_deadline()
        seconds = None if deadline is None else max(0.0, deadline - self._clock.monotonic())
        try:
            async with asyncio.timeout(seconds):
                await self._arrived.wait()
        except TimeoutError:
            return

    def _now_us(self) -> int:
        return int(self._clock.now() * 1_000_000)

    def _tell(self, cut: Cut, receipt: Receipt, letters: Sequence[DeadLetter], seconds: float) -> None:
        """Figures and the one log line of a batch."""
        events, status, metrics = len(cut.batch.events), self._status, self._metrics
        for span in cut.batch.spans:
            status.partitions[span.partition] = span.end
        status.stored += receipt.stored
        status.duplicates += receipt.duplicates
        status.dead += len(letters)
        metrics.observe("chronicle_batch_events", events, reason=cut.reason)
        metrics.inc("chronicle_sink_stored_total", receipt.stored, sink=receipt.sink)
        if receipt.duplicates:
            metrics.inc("chronicle_sink_duplicates_total", receipt.duplicates, sink=receipt.sink)
        for letter in letters:
            metrics.inc("chronicle_dead_letters_total", stage="persist", cause=letter.cause)
        _logger.info(
            "batch",
            reason=cut.reason,
            sink=receipt.sink,
            events=events,
            stored=receipt.stored,
            replays=receipt.replays,
            duplicates=receipt.duplicates,
            dead=len(letters),
            ms=round(seconds * 1000, 1),
        )


def resume(
    sink: Sink, topic: str, recall: Callable[[], Awaitable[Mapping[int, int]]] | None = None, letters: str = ""
) -> Callable[[Mapping[TP, int]], Awaitable[Mapping[TP, int]]]:
    """For `transport.use(resume=…)`: the durable progress of the partitions of `topic` (`chronicle.events`).

    `recall` (`Recall.starts`) answers where reading must begin at the latest because a SQLite store was lost; it counts
    also while Postgres is away. Then `letters` (`chronicle.dead-letters`) is mirrored from its beginning as well: the
    lost file had those letters too, and a letter that is there already is known by its place. Without a loss the
    answer raises `Unavailable` while Postgres is away, and the group's offsets stand. They may: an offset is acked
    only after a durable write.
    """

    async def durable_progress(committed: Mapping[TP, int]) -> Mapping[TP, int]:
        progress, lost = await asyncio.gather(sink.progress(), _lost(recall), return_exceptions=True)
        if isinstance(lost, BaseException):
            _logger.warning("ranges of lost stores unknown, will look again", error=str(lost))
            lost = {}
        if isinstance(progress, BaseException) and not lost:
            raise progress
        durable = {} if isinstance(progress, BaseException) else durable_starts(committed, progress, topic)
        return lowered(committed, durable, lost, topic, letters)

    return durable_progress


async def _lost(recall: Callable[[], Awaitable[Mapping[int, int]]] | None) -> Mapping[int, int]:
    return {} if recall is None else await recall()


def attach(
    app: Any,
    *,
    topic: Any,
    sink: Sink,
    log: EventLog,
    codec: Codec,
    topics: Topics,
    policy: BatchPolicy,
    clock: Clock,
    metrics: Metrics,
    status: PersistStatus,
    abort: Callable[[str], None],
) -> Any:
    """The agent `persist` on `topic` (`chronicle.events`, raw bytes, chunks). It never raises.

    `abort(reason)` ends the process when the agent meets a bug: a restart reads on at the last ack, while an agent
    restarted in place would step over what it had not acked.
    """

    def stopped(writer: asyncio.Task[None]) -> None:
        if not writer.cancelled() and (error := writer.exception()) is not None:
            _logger.error("the writer stopped", exc_info=error)
            abort(f"persist: {error!r}")

    async def persist(stream: Any) -> None:
        persister = Persister(
            sink=sink, log=log, codec=codec, topics=topics, policy=policy, clock=clock, metrics=metrics, status=status
        )
        writer = asyncio.create_task(persister.run(), name="persist-writer")
        writer.add_done_callback(stopped)
        try:
            async for chunk in stream.noack():
                await persister.take(chunk)
        except Exception as error:  # the agent loop
            _logger.exception("persist stopped")
            abort(f"persist: {error!r}")
        finally:
            writer.cancel()

    return app.agent(topic, name="persist", concurrency=1)(persist)
