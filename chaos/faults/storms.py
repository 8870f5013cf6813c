"""Too much: the same events again and again, and more than can be worked off."""

from __future__ import annotations

import asyncio
import random
import time
from typing import ClassVar

from chaos.faults.own import TAKEN, Own
from chaos.model import Expected, Fault, Place

#: What a server that has too much to do may say besides yes.
BUSY = frozenset({429, 503})


class DuplicateStorm(Fault):
    """All of them may be taken; all but the first of each id must leave no row."""

    name = "duplicate-storm"
    rows = ("F33",)
    what = "The same 100 events are sent 200 times, 100 in a request, from eight clients at once."
    short = True
    hold_s = 0.0
    expected = Expected(lag_zero_s=60.0)
    ids: ClassVar[int] = 100
    times: ClassVar[int] = 200
    clients: ClassVar[int] = 8

    async def inject(self, place: Place) -> bool:
        self.own = Own(self.name, self.chance)
        events = self.own.events(self.ids)
        left = iter(range(self.times))

        async def client() -> None:
            for _ in left:
                await self.own.send(place.url, events)

        await asyncio.gather(*(client() for _ in range(self.clients)))
        return True

    async def heal(self, place: Place) -> None:
        """It is over."""

    async def verify(self, place: Place) -> None:
        if set(self.own.statuses) != {202}:
            self.found.broken.append(f"the storm was answered with {dict(self.own.statuses)}")
        self.found.broken += await self.own.broken(place.dsn)


class Overload(Fault):
    """As fast as `clients` can: each waits for its answer only. Refusing is right, losing is not."""

    name = "overload"
    rows = ("F41",)
    what = "For 20 s, 32 clients send 20 events a request as fast as they are answered."
    short = True
    hold_s = 0.0
    expected = Expected(lag_zero_s=60.0, answered_s=5.0, refused_s=20.0)
    seconds: ClassVar[float] = 20.0
    clients: ClassVar[int] = 32
    bulk: ClassVar[int] = 20

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        self.own = Own(self.name, chance)

    async def inject(self, place: Place) -> bool:
        end = time.monotonic() + self.seconds

        async def client() -> None:
            while time.monotonic() < end:
                await self.own.send(place.url, self.own.events(self.bulk))

        await asyncio.gather(*(client() for _ in range(self.clients)))
        return True

    async def heal(self, place: Place) -> None:
        """It is over."""

    async def verify(self, place: Place) -> None:
        other = {status: count for status, count in self.own.statuses.items() if status not in TAKEN | BUSY}
        if other:
            self.found.broken.append(f"under load some were answered with {other}")
        self.found.times["taken_per_s"] = len(self.own.acked) / self.seconds
        self.found.times["slowest_s"] = self.own.slowest_s
        self.found.broken += await self.own.broken(place.dsn)
