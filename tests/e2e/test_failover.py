"""Postgres away under load: SQLite takes over, and every row comes back, counted."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from app.stack.ports import free_port
from app.stack.postgres import Postgres
from load import Load
from running import rows, settled, stored_ids, until, up

pytestmark = pytest.mark.e2e


def outbox(path: str) -> int:
    """Events that wait in SQLite for Postgres."""
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
        (count,) = database.execute("SELECT count(*) FROM outbox WHERE state = 'pending'").fetchone()
        return int(count)


async def get(http: aiohttp.ClientSession, url: str) -> tuple[int, Any, str]:
    async with http.get(url) as answer:
        return answer.status, json.loads(await answer.read()), answer.headers.get("Chronicle-Source", "")


async def test_postgres_away_under_load_loses_nothing(tmp_path: Path) -> None:
    """Rows go to SQLite while Postgres is stopped, are readable there, and are all in Postgres afterwards."""
    postgres = Postgres(tmp_path / "pg", free_port())
    postgres.start()
    try:
        async with up(tmp_path, "--database", postgres.dsn) as ready, aiohttp.ClientSession() as http:
            url, sqlite = ready["url"], ready["sqlite"]
            async with Load(url) as load:
                await load.accepted(300)
                postgres.stop()
                before = len(load.sent.ok)

                async def took_over() -> bool:
                    return outbox(sqlite) > 0

                await until(took_over, seconds=20, what="SQLite takes over")
                await load.accepted(300)
                status, body, _ = await get(http, f"{url}/ready")
                assert (status, body["status"]) == (200, "degraded")
                status, body, source = await get(http, f"{url}/events?limit=5")
                assert (status, source) == (200, "sqlite")
                assert len(body["items"]) == 5
                postgres.start()

                async def drained() -> bool:
                    return outbox(sqlite) == 0

                await until(drained, seconds=60, what="sync-back")
                await load.accepted(100)
            ledger = await settled(http, url, accepted=len(load.sent.ok))
            in_postgres = await stored_ids(postgres.dsn, load.sent.ok)
            total = (await rows(postgres.dsn, "SELECT count(*) AS n FROM events"))[0]["n"]
            sessions = await rows(postgres.dsn, "SELECT session_id, event_count FROM sessions")
            verified = await rows(postgres.dsn, "SELECT sum(rows) AS n, bool_and(verified) AS good FROM sync_runs")

            async def ready_again() -> bool:
                status, body, _ = await get(http, f"{url}/ready")
                return (status, body["status"]) == (200, "ready")

            # 30 s of hold-down keep a flapping Postgres from being switched to and fro.
            await until(ready_again, seconds=45, what="back on Postgres")
        assert before < len(load.sent.ok)
        assert in_postgres == set(load.sent.ok), "every accepted event is in Postgres"
        assert total == len(load.sent.ok), "and each once"
        assert {row["session_id"]: row["event_count"] for row in sessions} == {
            session: len(ids) for session, ids in load.sent.order.items()
        }
        assert ledger["stored"] == total
        assert load.sent.refused == {}
        assert load.sent.slowest < 3.5
        assert verified[0]["good"]
        assert verified[0]["n"] > 0
    finally:
        postgres.stop()
