"""Run chunk workers against a broker and read what they did."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

ROOT = Path(__file__).parents[2]
PARTITIONS = 4


@asynccontextmanager
async def filled_topic(broker: str, count: int) -> AsyncIterator[str]:
    """A topic of 4 partitions with `count` records whose values are 0, 1, …; deleted afterwards with its changelogs."""
    name = f"transport-{uuid.uuid4().hex[:8]}"
    admin = AIOKafkaAdminClient(bootstrap_servers=broker)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, PARTITIONS, 1)])
        await fill(broker, name, count)
        yield name
    finally:
        await admin.delete_topics([topic for topic in await admin.list_topics() if topic.startswith(name)])
        await admin.close()


async def fill(broker: str, topic: str, count: int, *, start: int = 0) -> None:
    """Append records with the values start, start+1, …, dealt out to the partitions in turn."""
    producer = AIOKafkaProducer(bootstrap_servers=broker, linger_ms=5)
    await producer.start()
    try:
        for value in range(start, start + count):
            await producer.send(topic, str(value).encode(), partition=value % PARTITIONS)
        await producer.flush()
    finally:
        await producer.stop()


@contextmanager
def worker(broker: str, topic: str, out: Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A worker process, gone at the end whatever happens; its output goes beside `out`."""
    process = _start(broker, topic, out, options)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _start(broker: str, topic: str, out: Path, options: dict[str, Any]) -> subprocess.Popen[bytes]:
    config = {"broker": broker, "topic": topic, "group": f"{topic}-group", "out": str(out), **options}
    with Path(f"{out}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "tests/support/chunk_worker.py"), json.dumps(config)],
            stdout=log,
            stderr=log,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )


def read(out: Path) -> dict[int, list[int]]:
    """Offsets per partition in the order they were written; a line torn by kill -9 is left out."""
    offsets: dict[int, list[int]] = defaultdict(list)
    if out.exists():
        for line in out.read_text().split("\n")[:-1]:
            fields = line.split(" ")
            if len(fields) == 3 and fields[0] != "count":
                offsets[int(fields[0])].append(int(fields[1]))
    return offsets


def total(*outs: Path) -> int:
    """How many different records have been written."""
    return len({(p, offset) for out in outs for p, offsets in read(out).items() for offset in offsets})


async def committed(broker: str, topic: str) -> dict[int, int]:
    """The group's offsets."""
    consumer = AIOKafkaConsumer(bootstrap_servers=broker, group_id=f"{topic}-group", enable_auto_commit=False)
    await consumer.start()
    try:
        tps = [TopicPartition(topic, p) for p in range(PARTITIONS)]
        consumer.assign(tps)
        found = {tp.partition: await consumer.committed(tp) for tp in tps}
        return {p: offset for p, offset in found.items() if offset is not None}
    finally:
        await consumer.stop()
