"""One drill: the place comes up, the load runs, fault after fault is done to it, and then everything is counted.

A round: inject · hold · look · heal · wait until ready and lag 0 · look again. The load runs all the while. The
checker speaks only at the end, when everything has come to rest: an event that is late is not lost.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from chaos.host import get_json
from chaos.measure import Window, overruns
from chaos.model import Expected, Fault
from chaos.place import NotReady, RealPlace
from chaos.report import FaultRow

Say = Callable[[str], None]

#: Seconds after which a round is given up: the place did not come back.
GIVE_UP_S = 120.0
#: Seconds of quiet load between two rounds.
PAUSE_S = 1.5
#: A round's figures come from a machine that does other things too; times are judged with this many seconds of grace.
GRACE_S = 0.5


@dataclass
class Rounds:
    """What happened, in order."""

    windows: list[Window] = field(default_factory=list)
    rows: dict[str, FaultRow] = field(default_factory=dict)
    limits: dict[str, Expected] = field(default_factory=dict)


async def timed(what: Callable[[], Awaitable[object]], limit: float = GIVE_UP_S) -> float | None:
    """Seconds until `what` returned; None when it did not within `limit` or raised `NotReady`."""
    begin = time.monotonic()
    try:
        async with asyncio.timeout(limit):
            await what()
    except (TimeoutError, NotReady):
        return None
    return time.monotonic() - begin


async def calm(place: RealPlace, lag: int) -> None:
    """Until all that had come before is worked off and at most `lag` records are behind, as the load makes them."""
    await place.worked_off()
    while not 0 <= await place.lag() <= lag:
        await asyncio.sleep(0.2)


async def staffed(place: RealPlace, workers: int) -> None:
    """Until as many stream workers live as before, an ingest process too, and all of it says that it is ready.

    The workers come first, by what they say from now on: for the 15 s that a status counts, /ready does not miss one
    that was killed.
    """
    since = time.time()
    while len(place.pids()["stream"]) < workers or not place.pids()["ingest"]:
        await asyncio.sleep(0.1)
    while await at_work(place, since) < workers:
        await asyncio.sleep(0.1)
    await place.until_ready(GIVE_UP_S)


async def at_work(place: RealPlace, since: float) -> int:
    """How many stream workers have said since then that their table is restored and that they have written a batch."""
    told: Mapping[str, Any] = (await get_json(f"{place.url}/stats") or {}).get("workers") or {}
    parts = [
        (datetime.fromisoformat(one["at"]).timestamp(), one.get("dedupe") or {}, one.get("persist") or {})
        for one in told.values()
    ]
    return sum(at > since and bool(seen.get("recovered") and sink.get("proven")) for at, seen, sink in parts)


async def one_round(place: RealPlace, fault: Fault, calm_lag: int) -> Window:
    """Do it once. What went wrong is in `fault.found.broken`."""
    start, hit = time.time(), False
    staff = len(place.pids()["stream"])
    try:
        hit = await fault.inject(place)
        await asyncio.sleep(fault.hold_s)
        await fault.during(place)
    except Exception as error:
        fault.found.broken.append(f"{fault.name}: the fault itself failed: {error!r}")
    finally:
        await fault.heal(place)
    healed = time.time()
    ready_s = await timed(lambda: staffed(place, staff))
    lag_s = await timed(lambda: calm(place, calm_lag))
    lag_zero_s = None if lag_s is None or ready_s is None else ready_s + lag_s
    try:
        await fault.verify(place)
    except Exception as error:
        fault.found.broken.append(f"{fault.name}: looking at it afterwards failed: {error!r}")
    return Window(fault.name, start, healed, time.time(), hit, ready_s, lag_zero_s)


def judge(fault: Fault, window: Window) -> list[str]:
    """What of one round was beyond its limits, in sentences."""
    expected = fault.expected
    said = overruns(
        fault.name,
        {"getting ready": expected.ready_s + GRACE_S, "lag 0": expected.lag_zero_s + GRACE_S},
        {"getting ready": window.ready_s, "lag 0": window.lag_zero_s},
    )
    if window.ready_s is None:
        said.append(f"{fault.name}: not ready {GIVE_UP_S:g} s after it was healed")
    elif window.lag_zero_s is None:
        said.append(f"{fault.name}: lag did not come to 0 within {GIVE_UP_S:g} s")
    return [*fault.found.broken, *said]


async def all_rounds(
    place: RealPlace, faults: Sequence[type[Fault]], seed: int, say: Say, *, calm_lag: int, hits: int | None = None
) -> Rounds:
    """Every fault `hits` times, one kind after the other; each round has its own random source, made of the seed."""
    done = Rounds()
    for kind in faults:
        times = hits or kind.hits
        for number in range(times):
            fault = kind(random.Random(f"{seed}/{kind.name}/{number}"))
            if not await noted(done, place, fault, say, calm_lag=calm_lag, which=f"{number + 1}/{times}"):
                break
            await asyncio.sleep(PAUSE_S)
    return done


async def noted(done: Rounds, place: RealPlace, fault: Fault, say: Say, *, calm_lag: int, which: str) -> bool:
    """One round, written down in `done` and told. False when the fault cannot be done here."""
    row = done.rows.setdefault(fault.name, FaultRow(fault.name, fault.rows, fault.what))
    done.limits[fault.name] = fault.expected
    row.skipped = fault.cannot(place)
    if row.skipped:
        say(f"{fault.name}: skipped, {row.skipped}")
        return False
    window = await one_round(place, fault, calm_lag)
    done.windows.append(window)
    _note(row, fault, window)
    say(_line(fault, window, which))
    for sentence in judge(fault, window):
        say(f"  {sentence}")
    return True


def _note(row: FaultRow, fault: Fault, window: Window) -> None:
    row.rounds += 1
    row.hits += window.hit
    row.ready_s = _worst(row.ready_s, window.ready_s)
    row.lag_zero_s = _worst(row.lag_zero_s, window.lag_zero_s)
    row.broken += judge(fault, window)
    for name, seconds in fault.found.times.items():
        row.times[name] = max(seconds, row.times.get(name, 0.0))


def _worst(one: float | None, other: float | None) -> float | None:
    return max((value for value in (one, other) if value is not None), default=None)


def _line(fault: Fault, window: Window, which: str) -> str:
    def seconds(value: float | None) -> str:
        return "never" if value is None else f"{value:.1f} s"

    hit = "hit" if window.hit else "hit nothing"
    back = f"ready {seconds(window.ready_s)}, lag 0 {seconds(window.lag_zero_s)}"
    return f"{fault.name} {which}: {hit}, {back}"
