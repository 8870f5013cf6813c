"""The log's edges in memory: for tests, examples and development without a broker. Nothing survives the process."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from connectors.ports import Durable, FailoverRange, Record
from schemas.clock import Clock
from schemas.errors import Poison, Unavailable
from schemas.event import Position

#: Statuses older than this count as gone (`StatusBoard`).
STATUS_SECONDS = 15.0

#: How a `send` of a MemoryLog ends. `unknown`: written, but reported as failed; `partly`: only the first half is.
Outcome = Literal["ok", "down", "unknown", "partly"]


def murmur2(key: bytes) -> int:
    """The 32-bit hash by which Kafka's Java client (and ours) chooses the partition of a key."""
    mask, m = 0xFFFFFFFF, 0x5BD1E995
    length = len(key)
    h = (0x9747B28C ^ length) & mask
    whole = length & ~3
    for at in range(0, whole, 4):
        k = int.from_bytes(key[at : at + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = (h * m & mask) ^ k
    if length & 3:
        h = (h ^ int.from_bytes(key[whole:], "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return h ^ h >> 15


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a key in a topic with so many partitions."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


class MemoryLog:
    """Implements `connectors.ports.EventLog`. `topics` holds, by name, one list of records for each partition.

    `script` decides how coming calls end; when it has run out (or was never filled) they succeed. `down` fails all.
    A failed call fails every call in flight, as the contract says.
    """

    def __init__(self, partitions: int = 4, max_record_bytes: int = 2 << 20) -> None:
        self.partitions = partitions
        self.topics: dict[str, list[list[Record]]] = {}
        self.script: deque[Outcome] = deque()
        self.down = False
        self._max_bytes = max_record_bytes
        self._round_robin = 0
        self._failures = 0

    async def open(self) -> None:
        """Nothing to do."""

    async def send(self, topic: str, records: Sequence[Record], *, timeout: float = 2.0) -> list[Position]:
        """As `EventLog.send`."""
        for record in records:
            if len(record.value or b"") > self._max_bytes:
                raise Poison("oversize", f"a record is over the log's limit of {self._max_bytes} bytes")
        failures = self._failures
        outcome = self.script.popleft() if self.script else "ok"
        outcome = "down" if self.down else outcome
        await asyncio.sleep(0)  # a broker never answers at once
        if failures != self._failures:
            raise Unavailable("memory log", "another call in flight failed", unknown=True)
        if outcome == "down":
            self._failures += 1
            raise Unavailable("memory log", "down")
        written = records if outcome != "partly" else records[: len(records) // 2]
        positions = [self._write(topic, record) for record in written]
        if outcome != "ok":
            self._failures += 1
            raise Unavailable("memory log", outcome, unknown=True)
        return positions

    async def probe(self, timeout: float = 2.0) -> None:
        """Raises `Unavailable` while `down`."""
        if self.down:
            raise Unavailable("memory log", "down")

    def records(self, topic: str) -> list[Record]:
        """All records of a topic, partition after partition."""
        return [record for partition in self.topics.get(topic, ()) for record in partition]

    async def close(self) -> None:
        """Nothing to do."""

    def _write(self, topic: str, record: Record) -> Position:
        log = self.topics.setdefault(topic, [[] for _ in range(self.partitions)])
        partition = record.partition
        if partition < 0 and record.key is not None:
            partition = partition_of(record.key, self.partitions)
        elif partition < 0:
            self._round_robin = partition = (self._round_robin + 1) % self.partitions
        log[partition].append(record)
        return Position(partition, len(log[partition]) - 1)


class MemoryIntake:
    """Implements `connectors.ports.Intake` on a list. `down` makes it raise `Unavailable`."""

    def __init__(self, durability: Literal["log", "spool"] = "log") -> None:
        self.records: list[Record] = []
        self.down = False
        self._durable = Durable(durability)

    async def open(self) -> None:
        """Nothing to do."""

    async def take(self, records: Sequence[Record]) -> Durable:
        """As `Intake.take`."""
        if self.down:
            raise Unavailable("memory intake", "down", retry_after=2.0)
        self.records.extend(records)
        return self._durable

    def pending(self) -> int:
        """Everything, while it plays the spool."""
        return len(self.records) if self._durable.durability == "spool" else 0

    def state(self) -> Mapping[str, Any]:
        """As `Intake.state`."""
        return {
            "mode": self._durable.durability,
            "pending": self.pending(),
            "bytes": sum(len(record.value or b"") for record in self.records) if self.pending() else 0,
            "oldest_age_s": None,
            "refused": 0,
            "last_error": "down" if self.down else None,
        }

    async def close(self) -> None:
        """Nothing to do."""


class MemoryStatusBoard:
    """Implements `connectors.ports.StatusBoard` on a dict; boards that share `shared` see each other."""

    def __init__(self, clock: Clock, shared: dict[str, Mapping[str, Any]] | None = None) -> None:
        self._clock = clock
        self._all = {} if shared is None else shared
        self._returned: float | None = None

    async def open(self) -> None:
        """Nothing to do."""

    async def post(self, worker: str, status: Mapping[str, Any]) -> None:
        """As `StatusBoard.post`."""
        self._all[worker] = dict(status)
        self._returned = self._clock.now()

    def statuses(self) -> Mapping[str, Mapping[str, Any]]:
        """As `StatusBoard.statuses`."""
        return fresh(self._all, self._clock.now())

    def forget(self) -> None:
        """As `StatusBoard.forget`."""
        self._all.clear()
        self._returned = None

    def last_known(self) -> Mapping[str, Mapping[str, Any]]:
        """The last status of every worker, however old."""
        return dict(self._all)

    def round_trip_at(self) -> float | None:
        """As `StatusBoard.round_trip_at`."""
        return self._returned

    async def close(self) -> None:
        """Nothing to do."""


class MemoryRangeBook:
    """Implements `connectors.ports.RangeBook` on a dict; `down` makes it raise `Unavailable`.

    Books that share `shared` see each other.
    """

    def __init__(self, shared: dict[str, FailoverRange] | None = None) -> None:
        self.ranges = {} if shared is None else shared
        self.down = False

    async def record(self, ranges: Sequence[FailoverRange]) -> None:
        """As `RangeBook.record`."""
        self._raise_if_down()
        self.ranges.update({one.key: one for one in ranges})

    async def release(self, ranges: Sequence[FailoverRange]) -> None:
        """As `RangeBook.release`."""
        self._raise_if_down()
        for one in ranges:
            self.ranges.pop(one.key, None)

    async def read(self) -> Sequence[FailoverRange]:
        """As `RangeBook.read`."""
        self._raise_if_down()
        return list(self.ranges.values())

    def _raise_if_down(self) -> None:
        if self.down:
            raise Unavailable("memory range book", "down")


class NullStatusBoard:
    """A board nobody reads."""

    async def open(self) -> None:
        """Nothing to do."""

    async def post(self, worker: str, status: Mapping[str, Any]) -> None:
        """Forget it."""

    def statuses(self) -> Mapping[str, Mapping[str, Any]]:
        """None."""
        return {}

    def last_known(self) -> Mapping[str, Mapping[str, Any]]:
        """None."""
        return {}

    def round_trip_at(self) -> float | None:
        """Never."""
        return None

    async def close(self) -> None:
        """Nothing to do."""


def fresh(statuses: Mapping[str, Mapping[str, Any]], now: float) -> Mapping[str, Mapping[str, Any]]:
    """Those that are not older than `STATUS_SECONDS` by their own `at`."""
    return {
        worker: status for worker, status in statuses.items() if now - float(status.get("at", 0.0)) <= STATUS_SECONDS
    }
