"""A dedup worker as a process, on a real broker. Argument: one JSON object with broker, prefix, partitions, state
(directory), status (file: the table's status, written again and again), and optionally instance (static membership id)
and die ([step, n]: kill -9 after the n-th time that step was done).
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import faust
from faust.worker import Worker

from agents.dedupe import Deps, attach
from connectors.producer import KafkaLog
from connectors.transport import FAUST_SETTINGS, chunk_topic, use
from schemas.clock import SystemClock
from schemas.codec import AvroCodec
from schemas.metrics import NullMetrics
from schemas.topics import topics
from tables.seen_table import SeenTable, declare


class App(faust.App):
    """Opens the log before the agents start."""

    log_to: KafkaLog

    async def on_start(self) -> None:
        await self.log_to.open()
        await super().on_start()


class Killer:
    """Kills this process after the n-th time a step was done."""

    def __init__(self, die: list[int] | None) -> None:
        self.step, self.left = die or (0, 0)

    def __call__(self, number: int) -> None:
        if number == self.step:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def abort(reason: str) -> None:
    """What the house does: end, so that the supervisor starts anew."""
    print("abort:", reason, file=sys.stderr, flush=True)
    os._exit(3)


def build(config: dict[str, Any]) -> faust.App:
    """The app of one worker."""
    names = topics(prefix=config["prefix"], partitions=config["partitions"])
    app = App(
        f"{config['prefix']}-dedupe",
        broker=f"kafka://{config['broker']}",
        datadir=config["state"],
        web_enabled=False,
        topic_disable_leader=True,
        topic_replication_factor=1,
        consumer_group_instance_id=config.get("instance"),
        **FAUST_SETTINGS,
    )
    app.log_to = KafkaLog(config["broker"], "dedupe")
    use(app, chunked={names.ingest.name}, role="dedupe", max_records=config.get("max_records", 50))
    table = declare(app, names.seen, Path(config["state"]) / "seen", abort=abort)
    codec = AvroCodec()
    deps = Deps(
        table=table,
        log=app.log_to,
        peek=codec.peek,
        remark=codec.remark,
        topics=names,
        clock=SystemClock(),
        metrics=NullMetrics(),
        status={},
        held=set(),
        abort=abort,
        step=Killer(config.get("die")),
    )
    attach(app, chunks=chunk_topic(app, names.ingest.name), deps=deps)
    app.task(lambda: tell(table, Path(config["status"])))  # type: ignore[arg-type]
    return app


async def tell(table: SeenTable, path: Path) -> None:
    """Write the status ten times a second."""
    while True:
        path.with_suffix(".new").write_text(json.dumps(table.status()))
        path.with_suffix(".new").rename(path)
        await asyncio.sleep(0.1)


if __name__ == "__main__":
    Worker(build(json.loads(sys.argv[1])), loglevel="INFO").execute_from_commandline()
