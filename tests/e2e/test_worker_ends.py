"""A worker told to end, ends: with the code that means well, whatever it waits for."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from app.stack.ports import free_port
from one_worker import OneWorker

pytestmark = pytest.mark.e2e


async def test_a_worker_that_holds_a_batch_ends_well(kafka: str, topic_prefix: str, tmp_path: Path) -> None:
    """Postgres is away and SQLite is locked: what is held comes again, and the process does not wait for it."""
    dsn = f"postgresql://nobody@127.0.0.1:{free_port()}/nothing"
    worker = OneWorker(tmp_path / "state", broker=kafka, dsn=dsn, prefix=topic_prefix)
    worker.folder.mkdir()
    await worker.start()
    try:
        await worker.until("/ready", lambda body: body["status"] == "degraded")
        with closing(sqlite3.connect(worker.folder / "failover.db", isolation_level=None)) as lock:
            lock.execute("BEGIN IMMEDIATE")
            await worker.post(10)
            await worker.until("/ready", lambda body: body["status"] == "down")
            worker.ask_to_stop()
            assert await worker.ended() == 0
    finally:
        await worker.kill()
