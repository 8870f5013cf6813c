"""A process of Chronicle runs into a limit of the machine: no file descriptor more, no memory more."""

from __future__ import annotations

import asyncio
import itertools
import random
import resource
from pathlib import Path
from typing import ClassVar

from chaos.faults.own import Own
from chaos.faults.processes import victim
from chaos.model import Expected, Fault, Place
from chaos.units import alive

#: Requests with large events, and what is in one: more than the buffers that are there already can hold.
LARGE_REQUESTS, LARGE, LARGE_CHARS = 12, 8, 880_000
#: Seconds within which every connection is there again after a reset, if it can be had.
BACK_S = 3.0


class _Limited(Fault):
    """The limit is set from outside, on the living process; the one that takes its place has the usual one."""

    rows = ("F40",)
    hold_s = 10.0
    # A process that cannot go on ends itself; 60 s because the supervisor waits longer from death to death.
    expected = Expected(ready_s=60.0, lag_zero_s=75.0, answered_s=15.0, refused_s=25.0, degraded=True, restarts=True)
    kind: ClassVar[int]

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        self.own = Own(self.name, chance)
        self._before: dict[int, tuple[int, int]] = {}

    async def inject(self, place: Place) -> bool:
        for pid in self.victims(place):
            before = resource.prlimit(pid, self.kind)
            resource.prlimit(pid, self.kind, (self.room(pid), before[1]))
            self._before[pid] = before
        return await self.bitten(place)

    async def heal(self, place: Place) -> None:
        for pid, before in self._before.items():
            try:
                resource.prlimit(pid, self.kind, before)
            except ProcessLookupError:
                continue

    async def verify(self, place: Place) -> None:
        if not await self.own.send_again(place.url):
            self.found.broken.append(f"{len(self.own.open)} events are refused long after the limit is gone")
        self.found.broken += await self.own.broken(place.dsn)

    def victims(self, place: Place) -> list[int]:
        """Whom it meets."""
        return [victim(place, self.chance)]

    def room(self, pid: int) -> int:
        """The new limit."""
        raise NotImplementedError

    async def bitten(self, place: Place) -> bool:
        """Make the process need what it cannot have; whether it did."""
        raise NotImplementedError


class NoFilesLeft(_Limited):
    """EMFILE. All connections to both servers are reset as well, so that new ones are needed."""

    name = "no-files-left"
    what = (
        "the ingest process and one stream worker can open no file and no connection for 10 s, and lose those they had"
    )
    kind = resource.RLIMIT_NOFILE

    def victims(self, place: Place) -> list[int]:
        return [*place.pids()["ingest"], victim(place, self.chance)]

    def room(self, pid: int) -> int:
        """The lowest number that is free: the kernel gives that one, and it is not below the limit."""
        taken = _files(pid)
        return next(number for number in itertools.count() if number not in taken)

    async def bitten(self, place: Place) -> bool:
        had = {pid: len(_files(pid)) for pid in self._before}
        place.kafka_proxy.reset_once()
        place.postgres_proxy.reset_once()
        for event in self.own.events(5):
            await self.own.send(place.url, [event], timeout=3.0)
        await asyncio.sleep(BACK_S)
        return any(alive(pid) and len(_files(pid)) < files for pid, files in had.items())


class NoMemoryLeft(_Limited):
    """MemoryError in Python, bad_alloc in RocksDB, NULL in librdkafka: whichever comes first."""

    name = "no-memory-left"
    what = "one stream worker can have no more address space than it has, for 10 s, and large events come"
    kind = resource.RLIMIT_AS

    def room(self, pid: int) -> int:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
        return pages * resource.getpagesize()

    async def bitten(self, place: Place) -> bool:
        for _ in range(LARGE_REQUESTS):  # a session each: all partitions get some
            others = Own(self.name, self.chance)
            await others.send(place.url, others.events(LARGE, text="x" * LARGE_CHARS))
            self.own.acked |= others.acked
            self.own.open |= others.open
        return len(self.own.acked) > LARGE_REQUESTS * LARGE // 2


def _files(pid: int) -> set[int]:
    return {int(one.name) for one in Path(f"/proc/{pid}/fd").iterdir()}
