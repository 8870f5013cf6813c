"""Fakes of the two sinks, the log and the clock, for everything between `chronicle.events` and a database.

They keep the promises of `connectors.ports` and fail on command; records and chunks go through the real codec and the
real `Chunk`.
"""

from __future__ import annotations

import asyncio
import hashlib
import struct
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import msgspec

from connectors.ports import Batch, FailoverRange, OutboxRow, Receipt, Record, Span, SyncRun
from connectors.transport.chunk import Chunk
from schemas.codec import AvroCodec
from schemas.errors import Poison, Unavailable
from schemas.event import DeadLetter, HookEvent, IdOrigin, LoggedEvent, Position
from schemas.topics import POSITION_HEADER, topics

TOPICS = topics(prefix="test", partitions=4)
CODEC = AvroCodec()


class ManualClock:
    """Stands still until told; both hands move together."""

    def __init__(self, at: float = 1_000.0) -> None:
        self.at = at

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at

    def new_id(self) -> UUID:
        raise AssertionError("nobody between log and sink makes ids")

    async def sleep(self, seconds: float) -> None:
        """Moves the clock instead of waiting, and lets others run."""
        self.at += seconds
        await asyncio.sleep(0)


class CountingMetrics:
    """Adds up what is counted, by (name, *label values)."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, ...], float] = {}
        self.gauges: dict[str, float] = {}

    def inc(self, name: str, value: float = 1, **labels: str) -> None:
        key = (name, *labels.values())
        self.counts[key] = self.counts.get(key, 0) + value

    def set(self, name: str, value: float, **labels: str) -> None:
        self.gauges[name] = value

    def observe(self, name: str, value: float, **labels: str) -> None:
        self.inc(name, value, **labels)


def make_event(number: int, *, session: str = "s", kind: str = "tool_pre_use", payload: str = "{}") -> HookEvent:
    """The event with the id `number`; equal arguments make equal events."""
    content = hashlib.sha256(f"{session}\0{kind}\0{payload}".encode()).digest()[:16]
    return HookEvent(
        event_id=UUID(int=number),
        fingerprint=content,
        id_origin=IdOrigin.CLIENT,
        session_id=session,
        event_type=kind,
        occurred_at=number,
        received_at=number,
        source="test",
        payload=payload,
    )


def logged(number: int, *, partition: int = 0, offset: int | None = None, **fields: Any) -> LoggedEvent:
    """The event `number` as read at `offset` (default: `number`) of both topics."""
    at = Position(partition, number if offset is None else offset)
    event = make_event(number, **fields)
    return LoggedEvent(event=event, ingest=at, events=at, value=CODEC.encode(event))


def letter(number: int, *, value: bytes = b"bytes") -> DeadLetter:
    """A dead letter read at offset `number`."""
    return DeadLetter(
        topic=TOPICS.ingest.name,
        partition=0,
        offset=number,
        ingest=Position(0, number),
        stage="dedupe",
        cause="undecodable",
        detail="broken",
        key=b"k",
        value=value,
        failed_at=1,
    )


class KafkaRecord(msgspec.Struct):
    """What aiokafka gives."""

    offset: int
    value: bytes | None
    key: bytes | None = b"s"
    headers: Sequence[tuple[str, bytes]] = ()
    timestamp: int = 0
    topic: str = TOPICS.events.name
    partition: int = 0


def record(offset: int, value: bytes | HookEvent | None = None, *, partition: int = 0) -> KafkaRecord:
    """A record of chronicle.events; an event (default: that with the offset's number) came through ingest."""
    if isinstance(value, HookEvent) or value is None:
        value = CODEC.encode(value or make_event(offset + 1000 * partition))
    headers = ((POSITION_HEADER, struct.pack(">iq", partition, offset)),)
    return KafkaRecord(offset=offset, value=value, headers=headers, partition=partition)


def chunk(records: Sequence[Any], *, partition: int = 0, topic: str = TOPICS.events.name) -> Chunk:
    """A chunk with an ack ledger of its own."""
    return Chunk(topic, partition, records)


class FakeSink:
    """A sink in memory. `down` is raised by every call while set; `script` holds the fate of the next writes.

    A fate is None (works), an exception (nothing was written), or "unknown" (written, and `Unavailable` all the same).
    `gate`, when set, keeps writes waiting until the event is set. Ids in `refuse` are refused for their content.
    """

    def __init__(self, name: str = "memory") -> None:
        self.name = name
        self.rows: dict[UUID, LoggedEvent] = {}
        self.dead: dict[tuple[str, int, int], DeadLetter] = {}
        self.next: dict[int, int] = {}
        self.batches: list[Batch] = []
        self.script: list[Exception | str | None] = []
        self.down: Exception | None = None
        self.gate: asyncio.Event | None = None
        self.refuse: set[int] = set()
        self.calls = 0
        self.opened = self.closed = False

    async def open(self) -> None:
        self.opened = True

    async def close(self) -> None:
        self.closed = True

    async def write(self, batch: Batch) -> Receipt:
        fate = await self._fate()
        receipt = self._store(batch)
        self.batches.append(batch)
        if fate == "unknown":
            raise Unavailable(self.name, "cut after COMMIT", unknown=True)
        return receipt

    async def write_dead_letters(self, letters: Sequence[DeadLetter]) -> int:
        await self._fate()
        before = len(self.dead)
        for item in letters:
            self.dead.setdefault((item.topic, item.partition, item.offset), item)
        return len(self.dead) - before

    async def progress(self) -> dict[int, int]:
        await self._fate()
        return dict(self.next)

    async def probe(self) -> None:
        await self._fate()

    async def _fate(self) -> Exception | str | None:
        self.calls += 1
        await asyncio.sleep(0)
        if self.gate is not None:
            await self.gate.wait()
        if self.down is not None:
            raise self.down
        fate = self.script.pop(0) if self.script else None
        if isinstance(fate, Exception):
            raise fate
        return fate

    def _store(self, batch: Batch) -> Receipt:
        stored = replays = duplicates = 0
        conflicts, refused = [], []
        for item in batch.events:
            there = self.rows.get(item.event.event_id)
            if item.event.event_id.int in self.refuse:
                refused.append((item, "22001: no"))
            elif there is None:
                self.rows[item.event.event_id] = item
                self._stored(item)
                stored += 1
            elif there.ingest == item.ingest:
                replays += 1
            elif there.event.fingerprint == item.event.fingerprint:
                duplicates += 1
            else:
                conflicts.append(item)
        for span in batch.spans:
            self.next[span.partition] = max(self.next.get(span.partition, 0), span.end)
        kind: Any = self.name if self.name in ("postgres", "sqlite") else "memory"
        return Receipt(
            sink=kind, stored=stored, replays=replays, duplicates=duplicates, conflicts=conflicts, refused=refused
        )

    def _stored(self, item: LoggedEvent) -> None:
        """For the local sink."""


class FakeLocal(FakeSink):
    """A local sink with its outbox: a `Backlog` too."""

    def __init__(self) -> None:
        super().__init__("sqlite")
        self.outbox: list[OutboxRow] = []
        self.synced = 0
        self.peeked: list[tuple[int, int]] = []
        self.letters_synced: set[tuple[str, int, int]] = set()
        self.spans: list[tuple[int, Span]] = []

    def _store(self, batch: Batch) -> Receipt:
        receipt = super()._store(batch)
        self.spans += [(len(self.outbox), span) for span in batch.spans]
        place: dict[str, Any] = {"store": "fake", "scope": "here", "at": 0}
        ranges = [
            FailoverRange(number=one.start, partition=one.partition, start=one.start, end=one.end, **place)
            for one in batch.spans
        ]
        return msgspec.structs.replace(receipt, ranges=ranges)

    async def ranges(self) -> list[Span]:
        if self.down is not None:
            raise self.down
        return [span for last, span in self.spans if last > self.synced]

    def _stored(self, item: LoggedEvent) -> None:
        self.outbox.append(OutboxRow(len(self.outbox) + 1, item))

    async def pending(self) -> int:
        return len(self.outbox) - self.synced

    async def peek(self, limit: int, after: int = 0) -> list[OutboxRow]:
        self.peeked.append((limit, after))
        begin = max(self.synced, after)
        return self.outbox[begin : begin + limit]

    async def mark_synced(self, up_to_seq: int) -> None:
        assert up_to_seq > self.synced, "rows leave in order"
        self.synced = up_to_seq

    async def dead_letters(self, limit: int) -> list[DeadLetter]:
        return [item for key, item in self.dead.items() if key not in self.letters_synced][:limit]

    async def mark_dead_letters_synced(self, letters: Sequence[DeadLetter]) -> None:
        self.letters_synced |= {(item.topic, item.partition, item.offset) for item in letters}


def digest(events: Iterable[LoggedEvent]) -> tuple[int, int]:
    """Count and hash, in any order."""
    pairs = {(item.event.event_id.int, item.event.fingerprint) for item in events}
    return len(pairs), hash(frozenset(pairs))


class FakePrimary(FakeSink):
    """A primary: it can be asked what it holds. `forget` are ids it lost; `locked` is held by another process."""

    def __init__(self) -> None:
        super().__init__("postgres")
        self.forget: set[int] = set()
        self.locked = False
        self.runs: list[SyncRun] = []

    async def verify(self, events: Sequence[LoggedEvent]) -> tuple[int, int]:
        await self._fate()
        ids = {item.event.event_id for item in events if item.event.event_id.int not in self.forget}
        return digest([self.rows[id] for id in ids if id in self.rows])

    async def record_sync(self, run: SyncRun) -> None:
        await self._fate()
        self.runs.append(run)

    @asynccontextmanager
    async def sync_lock(self, scope: str = "") -> AsyncIterator[bool]:
        await self._fate()
        yield not self.locked


class FakeLog:
    """The log in memory. `down` is raised while set; a record above `limit` bytes is Poison, as in the real one."""

    def __init__(self, limit: int = 1 << 30) -> None:
        self.limit = limit
        self.down: Exception | None = None
        self.sent: dict[str, list[Record]] = {}
        self.calls = 0

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def probe(self, timeout: float = 2.0) -> None: ...

    async def send(self, topic: str, records: Sequence[Record], *, timeout: float = 2.0) -> list[Position]:
        self.calls += 1
        await asyncio.sleep(0)
        if self.down is not None:
            raise self.down
        if any(len(item.value or b"") > self.limit for item in records):
            raise Poison("oversize", "too large")
        log = self.sent.setdefault(topic, [])
        log.extend(records)
        return [Position(0, len(log) - len(records) + index) for index in range(len(records))]


async def until(condition: Callable[[], Any], seconds: float = 5.0) -> None:
    """Await a condition; fails when the deadline passes."""

    async def poll() -> None:
        while not condition():
            await asyncio.sleep(0.001)

    await asyncio.wait_for(poll(), seconds)


def away(text: str = "connection refused", *, kind: str | None = None, unknown: bool = False) -> Unavailable:
    """An outage, as the real sinks raise it."""
    error = Unavailable("postgres", text, unknown=unknown)
    if kind is not None:
        error.kind = kind  # type: ignore[attr-defined]
    return error
