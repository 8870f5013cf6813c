"""Operators at work: Postgres comes back from a backup, processes are exchanged one after the other."""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import subprocess
from pathlib import Path

from chaos.faults.looking import under_way
from chaos.faults.own import Own, until
from chaos.faults.processes import strike
from chaos.model import Expected, Fault, Place
from chaos.units import alive

EVENTS = 200
#: Seconds for a process to end and for the next one to be there.
EXCHANGED_S = 30.0


class PostgresRestored(Fault):
    """As docs/operate.md says it: stop Chronicle, put the backup in its place, start Chronicle. Kafka has the rest."""

    name = "postgres-restored"
    rows = ("F42",)
    what = "Postgres is put back to a copy of its files from before the last events, with Chronicle stopped"
    keeps_readable = False
    hold_s = 0.0
    expected = Expected(ready_s=30.0, lag_zero_s=60.0, refused_s=60.0, degraded=True, restarts=True)

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        self.own = Own(self.name, chance)

    async def inject(self, place: Place) -> bool:
        data = _data_of(place)
        backup = data.with_name("backup")
        await place.stop_chronicle()
        await asyncio.to_thread(place.postgres.stop)
        await asyncio.to_thread(_copy, data, backup)
        await asyncio.to_thread(place.postgres.start)
        await place.start_chronicle()
        await self.own.send(place.url, self.own.events(EVENTS))
        stored = not await self.own.broken(place.dsn)
        await place.stop_chronicle()
        await asyncio.to_thread(place.postgres.stop)
        await asyncio.to_thread(shutil.rmtree, data)
        backup.rename(data)
        return stored

    async def heal(self, place: Place) -> None:
        await asyncio.to_thread(place.postgres.start)
        await place.start_chronicle()

    async def verify(self, place: Place) -> None:
        if len(self.own.acked) < EVENTS:
            self.found.broken.append(f"only {len(self.own.acked)} of {EVENTS} events were taken before the restore")
        self.found.broken += await self.own.broken(place.dsn)


class RollingUpgrade(Fault):
    """In the order of docs/operate.md: stream workers first, one after the other, then ingest."""

    name = "rolling-upgrade"
    rows = ("F43",)
    what = "each process is ended with SIGTERM and exchanged, one after the other, under load"
    hold_s = 0.0
    expected = Expected(ready_s=30.0, lag_zero_s=45.0, refused_s=15.0, restarts=True)

    async def inject(self, place: Place) -> bool:
        hit = await under_way(place)
        for role in ("stream", "ingest"):
            for pid in place.pids()[role]:
                await self._exchange(place, role, pid)
        return hit

    async def _exchange(self, place: Place, role: str, pid: int) -> None:
        staff = len(place.pids()[role])
        strike(pid, signal.SIGTERM)

        def exchanged() -> bool:
            return not alive(pid) and len(place.pids()[role]) >= staff

        if not await until(exchanged, EXCHANGED_S):
            self.found.broken.append(f"{role} {pid} was not exchanged within {EXCHANGED_S:g} s")

    async def heal(self, place: Place) -> None:
        """Nothing to mend."""


def _data_of(place: Place) -> Path:
    directory: Path = place.postgres.directory  # type: ignore[attr-defined]  # the drill's own server has one
    return (directory / "data").resolve()


def _copy(data: Path, backup: Path) -> None:
    subprocess.run(["cp", "-a", str(data), str(backup)], check=True)  # with owners and times, unlike shutil
