"""A worker on topics that are not as they must be: one sentence and exit code 78, which no supervisor restarts."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from app.stack.ports import free_port
from app.stack.stack import STREAM_ROLES

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
MISCONFIGURED = 78


@pytest.fixture
async def prefix(kafka: str, topic_prefix: str) -> AsyncIterator[str]:
    """An installation whose public topic somebody made by hand, with another number of partitions."""
    admin, name = AdminClient({"bootstrap.servers": kafka}), f"{topic_prefix}.events"
    await asyncio.to_thread(admin.create_topics([NewTopic(name, 3, 1)])[name].result, 10)
    yield topic_prefix
    ours = [topic for topic in admin.list_topics(timeout=10).topics if topic.startswith(f"{topic_prefix}.")]
    for done in admin.delete_topics(ours).values():
        await asyncio.to_thread(done.result, 10)


@pytest.mark.parametrize("roles", ["ingest,api", "api", STREAM_ROLES, f"ingest,api,{STREAM_ROLES}", "history"])
async def test_a_wrong_topic_ends_every_kind_of_worker_for_good(
    kafka: str, postgres: str, prefix: str, tmp_path: Path, roles: str
) -> None:
    """A restart would not mend it, so the exit code says so, and standard error what to do."""
    settings = {
        "CHRONICLE_KAFKA__BROKERS": kafka,
        "CHRONICLE_KAFKA__PREFIX": prefix,
        "CHRONICLE_KAFKA__PARTITIONS": "2",
        "CHRONICLE_DATABASE__URL": postgres,
        "CHRONICLE_STATE_DIR": str(tmp_path),
        "CHRONICLE_SERVER__PORT": str(free_port()),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "chronicle", "worker", "--roles", roles),
        cwd=ROOT,
        env=os.environ | settings,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(60):
            _, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    lines = said.decode().splitlines()
    told = f"chronicle: The topic {prefix}.events has 3 partitions instead of 2."
    assert process.returncode == MISCONFIGURED, said.decode()
    assert [line for line in lines if line.startswith(told)], said.decode()
    assert not any("Traceback" in line for line in lines), said.decode()
