"""Kafka lost the log while Postgres kept its rows: noticed, begun anew, nothing stored twice and nothing skipped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient

from connectors import migrate
from connectors.topics import Identities
from one_worker import OneWorker

pytestmark = pytest.mark.e2e

BROKEN = 70


@pytest.fixture
async def worker(kafka: str, postgres: str, topic_prefix: str, tmp_path: Path) -> AsyncIterator[OneWorker]:
    await migrate.upgrade(postgres)
    made = OneWorker(tmp_path / "state", broker=kafka, dsn=postgres, prefix=topic_prefix)
    made.folder.mkdir()
    await made.start()
    yield made
    await made.kill()


def stored(count: int) -> Any:
    return lambda body: body["ledger"]["stored"] == count and body["ledger"]["balanced"]


async def test_after_a_lost_log_new_events_are_stored_though_offsets_begin_anew(
    worker: OneWorker, kafka: str, topic_prefix: str
) -> None:
    """The worker says it, ends for a restart, and the one after it stores what comes; the ledger goes on adding up."""
    ready = await worker.until("/ready", lambda body: body["status"] == "ready")
    assert "another log" not in str(ready)
    await worker.post(20)
    await worker.until("/stats", stored(20))
    await lose(kafka, topic_prefix)
    assert await worker.ended() == BROKEN
    await worker.start()
    ready = await worker.until("/ready", lambda body: body["status"] == "ready")
    assert "another log" in str(ready)
    await worker.post(15)
    stats = await worker.until("/stats", stored(35))
    assert stats["parts"]["accepted"]["earlier"] == 20
    worker.ask_to_stop()
    assert await worker.ended() == 0
    await worker.start()
    await worker.until("/ready", lambda body: body["status"] == "ready")
    await worker.post(1)
    await worker.until("/stats", stored(36))
    ready = await worker.until("/ready", lambda body: body["status"] == "ready")
    assert "another log" not in str(ready), "a loss is told once"


async def lose(broker: str, prefix: str) -> None:
    """All topics of this installation, and its groups' offsets with them."""
    admin = AdminClient({"bootstrap.servers": broker})
    ours = [name for name in admin.list_topics(timeout=10).topics if name.startswith(f"{prefix}.")]
    for done in admin.delete_topics(ours).values():
        await asyncio.to_thread(done.result, 10)


async def test_a_topic_made_anew_has_another_id(kafka: str, topic_prefix: str) -> None:
    """The broker tells it apart from the one that had its name; one that is not there has none."""
    from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]

    admin, name = AdminClient({"bootstrap.servers": kafka}), f"{topic_prefix}.one"
    ids = Identities(kafka, (name,))
    seen = [await ids.look()]
    for _ in range(2):
        await asyncio.to_thread(admin.create_topics([NewTopic(name, 1, 1)])[name].result, 10)
        async with asyncio.timeout(10):
            while (now := await ids.look())[name] is None:
                await asyncio.sleep(0.05)
        seen.append(now)
        await asyncio.to_thread(admin.delete_topics([name])[name].result, 10)
        async with asyncio.timeout(10):
            while (await ids.look())[name] is not None:
                await asyncio.sleep(0.05)
    assert seen[0] == {name: None}
    assert seen[1][name] != seen[2][name]
