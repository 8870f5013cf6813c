"""A worker of the chunk transport as a process: appends each record it has to a file, fsyncs, acks.

Arguments: one JSON object with broker, topic, group, out, and optionally delay (seconds a chunk), max_records, table
(keep a count per partition in a RocksDB table at this datadir), instance (static membership id).
Each line of `out` is: partition offset value.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

import faust
from faust.worker import Worker

from connectors.transport import FAUST_SETTINGS, Chunk, chunk_topic, use


def build(config: dict[str, Any]) -> faust.App:
    """The app of one worker."""
    app = faust.App(
        config["group"],
        broker=f"kafka://{config['broker']}",
        store="rocksdb://?driver=rocksdict" if config.get("table") else "memory://",
        datadir=config.get("table") or config["out"] + ".data",
        web_enabled=False,
        topic_disable_leader=True,
        topic_partitions=4,
        topic_replication_factor=1,
        consumer_group_instance_id=config.get("instance"),
        **FAUST_SETTINGS,
    )
    use(app, chunked={config["topic"]}, role="test", max_records=config.get("max_records", 2000))
    counts = app.Table("counts", default=int, partitions=4) if config.get("table") else None
    out = open(config["out"], "a", buffering=1024 * 1024)  # noqa: SIM115  # lives as long as the process

    @app.agent(chunk_topic(app, config["topic"]), name="writer")
    async def writer(stream: Any) -> None:
        async for event in stream.noack().events():
            chunk: Chunk = event.value
            await asyncio.sleep(config.get("delay", 0))
            if counts is not None:
                counts[chunk.partition] += len(chunk)
            for record in chunk.records:
                out.write(f"{chunk.partition} {record.offset} {(record.value or b'').decode()}\n")
            out.flush()
            os.fsync(out.fileno())
            chunk.ack()
            if counts is not None:
                out.write(f"count {chunk.partition} {counts[chunk.partition]}\n")

    return app


if __name__ == "__main__":
    Worker(build(json.loads(sys.argv[1])), loglevel="WARNING").execute_from_commandline()
