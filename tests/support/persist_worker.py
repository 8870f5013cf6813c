"""The persist role alone as a process: chronicle.events → Postgres, SQLite, dead letters; nothing else of the house.

Arguments: one JSON object with broker, dsn, prefix, folder.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import faust
from faust.worker import Worker

from agents import persist, quarantine
from agents.batching import BatchPolicy
from agents.hold import Hold
from agents.sync_back import SyncBack
from connectors.failover import FailoverSink
from connectors.postgres import PostgresSink
from connectors.producer import KafkaLog
from connectors.rows import expected
from connectors.sqlite import SqliteSink
from connectors.transport import FAUST_SETTINGS, chunk_topic, use
from schemas.clock import SystemClock
from schemas.codec import AvroCodec
from schemas.metrics import NullMetrics
from schemas.topics import topics


class PersistWorker(faust.App):  # type: ignore[misc]
    """Opens its sinks before the agents start."""

    ours: Any = ()
    sync: Any = None

    async def on_start(self) -> None:
        for one in self.ours:
            await one.open()
        self.syncing = asyncio.create_task(self.sync.run_forever())
        await super().on_start()


def build(config: dict[str, Any]) -> faust.App:
    """The app of one worker."""
    names, clock, metrics = topics(prefix=config["prefix"], partitions=4), SystemClock(), NullMetrics()
    folder = Path(config["folder"])
    app = PersistWorker(
        f"{config['prefix']}-persist",
        broker=f"kafka://{config['broker']}",
        datadir=str(folder / "faust"),
        web_enabled=False,
        topic_disable_leader=True,
        consumer_group_instance_id="one",
        **FAUST_SETTINGS,
    )
    log, sqlite = KafkaLog(config["broker"], "persist-test"), SqliteSink(folder / "failover.db")
    sink = FailoverSink(PostgresSink(config["dsn"]), sqlite, clock=clock, metrics=metrics, backlog=sqlite)
    syncing = PostgresSink(config["dsn"], worker="sync")
    app.sync = SyncBack(
        backlog=sqlite, primary=syncing, gate=sink, log=log, topics=names, clock=clock, metrics=metrics, digest=expected
    )
    app.ours = (log, sink, syncing)
    use(
        app,
        chunked={names.events.name, names.dead_letters.name},
        role="persist",
        resume=persist.resume(sink, names.events.name),
        max_records=100,
    )
    persist.attach(
        app,
        topic=chunk_topic(app, names.events.name),
        sink=sink,
        log=log,
        codec=AvroCodec(),
        topics=names,
        policy=BatchPolicy(max_size=100),
        clock=clock,
        metrics=metrics,
        status=persist.PersistStatus(),
        abort=lambda _reason: os._exit(70),
    )
    quarantine.attach(
        app,
        topic=chunk_topic(app, names.dead_letters.name),
        sink=sink,
        hold=Hold(clock=clock, metrics=metrics, gauge=None),
        clock=clock,
        abort=lambda _reason: os._exit(70),
    )
    return app


if __name__ == "__main__":
    Worker(build(json.loads(sys.argv[1])), loglevel="WARNING").execute_from_commandline()
