"""The way back: databases, aggregate tables and the live feed as HTTP. The role `api`."""

from __future__ import annotations

from functools import partial
from typing import Any

from agents.broadcast import Hub
from agents.live_tail import LiveTail
from app.plan import Plan
from app.stats import LedgerReader
from app.views import analytics, audit, dashboard, deadletters, live, query, registry, sync, tables
from app.views.fresh import Fresh
from connectors.control import KafkaStatusBoard
from connectors.follow import TopicFollower
from connectors.intake import LogOrSpool
from connectors.offsets import LogOffsets
from connectors.producer import KafkaLog
from connectors.readers.failover import FailoverReader
from connectors.readers.postgres import PostgresReader
from connectors.readers.sqlite import SqliteReader
from connectors.scan import LogScan
from schemas.codec import AvroCodec
from schemas.redact import Redactor
from schemas.registry import registry as published
from tables import usage_codec
from tables.usage_view import Figures


def api_role(
    plan: Plan,
    log: KafkaLog,
    intake: LogOrSpool | None,
    codec: AvroCodec,
    offsets: LogOffsets,
    board: KafkaStatusBoard,
) -> LedgerReader:
    """Adds the routes that read, and what they read from. The ledger also serves /stats."""
    settings, names = plan.settings, plan.settings.topics
    local = SqliteReader(settings.sqlite_path)
    reader = plan.keep(FailoverReader(_postgres(plan), local))
    figures, follower = _figures(plan)
    fresh = Fresh(plan.clock, lambda: follower.read)
    ledger = LedgerReader(
        offsets=offsets, intake=intake, status=board, reader=reader, local=local, topics=names, clock=plan.clock
    )
    scan = LogScan(settings.kafka.brokers)
    letters = deadletters.DeadLetterViews(
        reader=reader, intake=intake, log=log, codec=codec, topics=names, clock=plan.clock
    )
    audits = audit.AuditViews(
        ledger=ledger, offsets=offsets, scan=scan, status=board, reader=reader, local=local, topics=names
    )
    plan.routes += query.routes(reader, names, fresh, plan.clock, settings.database.idle_hours)
    plan.routes += registry.routes(published(names), settings.public())
    plan.routes += deadletters.routes(letters)
    plan.routes += sync.routes(_conflicts(plan, reader, codec))
    plan.routes += audit.routes(audits)
    plan.routes += live.routes(_live(plan, codec, scan, figures, follower))
    plan.routes += analytics.routes(analytics.AnalyticsViews(figures, lambda: follower.caught_up, plan.clock))
    plan.routes += tables.routes(tables.TableViews(figures, lambda: follower.caught_up, plan.clock))
    plan.routes += dashboard.routes(dashboard.DashboardViews())
    return ledger


def _figures(plan: Plan) -> tuple[Figures, TopicFollower]:
    """The newest value of each aggregate, and what keeps them so."""
    kafka, figures = plan.settings.kafka, Figures()
    topic, take = plan.settings.topics.aggregates.name, partial(usage_codec.follow, figures)
    follower = plan.keep(TopicFollower(kafka.brokers, topic, kafka.partitions, take))
    plan.forget += [figures.clear, follower.forget]
    return figures, follower


def _conflicts(plan: Plan, reader: FailoverReader, codec: AvroCodec) -> sync.ConflictViews:
    redact = Redactor() if plan.settings.ingest.redact else None
    return sync.ConflictViews(reader=reader, codec=codec, clock=plan.clock, metrics=plan.metrics, redact=redact)


def _live(plan: Plan, codec: AvroCodec, scan: LogScan, figures: Figures, follower: TopicFollower) -> live.LiveViews:
    """The stream itself, read only while somebody watches; before that its history, out of the log."""
    kafka, topic = plan.settings.kafka, plan.settings.topics.events.name

    def follow(take: Any, begin: Any) -> TopicFollower:
        return TopicFollower(kafka.brokers, topic, kafka.partitions, take, begin)

    tail = plan.keep(LiveTail(Hub(), codec, follow))
    plan.forget.append(tail.forget)
    return live.LiveViews(
        tail,
        live.History(scan, codec, topic),
        partitions=kafka.partitions,
        stats=lambda: analytics.pulse(figures, plan.clock.now()) if follower.caught_up else None,
        metrics=plan.metrics,
    )


def _postgres(plan: Plan) -> PostgresReader:
    database = plan.settings.database
    dsn, longest = database.url.get_secret_value(), database.statement_timeout_s
    return PostgresReader(dsn, pool_size=database.pool_size, statement_timeout_s=longest, metrics=plan.metrics)
