"""Faults of Chronicle's own processes: killed, ended, frozen, joined and left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import Mapping
from typing import ClassVar, Final

from chaos.faults.looking import persist_status, under_way, until
from chaos.model import Expected, Fault, Place
from chaos.units import alive

#: Longest a worker may take to end after SIGTERM (F3), and the others to take over from one that hangs (F4).
TERM_S: Final = 10.0
TAKEOVER_S: Final = 15.0
STORM_KILLS: Final = 30
STORM_S: Final = 60.0
COME_AND_GO_S: Final = 10.0


def victim(place: Place, chance: random.Random) -> int:
    """One stream worker of now. Raises IndexError when there is none."""
    return chance.choice(place.pids()["stream"])


def strike(pid: int, number: int) -> bool:
    """Whether there was a process to send the signal to."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


class _Restarts(Fault):
    """Common to what the supervisor mends by itself: `heal` has nothing to do, all processes are there afterwards."""

    _before: Mapping[str, int]

    def _count(self, place: Place) -> None:
        self._before = {role: len(pids) for role, pids in place.pids().items()}

    async def heal(self, place: Place) -> None:
        """The supervisor's business."""

    async def verify(self, place: Place) -> None:
        """As many processes as before."""

        async def all_there() -> bool:
            return all(len(place.pids().get(role, [])) >= count for role, count in self._before.items())

        if await until(all_there, 20.0) is None:
            now = {role: len(pids) for role, pids in place.pids().items()}
            self.found.broken.append(f"{self.name}: processes before {dict(self._before)}, afterwards {now}")


class WorkerKill(_Restarts):
    """F1 at a random moment; the named points have faults of their own."""

    name = "worker-kill"
    rows = ("F1", "F46")
    what = "kill -9 of one stream worker while it works"
    short = True
    hold_s = 1.0
    expected = Expected(restarts=True)

    async def inject(self, place: Place) -> bool:
        """See the contract."""
        self._count(place)
        hit = await under_way(place)
        await asyncio.sleep(self.chance.uniform(0, 0.5))
        return strike(victim(place, self.chance), signal.SIGKILL) and hit


class WorkerKillStorm(_Restarts):
    """The supervisor waits longer from death to death, so a minute may end it before the last kill."""

    name = "worker-kill-storm"
    rows = ("F2", "F46")
    what = f"{STORM_KILLS} kill -9 of stream workers, 0.1 to 1 s apart, as often as one runs"
    hold_s = 1.0
    # the supervisor's longest wait is 15 s, then the worker starts and restores its tables
    expected = Expected(ready_s=45.0, lag_zero_s=60.0, degraded=True, restarts=True)

    async def inject(self, place: Place) -> bool:
        """See the contract."""
        self._count(place)
        hit, kills = await under_way(place), 0
        end = time.monotonic() + STORM_S
        while kills < STORM_KILLS and time.monotonic() < end:
            if stream := place.pids()["stream"]:
                kills += strike(self.chance.choice(stream), signal.SIGKILL)
            await asyncio.sleep(self.chance.uniform(0.1, 1.0))
        self.found.times["kills"] = float(kills)
        return hit and kills > 1


class WorkerTerm(_Restarts):
    """F3, busy; with both sinks away it is another fault."""

    name = "worker-term"
    rows = ("F3",)
    what = "SIGTERM to one busy stream worker: it ends within 10 s"
    hold_s = 1.0
    expected = Expected(restarts=True)

    async def inject(self, place: Place) -> bool:
        """See the contract."""
        self._count(place)
        hit, pid = await under_way(place), victim(place, self.chance)
        strike(pid, signal.SIGTERM)

        async def gone() -> bool:
            return not alive(pid)

        took = await until(gone, TERM_S + 5)
        self.found.times["exit"] = TERM_S + 5 if took is None else took
        if took is None or took > TERM_S:
            self.found.broken.append(f"{self.name}: still there {TERM_S:g} s after SIGTERM")
        return hit


class WorkerZombie(_Restarts):
    """Longer than the session timeout (10 s): the group gives its partitions away, then it wakes up and goes on.

    Its role `aggregate` wakes up with a batch in hand, too. Whether that was counted twice, or what its successor had
    counted was written over, is judged by I17 at the end of the campaign: every key of the tables is counted again.
    Nothing is looked at here, since while the load goes on the keys it touches cannot be compared.
    """

    name = "worker-zombie"
    rows = ("F4", "F47")
    what = "SIGSTOP of one stream worker for 20 s, then SIGCONT: another takes over, what the woken one writes is void"
    short = True
    hold_s = 20.0
    expected = Expected(degraded=True, restarts=True)
    _pid = 0
    _watch: asyncio.Task[float | None] | None = None

    def cannot(self, place: Place) -> str | None:
        """Somebody must be there to take over."""
        return "needs two stream workers" if len(place.pids()["stream"]) < 2 else None

    async def inject(self, place: Place) -> bool:
        """See the contract."""
        self._count(place)
        held = await partitions(place)
        hit, self._pid = await under_way(place), victim(place, self.chance)
        strike(self._pid, signal.SIGSTOP)
        everything = {number for each in held.values() for number in each}
        self._watch = asyncio.create_task(self._until_others_hold(place, everything))
        return hit

    async def _until_others_hold(self, place: Place, everything: set[int]) -> float | None:
        """One other worker that newly holds what it did not, and all together everything."""
        stopped = place.pids()["stream"].index(self._pid) + 1

        async def taken() -> bool:
            now = await partitions(place)
            others = {number for name, each in now.items() if name != f"stream-{stopped}" for number in each}
            return others >= everything

        return await until(taken, self.hold_s)

    async def during(self, place: Place) -> None:
        """Taken over in time."""
        took = await self._watch if self._watch else None
        self.found.times["taken_over"] = self.hold_s if took is None else took
        if took is None or took > TAKEOVER_S:
            self.found.broken.append(f"{self.name}: nobody took over within {TAKEOVER_S:g} s")

    async def heal(self, place: Place) -> None:
        """See the contract."""
        if self._watch:
            self._watch.cancel()
        if self._pid:
            strike(self._pid, signal.SIGCONT)


class WorkersComeAndGo(Fault):
    """F5."""

    name = "workers-come-and-go"
    rows = ("F5",)
    what = "two more stream workers, in turn joining and leaving every 10 s"
    hold_s = 45.0
    hits = 3
    expected = Expected(degraded=True, restarts=False)
    NAMES: ClassVar[tuple[str, ...]] = ("drill-a", "drill-b")
    _task: asyncio.Task[None] | None = None

    async def inject(self, place: Place) -> bool:
        """See the contract."""
        hit = await under_way(place)
        self._task = asyncio.create_task(self._turn(place))
        return hit

    async def _turn(self, place: Place) -> None:
        present: set[str] = set()
        while True:
            name = self.chance.choice(self.NAMES)
            if name in present:
                present.discard(name)
                await place.remove_worker(name, kill=self.chance.random() < 0.5)
            else:
                present.add(name)
                await place.add_worker(name)
            await asyncio.sleep(COME_AND_GO_S)

    async def heal(self, place: Place) -> None:
        """They leave."""
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        for name in self.NAMES:
            await place.remove_worker(name)


class IngestKill(_Restarts):
    """F6 and F7 at a random moment of a request."""

    name = "ingest-kill"
    rows = ("F6", "F7")
    what = "kill -9 of the ingest process while requests are open"
    short = True
    hold_s = 1.0
    expected = Expected(refused_s=10.0, restarts=True)

    async def inject(self, place: Place) -> bool:
        """See the contract."""
        self._count(place)
        hit = await under_way(place)
        await asyncio.sleep(self.chance.uniform(0, 0.2))
        return strike(place.pids()["ingest"][0], signal.SIGKILL) and hit


class WholeTreeKill(Fault):
    """As if the machine's init had killed the service; page cache and disk stay."""

    name = "whole-tree-kill"
    rows = ("F1", "F7", "F46")
    what = "kill -9 of `up` and of everything of Chronicle at once, then start it again"
    hold_s = 1.0
    expected = Expected(ready_s=30.0, lag_zero_s=45.0, refused_s=45.0, restarts=True)

    async def inject(self, place: Place) -> bool:
        """See the contract."""
        hit = await under_way(place)
        await asyncio.sleep(self.chance.uniform(0, 0.5))
        await place.kill_chronicle()
        return hit

    async def heal(self, place: Place) -> None:
        """See the contract."""
        began = time.monotonic()
        await place.start_chronicle()
        self.found.times["start"] = time.monotonic() - began


async def partitions(place: Place) -> dict[str, set[int]]:
    """What each stream worker that is heard of holds of the events topic."""
    status = await persist_status(place)
    return {name: {int(number) for number in each.get("partitions") or ()} for name, each in status.items()}


FAULTS: Final[tuple[type[Fault], ...]] = (
    WorkerKill,
    WorkerKillStorm,
    WorkerTerm,
    WorkerZombie,
    WorkersComeAndGo,
    IngestKill,
    WholeTreeKill,
)
