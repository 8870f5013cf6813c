"""Reads the parts of the loss ledger, front of the walk first, and keeps the last known value of what is away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeVar

import msgspec

from app import ledger
from app.ledger import DedupeCount, Inputs, Ledger, StoreCount
from connectors.ports import Intake, Reader, StatusBoard
from connectors.readers.failover import FailoverReader
from schemas.clock import Clock
from schemas.errors import Unavailable
from schemas.metrics import Metrics
from schemas.topics import Topics

T = TypeVar("T")

#: Seconds the broker may take to tell where a topic ends.
OFFSETS_S = 2.0
#: How often a reading that does not balance is taken again, and the seconds between: events walk on meanwhile.
TRIES = 3
PAUSE_S = 0.35
#: Seconds for which one reading answers everybody who asks.
FRESH_S = 0.25


class Offsets(Protocol):
    """Where topics end. Raises `Unavailable`."""

    async def end_offsets(self, topic: str) -> Mapping[int, int]: ...


class Local(Reader, Protocol):
    """The local store tells what Postgres does not have yet: stored, rejected, dead."""

    async def backlog(self) -> Mapping[str, int]: ...


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """One ledger with what was known of each part. `at` is epoch seconds."""

    ledger: Ledger
    inputs: Inputs
    degraded: bool
    dead_open: int | None
    at: float
    conflicts_open: int | None = None


class LedgerReader:
    """`read()` never raises for something that is away: the last known value stands in and `inputs.stale` names it.

    `intake` is None in a process that takes no events in: the spool is then unknown, and stale.
    """

    def __init__(
        self,
        *,
        offsets: Offsets,
        intake: Intake | None,
        status: StatusBoard,
        reader: FailoverReader,
        local: Local | None,
        topics: Topics,
        clock: Clock,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._offsets, self._intake, self._status = offsets, intake, status
        self._reader, self._local, self._topics = reader, local, topics
        self._clock, self._sleep = clock, sleep
        self._last: dict[str, Any] = {}
        self._lock = asyncio.Lock()
        self._reading: Reading | None = None
        self._read_at = float("-inf")

    async def read(self) -> Reading:
        """The ledger now; a reading that does not balance is taken up to three times."""
        async with self._lock:
            if self._reading is None or self._clock.monotonic() - self._read_at > FRESH_S:
                self._reading = await self._settle()
                self._read_at = self._clock.monotonic()
            return self._reading

    async def _settle(self) -> Reading:
        reading = await self._once()
        for _ in range(TRIES - 1):
            if reading.ledger.balanced is not False:
                break
            await self._sleep(PAUSE_S)
            reading = await self._once()
        return reading

    async def _once(self) -> Reading:
        """The order is the rule: an event that moves on between two of these steps is seen twice, never not at all."""
        stale: list[str] = []
        spool, refused = self._spool(stale)
        ingest_end = await self._keep("ingest", self._ends(self._topics.ingest.name), {}, stale)
        statuses = self._status.last_known()
        dedupe = self._counters(statuses, ingest_end, stale)
        events_end = await self._keep("events", self._ends(self._topics.events.name), {}, stale)
        sqlite = await self._keep("sqlite", self._backlog(), StoreCount(), stale)
        postgres, dead_open, disputed = await self._keep("postgres", self._primary(), (StoreCount(), None, None), stale)
        inputs = Inputs(
            spool=spool,
            refused=refused,
            ingest_end=ingest_end,
            dedupe=dedupe,
            events_end=events_end,
            persist_next=ledger.persist_progress(statuses),
            sqlite=sqlite,
            postgres=postgres,
            stale=tuple(stale),
        )
        return Reading(
            ledger=ledger.add_up(inputs),
            inputs=inputs,
            degraded="postgres" in stale,
            dead_open=dead_open,
            conflicts_open=disputed,
            at=self._clock.now(),
        )

    async def _keep(self, name: str, asking: Awaitable[T], unknown: T, stale: list[str]) -> T:
        try:
            self._last[name] = await asking
        except Unavailable:
            stale.append(name)
        known: T = self._last.get(name, unknown)
        return known

    def _spool(self, stale: list[str]) -> tuple[int, int]:
        if self._intake is None:  # the spool of another process: what it holds is not known here
            stale.append("spool")
            return 0, 0
        return self._intake.pending(), int(self._intake.state().get("refused") or 0)

    async def _ends(self, topic: str) -> Mapping[int, int]:
        try:
            async with asyncio.timeout(OFFSETS_S):
                return await self._offsets.end_offsets(topic)
        except TimeoutError as error:
            raise Unavailable("broker", f"no answer within {OFFSETS_S:.0f} s") from error

    def _counters(
        self, statuses: Mapping[str, Mapping[str, Any]], ends: Mapping[int, int], stale: list[str]
    ) -> dict[int, DedupeCount]:
        """The counters told last; for a partition that nobody holds at the moment they may be behind."""
        counts = ledger.dedupe_counts(statuses)
        held = ledger.dedupe_counts(self._status.statuses())
        if any(end > 0 and partition not in held for partition, end in ends.items()):
            stale.append("dedupe")
        if any(count.skipped for count in counts.values()):
            stale.append("dedupe.skipped")
        return counts

    async def _backlog(self) -> StoreCount:
        if self._local is None:
            return StoreCount()
        progress = await self._local.progress()
        return StoreCount(next=progress, **await self._local.backlog())

    async def _primary(self) -> tuple[StoreCount, int | None, int | None]:
        async def counts(reader: Reader) -> tuple[StoreCount, int | None, int | None]:
            progress, found = await reader.progress(), await reader.ledger()
            kept = {name: found[name] for name in ("stored", "duplicates", "rejected", "dead", "earlier")}
            return StoreCount(next=progress, **kept), found["dead_open"], found["conflicts_open"]

        return await self._reader.ask_primary(counts)


def show(reading: Reading, metrics: Metrics) -> None:
    """The reading as gauges."""
    sums = reading.ledger
    for part in ("accepted", "stored", "duplicates", "rejected", "dead", "pending", "difference"):
        metrics.set("chronicle_ledger", getattr(sums, part), part=part)
    if reading.conflicts_open is not None:
        metrics.set("chronicle_conflicts_open", reading.conflicts_open)
    inputs = reading.inputs
    done = ledger.highest((inputs.postgres.next, inputs.sqlite.next, inputs.persist_next))
    passed = {partition: count.next for partition, count in inputs.dedupe.items()}
    for role, ends, at in (("dedupe", inputs.ingest_end, passed), ("persist", inputs.events_end, done)):
        for partition, end in ends.items():
            behind = max(0, end - at.get(partition, 0))
            metrics.set("chronicle_lag", behind, role=role, partition=str(partition))
