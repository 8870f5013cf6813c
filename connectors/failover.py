"""One sink out of two: Postgres while it works, SQLite while it does not. The decision is made inside the call.

There is no queue below the switch. A batch is in Postgres or in SQLite when `write` returns, or `write` raises and the
caller still has it. A batch whose COMMIT was sent to Postgres and not answered goes to SQLite as well: sync-back is DO
NOTHING for rows that are already there.

SQLite is a cache of the log: what it took is recorded outside of its file (`record`) before `write` returns.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

import msgspec
import structlog

from connectors import breaker as rules
from connectors.breaker import Breaker, BreakerPolicy
from connectors.ports import Backlog, Batch, FailoverRange, Receipt, Sink
from schemas.clock import Clock
from schemas.errors import Misconfigured, Unavailable
from schemas.event import DeadLetter
from schemas.intervals import reach
from schemas.metrics import Metrics

T = TypeVar("T")
Change = Literal["failover_started", "failover_ended"]
Keep = Callable[[Sequence[FailoverRange]], Awaitable[None]]
OnChange = Callable[[Change, Mapping[str, Any]], None]

#: Errors that trying again in a moment cannot cure: the switch is made at the first one.
HOPELESS = frozenset({"configuration"})
_KINDS = frozenset({"configuration", "transient", "unavailable", "unknown"})

_logger = structlog.get_logger("chronicle.failover")


class FailoverTiming(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds. A try that ends later than `budget` after the first began is the last one.

    So a batch is in SQLite after `budget` and what one try takes; sinks limit that themselves (Postgres: 4 s). `hang`
    cuts a sink that does not: long enough for a bisection among many bad rows.
    """

    backoff: float = 0.2
    budget: float = 2.0
    hang: float = 15.0
    probe_timeout: float = 4.0
    idle_probe: float = 5.0  # without traffic the sink in use is proved this often


def kind_of(error: BaseException) -> str:
    """The label of an error: configuration, transient, unavailable or unknown (the write may have happened)."""
    if isinstance(error, Misconfigured):
        return "configuration"
    kind = getattr(error, "kind", None)
    if kind in _KINDS:
        return str(kind)
    return "unknown" if getattr(error, "unknown", False) else "unavailable"


class FailoverSink:
    """A `Sink` (see `connectors.ports`): raises `Unavailable` only when both sinks fail, and the caller holds.

    `record` keeps the ranges of a receipt durably (`RangeBook.record`); while it cannot, the batch is not written.
    `on_change` is called at each switch with what to tell people: since (epoch seconds), error, pending.
    `tend` must be called about once a second (sync-back does): it probes, so that an idle system notices too.
    """

    name = "failover"

    def __init__(
        self,
        primary: Sink,
        local: Sink,
        *,
        clock: Clock,
        metrics: Metrics,
        backlog: Backlog | None = None,
        record: Keep | None = None,
        policy: BreakerPolicy | None = None,
        timing: FailoverTiming | None = None,
        on_change: OnChange | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._primary, self._local, self._backlog = primary, local, backlog
        self._clock, self._metrics = clock, metrics
        self._policy, self._timing = policy or BreakerPolicy(), timing or FailoverTiming()
        self._record = record
        self._on_change, self._sleep, self._jitter = on_change, sleep, jitter
        self._breaker = Breaker()
        self._in_use: Sink | None = None
        self._proved_at = float("-inf")
        self._since: float | None = None
        self._last_error: str | None = None
        self._local_error: str | None = None
        self._pending = 0
        self._stored_primary = 0
        self._strays: set[asyncio.Task[Any]] = set()

    # --- Sink ----------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        for sink in (self._primary, self._local):
            try:
                await sink.open()
            except Exception as error:  # the contract says it does not; one sink's fault must not cost us the other
                _logger.error("sink did not open", sink=sink.name, error=str(error) or repr(error))

    async def write(self, batch: Batch) -> Receipt:
        sink, receipt = await self._through(lambda sink: sink.write(batch))
        if sink is self._primary:
            self._stored_primary += receipt.stored
        else:
            self._pending += receipt.stored + receipt.duplicates
        if self._record is not None and receipt.ranges:
            await self._record(receipt.ranges)
        return receipt

    async def write_dead_letters(self, letters: Sequence[DeadLetter]) -> int:
        _, new = await self._through(lambda sink: sink.write_dead_letters(letters))
        return new

    async def progress(self) -> Mapping[int, int]:
        """That of Postgres, and from there on what SQLite holds without a gap. Raises while Postgres is away.

        SQLite's own progress does not count: it may be of a failover long over, and Postgres a backup from before it.
        """
        found = dict(await self._boxed(self._primary.progress(), self._timing.probe_timeout))
        try:
            spans = await self._backlog.ranges() if self._backlog is not None else ()
        except Unavailable:
            return found
        for partition in {span.partition for span in spans}:
            held = [(span.start, span.end) for span in spans if span.partition == partition]
            found[partition] = reach(found.get(partition, 0), held)
        return {partition: offset for partition, offset in found.items() if offset}

    async def probe(self) -> None:
        await self._through(lambda sink: sink.probe())

    async def close(self) -> None:
        for task in self._strays:
            task.cancel()
        await self._local.close()
        await self._primary.close()

    # --- Gate ----------------------------------------------------------------------------------------------------

    def reachable(self) -> bool:
        """Postgres answered when last asked: sync-back may run."""
        return rules.reachable(self._breaker)

    def report(self, error: Exception) -> None:
        """Somebody else (sync-back) could not use Postgres."""
        self._failed(error)

    async def tend(self) -> None:
        """Probe what needs proof and refresh the figures. Never raises."""
        now = self._clock.monotonic()
        idle = now - self._proved_at >= self._timing.idle_probe
        if rules.probe_due(self._breaker, now):
            await self._probe_primary()
        if idle or self._in_use is None:
            try:
                await self.probe()
            except Unavailable:
                _logger.debug("no sink answers the probe", error=self._last_error, local_error=self._local_error)
        await self._count_pending()

    def state(self) -> dict[str, Any]:
        """For /ready and /stats; `since` (epoch seconds) is when the present failover began, None on Postgres."""
        return {
            "sink": "none" if self._in_use is None else self._in_use.name,
            "breaker": self._breaker.mode,
            "proven": self._in_use is not None,
            "last_error": self._last_error,
            "local_error": self._local_error,
            "since": self._since,
            "sqlite_pending": self._pending,
            "stored_postgres": self._stored_primary,
        }

    # --- the switch ----------------------------------------------------------------------------------------------

    async def _through(self, attempt: Callable[[Sink], Coroutine[Any, Any, T]]) -> tuple[Sink, T]:
        """Primary as long as the breaker says so, else local; both failing is `Unavailable`."""
        last_call = self._clock.monotonic() + self._timing.budget
        while rules.route(self._breaker, self._policy, self._clock.monotonic()) == "primary":
            try:
                return self._primary, await self._try_primary(attempt)
            except Exception as error:  # also what a sink should not raise: unknown means unavailable
                self._failed(error, at_once=self._clock.monotonic() >= last_call)
            if self._breaker.mode == "closed":
                await self._pause()
        try:
            return self._local, await self._try_local(attempt)
        except Exception as error:
            return await self._last_resort(attempt, error)

    async def _try_primary(self, attempt: Callable[[Sink], Coroutine[Any, Any, T]]) -> T:
        began = self._clock.monotonic()
        result = await self._boxed(attempt(self._primary), self._timing.hang)
        self._metrics.observe("chronicle_sink_write_seconds", self._clock.monotonic() - began, sink=self._primary.name)
        self._worked()
        return result

    async def _try_local(self, attempt: Callable[[Sink], Coroutine[Any, Any, T]]) -> T:
        began = self._clock.monotonic()
        try:
            result = await attempt(self._local)
        except Exception as error:
            self._local_error = str(error) or repr(error)
            self._metrics.inc("chronicle_sink_errors_total", sink=self._local.name, kind=kind_of(error))
            raise
        self._metrics.observe("chronicle_sink_write_seconds", self._clock.monotonic() - began, sink=self._local.name)
        self._local_error = None
        self._proved(self._local)
        return result

    async def _last_resort(self, attempt: Callable[[Sink], Coroutine[Any, Any, T]], cause: Exception) -> tuple[Sink, T]:
        """SQLite failed too: hold-down and probe delays no longer matter, Postgres is asked once more."""
        now = self._clock.monotonic()
        if self.reachable() or rules.probe_due(self._breaker, now):
            try:
                return self._primary, await self._try_primary(attempt)
            except Exception as error:
                self._failed(error)
        self._in_use = None
        unknown = bool(getattr(cause, "unknown", False))
        raise Unavailable(
            self.name, f"{self._last_error}; {self._local_error}", retry_after=1.0, unknown=unknown
        ) from cause

    async def _probe_primary(self) -> None:
        try:
            await self._boxed(self._primary.probe(), self._timing.probe_timeout)
        except Exception as error:
            self._failed(error)
        else:
            self._worked(in_use=False)

    async def _boxed(self, call: Coroutine[Any, Any, T], seconds: float) -> T:
        """The result within `seconds`, else `Unavailable`, unknown.

        A driver that hangs on a dead connection may hang on its cancellation as well: the task is cancelled and left
        to itself. Should its write come through all the same, it is a replay of rows that SQLite has too.
        """
        task = asyncio.create_task(call)
        try:
            await asyncio.wait({task}, timeout=seconds)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if task.done():
            return task.result()
        self._strays.add(task)
        task.add_done_callback(self._forget)
        task.cancel()
        raise Unavailable(self._primary.name, f"no answer within {seconds:.1f} s", unknown=True)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._strays.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, so that asyncio does not report it as lost

    async def _pause(self) -> None:
        tries = max(0, self._breaker.failures - 1)
        await self._sleep(self._timing.backoff * 2.0**tries * (1.0 - self._jitter() / 2.0))

    async def _count_pending(self) -> None:
        if self._backlog is None:
            return
        try:
            self._pending = await self._backlog.pending()
        except Exception as error:  # a figure for the status page; the write path reports its own errors
            self._local_error = str(error) or repr(error)
        self._metrics.set("chronicle_sync_pending", self._pending)

    # --- what happened -------------------------------------------------------------------------------------------

    def _proved(self, sink: Sink) -> None:
        self._in_use, self._proved_at = sink, self._clock.monotonic()

    def _worked(self, *, in_use: bool = True) -> None:
        before = self._breaker
        self._breaker = rules.worked(before, self._policy, self._clock.monotonic())
        if in_use or self._breaker.mode == "closed":
            self._proved(self._primary)
        if before.mode != "closed" and self._breaker.mode == "closed":
            self._ended()
        elif before.mode == "open":
            held = rules.held_until(self._breaker, self._policy) - self._clock.monotonic()
            _logger.info("primary answers again, syncing back", sink=self._primary.name, held_down_s=round(held, 1))

    def _failed(self, error: Exception, *, at_once: bool = False) -> None:
        kind, before = kind_of(error), self._breaker
        self._last_error = str(error) or repr(error)
        self._metrics.inc("chronicle_sink_errors_total", sink=self._primary.name, kind=kind)
        self._breaker = rules.failed(
            before,
            self._policy,
            self._clock.monotonic(),
            at_once=at_once or kind in HOPELESS,
            jitter=self._jitter(),
        )
        if before.mode == "closed" and self._breaker.mode == "open":
            self._started(kind)

    def _started(self, kind: str) -> None:
        self._since = self._clock.now()
        self._metrics.inc("chronicle_failovers_total")
        self._metrics.set("chronicle_breaker_open", 1)
        since = datetime.fromtimestamp(self._since, UTC).isoformat(timespec="seconds")
        say = _logger.critical if kind in HOPELESS else _logger.error
        say(f"writing to {self._local.name} since {since}, because {self._last_error}", kind=kind)
        self._tell("failover_started")

    def _ended(self) -> None:
        self._metrics.set("chronicle_breaker_open", 0)
        away = 0.0 if self._since is None else self._clock.now() - self._since
        _logger.warning(f"back on {self._primary.name}, {self._pending} to sync", seconds=round(away, 1))
        self._tell("failover_ended")
        self._since = self._last_error = None

    def _tell(self, change: Change) -> None:
        if self._on_change is None:
            return
        facts = {"since": self._since, "error": self._last_error, "pending": self._pending}
        try:
            self._on_change(change, facts)
        except Exception:  # an alert that cannot be sent must not stop the writing
            _logger.exception("on_change failed", change=change)
