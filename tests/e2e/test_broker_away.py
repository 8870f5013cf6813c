"""Kafka away under load: the spool keeps accepting, drains in order, nothing is lost or overtaken."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import aiohttp
import pytest

from load import Load
from running import rows, settled, stored_ids, until, up

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("fault", ["SIGSTOP", "SIGKILL"])
async def test_events_are_spooled_and_drained_in_order(tmp_path: Path, fault: str) -> None:
    """A hung or killed broker costs no event and no order within a session."""
    async with up(tmp_path) as ready, aiohttp.ClientSession() as http:
        url = ready["url"]
        async with Load(url) as load:
            await load.accepted(200)
            os.kill(ready["pids"]["kafka"], getattr(signal, fault))

            async def spooled() -> bool:
                return "spool" in load.sent.durability

            await until(spooled, seconds=20, what="the spool takes over")
            await load.accepted(100)
            if fault == "SIGSTOP":
                os.kill(ready["pids"]["kafka"], signal.SIGCONT)
            await load.accepted(300)
        ledger = await settled(http, url, accepted=len(load.sent.ok), seconds=90)
        in_postgres = await stored_ids(ready["database"], load.sent.ok)
        stored = await rows(
            ready["database"],
            "SELECT session_id, event_id::text AS id FROM events ORDER BY ingest_partition, ingest_offset",
        )
    assert in_postgres == set(load.sent.ok)
    assert len(stored) == len(in_postgres)
    for session, order in load.sent.order.items():
        assert [row["id"] for row in stored if row["session_id"] == session] == order, "no event overtook another"
    assert load.sent.refused == {}
    assert load.sent.slowest < 3.5
    assert ledger["difference"] == 0
