"""The persist role as a process on a real Kafka and a real Postgres, killed in the middle of batches."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from connectors import migrate
from fakes_persist import CODEC, make_event, record
from running import rows, until
from schemas.topics import Topics, topics

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
PARTITIONS = 4
EACH = 1500  # records a partition
BROKEN = frozenset(range(100, EACH, 300))  # offsets of a partition that hold no event


@asynccontextmanager
async def filled(broker: str, prefix: str) -> AsyncIterator[Topics]:
    """chronicle.events with `EACH` records a partition, some of them broken; deleted afterwards."""
    names = topics(prefix=prefix, partitions=PARTITIONS)
    both = [names.events, names.dead_letters]
    admin = AIOKafkaAdminClient(bootstrap_servers=broker)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(spec.name, spec.partitions, 1) for spec in both])
        producer = AIOKafkaProducer(bootstrap_servers=broker, linger_ms=5, max_batch_size=1 << 20)
        await producer.start()
        for offset in range(EACH):
            for partition in range(PARTITIONS):
                event = make_event(partition * EACH + offset, session=f"s{partition}")
                one = record(offset, b"broken" if offset in BROKEN else CODEC.encode(event), partition=partition)
                await producer.send(
                    names.events.name, one.value, key=b"s", partition=partition, headers=list(one.headers)
                )
        await producer.stop()
        yield names
    finally:
        await admin.delete_topics([spec.name for spec in both])
        await admin.close()


def start(broker: str, dsn: str, prefix: str, folder: Path) -> subprocess.Popen[bytes]:
    """A worker; its stderr goes to `folder`."""
    config = {"broker": broker, "dsn": dsn, "prefix": prefix, "folder": str(folder)}
    with (folder / "worker.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "tests/support/persist_worker.py"), json.dumps(config)],
            stdout=log,
            stderr=log,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )


async def committed(broker: str, names: Topics) -> list[int | None]:
    """The group's offsets of chronicle.events."""
    group = f"{names.events.name.removesuffix('.events')}-persist"
    consumer = AIOKafkaConsumer(bootstrap_servers=broker, group_id=group, enable_auto_commit=False)
    await consumer.start()
    try:
        parts = [TopicPartition(names.events.name, partition) for partition in range(PARTITIONS)]
        consumer.assign(parts)
        return [await consumer.committed(part) for part in parts]
    finally:
        await consumer.stop()


async def test_persist_killed_twice_stores_each_event_once(
    kafka: str, postgres: str, topic_prefix: str, tmp_path: Path
) -> None:
    """kill -9 half way, twice: every event is in Postgres once, every broken record once in the dead letters."""
    await migrate.upgrade(postgres)

    async def stored() -> int:
        return int((await rows(postgres, "SELECT count(*) AS n FROM events"))[0]["n"])

    total = PARTITIONS * (EACH - len(BROKEN))
    async with filled(kafka, topic_prefix) as names:
        for share in (0.2, 0.6):
            worker = start(kafka, postgres, topic_prefix, tmp_path)
            try:

                async def far_enough(share: float = share) -> bool:
                    return await stored() >= total * share

                await until(far_enough, what=f"{share:.0%} stored")
            finally:
                worker.send_signal(signal.SIGKILL)
                worker.wait(10)
        assert await stored() < total, "killed too late to prove anything"
        worker = start(kafka, postgres, topic_prefix, tmp_path)
        try:

            async def all_done() -> bool:
                letters = (await rows(postgres, "SELECT count(*) AS n FROM dead_letters"))[0]["n"]
                return await stored() == total and letters == PARTITIONS * len(BROKEN)

            await until(all_done, what="everything stored")
        finally:
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(15) == 0
        assert await committed(kafka, names) == [EACH] * PARTITIONS
        progress = await rows(postgres, "SELECT partition, next_offset FROM sink_progress ORDER BY partition")
        assert [tuple(row) for row in progress] == [(partition, EACH) for partition in range(PARTITIONS)]
        sessions = await rows(postgres, "SELECT session_id, event_count FROM sessions")
        assert {row["session_id"]: row["event_count"] for row in sessions} == {
            f"s{partition}": EACH - len(BROKEN) for partition in range(PARTITIONS)
        }
        dead = await rows(postgres, "SELECT cause, value, ingest_offset FROM dead_letters")
        assert {(row["cause"], row["value"]) for row in dead} == {("undecodable", b"broken")}
        assert {row["ingest_offset"] for row in dead} == BROKEN
        assert (await rows(postgres, "SELECT count(*) AS n FROM duplicates"))[0]["n"] == 0
