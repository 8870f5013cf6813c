"""The edges as protocols. A docstring here is the contract; `tests/contract` runs one suite over every implementation.

Agents and views know these protocols only; `app.house` picks the classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, Protocol
from uuid import UUID

import msgspec

from schemas.event import DeadLetter, HookEvent, LoggedEvent, Position
from schemas.query import CallFilter, EventFilter, Page, Resolution, SessionFilter, Witnesses

# --- the log ---------------------------------------------------------------------------------------------------------


class Record(msgspec.Struct, frozen=True, gc=False):
    """One record to produce. `partition` -1 lets the key decide; `timestamp_ms` 0 means now."""

    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()
    partition: int = -1
    timestamp_ms: int = 0


class EventLog(Protocol):
    """Produces to Kafka durably.

    `send` returns when the broker has acked every record (acks=all, idempotent); the result gives each record's
    position, in the order given. Records of one call and of calls made one after the other keep their order per
    partition. It must not block the event loop. Raises `Unavailable` when not all were acked within `timeout` seconds;
    `unknown` is then true if some may have been written. After a raise nothing of that call is still being sent. A call
    that fails takes with it every call in flight that was begun after it, so that no record of a partition is written
    before an earlier one that was given up. A record too large for the log raises `Poison` ("oversize"). An offset of
    -1 means acked, place unknown. `open` does not need the broker.
    """

    async def open(self) -> None: ...

    async def send(self, topic: str, records: Sequence[Record], *, timeout: float = 2.0) -> list[Position]: ...

    async def probe(self, timeout: float = 2.0) -> None:
        """Prove that the broker answers; raises `Unavailable`."""
        ...

    async def close(self) -> None: ...


class Durable(msgspec.Struct, frozen=True):
    """Where accepted records are safe: on the broker (`log`) or fsynced on local disk (`spool`)."""

    durability: Literal["log", "spool"]


class Intake(Protocol):
    """Takes accepted records in: the log, or the spool while the broker is away or slow.

    `take` returns only when every record is durable. Records of one key never overtake each other: while the spool
    holds anything, everything goes through it. It never takes longer than 3 seconds. Raises `Unavailable`
    (`retry_after` set; `unknown` true when the records may be in the log all the same): nothing was promised.
    """

    async def open(self) -> None: ...

    async def take(self, records: Sequence[Record]) -> Durable: ...

    def pending(self) -> int:
        """Records in the spool that are not yet in the log."""
        ...

    def state(self) -> Mapping[str, Any]:
        """For /ready and /stats: mode (log | spool), pending, bytes, oldest_age_s, last_error."""
        ...

    async def close(self) -> None: ...


# --- the sinks -------------------------------------------------------------------------------------------------------


class Span(msgspec.Struct, frozen=True):
    """What of `chronicle.events` one batch covers in one partition: offsets [start, end)."""

    partition: int
    start: int
    end: int


class Batch(msgspec.Struct, frozen=True):
    """What is written in one transaction: events in log order and the spans they cover (dead ones included)."""

    events: Sequence[LoggedEvent]
    spans: Sequence[Span]


class FailoverRange(msgspec.Struct, frozen=True, kw_only=True):
    """Offsets [start, end) of one partition of `chronicle.events` that a local store took and Postgres may lack.

    `store` is the id of the file, `scope` names machine and path, `number` and `at` (microseconds) are of the file's
    own row, which grows while the failover lasts. `orphan`: its machine did not bring it back, whoever reads the
    partition shall. `gone_at` (microseconds): the log no longer has these offsets; kept for people to see.
    """

    store: str
    scope: str
    number: int
    partition: int
    start: int
    end: int
    at: int
    orphan: bool = False
    gone_at: int = 0

    @property
    def key(self) -> str:
        """What it is kept under; another start of the same failover is another range."""
        return f"range/{self.store}/{self.partition}/{self.number}@{self.at}"


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What a sink did with a batch. All counts are of this call.

    `stored` were new; `replays` were there already from the same ingest position (not counted anywhere); `duplicates`
    were there from another position; `conflicts` likewise but with another fingerprint, and `refused` are rows the
    database can never take: both are for the dead letters, and the caller must put them there before it acks.
    `ranges` are those of the local store that the batch is in, as they are now.
    """

    sink: Literal["postgres", "sqlite", "memory"]
    stored: int
    replays: int = 0
    duplicates: int = 0
    conflicts: Sequence[LoggedEvent] = ()
    refused: Sequence[tuple[LoggedEvent, str]] = ()
    ranges: Sequence[FailoverRange] = ()


class Sink(Protocol):
    """Writes batches, each in one transaction, exactly once.

    `write` commits the rows, the session roll-up and the spans together or not at all; when it returns, all of it is
    durable. The same batch again changes nothing but reports replays. A row the database refuses for its content is
    set aside (`refused`) and the rest commits. Raises `Unavailable` for everything else: an outage, a timeout, a full
    disk, a missing column; `unknown` when COMMIT was sent and not answered. Never raises for data.
    """

    name: str

    async def open(self) -> None:
        """Prepare; must not raise when the database is away (it raises `Unavailable` from `write` instead)."""
        ...

    async def write(self, batch: Batch) -> Receipt: ...

    async def write_dead_letters(self, letters: Sequence[DeadLetter]) -> int:
        """Mirror dead letters into their table, idempotent by (topic, partition, offset); returns how many were new."""
        ...

    async def progress(self) -> Mapping[int, int]:
        """Durable progress: partition of chronicle.events -> next offset. Raises `Unavailable`."""
        ...

    async def probe(self) -> None:
        """Prove by a real write in a transaction that a batch would be taken now. Raises `Unavailable`."""
        ...

    async def close(self) -> None: ...


class OutboxRow(msgspec.Struct, frozen=True):
    """One event that SQLite took while Postgres was away, waiting to be synced back."""

    seq: int
    event: LoggedEvent


class Backlog(Protocol):
    """What the local sink holds for Postgres. Rows leave in the order they came (`seq`)."""

    async def pending(self) -> int: ...

    async def peek(self, limit: int, after: int = 0) -> Sequence[OutboxRow]:
        """The oldest unsynced rows with a seq above `after`, in order; at most `limit`, fewer when they are large."""
        ...

    async def mark_synced(self, up_to_seq: int) -> None:
        """Call only after the rows are committed and verified in Postgres."""
        ...

    async def dead_letters(self, limit: int) -> Sequence[DeadLetter]:
        """Dead letters taken while Postgres was away and not yet synced."""
        ...

    async def mark_dead_letters_synced(self, letters: Sequence[DeadLetter]) -> None: ...

    async def ranges(self) -> Sequence[Span]:
        """What of `chronicle.events` was taken and is not synced yet."""
        ...


class StoredRange(msgspec.Struct, frozen=True):
    """A range in the file itself; `synced`: everything in it is verified in Postgres, and it grows no more."""

    range: FailoverRange
    synced: bool


class Holdings(msgspec.Struct, frozen=True, kw_only=True):
    """What the local store says of itself: the id of the file that is there now, and all its ranges."""

    store: str
    scope: str
    ranges: Sequence[StoredRange]


class RangeStore(Protocol):
    """The local store as the keeper of ranges."""

    async def holdings(self) -> Holdings:
        """Read in one transaction; a range is in here before it is in any `RangeBook`. Raises `Unavailable`."""
        ...


class RangeBook(Protocol):
    """The ranges of all local stores, kept outside of them, so that a lost file can be read again from the log.

    `record` writes or overwrites by key and returns when it is durable; `release` removes, and removing what is not
    there does nothing. `read` gives everything recorded and not released, at least as of the moment of the call, by
    whichever process. All three raise `Unavailable`.
    """

    async def record(self, ranges: Sequence[FailoverRange]) -> None: ...

    async def release(self, ranges: Sequence[FailoverRange]) -> None: ...

    async def read(self) -> Sequence[FailoverRange]: ...


class SyncRun(msgspec.Struct, frozen=True, kw_only=True):
    """One batch that came back from the local sink, with the check made on it. Times are microseconds.

    `expected` and `found` are count and hash of what was written and of what was read again; order as in the table.
    """

    worker: str
    started_at: int
    finished_at: int
    first_seq: int
    last_seq: int
    rows: int
    stored: int
    verified: bool
    expected_count: int
    expected_hash: int
    found_count: int
    found_hash: int


class Primary(Sink, Protocol):
    """What sync-back asks of Postgres beyond `Sink`."""

    async def verify(self, events: Sequence[LoggedEvent]) -> tuple[int, int]:
        """(count, hash) of what is stored under the ids of these events. Raises `Unavailable`."""
        ...

    async def record_sync(self, run: Any) -> None:
        """Keep a `SyncRun` in the table `sync_runs`. Raises `Unavailable`."""
        ...

    def sync_lock(self, scope: str = "") -> AbstractAsyncContextManager[bool]:
        """Single flight over all processes: true inside for one holder of `scope`, false at once for the others.

        Entering raises `Unavailable` when the database is away; a lost connection gives the lock back.
        """
        ...


class Gate(Protocol):
    """What sync-back may know of the switch above it."""

    def reachable(self) -> bool:
        """The primary answered when last asked."""
        ...

    def report(self, error: Exception) -> None:
        """The primary failed under the caller; counts like a failed write."""
        ...

    async def tend(self) -> None:
        """Probe what is due. Never raises."""
        ...


# --- reading back ----------------------------------------------------------------------------------------------------


class Reader(Protocol):
    """Answers queries from one database. Raises `Unavailable`. Rows are plain dicts in the form the API shows."""

    name: str

    async def open(self) -> None: ...

    async def events(self, filter: EventFilter) -> Page: ...

    async def event(self, event_id: UUID) -> dict[str, Any] | None: ...

    async def sessions(self, filter: SessionFilter) -> Page: ...

    async def session(self, session_id: str, *, idle_before: int | None = None) -> dict[str, Any] | None: ...

    async def calls(self, filter: CallFilter) -> Page: ...  # each with both its ends, as far as they have come

    async def ledger(self) -> Mapping[str, int]:
        """stored, duplicates, rejected (conflicts), dead, dead_open, conflicts_open, unsynced, earlier (lost logs)."""
        ...

    async def dead_letters(self, *, limit: int, after: str | None = None, cause: str | None = None) -> Page: ...

    async def dead_letter(self, id: str) -> dict[str, Any] | None:
        """By `topic/partition/offset`, with key and value as base64."""
        ...

    async def resolve_dead_letter(self, id: str, *, replayed_as: UUID | None, at: int) -> None:
        """Mark it as dealt with at `at` (microseconds since the epoch); the link to its new event, if it has one."""
        ...

    async def conflicts(self, *, limit: int, after: str | None = None, still_open: bool = False) -> Page:
        """Two events under one id, latest first; places, times and decision, no payloads."""
        ...

    async def conflicts_of(self, event_id: UUID) -> list[dict[str, Any]]:
        """All conflicts of one id, latest first, each with `value`, the other's record in base64."""
        ...

    async def resolve_conflicts(self, wanted: Resolution) -> int:
        """In one transaction; returns how many were open and are closed now. The old payload is kept."""
        ...

    async def witnesses(self, partition: int, first: int, last: int, ids: Sequence[UUID]) -> Witnesses:
        """What is known of the ingest records [first, last] of a partition, and of these ids; at most 1,000 ids."""
        ...

    async def trace(self, event_id: UUID) -> dict[str, Any]:
        """What this database knows of an id: event, events_offset, duplicates, dead_letters, suspected_duplicates."""
        ...

    async def progress(self) -> Mapping[int, int]:
        """Durable progress: partition of chronicle.events -> next offset."""
        ...

    async def probe(self) -> None:
        """Prove that the database answers."""
        ...

    async def close(self) -> None: ...


# --- status ----------------------------------------------------------------------------------------------------------


class StatusBoard(Protocol):
    """Worker status shared through the compacted control topic: each worker posts its own, everybody reads all.

    A status is a JSON object with at least `worker`, `roles`, `at` (epoch seconds). Statuses older than 15 s count as
    gone. Posting never raises; what could not be posted is retried with the next one.
    """

    async def open(self) -> None: ...

    async def post(self, worker: str, status: Mapping[str, Any]) -> None: ...

    def statuses(self) -> Mapping[str, Mapping[str, Any]]: ...

    def forget(self) -> None: ...  # what was told so far: the log it came through is gone

    def last_known(self) -> Mapping[str, Mapping[str, Any]]:
        """The last status of every worker, however old: counters of a partition that nobody holds right now."""
        ...

    def round_trip_at(self) -> float | None:
        """When our own status last came back through the broker (epoch seconds): the proof that it works."""
        ...

    async def close(self) -> None: ...


class Codec(Protocol):
    """HookEvent to framed Avro and back; the only reader and writer of the wire form."""

    def encode(self, event: HookEvent) -> bytes: ...

    def decode(self, value: bytes) -> HookEvent:
        """Raises `Poison` with cause undecodable or unknown_schema."""
        ...
