"""Aggregate: `chronicle.events` -> the aggregate tables, whose changelog anybody may read.

The steps of a batch (what came within a second, at most BATCH records of one partition), each finished before the next:
  1. decode             what cannot be is passed over here; persist makes it a dead letter
  2. apply              to the values under the touched keys (`tables.usage`)
  3. changelog, await   each changed value under its key, sessions and names last; acked
  4. store              the same records into RocksDB, behind those that another worker has written meanwhile
  5. ack                only now may the group's offset move
A crash after any step repeats the batch. Each value carries the position up to which it counts, so a repeat changes
nothing, however much of step 3 had been written.

A worker that was suspended may write once more after its partition has gone to another. The offsets of step 3 tell:
where they do not follow what is known, somebody else has written, and that is read first. Of two values the one that
counts further stays (`tables.usage_store`), and goes into the changelog again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableSet, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import structlog

from agents import lanes
from agents.hold import Stale, retried
from agents.lanes import Lingering
from agents.persist import STEP, decode
from connectors.ports import Codec, EventLog, Record
from schemas import points
from schemas.clock import Clock
from schemas.event import LoggedEvent, Position
from schemas.metrics import Metrics
from schemas.topics import Topics
from tables.changelogged import Change
from tables.rocks import Closed, Corrupt
from tables.usage import Key, Value, advance
from tables.usage_apply import apply
from tables.usage_codec import CLOCK, NewestTime, pack, pack_key
from tables.usage_store import UsageStore
from tables.usage_table import UsageTable

#: Records and seconds that are counted at once: a busy key is written once for all of them. Half of what may be handed
#: out and not acked (`connectors.transport.use`).
BATCH, LINGER_S = 4_000, 1.0
#: Tombstones sent with one batch once buckets have expired.
TOMBSTONES = 500
#: Seconds for the acks of one batch.
SEND_TIMEOUT = 10.0

T = TypeVar("T")
_logger = structlog.get_logger("chronicle.aggregate")


# --- rules -----------------------------------------------------------------------------------------------------------


def output(
    changed: dict[Key, Value],
    newest: int,
    partition: int,
    gone: Sequence[bytes] = (),
    again: Sequence[tuple[bytes, bytes]] = (),
) -> list[Record]:
    """The changelog records of a batch, in the order they must be written in; none when nothing changed.

    `gone` are keys that end, `again` values that the changelog has, but not last.
    """
    if not changed:
        return []
    repeated = [Record(key, value, (), partition) for key, value in again]
    dropped = [Record(key, None, (), partition) for key in gone]
    clock = Record(pack_key(CLOCK), pack(NewestTime(newest)), (), partition)
    return [
        *repeated,
        *dropped,
        clock,
        *(Record(pack_key(key), pack(value), (), partition) for key, value in changed.items()),
    ]


# --- shell -----------------------------------------------------------------------------------------------------------


class Scan(Protocol):
    """Reads a stretch of a topic (`connectors.scan.LogScan.read`); raises `Unavailable`."""

    async def read(self, topic: str, partition: int, start: int, end: int, most: int) -> Any: ...


class Deps(NamedTuple):
    """What the lanes work with. `held` is the set of partitions that wait for the broker or the disk just now."""

    table: UsageTable
    log: EventLog
    scan: Scan
    codec: Codec
    topics: Topics
    clock: Clock
    metrics: Metrics
    held: MutableSet[int]
    abort: Callable[[str], None]
    linger_s: float = LINGER_S
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


class Lane(Lingering):
    """The chunks of one partition. A bug aborts; a store that is corrupt is set aside first."""

    left = (Closed, Stale)

    def __init__(self, partition: int, deps: Deps) -> None:
        super().__init__(partition, most=BATCH, linger_s=deps.linger_s)
        self._deps = deps

    def failed(self, error: Exception) -> None:
        """See `Lingering`."""
        if isinstance(error, Corrupt):
            self._deps.table.set_aside(self._partition, str(error))
            self._deps.abort(f"aggregate: partition {self._partition} is set aside for restoring: {error}")
            return
        _logger.error("aggregate stopped", partition=self._partition, exc_info=error)
        self._deps.abort(f"aggregate: {error!r}")

    async def work(self, chunks: Sequence[Any]) -> None:
        """See `Lingering`."""
        deps = self._deps
        events = [event for chunk in chunks for event in await self._decoded(chunk)]  # 1
        store = deps.table.partition(self._partition)
        newest = advance(store.newest, events, int(deps.clock.now() * 1_000_000))
        changed = apply(events, store.lookup, newest)  # 2
        gone, again = store.expired(newest, TOMBSTONES), store.overtaken(TOMBSTONES)
        records = output(changed, newest, self._partition, gone, again)
        points.at("aggregate.applied")
        if records:
            await self._write(store, chunks[-1], records)  # 3, 4
        points.at("aggregate.stored")
        for chunk in chunks:  # 5
            chunk.ack()
        points.at("aggregate.acked")
        deps.metrics.inc("chronicle_aggregate_events_total", len(events))

    async def _decoded(self, chunk: Any) -> list[LoggedEvent]:
        found, codec, now = [], self._deps.codec, int(self._deps.clock.now() * 1_000_000)
        for at in range(0, len(chunk.records), STEP):
            for record in chunk.records[at : at + STEP]:
                item = decode(record, topic=chunk.topic, partition=chunk.partition, codec=codec, failed_at=now)
                if isinstance(item, LoggedEvent):
                    found.append(item)
            await asyncio.sleep(0)
        return found

    async def _write(self, store: UsageStore, last: Any, records: Sequence[Record]) -> None:
        deps, topic = self._deps, self._deps.topics.aggregates.name

        async def send() -> list[Position]:
            return await deps.log.send(topic, records, timeout=SEND_TIMEOUT)

        if not last.live:
            raise Stale
        places = await self._retried(f"produce to {topic}", last, send)
        points.at("aggregate.produced")
        changes: list[Change] = [
            (place.offset, record.key or b"", record.value) for place, record in zip(places, records, strict=True)
        ]

        missed = await self._retried("read what another wrote", last, lambda: self._missed(places[0].offset))

        async def put() -> None:
            store.apply([*missed, *changes])

        await self._retried("store", last, put)

    async def _missed(self, first: int) -> list[Change]:
        """The records between what is known and `first`, where our own begin: none, as long as we are alone."""
        found: list[Change] = []
        at, topic = self._deps.table.known(self._partition), self._deps.topics.aggregates.name
        if at < first:
            _logger.warning("another worker has written", partition=self._partition, first=at, records=first - at)
        while at < first:
            stretch = await self._deps.scan.read(topic, self._partition, at, first, BATCH)
            found += [(offset, key or b"", value) for offset, key, value, _ in stretch.records]
            at = max(stretch.next, at + 1)
        return found

    async def _retried(self, what: str, last: Any, attempt: Callable[[], Awaitable[T]]) -> T:
        def held(now: bool) -> None:
            (self._deps.held.add if now else self._deps.held.discard)(self._partition)

        return await retried(
            what,
            attempt,
            live=lambda: bool(last.live),
            held=held,
            sleep=self._deps.sleep,
            partition=self._partition,
            first=last.first,
        )


def attach(app: Any, *, chunks: Any, deps: Deps) -> Any:
    """The agent `aggregate` on `chunks` (`chronicle.events`). It never raises."""
    return lanes.attach(app, "aggregate", chunks=chunks, lane=lambda partition: Lane(partition, deps))
