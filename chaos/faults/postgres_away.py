"""What all faults of Postgres have in common: SQLite takes over in time, and everything comes back, verified."""

from __future__ import annotations

import asyncio
import time
from typing import ClassVar, Final

from chaos.faults.looking import SyncBack, Takeover, ask, epoch, ready_status, sqlite_waiting, under_way, until
from chaos.model import Expected, Fault, Place

#: A Postgres that is gone is told at once; one that hangs by the write's time limit (4 s).
GONE_S: Final = 5.0
HANGING_S: Final = 5.0
#: From the moment Postgres takes connections: the longest wait for a probe, and 10 s.
SYNC_START_S: Final = 12.0
SYNCED_S: Final = 60.0
#: Workers tell how they are once a second, through the broker.
TOLD_S: Final = 5.0
REFUSED: Final = "SELECT count(*) FROM dead_letters WHERE cause = 'refused_by_database'"


class PostgresAway(Fault):
    """Common to all that keep Chronicle from writing to Postgres.

    `during` judges when SQLite took over, `verify` that sync-back began in time, is verified and left nothing, and that
    no event was made a dead letter. A subclass does `_hurt` and `_mend`; both may be called on what is hurt or mended.
    """

    expected = Expected(ready_s=45.0, lag_zero_s=45.0, degraded=True)
    #: Longest time from the fault to SQLite's first commit.
    takeover_s: ClassVar[float] = GONE_S
    hold_s = 12.0
    takeover: Takeover | None = None
    _sync: SyncBack | None = None
    _refused = 0
    _mended_at = 0.0

    async def _hurt(self, place: Place) -> None:
        raise NotImplementedError

    async def _mend(self, place: Place) -> None:
        raise NotImplementedError

    async def inject(self, place: Place) -> bool:
        """See the contract."""
        self._sync = await SyncBack.now(place)
        self._refused = await ask(place, REFUSED)
        hit = await under_way(place)
        self.takeover = Takeover(place)
        self.takeover.hurt()
        await self._hurt(place)
        return hit

    async def during(self, place: Place) -> None:
        """SQLite has taken a batch, in time."""
        assert self.takeover is not None
        took = self.takeover.seconds
        if took is not None:
            self.found.times["first_sqlite_commit"] = took
        if took is None or took > self.takeover_s:
            when = "not at all" if took is None else f"after {took:.1f} s"
            self.found.broken.append(f"{self.name}: SQLite took over {when}, allowed are {self.takeover_s:g} s")

        async def degraded() -> bool:
            return await ready_status(place) == "degraded"

        if await until(degraded, TOLD_S) is None:
            status = await ready_status(place)
            self.found.broken.append(f"{self.name}: /ready says {status or 'nothing'!r} instead of 'degraded'")

    async def heal(self, place: Place) -> None:
        """See the contract."""
        if self.takeover is not None:
            self.takeover.end()
        await self._mend(place)
        self._mended_at = time.time()

    async def verify(self, place: Place) -> None:
        """Everything came back, by verified runs."""

        async def empty() -> bool:
            return await asyncio.to_thread(sqlite_waiting, place.sqlite) == 0

        if await until(empty, SYNCED_S) is None:
            self.found.broken.append(f"{self.name}: events still wait in SQLite {SYNCED_S:g} s after lag 0")
        await self._judge_runs(place)
        refused = await ask(place, REFUSED) - self._refused
        if refused:
            self.found.broken.append(f"{self.name}: {refused} events became dead letters")

    async def _judge_runs(self, place: Place) -> None:
        assert self._sync is not None
        assert self.takeover is not None
        runs = await self._sync.runs(place)
        if not runs and self.takeover.at is not None:
            self.found.broken.append(f"{self.name}: SQLite took events, and no sync run is recorded")
        if any(not run["verified"] for run in runs):
            self.found.broken.append(f"{self.name}: a sync run is not verified")
        if runs:
            began = max(0.0, epoch(runs[0]["started_at"]) - self._mended_at)
            self.found.times["sync_start"] = began
            self.found.times["synced_rows"] = float(sum(run["rows"] for run in runs))
            if began > SYNC_START_S:
                self.found.broken.append(f"{self.name}: sync-back began {began:.1f} s after Postgres was back")
