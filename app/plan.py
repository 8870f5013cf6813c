"""The plan of a process while it is being wired: what its rooms need of each other and what they add."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from app.lifecycle import Process, Resource
from app.metrics import PrometheusMetrics
from app.settings import Settings
from app.views.route import Route
from app.watch import StreamRole
from schemas.clock import Clock


@dataclass
class Plan:
    """What the rooms add while the house is being built."""

    settings: Settings
    clock: Clock
    metrics: PrometheusMetrics
    resources: list[Resource] = field(default_factory=list)
    routes: list[Route] = field(default_factory=list)
    streams: list[StreamRole] = field(default_factory=list)
    background: list[Callable[[], Any]] = field(default_factory=list)
    #: The broker's id of the log, once it is known: the streams start after that.
    log_id: Callable[[], str] = str
    #: What drops knowledge of a log that is gone.
    forget: list[Callable[[], None]] = field(default_factory=list)
    #: Writes the id of the log into the databases; set by the role that writes to them.
    note_log: Callable[[str], Awaitable[None]] | None = None

    def keep(self, resource: Any) -> Any:
        """Opened with the process, in this order, and closed in reverse."""
        self.resources.append(resource)
        return resource

    def abort(self, why: str) -> None:
        """End the process at once; wired to `Process.abort` when that exists."""
        self.process.abort(why)

    process: Process = field(init=False)
