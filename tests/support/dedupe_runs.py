"""Run dedup workers against a broker, feed them, and read what they did."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from running import until
from schemas.topics import POSITION_HEADER, Topics, TopicSpec, topics
from seen_world import Read

ROOT = Path(__file__).parents[2]
PARTITIONS = 2


@asynccontextmanager
async def empty_topics(broker: str, prefix: str) -> AsyncIterator[Topics]:
    """All topics of one installation, deleted afterwards."""
    names = topics(prefix=prefix, partitions=PARTITIONS)
    admin = AIOKafkaAdminClient(bootstrap_servers=broker)
    await admin.start()
    try:
        await admin.create_topics([_new(spec) for spec in names.all()])
        yield names
    finally:
        await admin.delete_topics([spec.name for spec in names.all()])
        await admin.close()


async def recreate(broker: str, spec: TopicSpec) -> None:
    """Lose a topic and make it anew, empty."""
    admin = AIOKafkaAdminClient(bootstrap_servers=broker)
    await admin.start()
    try:
        await admin.delete_topics([spec.name])

        async def made() -> bool:
            response = await admin.create_topics([_new(spec)])
            return all(error[1] == 0 for error in response.topic_errors)

        await until(made, seconds=20, what="the topic to be made anew")
    finally:
        await admin.close()


def _new(spec: TopicSpec) -> NewTopic:
    return NewTopic(spec.name, spec.partitions, 1, topic_configs={"cleanup.policy": spec.cleanup})


async def post(broker: str, topic: str, partition: int, rows: Sequence[Read]) -> None:
    """Append records (their own offsets do not count)."""
    producer = AIOKafkaProducer(bootstrap_servers=broker, linger_ms=5)
    await producer.start()
    try:
        for row in rows:
            await producer.send(topic, row.value, row.key, partition=partition, timestamp_ms=row.timestamp)
        await producer.flush()
    finally:
        await producer.stop()


async def everything(broker: str, topic: str, partitions: int = PARTITIONS) -> list[Any]:
    """All records of a topic, each partition in its order."""
    consumer = AIOKafkaConsumer(bootstrap_servers=broker, enable_auto_commit=False, auto_offset_reset="earliest")
    await consumer.start()
    try:
        tps = [TopicPartition(topic, partition) for partition in range(partitions)]
        consumer.assign(tps)
        missing = {tp for tp, end in (await consumer.end_offsets(tps)).items() if end}
        ends = await consumer.end_offsets(tps)
        found: list[Any] = []
        while missing:
            for tp, records in (await consumer.getmany(*missing, timeout_ms=500)).items():
                found.extend(records)
                if records[-1].offset + 1 >= ends[tp]:
                    missing.discard(tp)
        return found
    finally:
        await consumer.stop()


def position(record: Any) -> tuple[int, int]:
    """Place in the ingest topic."""
    partition, offset = struct.unpack(">iq", dict(record.headers)[POSITION_HEADER])
    return partition, offset


class Runner:
    """Starts workers on one installation; each keeps its state in a directory of its own."""

    def __init__(self, broker: str, prefix: str, folder: Path) -> None:
        self.broker, self.prefix, self.folder = broker, prefix, folder
        self.running: list[subprocess.Popen[bytes]] = []

    def state(self, name: str = "one") -> Path:
        return self.folder / name

    def start(self, name: str = "one", **options: Any) -> subprocess.Popen[bytes]:
        config = {
            "broker": self.broker,
            "prefix": self.prefix,
            "partitions": PARTITIONS,
            "state": str(self.state(name)),
            "status": str(self.folder / f"{name}.status"),
            "instance": f"{self.prefix}-{name}",
            **options,
        }
        (self.folder / f"{name}.status").unlink(missing_ok=True)
        with (self.folder / f"{name}.log").open("ab") as log:
            worker = subprocess.Popen(
                [sys.executable, str(ROOT / "tests/support/dedupe_worker.py"), json.dumps(config)],
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        self.running.append(worker)
        return worker

    def log(self, name: str = "one") -> str:
        return (self.folder / f"{name}.log").read_text()

    def counters(self, name: str = "one") -> dict[str, dict[str, int]]:
        path = self.folder / f"{name}.status"
        status = json.loads(path.read_text()) if path.exists() else {"recovered": False}
        return status["partitions"] if status["recovered"] else {}

    async def reached(self, ends: dict[int, int], name: str = "one", seconds: float = 40) -> dict[str, dict[str, int]]:
        """Wait until the worker has counted up to these offsets."""

        async def there() -> bool:
            counters = self.counters(name)
            return all(counters.get(str(p), {}).get("next") == end for p, end in ends.items())

        await until(there, seconds=seconds, what=f"next {ends}")
        return self.counters(name)

    def stop(self) -> None:
        for worker in self.running:
            if worker.poll() is None:
                worker.send_signal(signal.SIGKILL)
            worker.wait(15)


def new_prefix() -> str:
    return f"dedupe-{uuid.uuid4().hex[:8]}"
