"""The real place: it comes up, a fault is done to it and healed, everything sent is in Postgres, no process is left."""

from __future__ import annotations

import random
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from chaos.faults.looking import ask
from chaos.faults.postgres_gone import PostgresStop
from chaos.place import RealPlace
from chaos.units import alive

pytestmark = pytest.mark.e2e


@pytest.fixture
def folder() -> Iterator[Path]:
    """Postgres' own user passes through it when we are root."""
    made = Path(tempfile.mkdtemp(prefix="chronicle-drill-"))
    made.chmod(0o711)
    yield made
    shutil.rmtree(made, ignore_errors=True)


async def post(http: aiohttp.ClientSession, url: str, count: int) -> list[str]:
    """Ids of accepted events."""
    events = [
        {"event_id": str(uuid.uuid4()), "session_id": f"s{number % 5}", "event_type": "drill", "payload": {"n": number}}
        for number in range(count)
    ]
    async with http.post(f"{url}/events", json=events) as answer:
        assert answer.status == 202, await answer.text()
    return [str(event["event_id"]) for event in events]


async def test_events_of_a_postgres_outage_are_in_postgres_afterwards(folder: Path) -> None:
    """Sent before, during and after `stop -m immediate`: each is there once, by verified sync-back."""
    async with RealPlace(folder, stream_workers=1) as place, aiohttp.ClientSession() as http:
        pids = [*place.pids()["ingest"], *place.pids()["stream"], place.kafka.pid, place.postgres.pid]
        assert len(pids) == 4
        assert set(place.resources()) == set(pids[:2])
        sent = await post(http, place.url, 50)
        fault = PostgresStop(random.Random(1))
        await fault.inject(place)
        sent += await post(http, place.url, 50)
        assert fault.takeover is not None
        assert await fault.takeover.taken(20)
        await fault.during(place)
        await fault.heal(place)
        sent += await post(http, place.url, 50)
        await place.until_ready(60)
        await place.until_lag_zero(60)
        await fault.verify(place)
        assert fault.found.broken == []
        assert fault.found.times["synced_rows"] > 0
        assert await ask(place, "SELECT count(*) FROM events WHERE event_id = ANY($1::uuid[])", sent) == 150
    assert [pid for pid in pids if alive(pid)] == []
