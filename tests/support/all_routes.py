"""The whole route table over memory parts, as `app.house` puts it together."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from agents.broadcast import Hub
from agents.live_tail import LiveTail
from app import asyncapi, openapi
from app.metrics import PrometheusMetrics
from app.stats import LedgerReader
from app.views import analytics, audit, dashboard, deadletters, docs, ingest, live, ops, registry, sync, tables
from app.views.route import Route
from connectors.memory import MemoryIntake, MemoryLog, MemoryStatusBoard
from connectors.readers.failover import FailoverReader
from connectors.readers.memory import MemoryReader
from reading import TOPICS, FixedOffsets, FixedScan, ManualClock, event_row, letter_row, query_routes, session_row
from schemas.codec import AvroCodec
from schemas.envelope import IngestLimits
from schemas.metrics import NullMetrics
from schemas.registry import registry as published
from tables.usage import ToolUse
from tables.usage_view import Figures

VERSION = "1.2.3"


class NoStream:
    """A follower that never hears of anything."""

    async def open(self) -> None:
        """Nothing."""

    async def close(self) -> None:
        """Nothing."""

    def forget(self) -> None:
        """Nothing."""


def all_routes() -> list[Route]:
    """Every route of a process with the roles ingest and api; the stores hold one row of each kind."""
    clock, intake, codec = ManualClock(), MemoryIntake(), AvroCodec()
    status, offsets = MemoryStatusBoard(clock), FixedOffsets(ingest={0: 1, 1: 0}, events={0: 1, 1: 0})
    primary, local = MemoryReader("postgres"), MemoryReader("sqlite")
    primary.event_rows.append(event_row(1))
    primary.session_rows.append(session_row("s-1", 5))
    primary.letter_rows.append(letter_row(3, event_id=None))
    reader = FailoverReader(primary, local)
    ledger = LedgerReader(
        offsets=offsets, intake=intake, status=status, reader=reader, local=local, topics=TOPICS, clock=clock
    )
    collected = CollectorRegistry()
    views = ops.OpsViews(
        version=VERSION,
        clock=clock,
        probe=ops.ReadyProbe(offsets=offsets, intake=intake, status=status, topics=TOPICS, clock=clock),
        ledger=ledger,
        status=status,
        intake=intake,
        registry=collected,
        metrics=PrometheusMetrics(collected),
    )
    letters = deadletters.DeadLetterViews(
        reader=reader, intake=intake, log=MemoryLog(), codec=codec, topics=TOPICS, clock=clock
    )
    table = ingest.routes(intake, codec, clock, IngestLimits(), None, NullMetrics())
    table += query_routes(reader) + registry.routes(published(TOPICS)) + deadletters.routes(letters)
    table += sync.routes(sync.ConflictViews(reader=reader, codec=codec, clock=clock, metrics=NullMetrics()))
    table += audit.routes(
        audit.AuditViews(
            ledger=ledger, offsets=offsets, scan=FixedScan(), status=status, reader=reader, local=local, topics=TOPICS
        )
    )
    figures = Figures()
    figures.put(0, ("tools", "minute", 0, "all", "", "Bash"), ToolUse(calls=1))
    table += analytics.routes(analytics.AnalyticsViews(figures, lambda: True, clock))
    table += tables.routes(tables.TableViews(figures, lambda: True, clock))
    tail = LiveTail(Hub(), codec, lambda take, begin: NoStream())
    table += live.routes(
        live.LiveViews(tail, live.History(FixedScan(), codec, TOPICS.events.name), partitions=2, metrics=NullMetrics())
    )
    table += dashboard.routes(dashboard.DashboardViews())
    table += ops.routes(views) + ops.stats_routes(views)
    table += docs.routes(
        lambda: openapi.encode(openapi.document(table, VERSION)),
        lambda: openapi.encode(asyncapi.document(TOPICS, published(TOPICS), VERSION)),
        docs.assets_folder(),
    )
    return table
