"""What shows a planted bug: for each, the moment at which it loses or doubles something, three times."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from chaos.place import RealPlace

Scenario = Callable[[RealPlace], Awaitable[None]]
TIMES = 3


def kill(pids: list[int]) -> None:
    """SIGKILL to each that is still there."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


async def killed_while_the_sink_hangs(place: RealPlace) -> None:
    """Postgres is frozen for three seconds (less than it takes to give it up), then the stream workers are killed."""
    for _ in range(TIMES):
        await asyncio.to_thread(place.postgres.pause)
        await asyncio.sleep(3)
        kill(list(place.pids()["stream"]))
        await asyncio.to_thread(place.postgres.resume)
        await settle(place)


async def killed_after_commit(place: RealPlace) -> None:
    """A worker dies between COMMIT and ack: the batch comes again."""
    for _ in range(TIMES):
        await killed_at(place, "persist.after_commit")


async def killed_after_marking(place: RealPlace) -> None:
    """A worker dies right after it has stored what it saw."""
    for _ in range(TIMES):
        await killed_at(place, "dedupe.stored")


async def killed_while_counting(place: RealPlace) -> None:
    """A worker dies between the table and the ack: the batch is counted again."""
    for _ in range(TIMES):
        await killed_at(place, "aggregate.stored")


async def killed_at(place: RealPlace, point: str, seconds: float = 20.0) -> None:
    """Arm the point and wait until a process has died there."""
    before = place.points.hits(point)
    place.points.arm(point)
    async with asyncio.timeout(seconds):
        while place.points.hits(point) == before:
            await asyncio.sleep(0.05)
    await settle(place)


async def tree_killed_while_spooling(place: RealPlace) -> None:
    """The broker is frozen, the spool takes over, and everything of Chronicle dies at once."""
    await asyncio.to_thread(place.kafka.pause)
    await asyncio.sleep(6)
    await place.kill_chronicle()
    await asyncio.to_thread(place.kafka.resume)
    await place.start_chronicle()


async def settle(place: RealPlace) -> None:
    """Until all is well again; a planted bug may keep it from that, and then the checker has its say."""
    with suppress(TimeoutError):
        await place.until_ready(60)


SCENARIOS: Mapping[str, Scenario] = {
    "ack-before-sink": killed_while_the_sink_hangs,
    "stock-take": killed_while_the_sink_hangs,
    "do-update": killed_after_commit,
    "spool-without-fsync": tree_killed_while_spooling,
    "mark-before-produce": killed_after_marking,
    "commit-across-a-gap": killed_while_the_sink_hangs,
    "count-again": killed_while_counting,
}
