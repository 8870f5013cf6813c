"""Operating: /health, /ready, /metrics, /stats and the index at /."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import Any, Protocol

from aiohttp.web import Request, Response
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from app import stats as stats_
from app.metrics import PrometheusMetrics
from app.readiness import Observed, Readiness, judge
from app.stats import LedgerReader, Offsets, Reading
from app.views import respond, shapes
from app.views.params import Query
from app.views.route import Param, Route
from connectors.ports import Intake, StatusBoard
from connectors.readers.shape import iso
from schemas.clock import Clock
from schemas.errors import Unavailable
from schemas.topics import Topics

#: Seconds the broker may take to tell the partitions before the check `topics` fails.
TOPICS_S = 1.0
#: What of a worker's status is shown: an allowlist, so that a new field is private until somebody says otherwise.
_PERSIST_SHOWN = ("sink", "breaker", "proven", "sqlite_pending", "last_error", "sync", "ranges")
_BAD: tuple[str, Any] = ("A parameter is wrong or unknown; `pointer` names it.", None)
_STRICT = Param(
    name="strict",
    schema={"type": "boolean", "default": False},
    doc="Answer 503 unless everything is in order, also for `degraded`.",
)


class LogState(Protocol):
    """What is known of the log itself: `app.log_watch.LogWatch`."""

    @property
    def missing(self) -> bool: ...

    def sentence(self) -> str: ...


class ReadyProbe:
    """Looks at everything /ready depends on and remembers what has proved itself since the process started.

    `intake` is None in a process that takes no events in.
    """

    def __init__(
        self,
        *,
        offsets: Offsets,
        intake: Intake | None,
        status: StatusBoard,
        topics: Topics,
        clock: Clock,
        spool_limit: int | None = None,
        log: LogState | None = None,
    ) -> None:
        self._log = log
        self._offsets, self._intake, self._status = offsets, intake, status
        self._topics, self._clock = topics, clock
        self._spool_limit = spool_limit
        self._proven: frozenset[str] = frozenset()

    async def look(self) -> Readiness:
        """Never raises; takes at most a second."""
        seen = Observed(
            now=self._clock.now(),
            round_trip_at=self._status.round_trip_at(),
            partitions=self._topics.ingest.partitions,
            found=await self._partitions(),
            intake=self._intake.state() if self._intake is not None else {},
            statuses=self._status.statuses(),
            spool_limit=self._spool_limit,
            log="" if self._log is None else self._log.sentence(),
            log_missing=self._log is not None and self._log.missing,
        )
        answer = judge(seen, self._proven)
        self._proven |= {check.name for check in answer.checks if check.ok}
        return answer

    async def _partitions(self) -> int | None:
        try:
            async with asyncio.timeout(TOPICS_S):
                return len(await self._offsets.end_offsets(self._topics.ingest.name))
        except (Unavailable, TimeoutError):
            return None


class OpsViews:
    """The handlers. None of them needs Kafka or a database to answer."""

    def __init__(
        self,
        *,
        version: str,
        clock: Clock,
        probe: ReadyProbe,
        ledger: LedgerReader | None,
        status: StatusBoard,
        intake: Intake | None,
        registry: CollectorRegistry,
        metrics: PrometheusMetrics,
    ) -> None:
        self._version, self._clock, self._began = version, clock, clock.monotonic()
        self._probe, self._ledger, self._status, self._intake = probe, ledger, status, intake
        self._registry, self._metrics = registry, metrics
        metrics.set("chronicle_build_info", 1, version=version)

    async def index(self, request: Request) -> Response:
        Query(request)
        if self._ledger is not None and "text/html" in request.headers.get("Accept", ""):
            return Response(status=303, headers={"Location": "/dashboard/", "Vary": "Accept"})
        paths = (
            "events",
            "sessions",
            "stats",
            "dead-letters",
            "health",
            "ready",
            "metrics",
            "openapi.json",
            "asyncapi.json",
            "docs",
            "dashboard/",
        )
        links = {name.removesuffix(".json").rstrip("/"): f"/{name}" for name in paths}
        return respond.json({"name": "chronicle", "version": self._version, "links": links})

    async def health(self, request: Request) -> Response:
        Query(request)
        uptime = round(self._clock.monotonic() - self._began, 3)
        return respond.json({"status": "ok", "version": self._version, "uptime_s": uptime, "pid": os.getpid()})

    async def ready(self, request: Request) -> Response:
        strict = Query(request, (_STRICT,)).flag("strict")
        answer = await self._probe.look()
        return respond.json(answer, status=answer.http_status(strict=strict))

    async def stats(self, request: Request) -> Response:
        Query(request)
        if self._ledger is None:
            raise Unavailable("ledger", "this worker does not serve the ledger; ask one with the role api")
        reading = await self._ledger.read()
        stats_.show(reading, self._metrics)
        source = "sqlite" if reading.degraded else "postgres"
        body = stats_body(reading, self._status.statuses(), source)
        return respond.json(body, headers={respond.SOURCE_HEADER: source})

    async def metrics(self, request: Request) -> Response:
        """Gauges that are read, not counted, are read now; a scrape never fails because something is away."""
        self._gauges()
        for check in (await self._probe.look()).checks:
            self._metrics.set("chronicle_ready_check", float(check.ok), check=check.name)
        if self._ledger is not None:
            stats_.show(await self._ledger.read(), self._metrics)
        encoder, content_type = choose_encoder(request.headers.get("Accept", ""))
        body = await asyncio.to_thread(encoder, self._registry)
        return Response(body=body, headers={"Content-Type": content_type, "Cache-Control": "no-store"})

    def _gauges(self) -> None:
        if self._intake is None:
            return
        state = self._intake.state()
        self._metrics.set("chronicle_spool_pending", self._intake.pending())
        self._metrics.set("chronicle_spool_bytes", float(state.get("bytes") or 0))
        self._metrics.set("chronicle_spool_mode", float(state.get("mode") == "spool"))


def stats_body(reading: Reading, statuses: Mapping[str, Mapping[str, Any]], source: str) -> dict[str, Any]:
    """The answer of /stats."""
    sums = {name: getattr(reading.ledger, name) for name in shapes.LedgerSum.__struct_fields__}
    return {
        "ledger": sums,
        "parts": reading.ledger.parts,
        "source": source,
        "degraded": reading.degraded,
        "stale": list(reading.inputs.stale),
        "dead_letters_open": reading.dead_open,
        "workers": {name: _worker(status) for name, status in sorted(statuses.items())},
        "at": iso(int(reading.at * 1_000_000)),
    }


def _worker(status: Mapping[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {"roles": status.get("roles"), "at": iso(int(float(status.get("at", 0)) * 1_000_000))}
    if dedupe := status.get("dedupe"):
        held = sorted(int(partition) for partition in dedupe.get("partitions") or {})
        shown["dedupe"] = {"partitions": held, "recovered": dedupe.get("recovered")}
    if persist := status.get("persist"):
        held = sorted(int(partition) for partition in persist.get("partitions") or {})
        shown["persist"] = {"partitions": held} | {name: persist.get(name) for name in _PERSIST_SHOWN}
    return shown


def routes(views: OpsViews) -> list[Route]:
    """What every process serves."""

    def get(path: str, handler: Any, summary: str, answers: dict[int, tuple[str, Any]], **more: Any) -> Route:
        return Route(method="GET", path=path, handler=handler, summary=summary, tag="ops", responses=answers, **more)

    ready = {
        200: ("Events may be sent here.", shapes.Ready),
        422: _BAD,
        503: ("Not now; `checks` say why.", shapes.Ready),
    }
    return [
        get(
            "/",
            views.index,
            "What this is",
            {200: ("Name, version, links.", shapes.Index), 303: ("To the dashboard, for browsers.", None), 422: _BAD},
        ),
        get("/health", views.health, "Does the process live?", {200: ("It does.", shapes.Health), 422: _BAD}),
        get("/ready", views.ready, "May events be sent here?", ready, params=(_STRICT,)),
        get("/metrics", views.metrics, "Prometheus metrics", {200: ("Prometheus text or OpenMetrics.", "text/plain")}),
    ]


def stats_routes(views: OpsViews) -> list[Route]:
    """The loss ledger, for processes with the role api."""
    answers: dict[int, tuple[str, Any]] = {200: ("The ledger.", shapes.Stats), 422: _BAD}
    doc = (
        "accepted = stored + duplicates + rejected + dead + pending + difference; difference is 0 when nothing is lost."
    )
    get = Route(
        method="GET",
        path="/stats",
        handler=respond.guarded(views.stats),
        summary="Loss ledger",
        tag="ops",
        doc=doc,
        responses=answers,
    )
    return [get]
