"""Dedupe: chronicle.ingest -> chronicle.events, each event id once, in the same partition and order.

The five steps of a chunk, each finished before the next begins:
  1. decide             judge every record by id, place and fingerprint (`tables.seen`)
  2. produce and await  passes to `chronicle.events`, what cannot pass to `chronicle.dead-letters`; all acked
  3. changelog, await   one packed record of what is now remembered, acked
  4. store              the same record into RocksDB, with its changelog offset
  5. ack                only now may the group's offset move
A crash after any step repeats the chunk from step 1: what was produced is produced again at the same place in
`chronicle.ingest`, and whoever reads collapses it by that place. Nothing is marked as seen before it was produced.

Chunks of one partition follow each other; steps 1 and 2 of a chunk run while steps 3 to 5 of the one before are under
way (`Pending` lies on top of the store meanwhile), and partitions run beside each other.
"""

from __future__ import annotations

import asyncio
import random
import struct
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, MutableSet, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar
from uuid import UUID

import structlog

from agents import lanes
from agents.hold import Stale, retried
from agents.quarantine import MAX_DETAIL, encode
from connectors.ports import EventLog, Record
from schemas import points
from schemas.clock import Clock
from schemas.errors import Poison
from schemas.event import DeadLetter, IdOrigin, Position
from schemas.metrics import Metrics
from schemas.topics import POSITION_HEADER, Topics
from tables.rocks import Closed, Corrupt
from tables.seen import Decision, Head, Item, Pending, Verdict, decide, fold
from tables.seen_codec import pack, pack_key
from tables.seen_table import SeenTable

#: A record over this cannot be written again (`max.message.bytes` is 2 MiB): it is set aside.
MAX_RECORD_BYTES = 2 * 1024 * 1024 - 64 * 1024
#: Bytes of value a dead letter carries: base64 makes 4/3 of it, and the letter must fit its topic.
MAX_LETTER_BYTES = 1_400_000
#: Likewise of key; ours are session ids of at most 1,020 bytes.
MAX_LETTER_KEY = 32 * 1024
#: Tombstones sent with one chunk once a bucket has expired: the rest follows with the next ones.
TOMBSTONES = 200
#: Ids up to which a changelog record is written again with the next chunk's ids added, instead of a new one.
FOLD_IDS = 32
#: Seconds for the acks of one chunk: no client waits here, and giving up early would only produce it twice.
SEND_TIMEOUT = 10.0

_position = struct.Struct(">iq")
_logger = structlog.get_logger("chronicle.dedupe")
T = TypeVar("T")

#: The named fault point behind each of the five steps.
POINTS = ("dedupe.decided", "dedupe.produced", "dedupe.remembered", "dedupe.stored", "dedupe.acked")


# --- rules -----------------------------------------------------------------------------------------------------------


class Peek(Protocol):
    """(event_id 16 bytes, fingerprint 16 bytes, origin) from a framed record; raises `Poison`."""

    def __call__(self, value: bytes | None) -> tuple[bytes, bytes, IdOrigin]: ...


class Remark(Protocol):
    """The same record with `suspected_duplicate_of` set; raises `Poison`."""

    def __call__(self, value: bytes, suspected_duplicate_of: UUID) -> bytes: ...


class Read(NamedTuple):
    """A chunk as the rule sees it, and why some of its records cannot be read (by index)."""

    items: list[Item]
    poisons: dict[int, Poison]


class Output(NamedTuple):
    """What is produced of a chunk, in its order."""

    events: list[Record]
    letters: list[Record]


def read(records: Sequence[Any], peek: Peek) -> Read:
    """Look at the fixed head of every record; nothing is decoded."""
    items: list[Item] = []
    poisons: dict[int, Poison] = {}
    fresh = IdOrigin.FRESH
    for index, record in enumerate(records):
        value = record.value
        try:
            if (size := _size(record)) > MAX_RECORD_BYTES:
                raise Poison("oversize", f"The record has {size} bytes; {MAX_RECORD_BYTES} can be passed on.")
            event_id, fingerprint, origin = peek(value)
        except Poison as poison:
            poisons[index] = poison
            items.append(Item(record.offset, record.timestamp, None, b"", False))
        else:
            items.append(Item(record.offset, record.timestamp, event_id, fingerprint, origin is fresh))
    return Read(items, poisons)


def _size(record: Any) -> int:
    """Value, key and headers: all of it is written again, and the log has one limit for the whole."""
    size = len(record.value or b"") + len(record.key or b"")
    return size + sum(len(name) + len(value or b"") for name, value in record.headers) if record.headers else size


def output(
    topic: str, partition: int, records: Sequence[Any], seen: Read, decision: Decision, remark: Remark, now_us: int
) -> Output:
    """The records to produce. An event keeps key, value and timestamp and gets its place as a header."""
    events: list[Record] = []
    letters: list[Record] = []
    suspects = decision.suspects
    for index, verdict in enumerate(decision.verdicts):
        if verdict <= Verdict.REPLAY:
            suspect = suspects.get(index)
            events.append(_event(partition, records[index], suspect and UUID(bytes=suspect), remark))
        elif verdict >= Verdict.CONFLICT:
            poison = seen.poisons.get(index) or _conflict(seen.items[index])
            letters.append(_letter(topic, partition, records[index], poison, seen.items[index].event_id, now_us))
    return Output(events, letters)


def _event(partition: int, record: Any, suspect: UUID | bytes | None, remark: Remark) -> Record:
    value = record.value
    if isinstance(suspect, UUID):
        try:
            value = remark(value, suspect)
        except Poison:  # its body is broken: the next stage decodes it and sets it aside with these very bytes
            value = record.value
    headers: tuple[tuple[str, bytes], ...] = ((POSITION_HEADER, _position.pack(partition, record.offset)),)
    if record.headers:
        headers += tuple(header for header in record.headers if header[0] != POSITION_HEADER)
    return Record(record.key, value, headers, partition, record.timestamp)


def _conflict(item: Item) -> Poison:
    event_id = UUID(bytes=item.event_id)
    return Poison("conflict", f"Event {event_id} was already seen with another content; the first one stays.")


def _letter(topic: str, partition: int, record: Any, poison: Poison, event_id: bytes | None, now_us: int) -> Record:
    value, detail = record.value, poison.detail
    if value is not None and len(value) > MAX_LETTER_BYTES:
        detail = f"{detail} (Cut here to {MAX_LETTER_BYTES} of {len(value)} bytes; all of it is at its place.)"
        value = value[:MAX_LETTER_BYTES]
    key = None if record.key is None else record.key[:MAX_LETTER_KEY]
    return encode(
        DeadLetter(
            topic=topic,
            partition=partition,
            offset=record.offset,
            ingest=Position(partition, record.offset),
            stage="dedupe",
            cause=poison.cause,
            detail=detail[:MAX_DETAIL],
            key=key,
            value=value,
            failed_at=now_us,
            event_id=None if event_id is None else UUID(bytes=event_id),
            session_id=None if event_id is None or key is None else key.decode("utf-8", "replace"),
        )
    )


# --- shell -----------------------------------------------------------------------------------------------------------


class Deps(NamedTuple):
    """What the lanes work with. `step(n)` is called after step n of a chunk (fault drills stop there).

    `held` is the set of partitions that wait for the broker or the disk just now.
    """

    table: SeenTable
    log: EventLog
    peek: Peek
    remark: Remark
    topics: Topics
    clock: Clock
    metrics: Metrics
    status: MutableMapping[str, Any]
    held: MutableSet[int]
    abort: Callable[[str], None]
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    jitter: Callable[[], float] = random.random
    step: Callable[[int], None] = lambda number: points.at(POINTS[number - 1])
    fold_ids: int = FOLD_IDS


class _Decided(NamedTuple):
    chunk: Any
    before: Head
    decision: Decision
    poisons: Mapping[int, Poison]


class Lane:
    """The chunks of one partition, in order. `put` waits while two are under way. Never raises; a bug aborts."""

    def __init__(self, partition: int, deps: Deps) -> None:
        self._partition = partition
        self._deps = deps
        self._inbox: asyncio.Queue[Any] = asyncio.Queue(1)
        self._decided: asyncio.Queue[_Decided] = asyncio.Queue(1)
        self._generation: int | None = None
        self._pending: Pending | None = None
        self._last: Decision | None = None  # what the last changelog record of this assignment holds
        self._tasks = [asyncio.ensure_future(self._run(loop)) for loop in (self._passing, self._remembering)]

    async def put(self, chunk: Any) -> None:
        await self._inbox.put(chunk)

    async def close(self) -> None:
        """Stop where it stands; what is not acked comes again."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, loop: Callable[[], Awaitable[None]]) -> None:
        try:
            await loop()
        except Corrupt as error:
            self._deps.table.set_aside(self._partition, str(error))
            self._deps.abort(f"dedupe: partition {self._partition} is set aside for restoring: {error}")
        except Exception as error:  # the agent's loop: a bug must not step over a record
            _logger.exception("dedupe stopped", partition=self._partition)
            self._deps.abort(f"dedupe: {error!r}")

    async def _passing(self) -> None:
        while True:
            chunk = await self._inbox.get()
            try:
                await self._pass(chunk)
            except (Stale, Closed):
                _logger.info("chunk left to its next owner", partition=self._partition, first=chunk.first)

    async def _remembering(self) -> None:
        while True:
            decided = await self._decided.get()
            try:
                await self._remember(decided)
            except (Stale, Closed):
                _logger.info("chunk left to its next owner", partition=self._partition, first=decided.chunk.first)
            finally:
                self._decided.task_done()

    async def _pass(self, chunk: Any) -> None:
        deps = self._deps
        pending = await self._memory(chunk)
        # 1. decide
        seen = read(chunk.records, deps.peek)
        now = deps.clock.now()
        before = pending.head
        decision = await self._hold(
            chunk, "look up", lambda: _now(decide, seen.items, pending, int(now * 1000), deps.table.retention)
        )
        deps.step(1)
        # 2. produce and await
        records = chunk.records
        out = output(chunk.topic, self._partition, records, seen, decision, deps.remark, int(now * 1_000_000))
        for topic, outgoing in ((deps.topics.dead_letters.name, out.letters), (deps.topics.events.name, out.events)):
            if outgoing:
                await self._send(chunk, topic, outgoing)
        deps.step(2)
        pending.push(decision)
        await self._decided.put(_Decided(chunk, before, decision, seen.poisons))

    async def _remember(self, decided: _Decided) -> None:
        deps, (chunk, before, decision, _) = self._deps, decided
        pending = self._pending
        if decision.changes(before):
            # 3. changelog and await
            if not chunk.live:
                raise Stale
            keys = await self._hold(chunk, "sweep", lambda: _now(self._store().expired_keys, TOMBSTONES))
            written = (self._last and fold(self._last, decision, deps.fold_ids)) or decision
            key, value = pack_key(written.bucket, written.base, chunk.generation), pack(written)
            # Tombstones first: the last record of the changelog is then never one, and compaction keeps it.
            records = [*(Record(gone, None, (), self._partition) for gone in keys), self._record(key, value, decision)]
            positions = await self._send(chunk, deps.topics.seen.name, records)
            deps.step(3)
            # 4. store
            applied = [(at.offset, sent.key or b"", sent.value) for at, sent in zip(positions, records, strict=True)]
            await self._hold(chunk, "store", lambda: _now(deps.table.apply, self._partition, applied))
            self._last = written
            deps.step(4)
        if pending is not None:
            pending.pop()
        # 5. ack
        chunk.ack()
        deps.step(5)
        self._report(decided)

    def _store(self) -> Any:
        return self._deps.table.partition(self._partition)

    def _record(self, key: bytes, value: bytes, decision: Decision) -> Record:
        return Record(key, value, (), self._partition, decision.head.clock_ms)

    async def _memory(self, chunk: Any) -> Pending:
        """What is remembered, decisions under way included. A new assignment starts from what is stored."""
        if not chunk.live:
            raise Stale
        if self._pending is None or chunk.generation != self._generation:
            await self._decided.join()
            self._pending, self._generation, self._last = Pending(self._store()), chunk.generation, None
        return self._pending

    async def _send(self, chunk: Any, topic: str, records: Sequence[Record]) -> list[Position]:
        log = self._deps.log
        return await self._hold(chunk, f"produce to {topic}", lambda: log.send(topic, records, timeout=SEND_TIMEOUT))

    async def _hold(self, chunk: Any, what: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """Try until it works, for ever, while the chunk is ours. Raises `Stale` when it no longer is."""
        deps = self._deps
        return await retried(
            what,
            attempt,
            live=lambda: bool(chunk.live),
            held=self._held,
            sleep=deps.sleep,
            jitter=deps.jitter,
            partition=self._partition,
            first=chunk.first,
        )

    def _held(self, now: bool) -> None:
        (self._deps.held.add if now else self._deps.held.discard)(self._partition)

    def _report(self, decided: _Decided) -> None:
        deps, tally = self._deps, Counter(map(int, decided.decision.verdicts))  # an enum's own hash is slow
        for name, verdicts in _COUNTED.items():
            if number := sum(tally[int(verdict)] for verdict in verdicts):
                deps.metrics.inc(name, number)
        causes = Counter(poison.cause for poison in decided.poisons.values())
        causes["conflict"] += tally[int(Verdict.CONFLICT)]
        for cause, number in causes.items():
            if number:
                deps.metrics.inc("chronicle_dead_letters_total", number, stage="dedupe", cause=cause)
        deps.status.update(deps.table.status())


_COUNTED: Mapping[str, tuple[Verdict, ...]] = {
    "chronicle_dedupe_passed_total": (Verdict.PASS, Verdict.MARK),
    "chronicle_dedupe_marked_total": (Verdict.MARK,),
    "chronicle_dedupe_replays_total": (Verdict.REPLAY,),
    "chronicle_dedupe_duplicates_total": (Verdict.DUPLICATE,),
}


async def _now(function: Callable[..., T], *args: Any) -> T:
    """A plain call in the form `_hold` takes."""
    return function(*args)


def attach(app: Any, *, chunks: Any, deps: Deps) -> Any:
    """The agent `dedupe` on `chunks` (`chronicle.ingest`). It never raises."""
    return lanes.attach(app, "dedupe", chunks=chunks, lane=lambda partition: Lane(partition, deps))
