"""What a worker tells of itself each second, and the watchdog that ends a process whose stream has stopped moving."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

import faust
import structlog
from faust.types import TP

from agents.hold import Hold
from app.settings import Settings
from connectors import transport
from connectors.ports import StatusBoard
from schemas.clock import Clock
from schemas.metrics import Metrics

_logger = structlog.get_logger("chronicle.watch")

#: Seconds between two statuses; the board counts one older than 15 s as gone.
EVERY_S = 1.0


# --- rules -----------------------------------------------------------------------------------------------------------


@dataclass
class Watchdog:
    """Judges the progress of one role. Time it was held on purpose is not held against it.

    `held_at` is the monotonic second it was last seen held: after a hold of an hour all its progress is an hour old,
    and its partitions move on one after the other.
    """

    limit_s: float
    held_at: float = -inf

    def stalled(self, lag: Mapping[TP, int], progress: Mapping[TP, float], *, held: bool, now: float) -> list[str]:
        """The partitions (`topic[partition]`) with lag and without progress for `limit_s` seconds, at `now`.

        `lag` is in records, `progress` the monotonic second of the last ack.
        """
        if held:
            self.held_at = now
            return []
        return [
            f"{tp.topic}[{tp.partition}]"
            for tp, at in progress.items()
            if lag.get(tp, 0) > 0 and now - max(at, self.held_at) > self.limit_s
        ]


def held_on_purpose(*holds: Hold | None) -> bool:
    """Whether one of a role's agents waits for a database (None: an agent that has not begun)."""
    return any(hold is not None and hold.since is not None for hold in holds)


# --- shell -----------------------------------------------------------------------------------------------------------


def _no_app() -> faust.App:
    raise RuntimeError("this role was not wired")


def _nothing() -> Mapping[str, Any]:
    return {}


def _never() -> bool:
    return False


@dataclass
class StreamRole:
    """One stream role of this process: how to make its app, what it tells, whether it is held on purpose."""

    name: str
    make: Callable[[], faust.App] = _no_app
    status: Callable[[], Mapping[str, Any]] = _nothing
    held: Callable[[], bool] = _never
    notes: dict[str, Any] = field(default_factory=dict)
    app: faust.App | None = None


class Pulse:
    """Posts the status, sets the lag, and calls `abort` when a role has lag but no progress for too long.

    A role that is held (both databases away) is not stalled. aiokafka can stay outside its group after a broker
    restart without an error (aio-libs/aiokafka#1154): only the missing progress shows it.
    """

    def __init__(
        self,
        board: StatusBoard,
        roles: Sequence[StreamRole],
        *,
        settings: Settings,
        clock: Clock,
        metrics: Metrics,
        abort: Callable[[str], None],
    ) -> None:
        self._board, self._roles = board, roles
        self._worker, self._all = settings.worker_name, settings.worker.roles
        self._stall_s = settings.worker.exit_on_stall_s
        self._dogs = [Watchdog(self._stall_s) for _ in roles]
        self._clock, self._metrics, self._abort = clock, metrics, abort

    async def run(self) -> None:
        """For ever."""
        while True:
            self.check()
            await self._board.post(self._worker, self.status())
            await asyncio.sleep(EVERY_S)

    def status(self) -> dict[str, Any]:
        """The status of this worker."""
        told: dict[str, Any] = {"worker": self._worker, "roles": list(self._all), "at": self._clock.now()}
        for role in self._roles:
            if role.app is not None:
                told[role.name] = {**role.status(), **role.notes}
        return told

    def check(self) -> None:
        """Set the lag; end the process when a role is stuck."""
        for role, dog in zip(self._roles, self._dogs, strict=True):
            if role.app is None:
                continue
            lag = transport.lag(role.app)
            for tp, records in lag.items():
                self._metrics.set("chronicle_lag", records, role=role.name, partition=str(tp.partition))
            progress, now = transport.last_progress(role.app), self._clock.monotonic()
            if stuck := dog.stalled(lag, progress, held=role.held(), now=now):
                self._abort(f"{role.name} has lag and no progress for {self._stall_s:.0f} s on {', '.join(stuck)}")
