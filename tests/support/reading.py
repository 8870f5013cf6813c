"""Rows, fakes and a server for the tests of the reading side."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from app.problems import problems
from app.views import query
from app.views.fresh import Fresh
from app.views.route import Route
from connectors.readers.failover import FailoverReader
from connectors.readers.memory import MemoryReader
from connectors.scan import Stretch
from schemas.errors import Unavailable
from schemas.metrics import NullMetrics
from schemas.topics import topics

#: 2026-01-31T09:30:00Z
NOON = 1_769_851_800_000_000
SECOND = 1_000_000
TOPICS = topics(prefix="t", partitions=2)


def uid(number: int) -> UUID:
    """A recognisable id."""
    return UUID(int=number)


def event_row(number: int, **changes: Any) -> dict[str, Any]:
    """The columns of one event; `number` is its id, its second and its offset."""
    row: dict[str, Any] = {
        "event_id": uid(number),
        "session_id": "s-1",
        "event_type": "tool_pre_use",
        "hook_event_name": "PreToolUse",
        "occurred_at": NOON + number * SECOND,
        "received_at": NOON + number * SECOND + 5,
        "source": "claude-code",
        "tool_name": "Bash",
        "tool_use_id": f"toolu_{number}",
        "agent_id": None,
        "agent_type": None,
        "prompt_id": None,
        "cwd": "/src/a",
        "suspected_duplicate_of": None,
        "id_origin": 1,
        "flags": 0,
        "payload": f'{{"n": {number}}}',
        "payload_raw": None,
        "metadata": "{}",
        "fingerprint": number.to_bytes(16),
        "ingest_partition": number % 2,
        "ingest_offset": number,
        "events_offset": number + 100,
        "stored_at": NOON + number * SECOND + 900,
    }
    return row | changes


def session_row(name: str, last: int, **changes: Any) -> dict[str, Any]:
    """The columns of one session whose latest event is at second `last`."""
    row: dict[str, Any] = {
        "session_id": name,
        "source": "claude-code",
        "project": "a",
        "machine": None,
        "cwd": "/src/a",
        "git_branch": None,
        "git_commit": None,
        "status": "active",
        "first_event_at": NOON + (last - 10) * SECOND,
        "last_event_at": NOON + last * SECOND,
        "started_at": NOON + (last - 10) * SECOND,
        "ended_at": None,
        "event_count": 3,
        "last_partition": 0,
        "last_offset": last,
        "updated_at": NOON,
    }
    return row | changes


def letter_row(offset: int, **changes: Any) -> dict[str, Any]:
    """The columns of one dead letter of the persist stage."""
    row: dict[str, Any] = {
        "topic": TOPICS.events.name,
        "partition": 0,
        "offset": offset,
        "ingest_partition": 0,
        "ingest_offset": offset + 7,
        "stage": "persist",
        "cause": "refused_by_database",
        "detail": "invalid byte sequence",
        "key": b"s-1",
        "value": b"\x00\x00\x00\x00\x01bytes",
        "event_id": uid(500 + offset),
        "session_id": "s-1",
        "failed_at": NOON + offset * SECOND,
        "resolved_at": None,
        "replayed_as": None,
        "stored_at": NOON,
    }
    return row | changes


class ManualClock:
    """Time stands until it is moved."""

    def __init__(self, now: float = NOON / SECOND) -> None:
        self.at = now

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at

    def new_id(self) -> UUID:
        return uid(int(self.at))


class _Hurried(ManualClock):
    """Each look at it costs a minute, so nothing that is kept for a moment is kept."""

    def monotonic(self) -> float:
        self.at += 60
        return self.at


class FixedOffsets:
    """Ends of topics as told; `away` makes it raise."""

    def __init__(self, **ends: Mapping[int, int]) -> None:
        self.ends = {getattr(TOPICS, name).name: dict(found) for name, found in ends.items()}
        self.away = False

    async def end_offsets(self, topic: str) -> Mapping[int, int]:
        if self.away:
            raise Unavailable("kafka", "no offsets")
        return self.ends.get(topic, {})

    async def begin_offsets(self, topic: str) -> Mapping[int, int]:
        return dict.fromkeys(await self.end_offsets(topic), 0)


class FixedScan:
    """A log as told: records by (topic, partition)."""

    def __init__(self, **logs: Mapping[int, list[Any]]) -> None:
        self.logs = {
            (getattr(TOPICS, name).name, partition): list(records)
            for name, partitions in logs.items()
            for partition, records in partitions.items()
        }

    async def read(self, topic: str, partition: int, start: int, end: int, most: int) -> Stretch:
        found = [record for record in self.logs.get((topic, partition), []) if start <= record[0] < end][:most]
        return Stretch(found, found[-1][0] + 1 if len(found) == most else end)


class HeavyReader(MemoryReader):
    """Its questions hang until cancelled; its probe answers or not."""

    def __init__(self, *, well: bool) -> None:
        super().__init__("postgres")
        self.well = well

    async def probe(self) -> None:
        if not self.well:
            raise Unavailable(self.name, "no answer to the probe")


def query_routes(reader: FailoverReader, clock: ManualClock | None = None, *, idle_hours: float = 0.0) -> list[Route]:
    """The reading routes over `reader`; nothing is kept from one question to the next."""
    return query.routes(reader, TOPICS, Fresh(_Hurried(), object), clock or ManualClock(), idle_hours)


@asynccontextmanager
async def serving(routes: Iterable[Route]) -> AsyncIterator[TestClient[Any, Any]]:
    """A server of its own with these routes, and a client for it."""
    application = web.Application(middlewares=[problems(ManualClock(), NullMetrics())])
    for route in routes:
        application.router.add_route(route.method, route.path, route.handler)
        if route.method == "GET":  # as `app.views.mount` has it
            application.router.add_route("HEAD", route.path, route.handler)
    async with TestClient(TestServer(application)) as client:
        yield client
