"""The way in over real HTTP, with an intake that only remembers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer

from app.problems import problems
from app.views.body import SERVER_ARGS
from app.views.ingest import routes
from connectors.memory import MemoryIntake
from schemas.clock import SystemClock
from schemas.codec import AvroCodec
from schemas.envelope import IngestLimits
from schemas.event import HookEvent
from schemas.metrics import NullMetrics
from schemas.redact import Redactor

CODEC = AvroCodec()
ID = "0190a8f0-7c1e-7b3a-9c55-2f0d2f6f7a11"
JSON = {"Content-Type": "application/json"}
HOOK = {"session_id": "s", "hook_event_name": "PreToolUse", "tool_use_id": "t", "tool_name": "Bash"}
Client = TestClient[web.Request, web.Application]


class Counting(NullMetrics):
    """Remembers what was counted."""

    def __init__(self) -> None:
        self.counts: dict[tuple[Any, ...], float] = {}

    def inc(self, name: str, value: float = 1, **labels: str) -> None:
        """As `Metrics.inc`."""
        key = (name, *sorted(labels.values()))
        self.counts[key] = self.counts.get(key, 0) + value


@asynccontextmanager
async def door(intake: MemoryIntake, metrics: Counting | None = None, **limits: Any) -> AsyncIterator[Client]:
    clock, metrics = SystemClock(), metrics or Counting()
    app = web.Application(middlewares=[problems(clock, metrics)], handler_args=SERVER_ARGS)
    for route in routes(intake, CODEC, clock, IngestLimits(**limits), Redactor(), metrics):
        app.router.add_route(route.method, route.path, route.handler)
    async with TestClient(TestServer(app)) as client:
        yield client


def event(**fields: Any) -> dict[str, Any]:
    return {"session_id": "s", "event_type": "t", "payload": {"n": 1}, **fields}


def taken(intake: MemoryIntake) -> list[HookEvent]:
    return [CODEC.decode(record.value or b"") for record in intake.records]


async def fault(answer: ClientResponse) -> dict[str, Any]:
    """The problem of an answer, checked for the form that every problem has."""
    assert answer.content_type == "application/problem+json"
    body: dict[str, Any] = await answer.json(content_type=None)
    assert body["status"] == answer.status
    assert body["type"] == f"urn:chronicle:problem:{body['code']}"
    assert body["title"]
    assert body["detail"]
    assert body["request_id"] == answer.headers["Chronicle-Request-Id"]
    assert "Traceback" not in json.dumps(body)
    return body
