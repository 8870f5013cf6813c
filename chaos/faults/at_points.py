"""Processes killed at named points of their way (`schemas/points.py`): between any two steps that matter."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from typing import ClassVar

from chaos.faults.own import Own, sqlite_takes, until, waiting_ids
from chaos.model import Expected, Fault, Place

DEDUPE = ("dedupe.decided", "dedupe.produced", "dedupe.remembered", "dedupe.stored", "dedupe.acked")
PERSIST = (
    "persist.decoded",
    "persist.copied",
    "persist.before_commit",
    "persist.after_commit",
    "persist.before_ack",
    "persist.after_ack",
)
COUNTING = ("aggregate.applied", "aggregate.produced", "aggregate.stored", "aggregate.acked", "history.written")
SYNC = ("sync.read", "sync.written", "sync.verified", "sync.marked")
INGEST = ("ingest.before_ack", "ingest.after_ack")
SPOOL = ("spool.before_fsync", "spool.after_fsync")
SQLITE = ("sqlite.before_commit", "sqlite.after_commit")


class _Round(Fault):
    """Each round takes the next of the names; a class goes through all of them, over and over."""

    names: ClassVar[tuple[str, ...]]
    turns: ClassVar[Iterator[str]]
    hold_s = 1.0
    #: Seconds in which the load must pass the point.
    within_s: ClassVar[float] = 20.0

    def arm_next(self, place: Place) -> None:
        self.point = next(self.turns)
        self.before = place.points.hits(self.point)
        place.points.arm(self.point)

    async def hit(self, place: Place) -> bool:
        """Wait until a process died at the armed point."""
        if await until(lambda: place.points.hits(self.point) > self.before, self.within_s):
            return True
        self.found.broken.append(f"no process passed {self.point} within {self.within_s:.0f} s")
        return False

    async def inject(self, place: Place) -> bool:
        self.arm_next(place)
        return await self.hit(place)

    async def heal(self, place: Place) -> None:
        place.points.disarm()


class KilledAtAPoint(_Round):
    name = "killed-at-a-point"
    rows = ("F1",)
    what = "A stream worker is killed (SIGKILL) at a named point of dedupe or persist, another one in each round."
    short = True
    names = (*DEDUPE, *PERSIST)
    turns = itertools.cycle(names)
    hits = len(names)
    expected = Expected(restarts=True)


class CountingKilledAtAPoint(_Round):
    """What it counted twice or left out I17 tells, at the end of the campaign."""

    name = "counting-killed-at-a-point"
    rows = ("F46",)
    what = "A stream worker is killed (SIGKILL) at a named point of aggregate or history, another one in each round."
    short = True
    names = COUNTING
    turns = itertools.cycle(names)
    hits = len(names)
    expected = Expected(restarts=True)


class IngestKilledAtAPoint(_Round):
    """Its own events are under way when the process dies; those without an answer are sent again with the same ids."""

    name = "ingest-killed-at-a-point"
    rows = ("F6", "F7")
    what = (
        "The ingest process is killed before it hands events to the broker, or between the broker's ack and its answer."
    )
    short = True
    names = INGEST
    turns = itertools.cycle(names)
    hits = 4
    expected = Expected(refused_s=15.0, restarts=True)

    async def inject(self, place: Place) -> bool:
        self.own = Own(self.name, self.chance)
        self.arm_next(place)
        killing = asyncio.ensure_future(self.hit(place))
        while not killing.done():
            await asyncio.gather(*(self.own.send(place.url, [event]) for event in self.own.events(8)))
            await asyncio.sleep(0.01)
        return await killing

    async def verify(self, place: Place) -> None:
        if not await self.own.send_again(place.url):
            self.found.broken.append(f"{len(self.own.open)} events were not taken when sent again with their ids")
        self.found.broken += await self.own.broken(place.dsn)


class SpoolKilledAtAPoint(IngestKilledAtAPoint):
    """The same with the broker cut off, so that events are on their way to the disk."""

    name = "spool-killed-at-a-point"
    rows = ("F7", "F8")
    what = "The broker is cut off and the ingest process is killed before or after the spool's fsync."
    short = False
    names = SPOOL
    turns = itertools.cycle(names)
    hits = 4
    expected = Expected(refused_s=20.0, lag_zero_s=45.0, restarts=True)

    async def inject(self, place: Place) -> bool:
        place.kafka_proxy.cut()
        return await super().inject(place)

    async def heal(self, place: Place) -> None:
        await super().heal(place)
        place.kafka_proxy.heal()


class _Failover(_Round):
    """Postgres is stopped; SQLite holds events; what is killed then differs."""

    async def heal(self, place: Place) -> None:
        await super().heal(place)
        if not place.postgres.running():
            await asyncio.to_thread(place.postgres.start)

    async def verify(self, place: Place) -> None:
        if not await until(lambda: not waiting_ids(place.sqlite), 60.0):
            self.found.broken.append(f"SQLite still holds {len(waiting_ids(place.sqlite))} events a minute after")


class SyncKilledAtAPoint(_Failover):
    name = "sync-killed-at-a-point"
    rows = ("F26",)
    what = (
        "Postgres is stopped until SQLite holds events, started again, and the worker is killed at a step of sync-back."
    )
    names = SYNC
    turns = itertools.cycle(names)
    hits = len(names)
    within_s = 60.0  # from the start of Postgres: probe and the queue of those before
    expected = Expected(degraded=True, restarts=True, ready_s=75.0, lag_zero_s=60.0)

    async def inject(self, place: Place) -> bool:
        await asyncio.to_thread(place.postgres.stop)
        if not await sqlite_takes(place.sqlite, at_least=50):
            self.found.broken.append("SQLite took nothing within 20 s of the stop of Postgres")
        self.arm_next(place)
        await asyncio.to_thread(place.postgres.start)
        return await self.hit(place)


class SqliteKilledAtAPoint(_Failover):
    name = "sqlite-killed-at-a-point"
    rows = ("F1", "F24")
    what = "Postgres is stopped and the worker is killed before or after the COMMIT of a batch in SQLite."
    names = SQLITE
    turns = itertools.cycle(names)
    hits = 4
    expected = Expected(degraded=True, restarts=True, ready_s=75.0, lag_zero_s=60.0)

    async def inject(self, place: Place) -> bool:
        await asyncio.to_thread(place.postgres.stop)
        return await super().inject(place)
