"""The Postgres sink: one batch, one transaction, each event once.

    1  COPY the rows into the connection's staging table
    2  INSERT … SELECT … ORDER BY event_id ON CONFLICT DO NOTHING: the primary key says which ids are new
    3  judge the rest against the rows that are there: replay, duplicate (recorded once), conflict
    4  roll the new ones up into their sessions
    5  move sink_progress on
    6  COMMIT; only then does `write` return

A row that the database refuses for its content is found by bisection in savepoints of the same transaction. If a row
that is known to be good is refused too, the schema is at fault and not the data: nothing is set aside then.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar
from uuid import UUID

import msgspec

from connectors import pgsql
from connectors.pgerrors import SinkDown, classify, unavailable
from connectors.pglink import PostgresLink
from connectors.ports import Batch, Receipt, SyncRun
from connectors.rollup import fold, session_row
from connectors.rows import EVENT_COLUMNS, Known, checksum, event_row, judge, letter_row, progress_rows, split_repeats
from schemas import points
from schemas.clock import Clock, SystemClock
from schemas.event import DeadLetter, HookEvent, IdOrigin, LoggedEvent, Position

log = logging.getLogger(__name__)
T = TypeVar("T")
#: How often one write is tried while Postgres answers "again, please" (deadlock, lock timeout).
TRIES: Final = 3


class _Attempt(msgspec.Struct):
    """What an attempt has come to know: whether COMMIT is on its way, and a clock that data errors set back."""

    limit: asyncio.Timeout | None = None
    committing: bool = False


class PostgresSink:
    """A `Sink` over one connection of its own; make a second one for work that must not wait for the first.

    `write` takes at most `timeout_s` (bisecting may take longer, as long as Postgres goes on answering) and raises
    `SinkDown` after that, with the connection cut. `worker` names the row in `sink_probes`.
    """

    name = "postgres"

    def __init__(
        self,
        dsn: str,
        *,
        worker: str = "worker",
        timeout_s: float = 4.0,
        connect_timeout_s: float = 2.0,
        clock: Clock | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._link = PostgresLink(
            dsn, name=f"chronicle {worker}"[:63], timeout_s=timeout_s, connect_timeout_s=connect_timeout_s
        )
        self._worker = worker
        self._timeout_s = timeout_s
        self._clock = clock or SystemClock()
        self._jitter = jitter

    async def open(self) -> None:
        """Connect if Postgres is there; if not, the first `write` will say so."""
        try:
            await self._answer(lambda _: asyncio.sleep(0))
        except SinkDown as down:
            log.warning("postgres is away at start: %s", down)

    async def write(self, batch: Batch) -> Receipt:
        """See the contract. Raises `SinkDown`; its `unknown` is true when COMMIT was sent and not answered."""
        async with self._link.lock:
            careful, tries = False, 0
            while True:
                attempt = _Attempt()
                try:
                    async with asyncio.timeout(self._timeout_s) as attempt.limit:
                        connection = await self._link.connection()
                        return await self._transaction(connection, batch, careful, attempt)
                except Exception as error:
                    tries += 1
                    careful = await self._again(error, attempt, careful, tries)
                except BaseException:  # cancelled: nobody knows what the connection is in the middle of
                    self._link.drop()
                    raise

    async def write_dead_letters(self, letters: Sequence[DeadLetter]) -> int:
        """See the contract."""
        if not letters:
            return 0
        columns = _columns(map(letter_row, letters))
        return len(await self._answer(lambda connection: connection.fetch(pgsql.LETTERS, *columns)))

    async def progress(self) -> Mapping[int, int]:
        """See the contract."""
        rows = await self._answer(lambda connection: connection.fetch(pgsql.READ_PROGRESS))
        return {row["partition"]: row["next_offset"] for row in rows}

    async def begin_log(self, log_id: str, *, waiting: int = 0) -> bool:
        """Note which log rows come from now on; True when another one was noted before, which is then over.

        Its progress no longer counts, its letters move to `topic@…`, and what is here is what it gave, with `waiting`
        events that SQLite still holds of it. Once for each log, whoever is first. Raises `SinkDown`.
        """
        return await self._answer(lambda connection: _begin_log(connection, log_id, waiting))

    async def probe(self) -> None:
        """Store a made-up event the way a batch is stored, take it back, and commit a line in `sink_probes`.

        So it finds a missing column and a read-only server as well as one that is away. Raises `SinkDown`.
        """
        await self._answer(self._probe)

    async def verify(self, events: Sequence[LoggedEvent]) -> tuple[int, int]:
        """(count, hash) of what Postgres holds under the ids of these events; compare with `rows.expected`."""
        ids = [logged.event.event_id for logged in events]
        rows = await self._answer(lambda connection: connection.fetch(pgsql.KNOWN, ids))
        return checksum((row["event_id"], row["fingerprint"]) for row in rows)

    @asynccontextmanager
    async def sync_lock(self, scope: str = "") -> AsyncIterator[bool]:
        """True for one holder of `scope` at a time over all processes (name the SQLite file and its machine).

        It has a connection of its own and is let go when that breaks: it saves double work, correctness does not
        hang on it. Raises `SinkDown`.
        """
        key = int.from_bytes(hashlib.sha256(b"chronicle sync " + scope.encode()).digest()[:8], signed=True)
        try:
            connection = await self._link.connect()
        except Exception as error:
            raise unavailable(error) from error
        try:
            try:
                held = bool(await connection.fetchval("SELECT pg_try_advisory_lock($1)", key))
            except Exception as error:
                raise unavailable(error) from error
            yield held
        finally:
            connection.terminate()

    async def record_sync(self, run: SyncRun) -> None:
        """See the contract."""
        await self._answer(lambda connection: connection.execute(pgsql.SYNC_RUN, *msgspec.structs.astuple(run)))

    async def close(self) -> None:
        """See the contract."""
        await self._link.close()

    # --- one transaction ---------------------------------------------------------------------------------------------

    async def _transaction(self, connection: Any, batch: Batch, careful: bool, attempt: _Attempt) -> Receipt:
        await connection.execute(pgsql.BEGIN)
        outcome = await self._store_all(connection, batch.events, careful, attempt)
        points.at("persist.copied")
        verdicts = await self._judge(connection, outcome.late)
        if outcome.fresh:
            await connection.execute(pgsql.SESSIONS, *_columns(map(session_row, fold(outcome.fresh))))
        progress = progress_rows(batch.spans, outcome.fresh)
        if progress:
            await connection.execute(pgsql.PROGRESS, *_columns(progress))
        points.at("persist.before_commit")
        attempt.committing = True
        await _commit(connection)
        points.at("persist.after_commit")
        return Receipt(
            sink="postgres",
            stored=len(outcome.fresh),
            replays=verdicts.replays,
            duplicates=verdicts.duplicates,
            conflicts=verdicts.conflicts,
            refused=outcome.refused,
        )

    async def _store_all(
        self, connection: Any, events: Sequence[LoggedEvent], careful: bool, attempt: _Attempt
    ) -> _Outcome:
        """Store the first of each id; where it is refused, the next of that id has its turn."""
        outcome = _Outcome()
        while events:
            firsts, rest = split_repeats(events)
            rows = list(firsts.values())
            if careful:
                known, refused = await self._store_carefully(connection, rows, attempt)
            else:
                known, refused = await _store(connection, rows), []
            bad = {logged.event.event_id for logged, _ in refused}
            outcome.refused += refused
            outcome.late += [firsts[event_id] for event_id in known]
            outcome.late += [logged for logged in rest if logged.event.event_id not in bad]
            outcome.fresh += [row for event_id, row in firsts.items() if event_id not in known and event_id not in bad]
            events = [logged for logged in rest if logged.event.event_id in bad]
        return outcome

    async def _store_carefully(
        self, connection: Any, rows: list[LoggedEvent], attempt: _Attempt
    ) -> tuple[set[UUID], list[tuple[LoggedEvent, str]]]:
        """Halve until what is refused stands alone: about 2·log2(n) savepoints for one bad row."""
        known: set[UUID] = set()
        refused: list[tuple[LoggedEvent, str]] = []
        todo = [rows]
        while todo:
            part = todo.pop()
            await connection.execute(f"{pgsql.CLEAR_STAGE}; SAVEPOINT part")
            try:
                known |= await _store(connection, part)
            except Exception as error:
                fault = classify(error)
                if fault.kind != "data":
                    raise
                await connection.execute("ROLLBACK TO SAVEPOINT part")
                self._more_time(attempt)
                middle = len(part) // 2
                if middle:
                    todo += [part[middle:], part[:middle]]
                else:
                    refused.append((part[0], fault.detail))
        if refused:
            await self._witness(connection)
        return known, refused

    async def _witness(self, connection: Any) -> None:
        """Raise `SinkDown` (configuration) when even a good row is refused; leaves no trace."""
        await connection.execute(f"{pgsql.CLEAR_STAGE}; SAVEPOINT witness")
        try:
            await _store(connection, [witness(self._clock)])
        except Exception as error:
            fault = classify(error)
            if fault.kind != "data":
                raise
            raise SinkDown(
                "postgres",
                f"a row known to be good is refused: {fault.detail}.",
                kind="configuration",
                remedy="Compare the constraints and triggers of `events` with `chronicle db sql`.",
            ) from error
        await connection.execute(f"ROLLBACK TO SAVEPOINT witness; {pgsql.CLEAR_STAGE}")

    async def _judge(self, connection: Any, late: Sequence[LoggedEvent]) -> _Verdicts:
        """What is there already; a duplicate counts when its place is recorded for the first time."""
        verdicts = _Verdicts()
        if not late:
            return verdicts
        ids = list({logged.event.event_id for logged in late})
        there = {
            row["event_id"]: Known(Position(row["ingest_partition"], row["ingest_offset"]), row["fingerprint"])
            for row in await connection.fetch(pgsql.KNOWN, ids)
        }
        repeats: list[tuple[int, int, UUID]] = []
        for logged in late:
            match judge(logged, there[logged.event.event_id]):
                case "conflict":
                    verdicts.conflicts.append(logged)
                case "duplicate":
                    repeats.append((*msgspec.structs.astuple(logged.ingest), logged.event.event_id))
                case "replay":
                    verdicts.replays += 1
        if repeats:
            recorded = await connection.fetch(pgsql.DUPLICATES, *_columns(repeats))
            verdicts.duplicates = len(recorded)
            verdicts.replays += len(repeats) - len(recorded)
        return verdicts

    async def _probe(self, connection: Any) -> None:
        await connection.execute(pgsql.BEGIN)
        await self._witness(connection)
        await connection.execute("SAVEPOINT rehearsal")
        await connection.execute(pgsql.SESSIONS, *_columns(map(session_row, fold([witness(self._clock)]))))
        await connection.execute(pgsql.PROGRESS, [-1], [0], [0])
        await connection.execute("ROLLBACK TO SAVEPOINT rehearsal")
        await connection.execute(pgsql.PROBE, self._worker)
        await _commit(connection)

    # --- what to do about errors -------------------------------------------------------------------------------------

    async def _again(self, error: Exception, attempt: _Attempt, careful: bool, tries: int) -> bool:
        """Whether the next try is a careful one; raises `SinkDown` when there is to be none."""
        fault = classify(error)
        if isinstance(error, SinkDown) or fault.kind in ("unavailable", "configuration"):
            self._link.drop()
            raise error if isinstance(error, SinkDown) else unavailable(error, unknown=attempt.committing) from error
        await self._link.rollback()
        if fault.kind == "data" and not careful:
            return True
        if fault.kind == "transient" and tries < TRIES:
            await asyncio.sleep(0.05 * tries * (0.5 + self._jitter()))
            return careful
        raise unavailable(error) from error

    def _more_time(self, attempt: _Attempt) -> None:
        """A verdict on data is an answer: the time limit is there for a Postgres that does not answer."""
        if attempt.limit is not None:
            attempt.limit.reschedule(asyncio.get_running_loop().time() + self._timeout_s)

    async def _answer(self, ask: Callable[[Any], Awaitable[T]]) -> T:
        """Run something short; any error costs the connection and becomes `SinkDown`."""
        async with self._link.lock:
            try:
                async with asyncio.timeout(self._timeout_s):
                    return await ask(await self._link.connection())
            except SinkDown:
                self._link.drop()
                raise
            except Exception as error:
                self._link.drop()
                raise unavailable(error) from error
            except BaseException:
                self._link.drop()
                raise


class _Outcome(msgspec.Struct):
    fresh: list[LoggedEvent] = []
    late: list[LoggedEvent] = []
    refused: list[tuple[LoggedEvent, str]] = []


class _Verdicts(msgspec.Struct):
    replays: int = 0
    duplicates: int = 0
    conflicts: list[LoggedEvent] = []


async def _store(connection: Any, rows: Sequence[LoggedEvent]) -> set[UUID]:
    """Stage and insert; answers with the ids that were there already. Raises asyncpg's errors."""
    await connection.copy_records_to_table(pgsql.STAGE, records=map(event_row, rows), columns=EVENT_COLUMNS)
    return {row[0] for row in await connection.fetch(pgsql.STORE)}


async def _begin_log(connection: Any, log_id: str, waiting: int) -> bool:
    async with connection.transaction():
        await connection.execute("LOCK TABLE logs IN EXCLUSIVE MODE")
        rows = await connection.fetch(pgsql.BEGIN_LOG, log_id, waiting)
        if not rows or not rows[0]["another"]:
            return False
        await connection.execute(pgsql.FORGET_PROGRESS)
        for move in pgsql.MOVE_LETTERS:
            await connection.execute(move, f"@before-{log_id[:8]}")
        return True


async def _commit(connection: Any) -> None:
    """COMMIT of a failed transaction is answered with ROLLBACK and no error; that must not pass for success."""
    answer = await connection.execute("COMMIT")
    if answer != "COMMIT":
        raise SinkDown("postgres", f"COMMIT was answered with {answer}")


def _columns(rows: Iterable[Sequence[Any]]) -> list[list[Any]]:
    """Rows turned into the arrays that `unnest` takes."""
    return [list(column) for column in zip(*rows, strict=True)]


def witness(clock: Clock) -> LoggedEvent:
    """A row that any database with our schema takes. Never stored for good."""
    at = int(clock.now() * 1_000_000)
    event = HookEvent(
        event_id=clock.new_id(),
        fingerprint=bytes(16),
        id_origin=IdOrigin.FRESH,
        session_id="chronicle-probe",
        event_type="system_health",
        occurred_at=at,
        received_at=at,
        source="chronicle",
        payload="{}",
    )
    return LoggedEvent(event=event, ingest=Position(0, 0), events=Position(0, 0), value=b"")
