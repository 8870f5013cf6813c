"""The house: `build(settings)` wires every part in the order an event walks; the only place that picks classes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import faust
import structlog
from prometheus_client import CollectorRegistry

from agents import dedupe, persist, quarantine
from agents.batching import BatchPolicy
from agents.hold import Hold
from agents.persist import PersistStatus
from agents.recall import Recall
from agents.sync_back import SyncBack
from app import openapi, problems
from app.guard import guard
from app.lifecycle import Process, Resource, web_app
from app.metrics import PrometheusMetrics
from app.settings import Settings
from app.stats import LedgerReader
from app.version import version
from app.views import deadletters, docs, ingest, mount, ops, query, registry
from app.views.body import SERVER_ARGS
from app.views.route import Route
from app.watch import Pulse, StreamRole, held_on_purpose
from connectors import rows
from connectors import topics as topic_check
from connectors.breaker import BreakerPolicy
from connectors.control import KafkaStatusBoard
from connectors.failover import FailoverSink
from connectors.intake import LogOrSpool
from connectors.offsets import LogOffsets
from connectors.postgres import PostgresSink
from connectors.producer import KafkaLog
from connectors.ranges import KafkaRangeBook
from connectors.readers.failover import FailoverReader
from connectors.readers.postgres import PostgresReader
from connectors.readers.sqlite import SqliteReader
from connectors.spool import Spool
from connectors.sqlite import SqliteSink
from connectors.transport import FAUST_SETTINGS, chunk_topic, positions, reading, use
from schemas import codec as wire
from schemas.clock import Clock, SystemClock
from schemas.envelope import IngestLimits
from schemas.errors import Unavailable
from schemas.redact import Redactor
from schemas.registry import registry as published
from tables import seen_table
from tables.seen import Retention

_logger = structlog.get_logger("chronicle.house")


@dataclass
class House:
    """Everything that was built, for the commands and the tests; `process.run()` brings it to life."""

    settings: Settings
    process: Process
    routes: list[Route]


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

    def keep(self, resource: Any) -> Any:
        """Opened with the process, in this order, and closed in reverse."""
        self.resources.append(resource)
        return resource

    def abort(self, why: str) -> None:
        """End the process at once; wired to `Process.abort` when that exists."""
        self.process.abort(why)

    process: Process = field(init=False)


def build(settings: Settings, clock: Clock | None = None) -> House:
    """Wire the roles named in the settings. Nothing is opened yet; raises nothing that `Settings` has not checked."""
    prometheus = CollectorRegistry()
    plan = Plan(settings, clock or SystemClock(), PrometheusMetrics(prometheus))
    roles = set(settings.worker.roles)
    codec, names = wire.AvroCodec(), settings.topics

    # the log, and the board on which all workers tell how they are
    log = plan.keep(KafkaLog(settings.kafka.brokers, settings.worker_name, compression=settings.batching.compression))
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

    # through: the log → the public stream → a database
    if "dedupe" in roles:
        plan.streams.append(_dedupe(plan, log))
    if "persist" in roles:
        book = KafkaRangeBook(board, names.control.name, log)
        plan.streams.append(_persist(plan, log, codec, book, offsets))

    # back: the databases → HTTP
    ledger = None
    if "api" in roles:
        local = SqliteReader(settings.sqlite_path)
        reader = plan.keep(FailoverReader(_reader(settings), local))
        plan.routes += query.routes(reader, names)
        plan.routes += registry.routes(published(names), settings.public())
        ledger = LedgerReader(
            offsets=offsets, intake=intake, status=board, reader=reader, local=local, topics=names, clock=plan.clock
        )
        plan.routes += deadletters.routes(
            deadletters.DeadLetterViews(
                reader=reader, intake=intake, log=log, codec=codec, topics=names, clock=plan.clock
            )
        )
    limit = settings.ingest.spool_max_bytes if settings.ingest.spool else None
    probe = ops.ReadyProbe(
        offsets=offsets, intake=intake, status=board, topics=names, clock=plan.clock, spool_limit=limit
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
    plan.routes += docs.routes(lambda: openapi.encode(openapi.document(plan.routes, version())), docs.assets_folder())

    pulse = Pulse(board, plan.streams, settings=settings, clock=plan.clock, metrics=plan.metrics, abort=plan.abort)
    plan.background.append(pulse.run)
    return _house(plan)


def _house(plan: Plan) -> House:
    settings = plan.settings
    plan.process = Process(
        resources=plan.resources,
        web=_web(plan),
        streams=[role.make for role in plan.streams],
        before_streams=lambda: _topics_are_there(settings),
        background=plan.background if plan.streams else [lambda: _topics_are_there(settings), *plan.background],
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
    )
    mount.mount(app, plan.routes)
    return app


async def _topics_are_there(settings: Settings) -> None:
    """Wait for the broker, make what is missing; raises `Misconfigured` for a topic that is not as it must be."""
    brokers, specs = settings.kafka.brokers, settings.topics.all()
    while True:
        try:
            await topic_check.ensure(brokers, specs, settings.kafka.replication)
            await topic_check.verify(brokers, specs)
        except Unavailable as away:
            _logger.warning("waiting for the broker", error=str(away))
            await asyncio.sleep(1.0)
        else:
            return


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


def _reader(settings: Settings) -> PostgresReader:
    database = settings.database
    dsn, longest = database.url.get_secret_value(), database.statement_timeout_s
    return PostgresReader(dsn, pool_size=database.pool_size, statement_timeout_s=longest)


def _limits(settings: Settings) -> IngestLimits:
    return IngestLimits(
        max_body_bytes=settings.ingest.max_body_bytes,
        max_events=settings.ingest.max_events,
        max_event_bytes=settings.ingest.max_event_bytes,
    )


def _dedupe(plan: Plan, log: KafkaLog) -> StreamRole:
    settings, names = plan.settings, plan.settings.topics
    role = StreamRole("dedupe")
    codec = wire.AvroCodec()

    def make() -> faust.App:
        app = stream_app(settings, "dedupe")
        use(app, chunked={names.ingest.name}, role="dedupe", metrics=plan.metrics)
        table = seen_table.declare(
            app,
            names.seen,
            settings.worker_dir / "seen",
            abort=plan.abort,
            retention=Retention(
                window_s=int(settings.dedupe.window_hours * 3600), bucket_s=int(settings.dedupe.bucket_hours * 3600)
            ),
        )
        role.status = table.status
        deps = dedupe.Deps(
            table=table,
            log=log,
            peek=codec.peek,
            remark=codec.remark,
            topics=names,
            clock=plan.clock,
            metrics=plan.metrics,
            status=role.notes,
            abort=plan.abort,
        )
        dedupe.attach(app, chunks=chunk_topic(app, names.ingest.name), deps=deps)
        role.app = app
        return app

    role.make = make
    return role


def _persist(plan: Plan, log: KafkaLog, codec: wire.AvroCodec, book: KafkaRangeBook, offsets: LogOffsets) -> StreamRole:
    settings, names = plan.settings, plan.settings.topics
    role = StreamRole("persist")
    scope = f"{socket.gethostname()}:{settings.sqlite_path.absolute()}"
    sqlite = SqliteSink(
        settings.sqlite_path, scope=scope, max_bytes=settings.database.fallback_max_bytes, clock=plan.clock
    )

    def reachable() -> bool:
        there: bool = sink.reachable()
        return there

    recall = Recall(
        book=book,
        store=sqlite,
        begins=lambda: offsets.begin_offsets(names.events.name),
        reading=lambda: reading(role.app, names.events.name),
        reachable=reachable,
        clock=plan.clock,
        abort=plan.abort,
    )
    postgres, syncing = (_postgres(plan, name) for name in (settings.worker_name, f"{settings.worker_name}-sync"))
    sink = plan.keep(
        FailoverSink(
            postgres,
            sqlite,
            clock=plan.clock,
            metrics=plan.metrics,
            backlog=sqlite,
            record=recall.record,
            policy=BreakerPolicy(
                failures=settings.failover.failures,
                probe_cap=settings.failover.probe_max_s,
                hold_down=settings.failover.hold_down_s,
            ),
        )
    )
    sync = SyncBack(
        backlog=sqlite,
        primary=plan.keep(syncing),
        gate=sink,
        log=log,
        topics=names,
        clock=plan.clock,
        metrics=plan.metrics,
        batch=settings.failover.sync_batch,
        digest=rows.expected,
        worker=settings.worker_name,
        scope=scope,
    )
    plan.background += [sync.run_forever, recall.run_forever]
    told, letters_hold = PersistStatus(), Hold(clock=plan.clock, metrics=plan.metrics, gauge=None)
    role.held = lambda: held_on_purpose(told.hold, letters_hold)

    def status() -> dict[str, Any]:
        assigned = {} if role.app is None else positions(role.app)
        held = {str(tp.partition): {"next": at} for tp, (at, _) in assigned.items() if tp.topic == names.events.name}
        return {**told.snapshot(), **sink.state(), "sync": sync.state(), "ranges": recall.state(), "partitions": held}

    role.status = status

    def make() -> faust.App:
        app = stream_app(settings, "persist")
        chunked = {names.events.name, names.dead_letters.name}
        resume = persist.resume(sink, names.events.name, recall.starts, names.dead_letters.name)
        use(app, chunked=chunked, role="persist", resume=resume, metrics=plan.metrics)
        persist.attach(
            app,
            topic=chunk_topic(app, names.events.name),
            sink=sink,
            log=log,
            codec=codec,
            topics=names,
            policy=_batching(settings),
            clock=plan.clock,
            metrics=plan.metrics,
            status=told,
            abort=plan.abort,
        )
        quarantine.attach(
            app,
            topic=chunk_topic(app, names.dead_letters.name),
            sink=sink,
            hold=letters_hold,
            clock=plan.clock,
            abort=plan.abort,
        )
        role.app = app
        return app

    role.make = make
    return role


def _postgres(plan: Plan, name: str) -> PostgresSink:
    settings = plan.settings
    dsn = settings.database.url.get_secret_value()
    return PostgresSink(dsn, worker=name, timeout_s=settings.database.write_timeout_s, clock=plan.clock)


def _batching(settings: Settings) -> BatchPolicy:
    wanted = settings.batching
    return BatchPolicy(
        enabled=wanted.enabled,
        max_size=wanted.max_size,
        max_wait_s=wanted.max_wait_ms / 1000,
        max_bytes=wanted.max_bytes,
        priority_events=frozenset(wanted.priority_events),
    )


def stream_app(settings: Settings, role: str) -> faust.App:
    """A Faust app without web pages: one consumer group. It must be made inside the running loop."""
    folder = settings.worker_dir / role
    folder.mkdir(parents=True, exist_ok=True)
    return faust.App(
        f"{settings.kafka.prefix}-{role}",
        broker=[f"kafka://{broker}" for broker in settings.kafka.brokers.split(",")],
        datadir=str(folder),
        web_enabled=False,
        topic_partitions=settings.kafka.partitions,
        topic_replication_factor=settings.kafka.replication,
        consumer_group_instance_id=f"{settings.worker_name}-{role}",
        loop=asyncio.get_running_loop(),
        **FAUST_SETTINGS,
    )
