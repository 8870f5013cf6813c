"""What a worker tells of itself each second, and the watchdog that ends a process whose stream has stopped moving."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import faust
import structlog

from app.settings import Settings
from connectors import transport
from connectors.ports import StatusBoard
from schemas.clock import Clock
from schemas.metrics import Metrics

_logger = structlog.get_logger("chronicle.watch")

#: Seconds between two statuses; the board counts one older than 15 s as gone.
EVERY_S = 1.0


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
        for role in self._roles:
            if role.app is None:
                continue
            for tp, lag in transport.lag(role.app).items():
                self._metrics.set("chronicle_lag", lag, role=role.name, partition=str(tp.partition))
            if stuck := stalled(role.app, self._clock.monotonic(), self._stall_s):
                if role.held():
                    continue
                self._abort(f"{role.name} has lag and no progress for {self._stall_s:.0f} s on {stuck}")


def stalled(app: faust.App, now: float, limit_s: float) -> list[str]:
    """The partitions with lag whose last progress is longer ago than `limit_s` seconds."""
    lag, progress = transport.lag(app), transport.last_progress(app)
    return [f"{tp.topic}[{tp.partition}]" for tp, at in progress.items() if lag.get(tp, 0) > 0 and now - at > limit_s]
