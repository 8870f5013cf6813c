"""Sync-back: what SQLite took while Postgres was away goes to Postgres, in order, verified, once.

1. look at the oldest rows · 2. write them by the same sink transaction as live batches · 3. dead-letter what the
database refuses, awaited, so that no row blocks those behind it · 4. verify count and hash · 5. mark synced last.

A crash between any two of these repeats the batch, and the repeat changes nothing. Live batches may go to Postgres
meanwhile: events are immutable and keyed by id, so it does not matter who comes first. Batches carry no spans here:
progress in the log is the live writer's, and these rows left the log long ago.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

import msgspec
import structlog

from agents.quarantine import bury, grouped, set_aside
from connectors.ports import Backlog, Batch, EventLog, Gate, OutboxRow, Primary, Receipt, SyncRun
from schemas import points
from schemas.clock import Clock
from schemas.errors import Unavailable
from schemas.event import LoggedEvent
from schemas.metrics import Metrics
from schemas.topics import Topics

BATCH = 4000  # rows in one transaction at most: what a batch waits for costs as much for ten rows
LEAST = 100  # rows that a batch is not cut below, however often batches fail
GROW = 8  # a batch that went through makes the next one an eighth larger: twice as large would fail every other time
TICK = 1.0  # seconds between two looks; a half-open breaker is used this soon

T = TypeVar("T")
Digest = Callable[[Sequence[LoggedEvent]], tuple[int, int]]
_logger = structlog.get_logger("chronicle.sync_back")


class Synced(msgspec.Struct, frozen=True, kw_only=True):
    """What one pass did: `events` verified in Postgres of `found` at its start; `letters` mirrored or made."""

    found: int = 0
    events: int = 0
    letters: int = 0


class Mismatch(Exception):
    """Postgres does not hold what was just written to it: the rows stay in SQLite and people are told."""


# --- rules -----------------------------------------------------------------------------------------------------------


def kept(events: Sequence[LoggedEvent], receipt: Receipt) -> list[LoggedEvent]:
    """The events that must now be in the database as they are: all but those set aside."""
    gone = {event.ingest for event in receipt.conflicts} | {event.ingest for event, _ in receipt.refused}
    return [event for event in events if event.ingest not in gone]


# --- shell -----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _beside(work: Coroutine[Any, Any, T]) -> AsyncIterator[asyncio.Task[T]]:
    """`work` runs beside the block; a block that fails takes it along, whatever came of it."""
    task = asyncio.create_task(work)
    try:
        yield task
    except BaseException:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # looked at, so that asyncio does not report it as lost
        raise


class SyncBack:
    """Drains a `Backlog` into the `Primary`, one pass at a time over all processes that share the file (`scope`).

    Give it a primary of its own: a pass must not make live batches wait. `digest` is pure and says what
    `Primary.verify` must answer once the events given to it are stored.
    """

    def __init__(
        self,
        *,
        backlog: Backlog,
        primary: Primary,
        gate: Gate,
        log: EventLog,
        topics: Topics,
        clock: Clock,
        metrics: Metrics,
        digest: Digest,
        worker: str = "worker",
        scope: str = "",
        batch: int = BATCH,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._backlog, self._primary, self._gate, self._log = backlog, primary, gate, log
        self._topics, self._clock, self._metrics = topics, clock, metrics
        self._digest, self._worker, self._scope = digest, worker, scope
        self._batch, self._sleep = batch, sleep
        self._size = batch
        self._running = False
        self._synced = 0
        self._verified_at: float | None = None
        self._last_error: str | None = None

    def state(self) -> dict[str, Any]:
        """For /stats: running, synced (events since start), verified_at (epoch seconds), last_error."""
        return {
            "running": self._running,
            "synced": self._synced,
            "verified_at": self._verified_at,
            "last_error": self._last_error,
        }

    async def run_forever(self) -> None:
        """Tend the gate and drain, once a second, and at once again while whole batches are waiting; rows left over
        from an earlier run go first of all.

        Raises only CancelledError: a failed pass is told once and tried again, in smaller batches.
        """
        while True:
            await self._gate.tend()
            try:
                more = (await self.sync_once()).events >= self._batch
            except Exception as error:  # a timer's shell: the next pass starts over
                self._say(error)
                self._size, more = max(self._size // 2, min(LEAST, self._batch)), False
            await self._sleep(0.0 if more else TICK)

    async def sync_once(self) -> Synced:
        """Drain what is waiting now. Nothing when the primary is away or another process is at it.

        Raises `Unavailable` (primary or log away) and `Mismatch`; what was not verified is still in SQLite then.
        """
        if not self._gate.reachable():
            return Synced()
        found = await self._backlog.pending()
        if not found and not await self._backlog.dead_letters(1):
            return Synced()
        self._running = True
        try:
            return await self._locked(found)
        finally:
            self._running = False

    async def _locked(self, found: int) -> Synced:
        async with AsyncExitStack() as stack:
            if not await self._ask(stack.enter_async_context(self._primary.sync_lock(self._scope))):
                return Synced(found=found)
            events, letters = await self._drain_events(found)
            letters += await self._drain_letters()
        self._last_error = None
        _logger.info(f"synced {events} of {found}, verified", letters=letters)
        return Synced(found=found, events=events, letters=letters)

    async def _drain_events(self, found: int) -> tuple[int, int]:
        """At most what was found at the start: live batches may be adding rows all the while.

        The next rows are read while these are written: the file need not wait for Postgres.
        """
        events = letters = 0
        rows = await self._read(found, 0)
        while rows:
            points.at("sync.read")
            events, last = events + len(rows), rows[-1].seq
            async with _beside(self._read(found - events, last)) as ahead:
                letters += await self._sync(rows)
                await self._backlog.mark_synced(last)
            points.at("sync.marked")
            self._size = min(self._size + self._size // GROW + 1, self._batch)
            self._note(len(rows), found - events)
            rows = await ahead
        return events, letters

    async def _read(self, left: int, after: int) -> Sequence[OutboxRow]:
        return await self._backlog.peek(min(self._size, left), after) if left > 0 else ()

    async def _sync(self, rows: Sequence[OutboxRow]) -> int:
        """Steps 2 to 4 for one batch; returns how many of it were set aside."""
        began, events = self._now_us(), [row.event for row in rows]
        receipt = await self._ask(self._primary.write(Batch(events=events, spans=())))
        points.at("sync.written")
        letters = set_aside(receipt, topic=self._topics.events.name, failed_at=began)
        for group in grouped(letters):
            await bury(group, log=self._log, sink=self._primary, topic=self._topics.dead_letters.name)
        run = await self._verify(rows, kept(events, receipt), stored=receipt.stored, began=began)
        await self._ask(self._primary.record_sync(run))
        if not run.verified:
            self._metrics.inc("chronicle_sync_mismatches_total")
            raise Mismatch(
                f"Postgres holds {run.found_count} of {run.expected_count} rows as they are; none is marked."
            )
        points.at("sync.verified")
        self._verified_at = self._clock.now()
        return len(letters)

    async def _verify(
        self, rows: Sequence[OutboxRow], events: Sequence[LoggedEvent], *, stored: int, began: int
    ) -> SyncRun:
        expected = self._digest(events)
        found = await self._ask(self._primary.verify(events))
        return SyncRun(
            worker=self._worker,
            started_at=began,
            finished_at=self._now_us(),
            first_seq=rows[0].seq,
            last_seq=rows[-1].seq,
            rows=len(rows),
            stored=stored,
            verified=expected == found,
            expected_count=expected[0],
            expected_hash=expected[1],
            found_count=found[0],
            found_hash=found[1],
        )

    def _now_us(self) -> int:
        return int(self._clock.now() * 1_000_000)

    async def _drain_letters(self) -> int:
        """Dead letters taken meanwhile go to their table."""
        mirrored = 0
        while letters := await self._backlog.dead_letters(self._batch):
            for group in grouped(letters):
                await self._ask(self._primary.write_dead_letters(group))
                await self._backlog.mark_dead_letters_synced(group)
                mirrored += len(group)
        return mirrored

    async def _ask(self, call: Awaitable[T]) -> T:
        """Await the primary; its failures count at the gate, the log's and SQLite's do not."""
        try:
            return await call
        except Exception as error:
            self._gate.report(error)
            raise

    def _note(self, events: int, left: int) -> None:
        self._synced += events
        self._metrics.inc("chronicle_sync_synced_total", events)
        self._metrics.set("chronicle_sync_pending", left)

    def _say(self, error: Exception) -> None:
        """One line for each new reason, not one a second."""
        text = str(error) or repr(error)
        if text != self._last_error:
            trace = None if isinstance(error, Unavailable | Mismatch) else error
            _logger.error("sync-back stopped, will go on", error=text, exc_info=trace)
        self._last_error = text
