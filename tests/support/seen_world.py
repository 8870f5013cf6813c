"""A small world for the dedup agent: records, a log in memory that can fail, a table over real RocksDB stores."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from agents.dedupe import Deps, Lane
from connectors.ports import Record
from schemas.codec import AvroCodec
from schemas.errors import Unavailable
from schemas.event import HookEvent, IdOrigin, Position
from schemas.metrics import NullMetrics
from schemas.topics import topics
from tables.rocks import Closed
from tables.seen import Retention
from tables.seen_store import PartitionStore

CODEC = AvroCodec()
TOPICS = topics(prefix="t", partitions=1)
T0 = 1_750_000_000_000  # ms


class Read(NamedTuple):
    """A record as the transport hands it out."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


def record(
    offset: int, event_id: uuid.UUID, payload: str = "{}", *, origin: IdOrigin = IdOrigin.CLIENT, at: int = T0
) -> Read:
    """A real framed record whose fingerprint follows from the payload."""
    event = HookEvent(
        event_id=event_id,
        fingerprint=uuid.uuid5(uuid.NAMESPACE_OID, payload).bytes,
        id_origin=origin,
        session_id="s",
        event_type="x",
        occurred_at=at * 1000,
        received_at=at * 1000,
        source="test",
        payload=payload,
    )
    return Read(offset, at, b"s", CODEC.encode(event))


class Clock:
    """Wall clock that stands where it is put."""

    def __init__(self, now: float = T0 / 1000 + 86_400) -> None:
        self.at = now

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at

    def new_id(self) -> uuid.UUID:
        return uuid.uuid4()


class Chunk:
    """A chunk whose ack moves `committed` through a callback; `live` until told otherwise."""

    def __init__(self, records: Sequence[Read], on_ack: Callable[[int], None], generation: int = 1) -> None:
        self.topic, self.partition, self.records, self.generation = TOPICS.ingest.name, 0, records, generation
        self.first, self.next, self.live = records[0].offset, records[-1].offset + 1, True
        self._on_ack = on_ack

    def ack(self, through: int | None = None) -> None:
        self._on_ack(self.next if through is None else through)


class MemoryLog:
    """An `EventLog` in memory. `faults` are taken one a send: None works, "lost" raises before writing, "unknown"
    writes half and raises."""

    def __init__(self, faults: Iterable[str | None] = ()) -> None:
        self.topics: dict[str, list[Record]] = {}
        self.faults = iter(faults)

    async def open(self) -> None:
        """Nothing."""

    async def send(self, topic: str, records: Sequence[Record], *, timeout: float = 2.0) -> list[Position]:
        await asyncio.sleep(0)
        fault = next(self.faults, None)
        if fault == "lost":
            raise Unavailable("log", "away")
        written = self.topics.setdefault(topic, [])
        start = len(written)
        written.extend(records if fault is None else records[: len(records) // 2])
        if fault is not None:
            raise Unavailable("log", "no answer", unknown=True)
        return [Position(0, start + index) for index in range(len(records))]

    async def probe(self, timeout: float = 2.0) -> None:
        """Nothing."""

    async def close(self) -> None:
        """Nothing."""

    def changelog(self) -> list[tuple[int, bytes, bytes | None]]:
        return [(at, r.key or b"", r.value) for at, r in enumerate(self.topics.get(TOPICS.seen.name, []))]

    def compacted(self) -> list[tuple[int, bytes, bytes | None]]:
        """What the broker's cleaner leaves at best: the last record of each key, no tombstones but at the end."""
        last = {key: at for at, key, _ in self.changelog()}
        rows = [row for row in self.changelog() if last[row[1]] == row[0]]
        return [row for row in rows if row[2] is not None or row is rows[-1]]


class OneTable:
    """What the agent needs of `SeenTable`, for partition 0."""

    def __init__(self, path: Path, retention: Retention = Retention()) -> None:  # noqa: B008 - immutable
        self.path, self.retention = path, retention
        self.store: PartitionStore | None = PartitionStore.open(path)
        self.set_aside_for: list[str] = []

    def partition(self, partition: int) -> PartitionStore:
        if self.store is None:
            raise Closed(str(partition))
        return self.store

    def apply(self, partition: int, records: Iterable[tuple[int, bytes, bytes | None]]) -> None:
        self.partition(partition).apply(records, own=True)

    def restore(self, rows: Sequence[tuple[int, bytes, bytes | None]]) -> None:
        """What Faust does on assignment: everything behind the persisted offset."""
        persisted = self.partition(0).persisted
        self.partition(0).apply([row for row in rows if persisted is None or row[0] > persisted])

    def set_aside(self, partition: int, reason: str) -> None:
        self.set_aside_for.append(reason)

    def status(self) -> dict[str, Any]:
        return {"next": self.partition(0).head.next}

    def close(self) -> None:
        if self.store is not None:
            self.store.close()
            self.store = None


class Crash(Exception):
    """The process died here."""


class Aborted:
    """Takes the place of ending the process."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.event = asyncio.Event()

    def __call__(self, reason: str) -> None:
        self.reasons.append(reason)
        self.event.set()


def deps(table: OneTable, log: MemoryLog, abort: Aborted, **changes: Any) -> Deps:
    """Everything a lane works with; no waiting between tries."""

    async def no_wait(seconds: float) -> None:
        await asyncio.sleep(0)

    given: dict[str, Any] = {
        "table": table,
        "log": log,
        "peek": CODEC.peek,
        "remark": CODEC.remark,
        "topics": TOPICS,
        "clock": Clock(),
        "metrics": NullMetrics(),
        "status": {},
        "held": set(),
        "abort": abort,
        "sleep": no_wait,
        **changes,
    }
    return Deps(**given)


async def work_off(lane: Lane, chunks: Sequence[Chunk], done: Callable[[], bool], abort: Aborted) -> None:
    """Put all chunks, wait until `done` or the lane aborted, then close it."""

    async def put() -> None:
        for chunk in chunks:
            await lane.put(chunk)
        while not done():
            await asyncio.sleep(0)

    tasks = [asyncio.ensure_future(put()), asyncio.ensure_future(abort.event.wait())]
    try:
        async with asyncio.timeout(20):
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await lane.close()
