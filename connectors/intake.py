"""LogOrSpool: accepted records go to the log, or to the local spool while the broker is away or slow.

How order is kept. Everything below runs on one event loop; between two `await`s nothing else happens.

1. Every `take` gets a place in `_line`, in the order of arrival, and leaves it only from the head.
2. Mode `log`: the records are sent at once. Many calls are in flight together; the log keeps their order per partition
   and fails all that are in flight when it fails one (`EventLog`).
3. The first call that fails turns the mode to `spool`. It stays in line until all that came before it are decided.
4. At the head of the line: what was acked leaves; what failed, and what came after the failure, is handed to the spool
   (in line order; the spool keeps that order); what is still in flight stops the line, so nobody passes it.
5. The drainer sends the oldest rows of the spool in batches: send, await the ack, only then drop. Rows stay in the
   spool until they are in the log, so a crash between ack and drop sends them twice: same event_id, dedupe's business.
6. When little is left and the line is empty, newcomers are held in line for a moment (`_holding`), else a steady load
   would never let the spool run dry. The rest is sent. If that fails, those held go to the spool: step 4.
7. Spool empty, nothing on its way to it, nobody in line but those held: in one step, without an `await`, the mode turns
   to `log` and those held are started in line order. Until all have started, newcomers are started behind them.

A record whose outcome was unknown (the broker may have it) goes to the spool too and may be in the log twice. Its order
holds all the same: per partition each of the two copies keeps its order, so the first appearances keep it as well.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Final

import structlog

from connectors.ports import Durable, EventLog, Record
from connectors.spool import Spool
from schemas import points
from schemas.clock import Clock
from schemas.errors import Poison, Unavailable
from schemas.metrics import Metrics, NullMetrics

log = structlog.get_logger(__name__)

#: The broker's time to ack an accepted event before it goes to the spool, unless told otherwise.
ACK_SECONDS: Final = 2.0
#: The whole of `take`: after this the client gets 503, so that no request hangs.
TAKE_SECONDS: Final = 2.9
#: The broker's time to ack a batch of the drainer; the shorter one while newcomers wait for it.
DRAIN_SECONDS: Final = 5.0
#: A batch of the drainer; after a failure a quarter of it, so that a very slow line gets on too.
DRAIN_ROWS: Final = 1000
ROW_BYTES: Final = 4096
#: So few rows left: newcomers wait for the rest, a few milliseconds, instead of being spooled behind it.
NEARLY_DRY: Final = 1000
#: Pauses of the drainer while the broker is away: the first and the longest.
BACKOFF_SECONDS: Final = (0.1, 1.0)

LOG: Final = Durable("log")
SPOOL: Final = Durable("spool")


class _State(Enum):
    SENDING = 0  # in flight to the log
    WAITING = 1  # for the spool: failed, or came while the mode was `spool`
    DONE = 2  # acked, refused, or handed to the spool


class _Entry:
    """One `take` in line. `handed` resolves when it is durable (or raises); `error` is why the log did not take it."""

    __slots__ = ("error", "handed", "records", "state")

    def __init__(self, records: Sequence[Record], handed: asyncio.Future[Durable]) -> None:
        self.records = records
        self.handed = handed
        self.state = _State.WAITING
        self.error: Unavailable | None = None


class LogOrSpool:
    """Implements `connectors.ports.Intake`.

    Opens and closes the spool, not the log. Without a spool everything goes to the log and its `Unavailable` comes
    through. `Poison` ("oversize") from the log comes through as well: such a record belongs to no queue.
    `ack_timeout_s` is how long the log may take to ack before the spool takes over; `take` as a whole takes no longer
    than TAKE_SECONDS, whatever it is.
    """

    def __init__(
        self,
        log: EventLog,
        spool: Spool | None,
        topic: str,
        *,
        clock: Clock,
        metrics: Metrics | None = None,
        backoff: tuple[float, float] = BACKOFF_SECONDS,
        ack_timeout_s: float = ACK_SECONDS,
    ) -> None:
        self._log = log
        self._spool = spool
        self._topic = topic
        self._clock = clock
        self._backoff = backoff
        self._ack_s = min(ack_timeout_s, TAKE_SECONDS)
        self._metrics = metrics or NullMetrics()
        self._line: deque[_Entry] = deque()
        self._spooling = False
        self._holding = False
        self._starting = 0
        self._closed = True
        self._drainer: asyncio.Task[None] | None = None
        self._sends: set[asyncio.Task[None]] = set()
        self._rows = DRAIN_ROWS
        self._last_error: str | None = None

    async def open(self) -> None:
        """Open the spool; what it still holds is sent before anything new. Raises `Misconfigured` as `Spool.open`."""
        self._closed = False
        if self._spool is not None:
            await self._spool.open()
            if self._spool.pending:
                self._turn_to_spool("records were left from before")
        self._gauges()

    async def take(self, records: Sequence[Record]) -> Durable:
        """As `Intake.take`."""
        if self._closed:
            raise Unavailable("intake", "shutting down", retry_after=2.0)
        if not records:
            return LOG
        loop = asyncio.get_running_loop()
        entry, end = _Entry(records, loop.create_future()), loop.time() + TAKE_SECONDS
        self._line.append(entry)
        try:
            await self._begin(entry)
            if entry.handed.done():
                durable = entry.handed.result()
            else:
                async with asyncio.timeout_at(end):
                    durable = await entry.handed
        except TimeoutError:
            detail = f"not durable within {TAKE_SECONDS:g} s"
            raise Unavailable("intake", detail, retry_after=2.0, unknown=True) from None
        finally:
            self._leave(entry)
        points.at("ingest.after_ack")
        return durable

    def pending(self) -> int:
        """Records in the spool."""
        return 0 if self._spool is None else self._spool.pending

    def state(self) -> Mapping[str, Any]:
        """As `Intake.state`; `refused` counts records set aside because the log can never take them."""
        spool = self._spool
        oldest = None if spool is None or spool.oldest_at is None else max(0.0, self._clock.now() - spool.oldest_at)
        return {
            "mode": "spool" if self._spooling else "log",
            "pending": self.pending(),
            "bytes": 0 if spool is None else spool.bytes,
            "oldest_age_s": oldest,
            "refused": 0 if spool is None else spool.refused,
            "last_error": self._last_error or (None if spool is None else spool.last_error),
        }

    async def close(self) -> None:
        """Take nothing more, let those in line finish (3 s at most), close the spool with what it holds."""
        self._closed = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(3.0):
                while self._line:
                    await asyncio.sleep(0.005)
        for task in (*self._sends, *([] if self._drainer is None else [self._drainer])):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if self._spool is not None:
            await self._spool.close()

    # --- the line ---

    async def _begin(self, entry: _Entry) -> None:
        """Send it, which the log bounds in time, or leave it to the line."""
        if self._spooling:
            self._advance()
        elif self._starting:
            self._start(entry)
        else:
            entry.state = _State.SENDING
            await self._send(entry)

    async def _send(self, entry: _Entry) -> None:
        """Send one entry that is in line, and let the line advance by the outcome."""
        points.at("ingest.before_ack")
        try:
            await self._log.send(self._topic, entry.records, timeout=self._ack_s)
        except Unavailable as error:
            self._last_error = str(error)
            entry.error = error
            entry.state = _State.WAITING
            if self._spool is None:
                _resolve(entry, error)
            else:
                self._turn_to_spool(str(error))
        except Poison as error:
            _resolve(entry, error)
        else:
            self._last_error = None
            _resolve(entry, LOG)
        finally:
            if entry.state is _State.SENDING:  # cancelled: nothing was promised
                entry.state = _State.DONE
            self._advance()

    def _start(self, entry: _Entry) -> None:
        """Send from a task of its own; tasks start in the order they were made."""

        async def run() -> None:
            self._starting -= 1
            await self._send(entry)

        entry.state = _State.SENDING
        self._starting += 1
        task = asyncio.get_running_loop().create_task(run())
        self._sends.add(task)
        task.add_done_callback(self._sends.discard)

    def _leave(self, entry: _Entry) -> None:
        """The caller has gone (answered, cancelled or timed out): what nobody waits for is not spooled."""
        if entry.state is _State.WAITING:
            entry.state = _State.DONE
        self._advance()

    def _advance(self) -> None:
        """Let the head of the line go, as far as it is decided (step 4)."""
        while self._line:
            entry = self._line[0]
            if entry.state is _State.SENDING or (entry.state is _State.WAITING and self._holding):
                return
            self._line.popleft()
            if entry.state is _State.WAITING:
                self._hand_to_spool(entry)

    def _hand_to_spool(self, entry: _Entry) -> None:
        entry.state = _State.DONE
        assert self._spool is not None
        try:
            appended = self._spool.append(entry.records)
        except Unavailable as error:
            _resolve(entry, _after(entry, error))
            return
        appended.add_done_callback(lambda done: _resolve(entry, _appended(entry, done)))

    # --- the spool ---

    def _turn_to_spool(self, reason: str) -> None:
        if not self._spooling:
            self._spooling = True
            log.warning("intake.spooling", reason=reason)
            self._gauges()
        if self._drainer is None or self._drainer.done():
            self._drainer = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        """Bring the spool into the log, in order, and turn the mode back when it is empty (steps 5 to 7)."""
        assert self._spool is not None
        pause, sent = self._backoff[0], 0
        while not self._turn_to_log():
            try:
                sent += await self._drain_once(self._spool)
                pause = self._backoff[0]
            except Exception as error:  # the one loop that empties the spool must not end by a bug either
                if not isinstance(error, Unavailable):
                    log.exception("intake.drain_failed")
                self._last_error = str(error)
                self._holding = False
                self._advance()
                await asyncio.sleep(pause)
                pause = min(pause * 2, self._backoff[1])
            self._gauges()
        log.info("intake.drained", records=sent)

    async def _drain_once(self, spool: Spool) -> int:
        """Send one batch, await its ack, drop it; returns how many records went."""
        rows = await spool.peek(self._rows, self._rows * ROW_BYTES)
        if not rows:
            await asyncio.sleep(0.001)  # the line still waits for calls in flight, or an append is on its way
            return 0
        try:
            timeout = self._ack_s if self._holding else DRAIN_SECONDS
            await self._log.send(self._topic, [row.record for row in rows], timeout=timeout)
        except Unavailable:
            self._rows = max(1, self._rows // 4)
            raise
        except Poison as poison:
            if len(rows) == 1:
                await spool.set_aside(rows[0].seq, poison.cause)
            self._rows = 1  # one by one, until the record the log refuses for good is found
            return 0
        await spool.drop(rows[-1].seq)
        self._rows = min(DRAIN_ROWS, self._rows * 2)
        self._holding = self._holding or (spool.pending <= NEARLY_DRY and not self._line)
        return len(rows)

    def _turn_to_log(self) -> bool:
        """Step 7. No `await` in here."""
        assert self._spool is not None
        if self._spool.pending or (self._line and not self._holding):
            return False
        self._spooling = self._holding = False
        self._last_error = None
        for entry in self._line:
            if entry.state is _State.WAITING:
                self._start(entry)
        self._advance()
        self._gauges()
        return True

    def _gauges(self) -> None:
        self._metrics.set("chronicle_spool_mode", 1 if self._spooling else 0)
        self._metrics.set("chronicle_spool_pending", self.pending())
        self._metrics.set("chronicle_spool_bytes", 0 if self._spool is None else self._spool.file_bytes())


def _resolve(entry: _Entry, outcome: Durable | Exception) -> None:
    entry.state = _State.DONE
    if entry.handed.done():
        return
    if isinstance(outcome, Durable):
        entry.handed.set_result(outcome)
    else:
        entry.handed.set_exception(outcome)


def _appended(entry: _Entry, done: asyncio.Future[int]) -> Durable | Exception:
    error = done.exception() if not done.cancelled() else None
    if isinstance(error, Unavailable):
        return _after(entry, error)
    return error if isinstance(error, Exception) else SPOOL


def _after(entry: _Entry, error: Unavailable) -> Unavailable:
    """The spool's error, and whether the log may have the records from the try before."""
    unknown = entry.error is not None and entry.error.unknown
    return Unavailable(error.what, error.detail, retry_after=error.retry_after, unknown=unknown)
