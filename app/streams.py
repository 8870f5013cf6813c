"""The stream roles: one Faust app each, a consumer group of its own, so that a held sink never stops dedup."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, Final

import faust

from agents import aggregate, dedupe, history, lanes, persist, quarantine
from agents.batching import BatchPolicy
from agents.hold import Hold
from agents.persist import PersistStatus
from agents.recall import Recall
from agents.sync_back import SyncBack
from app.plan import Plan
from app.settings import Settings
from app.watch import StreamRole, held_on_purpose
from connectors import rows
from connectors.breaker import BreakerPolicy
from connectors.failover import FailoverSink
from connectors.history import PostgresHistory
from connectors.offsets import LogOffsets
from connectors.postgres import PostgresSink
from connectors.producer import KafkaLog
from connectors.ranges import KafkaRangeBook
from connectors.scan import LogScan
from connectors.sqlite import SqliteSink
from connectors.topics import Identities
from connectors.transport import FAUST_SETTINGS, chunk_topic, positions, reading, use
from schemas import codec as wire
from schemas.errors import Unavailable
from tables import seen_table, usage_table
from tables.seen import Retention

#: Seconds between two polls that find all there is, for each role: how soon somebody wants what it makes.
PACES: Final = {"dedupe": 0.02, "persist": 0.05, "aggregate": 0.2, "history": 0.5}


def dedupe_role(plan: Plan, log: KafkaLog) -> StreamRole:
    """`chronicle.ingest` → `chronicle.events`, each id once."""
    settings, names = plan.settings, plan.settings.topics
    held: set[int] = set()
    role = StreamRole("dedupe", held=lambda: bool(held))
    codec = wire.AvroCodec()

    def make() -> faust.App:
        app = stream_app(settings, "dedupe", plan.log_id())
        use(app, chunked={names.ingest.name}, role="dedupe", pace_s=PACES["dedupe"], metrics=plan.metrics)
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
            held=held,
            abort=plan.abort,
        )
        dedupe.attach(app, chunks=chunk_topic(app, names.ingest.name), deps=deps)
        role.app = app
        return app

    role.make = make
    return role


def aggregate_role(plan: Plan, log: KafkaLog, codec: wire.AvroCodec) -> StreamRole:
    """`chronicle.events` → the aggregate tables and their public changelog."""
    settings, names = plan.settings, plan.settings.topics
    held: set[int] = set()
    role = StreamRole("aggregate", held=lambda: bool(held))

    def make() -> faust.App:
        app = stream_app(settings, "aggregate", plan.log_id())
        use(
            app,
            chunked={names.events.name},
            role="aggregate",
            pace_s=PACES["aggregate"],
            metrics=plan.metrics,
            max_unacked_bytes=lanes.UNACKED_BYTES,
        )
        table = usage_table.declare(app, names.aggregates, settings.worker_dir / "usage", abort=plan.abort)
        role.status = table.status
        deps = aggregate.Deps(
            table=table,
            log=log,
            scan=LogScan(settings.kafka.brokers),
            codec=codec,
            topics=names,
            clock=plan.clock,
            metrics=plan.metrics,
            held=held,
            abort=plan.abort,
        )
        aggregate.attach(app, chunks=chunk_topic(app, names.events.name), deps=deps)
        role.app = app
        return app

    role.make = make
    return role


def history_role(plan: Plan) -> StreamRole:
    """`chronicle.aggregates` → the history tables in Postgres."""
    settings, topic = plan.settings, plan.settings.topics.aggregates.name
    held: set[int] = set()
    role = StreamRole("history", held=lambda: bool(held), status=lambda: {"held": sorted(held)})
    dsn = settings.database.url.get_secret_value()
    store = plan.keep(PostgresHistory(dsn, worker=settings.worker_name))
    identities = Identities(settings.kafka.brokers, (topic,))

    known: list[str] = []

    async def log_id() -> str:
        """The broker's id of the topic: in a new one the counts begin anew, and so does this process."""
        if not known:
            found = (await identities.look())[topic]
            if found is None:
                raise Unavailable("kafka", f"the topic {topic} is not there")
            known[:] = [found]
        return known[0]

    def make() -> faust.App:
        app = stream_app(settings, "history", plan.log_id())
        use(
            app,
            chunked={topic},
            role="history",
            pace_s=PACES["history"],
            metrics=plan.metrics,
            max_unacked_bytes=lanes.UNACKED_BYTES,
        )
        deps = history.Deps(store=store, log_id=log_id, metrics=plan.metrics, held=held, abort=plan.abort)
        history.attach(app, chunks=chunk_topic(app, topic), deps=deps)
        role.app = app
        return app

    role.make = make
    return role


def persist_role(
    plan: Plan, log: KafkaLog, codec: wire.AvroCodec, book: KafkaRangeBook, offsets: LogOffsets
) -> StreamRole:
    """`chronicle.events` → Postgres or SQLite, with sync-back and the dead letters beside it."""
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

    async def note_log(log_id: str) -> None:
        """SQLite first: what waits there is of the log before, and Postgres is told how much it is."""
        await sqlite.begin_log(log_id)
        await postgres.begin_log(log_id, waiting=await sqlite.pending())

    plan.note_log = note_log
    plan.background += [sync.run_forever, recall.run_forever]
    told, letters_hold = PersistStatus(), Hold(clock=plan.clock, metrics=plan.metrics, gauge=None)
    role.held = lambda: held_on_purpose(told.hold, letters_hold)

    def status() -> dict[str, Any]:
        assigned = {} if role.app is None else positions(role.app)
        held = {str(tp.partition): {"next": at} for tp, (at, _) in assigned.items() if tp.topic == names.events.name}
        return {**told.snapshot(), **sink.state(), "sync": sync.state(), "ranges": recall.state(), "partitions": held}

    role.status = status

    def make() -> faust.App:
        app = stream_app(settings, "persist", plan.log_id())
        chunked = {names.events.name, names.dead_letters.name}
        resume = persist.resume(sink, names.events.name, recall.starts, names.dead_letters.name)
        use(app, chunked=chunked, role="persist", pace_s=PACES["persist"], resume=resume, metrics=plan.metrics)
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


def stream_app(settings: Settings, role: str, log_id: str) -> faust.App:
    """A Faust app without web pages: one consumer group. It must be made inside the running loop.

    A member that comes back under its name is given, without a rebalance, the partitions it had. On another log that
    was none, while its topics were missing, and it would stay so: hence the log is a part of the name.
    """
    folder = settings.worker_dir / role
    folder.mkdir(parents=True, exist_ok=True)
    return faust.App(
        f"{settings.kafka.prefix}-{role}",
        broker=[f"kafka://{broker}" for broker in settings.kafka.brokers.split(",")],
        datadir=str(folder),
        web_enabled=False,
        topic_partitions=settings.kafka.partitions,
        topic_replication_factor=settings.kafka.replication,
        consumer_group_instance_id=f"{settings.worker_name}-{role}-{log_id[:8]}",
        loop=asyncio.get_running_loop(),
        **FAUST_SETTINGS,
    )
