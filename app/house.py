"""The house: `build(settings)` wires every part in the order an event walks.

Here, in `app.streams` and in `app.reading`, and nowhere else, classes are picked. Those two are imported with the roles
that need them, since their libraries are most of what a worker at rest takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import faust
from prometheus_client import CollectorRegistry

from app import asyncapi, openapi, problems
from app.guard import guard
from app.lifecycle import Process, web_app
from app.log_watch import LogWatch
from app.metrics import PrometheusMetrics
from app.plan import Plan
from app.settings import Settings
from app.version import version
from app.views import docs, ingest, mount, ops
from app.views.body import SERVER_ARGS
from app.views.route import Route
from app.watch import Pulse
from app.web_server import Limits
from connectors import topics as topic_check
from connectors.control import KafkaStatusBoard
from connectors.intake import LogOrSpool
from connectors.offsets import LogOffsets
from connectors.producer import KafkaLog
from connectors.ranges import KafkaRangeBook
from connectors.spool import Spool
from schemas import codec as wire
from schemas.clock import Clock, SystemClock
from schemas.envelope import IngestLimits
from schemas.redact import Redactor
from schemas.registry import registry as published

#: Where no client waits for the ack, a chunk is handed over first and sent then: else its first records go alone.
LINGER_MS: Final = 5
#: What is made of `app.streams`.
STREAM_ROLES: Final = frozenset({"dedupe", "persist", "aggregate", "history"})


@dataclass
class House:
    """Everything that was built, for the commands and the tests; `process.run()` brings it to life."""

    settings: Settings
    process: Process
    routes: list[Route]


def build(settings: Settings, clock: Clock | None = None) -> House:
    """Wire the roles named in the settings. Nothing is opened yet; raises nothing that `Settings` has not checked."""
    prometheus = CollectorRegistry()
    plan = Plan(settings, clock or SystemClock(), PrometheusMetrics(prometheus))
    roles = set(settings.worker.roles)
    codec, names = wire.AvroCodec(), settings.topics

    # the log, and the board on which all workers tell how they are
    log = plan.keep(
        KafkaLog(
            settings.kafka.brokers,
            settings.worker_name,
            linger_ms=0 if "ingest" in roles else LINGER_MS,
            compression=settings.batching.compression,
        )
    )
    offsets = LogOffsets(settings.kafka.brokers)
    board = plan.keep(KafkaStatusBoard(settings.kafka.brokers, names.control.name, log, plan.clock))

    # in: HTTP → the log or the spool
    intake = None
    if "ingest" in roles:
        intake = plan.keep(_intake(plan, log))
        plan.routes += ingest.routes(
            intake=intake,
            codec=codec,
            clock=plan.clock,
            limits=_limits(settings),
            redact=Redactor() if settings.ingest.redact else None,
            metrics=plan.metrics,
        )

    # through: the log → the public stream → a database; the stream → the aggregate tables → their history
    if roles & STREAM_ROLES:
        from app import streams  # and with it RocksDB

        if "dedupe" in roles:
            plan.streams.append(streams.dedupe_role(plan, log))
        if "persist" in roles:
            book = KafkaRangeBook(board, names.control.name, log)
            plan.streams.append(streams.persist_role(plan, log, codec, book, offsets))
        if "aggregate" in roles:
            plan.streams.append(streams.aggregate_role(plan, log, codec))
        if "history" in roles:
            plan.streams.append(streams.history_role(plan))

    # back: the databases → HTTP
    ledger = None
    if "api" in roles:
        from app import reading  # and with it SQLAlchemy: 24 MB that no other worker needs

        ledger = reading.api_role(plan, log, intake, codec, offsets, board)
    limit = settings.ingest.spool_max_bytes if settings.ingest.spool else None
    watch = _log_watch(plan, board)
    plan.log_id = lambda: watch.log_id
    probe = ops.ReadyProbe(
        offsets=offsets, intake=intake, status=board, topics=names, clock=plan.clock, spool_limit=limit, log=watch
    )
    views = ops.OpsViews(
        version=version(),
        clock=plan.clock,
        probe=probe,
        ledger=ledger,
        status=board,
        intake=intake,
        registry=prometheus,
        metrics=plan.metrics,
    )
    plan.routes += ops.routes(views)
    if ledger is not None:
        plan.routes += ops.stats_routes(views)
    plan.routes += docs.routes(
        lambda: openapi.encode(openapi.document(plan.routes, version())),
        lambda: openapi.encode(asyncapi.document(names, published(names), version())),
        docs.assets_folder(),
    )

    pulse = Pulse(board, plan.streams, settings=settings, clock=plan.clock, metrics=plan.metrics, abort=plan.abort)
    plan.background.append(pulse.run)
    return _house(plan, watch)


def _house(plan: Plan, watch: LogWatch) -> House:
    settings = plan.settings
    plan.process = Process(
        resources=plan.resources,
        web=_web(plan),
        streams=[role.make for role in plan.streams],
        before_streams=watch.begin,
        background=[watch.run, *plan.background, *([] if plan.streams else [watch.begin])],
    )
    return House(settings, plan.process, plan.routes)


def _web(plan: Plan) -> faust.App:
    settings = plan.settings
    app = web_app(
        f"{settings.kafka.prefix}-web",
        host=settings.server.host,
        port=settings.server.port,
        datadir=str(settings.worker_dir / "web"),
        options={
            "middlewares": [problems.problems(plan.clock, plan.metrics), guard(settings.server.names)],
            "client_max_size": settings.ingest.max_body_bytes,
            "handler_args": SERVER_ARGS,
        },
        limits=Limits(max_connections=settings.server.max_connections),
        answer=problems.outside(plan.clock, plan.metrics),
    )
    mount.mount(app, plan.routes)
    return app


def _log_watch(plan: Plan, board: KafkaStatusBoard) -> LogWatch:
    settings, names = plan.settings, plan.settings.topics
    brokers, specs = settings.kafka.brokers, names.all()

    async def make() -> None:
        """Make what is missing; raises `Misconfigured` for a topic that is not as it must be."""
        await topic_check.ensure(brokers, specs, settings.kafka.replication)
        await topic_check.verify(brokers, specs)

    def other(why: str) -> None:
        for forget in (board.forget, *plan.forget):
            forget()
        if plan.streams:
            plan.process.start_again(why)

    identities = topic_check.Identities(brokers, (names.ingest.name, names.events.name))
    return LogWatch(
        directory=settings.worker_dir,
        make=make,
        look=identities.look,
        note=plan.note_log,
        other=other,
        restarts=bool(plan.streams),
    )


def _intake(plan: Plan, log: KafkaLog) -> LogOrSpool:
    settings = plan.settings
    spool = None
    if settings.ingest.spool:
        path = settings.worker_dir / "spool" / "spool.db"
        spool = Spool(path, clock=plan.clock, max_bytes=settings.ingest.spool_max_bytes)
    return LogOrSpool(
        log,
        spool,
        settings.topics.ingest.name,
        clock=plan.clock,
        metrics=plan.metrics,
        ack_timeout_s=settings.ingest.ack_timeout_s,
    )


def _limits(settings: Settings) -> IngestLimits:
    return IngestLimits(
        max_body_bytes=settings.ingest.max_body_bytes,
        max_events=settings.ingest.max_events,
        max_event_bytes=settings.ingest.max_event_bytes,
    )
