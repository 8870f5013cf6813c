"""The local stand-in: takes batches while Postgres is away, and holds them for sync-back.

One transaction a batch, like Postgres: rows, outbox, session roll-up, progress and the range of offsets. A repeat of an
id from another ingest position is put into the outbox as well: `duplicates` is written by Postgres alone, which judges
everything that comes home. So the outbox is exactly what Postgres has not yet accounted for.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import msgspec

from connectors import sqlitesql as sql
from connectors.pgerrors import SinkDown
from connectors.ports import Batch, FailoverRange, Holdings, OutboxRow, Receipt, Span, StoredRange
from connectors.rollup import Delta, fold, merge, session_row
from connectors.room import ROOM
from connectors.rows import Known, event_row, judge, letter_of, letter_row, progress_rows, split_repeats
from connectors.sqlite_many import insert
from connectors.sqlite_store import Corrupt, Quarantine, SqliteStore, store_id
from schemas import points
from schemas.clock import Clock, SystemClock
from schemas.codec import AvroCodec
from schemas.errors import Poison
from schemas.event import DeadLetter, HookEvent, LoggedEvent, Position

log = logging.getLogger(__name__)

KEEP_EVENTS: Final = 50_000
GRACE_S: Final = 3600.0
#: Values that one peek holds in memory, and twice as much of their hexadecimal digits for a moment; events are 900 KiB
#: at most, so a thousand of them would be too many.
PEEK_BYTES: Final = 6 << 20
_peeked: Final = msgspec.json.Decoder(list[tuple[int, int, int, int, int, str, str, str]])
_sessions: Final = msgspec.json.Decoder(list[list[str | int | None]])
#: What a value can do wrong in SQLite: text that is not UTF-8, an integer beyond 64 bits, a row beyond 1 GB.
DATA_ERRORS: Final = (sqlite3.DataError, sqlite3.IntegrityError, UnicodeError, OverflowError)


class SqliteSink:
    """A `Sink`, a `Backlog` and a `RangeStore` over one file, which it makes and migrates itself.

    The file never grows beyond `max_bytes`, and takes no batch while the disk has less than `room_bytes` left;
    `keep_events` of what is synced stay readable, the outbox keeps synced rows for `grace_s`. All work happens in one
    thread. `decode` reads the framed record back into an event. `scope` names machine and path for the ranges: by it
    the workers of a machine know a file of theirs that is gone.
    """

    name = "sqlite"

    def __init__(
        self,
        path: Path,
        *,
        worker: str = "worker",
        scope: str = "",
        clock: Clock | None = None,
        decode: Callable[[bytes], HookEvent] | None = None,
        max_bytes: int = 2 << 30,
        busy_s: float = 3.0,
        timeout_s: float = 10.0,
        keep_events: int = KEEP_EVENTS,
        grace_s: float = GRACE_S,
        room_bytes: int = ROOM,
    ) -> None:
        self._clock = clock or SystemClock()
        self._store = SqliteStore(
            path, clock=self._clock, max_bytes=max_bytes, busy_s=busy_s, timeout_s=timeout_s, room_bytes=room_bytes
        )
        self._worker = worker
        self._scope = scope or str(path)
        self._decode = decode or AvroCodec().decode
        self._keep_events = keep_events
        self._grace_s = grace_s

    async def open(self) -> None:
        """Check, migrate and open the file; a minute for a large one. What fails shows again at the first write."""
        try:
            await self._store.run(lambda _: None, timeout_s=60.0)
        except SinkDown as down:
            log.warning("the SQLite store does not open: %s", down)

    @property
    def quarantines(self) -> Sequence[Quarantine]:
        """Files set aside as corrupt since the start of this process."""
        return self._store.quarantines

    async def write(self, batch: Batch) -> Receipt:
        """See the contract."""
        try:
            receipt = await self._store.run(lambda connection: self._write(connection, batch, careful=False))
        except DATA_ERRORS:
            receipt = await self._store.run(lambda connection: self._write(connection, batch, careful=True))
        points.at("sqlite.after_commit")
        return receipt

    async def write_dead_letters(self, letters: Sequence[DeadLetter]) -> int:
        """See the contract."""
        now = self._now()
        return await self._store.run(lambda connection: _write_letters(connection, letters, now)) if letters else 0

    async def progress(self) -> Mapping[int, int]:
        """See the contract."""
        return dict(await self._store.run(lambda connection: connection.execute(sql.READ_PROGRESS).fetchall()))

    async def begin_log(self, log_id: str) -> bool:
        """As `PostgresSink.begin_log`: what the file has of another log stays, its progress no longer counts."""
        now = self._now()

        def work(connection: sqlite3.Connection) -> bool:
            if not connection.execute(sql.BEGIN_LOG, (log_id, now)).rowcount:
                return False
            if connection.execute(sql.ANOTHER_LOG, (log_id,)).fetchone() is None:
                return False
            connection.execute(sql.FORGET_PROGRESS)
            for move in sql.MOVE_LETTERS:
                connection.execute(move, (f"@before-{log_id[:8]}",))
            return True

        return await self._store.run(work)

    async def probe(self) -> None:
        """Commit a line in `sink_probes`, fsync included."""
        line = (self._worker, self._now())
        await self._store.run(lambda connection: connection.execute(sql.PROBE, line) and None)

    async def close(self) -> None:
        """See the contract."""
        await self._store.close()

    # --- Backlog -----------------------------------------------------------------------------------------------------

    async def pending(self) -> int:
        """Rows Postgres does not have yet; of all processes that share the file."""
        return int(await self._store.run(lambda connection: connection.execute(sql.PENDING).fetchone()[0]))

    async def peek(self, limit: int, after: int = 0) -> Sequence[OutboxRow]:
        """See the contract. Raises `Poison` ("unknown_schema") for a record of a newer version.

        SQLite has no checksums: a record that is not what was put in makes the file corrupt, and it is set aside.
        """

        def work(connection: sqlite3.Connection) -> list[OutboxRow]:
            rows = _listed(connection, sql.PEEK, (after, limit, PEEK_BYTES), _peeked)
            return [self._outbox_row(*row) for row in rows]

        return await self._store.run(work)

    async def mark_synced(self, up_to_seq: int) -> None:
        """See the contract; drops what nobody needs any more."""
        now = self._now()

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(sql.MARK_SYNCED, (now, up_to_seq))
            connection.execute(sql.CLOSE_RANGES, (up_to_seq,))
            connection.execute(sql.FORGET_OUTBOX, (now - int(self._grace_s * 1_000_000),))
            connection.execute(sql.TRIM_EVENTS, (self._keep_events,))

        await self._store.run(work)

    async def dead_letters(self, limit: int) -> Sequence[DeadLetter]:
        """See the contract."""
        rows = await self._store.run(lambda connection: connection.execute(sql.PEEK_LETTERS, (limit,)).fetchall())
        return [letter_of(row) for row in rows]

    async def mark_dead_letters_synced(self, letters: Sequence[DeadLetter]) -> None:
        """See the contract."""
        keys = [(letter.topic, letter.partition, letter.offset) for letter in letters]
        await self._store.run(lambda connection: connection.executemany(sql.LETTER_SYNCED, keys) and None)

    async def ranges(self) -> Sequence[Span]:
        """What of chronicle.events is here and not yet in Postgres."""
        rows = await self._store.run(lambda connection: connection.execute(sql.OPEN_RANGES).fetchall())
        return [Span(*row) for row in rows]

    # --- RangeStore --------------------------------------------------------------------------------------------------

    async def holdings(self) -> Holdings:
        """See the contract. Closes ranges that have nothing for sync-back."""

        def work(connection: sqlite3.Connection) -> Holdings:
            connection.execute(sql.CLOSE_EMPTY_RANGES)
            rows = connection.execute(sql.ALL_RANGES).fetchall()
            store = store_id(connection)
            ranges = [StoredRange(_range(row, store, self._scope), bool(synced)) for *row, synced in rows]
            return Holdings(store=store, scope=self._scope, ranges=ranges)

        return await self._store.run(work)

    def _write(self, connection: sqlite3.Connection, batch: Batch, *, careful: bool) -> Receipt:
        self._store.require_room()
        receipt = _write(connection, batch, now := self._now(), careful=careful)
        rows, store = _add_ranges(connection, batch.spans, now), store_id(connection)
        points.at("sqlite.before_commit")
        return msgspec.structs.replace(receipt, ranges=[_range(row, store, self._scope) for row in rows])

    def _outbox_row(
        self, seq: int, part: int, at: int, ipart: int, iat: int, hexed: str, event_id: str, print_: str
    ) -> OutboxRow:
        value = bytes.fromhex(hexed)
        try:
            event = self._decode(value)
        except Exception as error:
            if isinstance(error, Poison) and error.cause == "unknown_schema":
                raise
            raise Corrupt(f"outbox row {seq} does not decode: {error}") from error
        if (str(event.event_id), event.fingerprint) != (event_id, bytes.fromhex(print_)):
            raise Corrupt(f"outbox row {seq} is another event")
        logged = LoggedEvent(event=event, ingest=Position(ipart, iat), events=Position(part, at), value=value)
        return OutboxRow(seq, logged)

    def _now(self) -> int:
        return int(self._clock.now() * 1_000_000)


# --- one transaction, in the thread ----------------------------------------------------------------------------------


def _write(connection: sqlite3.Connection, batch: Batch, now: int, *, careful: bool) -> Receipt:
    firsts, rest = split_repeats(batch.events)
    there = _known(connection, firsts)
    late = [logged for event_id, logged in firsts.items() if event_id in there]
    new = [logged for event_id, logged in firsts.items() if event_id not in there]
    refused = _add_each(connection, new, now) if careful else _add_all(connection, new, now)
    bad = {logged.event.event_id for logged, _ in refused}
    refused += [(logged, "the first event of this id was refused") for logged in rest if logged.event.event_id in bad]
    fresh = [logged for logged in new if logged.event.event_id not in bad]
    there |= {logged.event.event_id: Known(logged.ingest, logged.event.fingerprint) for logged in fresh}
    late += [logged for logged in rest if logged.event.event_id not in bad]
    counts, conflicts = _judge(connection, late, there)
    _roll_up(connection, fresh, now)
    connection.executemany(sql.PROGRESS, [(*row, now) for row in progress_rows(batch.spans, fresh)])
    return Receipt(
        sink="sqlite",
        stored=len(fresh),
        replays=counts["replays"],
        duplicates=counts["duplicates"],
        conflicts=conflicts,
        refused=refused,
    )


def _listed(connection: sqlite3.Connection, query: str, given: Sequence[Any], decoder: Any) -> Any:
    """Rows that come as one row of JSON. Raises `Corrupt`."""
    (found,) = connection.execute(query, given).fetchone()
    try:
        return decoder.decode(found)
    except msgspec.MsgspecError as error:
        raise Corrupt(f"the store does not read: {error}") from error


def _known(connection: sqlite3.Connection, ids: Mapping[UUID, LoggedEvent]) -> dict[UUID, Known]:
    rows = connection.execute(sql.KNOWN, (msgspec.json.encode([str(event_id) for event_id in ids]).decode(),))
    return {UUID(event_id): Known(Position(part, offset), print_) for event_id, part, offset, print_ in rows}


def _add_all(connection: sqlite3.Connection, new: Sequence[LoggedEvent], now: int) -> list[tuple[LoggedEvent, str]]:
    insert(connection, sql.ADD_EVENTS, [_row(logged, now) for logged in new])
    insert(connection, sql.ADD_OUTBOX, [_outbox(logged) for logged in new])
    return []


def _add_each(connection: sqlite3.Connection, new: Sequence[LoggedEvent], now: int) -> list[tuple[LoggedEvent, str]]:
    refused = []
    for logged in new:
        connection.execute("SAVEPOINT one")
        try:
            _add_all(connection, [logged], now)
        except DATA_ERRORS as error:
            connection.execute("ROLLBACK TO one")
            refused.append((logged, f"{type(error).__name__}: {error}"))
    return refused


def _row(logged: LoggedEvent, now: int) -> tuple[Any, ...]:
    event_id, *middle, now_ = (*event_row(logged), now)
    suspected = 12  # place of suspected_duplicate_of behind event_id
    if middle[suspected] is not None:
        middle[suspected] = str(middle[suspected])
    return (str(event_id), *middle, now_)


def _outbox(logged: LoggedEvent) -> tuple[Any, ...]:
    event, here, ingest = logged.event, logged.events, logged.ingest
    return (
        str(event.event_id),
        event.fingerprint,
        here.partition,
        here.offset,
        ingest.partition,
        ingest.offset,
        logged.value,
    )


def _judge(
    connection: sqlite3.Connection, late: Sequence[LoggedEvent], there: Mapping[UUID, Known]
) -> tuple[dict[str, int], list[LoggedEvent]]:
    counts = {"replays": 0, "duplicates": 0}
    conflicts = []
    for logged in late:
        verdict = judge(logged, there[logged.event.event_id])
        if verdict == "conflict":
            conflicts.append(logged)
            continue
        queued = verdict == "duplicate" and insert(connection, sql.ADD_OUTBOX, [_outbox(logged)]) > 0
        counts["duplicates" if queued else "replays"] += 1
    return counts, conflicts


def _roll_up(connection: sqlite3.Connection, fresh: Sequence[LoggedEvent], now: int) -> None:
    deltas = fold(fresh)
    names = msgspec.json.encode([delta.session_id for delta in deltas]).decode()
    old = {row[0]: _delta(row) for row in _listed(connection, sql.READ_SESSIONS, (names,), _sessions)}
    merged = [merge(old[delta.session_id], delta) if delta.session_id in old else delta for delta in deltas]
    insert(connection, sql.PUT_SESSIONS, [(*session_row(delta), now) for delta in merged])


def _delta(row: Sequence[Any]) -> Delta:
    values = dict(zip(sql.SESSION_COLUMNS, row, strict=True))
    for worked_out in ("project", "status", "ended_at"):
        del values[worked_out]
    last = Position(values.pop("last_partition"), values.pop("last_offset"))
    return Delta(last=last, **values)


def _add_ranges(connection: sqlite3.Connection, spans: Sequence[Span], now: int) -> list[Sequence[Any]]:
    """The rows that cover the spans now."""
    rows: dict[int, Sequence[Any]] = {}
    last_seq = connection.execute(sql.LAST_SEQ).fetchone()[0] if spans else 0
    for span in spans:
        grown = connection.execute(sql.EXTEND_RANGE, (span.end, last_seq, span.partition, span.start, span.start))
        found = grown.fetchall()
        if not found:
            new = (span.partition, span.start, span.end, now, last_seq)
            found = connection.execute(sql.ADD_RANGE, new).fetchall()
        rows |= {row[0]: row for row in found}
    return list(rows.values())


def _range(row: Sequence[Any], store: str, scope: str) -> FailoverRange:
    number, part, start, end, at = row
    return FailoverRange(store=store, scope=scope, number=number, partition=part, start=start, end=end, at=at)


def _write_letters(connection: sqlite3.Connection, letters: Sequence[DeadLetter], now: int) -> int:
    added = 0
    for letter in letters:
        topic, part, offset, ingest_part, ingest_offset, *middle, event_id, session_id, failed_at = letter_row(letter)
        text_id = None if event_id is None else str(event_id)
        row = (topic, part, offset, ingest_part, ingest_offset, *middle, text_id, session_id, failed_at, now)
        if connection.execute(sql.ADD_LETTER, row).rowcount > 0:
            connection.execute(sql.QUEUE_LETTER, (topic, part, offset))
            added += 1
    return added
