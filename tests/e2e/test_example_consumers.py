"""The example consumers run as their readers run them: as programs of their own, against a real broker and stack."""

from __future__ import annotations

import asyncio
import json
import struct
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web

from app.views.registry import routes
from connectors.ports import Record
from connectors.producer import KafkaLog
from connectors.topics import ensure
from example_files import CONSUMERS
from running import until
from schemas.codec import AvroCodec
from schemas.event import HookEvent, IdOrigin
from schemas.registry import registry
from schemas.topics import POSITION_HEADER, topics

pytestmark = pytest.mark.e2e
EVENT = HookEvent(
    event_id=uuid.UUID(int=0),
    fingerprint=b"0123456789abcdef",
    id_origin=IdOrigin.CLIENT,
    session_id="session",
    event_type="tool_pre_use",
    occurred_at=1_763_690_000_000_000,
    received_at=1_763_690_000_000_001,
    source="test",
    tool_name="Bash",
    payload='{"command":"ls"}',
)


async def run(name: str, *options: str) -> str:
    """What the example prints; fails with its words when it does not end well."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(CONSUMERS / name),
        *options,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), 60)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, err.decode()
    return out.decode()


@pytest.fixture
async def registry_url(topic_prefix: str) -> AsyncIterator[str]:
    """Our registry endpoint on a port of its own."""
    app = web.Application()
    for route in routes(registry(topics(prefix=topic_prefix, partitions=1))):
        app.router.add_route(route.method, route.path, route.handler)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


def record(number: int) -> Record:
    """The event that stands at this offset of the ingest topic."""
    event = msgspec.structs.replace(EVENT, event_id=uuid.UUID(int=number))
    header = (POSITION_HEADER, struct.pack(">iq", 0, number))
    return Record(b"session", AvroCodec().encode(event), (header,))


async def test_the_python_example_prints_each_event_once(
    kafka: str, topic_prefix: str, registry_url: str, tmp_path: Path
) -> None:
    """Repeats are passed over, within a run and after a restart in another group that begins at the beginning."""
    ours = topics(prefix=topic_prefix, partitions=1)
    await ensure(kafka, [ours.events])
    log = KafkaLog(kafka, "test")
    await log.open()
    await log.send(ours.events.name, [record(number) for number in (1, 2, 1, 2, 3)])
    await log.send(ours.events.name, [record(number) for number in (3, 2, 4)])
    await log.close()
    where = ("--broker", kafka, "--registry", registry_url, "--topic", ours.events.name)
    state = ("--state", str(tmp_path / "positions.json"))
    first = await run("python_avro.py", *where, *state, "--group", f"{topic_prefix}-1", "--max", "3")
    again = await run("python_avro.py", *where, *state, "--group", f"{topic_prefix}-2", "--max", "1")
    found = [json.loads(line) for line in (first + again).splitlines()]
    assert [one["position"] for one in found] == [[0, 1], [0, 2], [0, 3], [0, 4]]
    assert [one["event_id"] for one in found] == [str(uuid.UUID(int=number)) for number in (1, 2, 3, 4)]
    assert {(one["session_id"], one["tool_name"], one["id_origin"]) for one in found} == {("session", "Bash", "client")}
    assert all(one["payload"] == {"command": "ls"} for one in found)


def sent(session: str) -> list[dict[str, Any]]:
    """Nine ended calls of two tools in two hours and two projects; two calls of Edit failed."""
    return [
        {
            "event_id": str(uuid.uuid4()),
            "session_id": f"{session}-{number % 2}",
            "event_type": "post_tool_use_failure" if number in (0, 6) else "tool_post_use",
            "timestamp": 1_769_850_000_000 + (number // 5) * 3_600_000,
            "payload": {"tool_name": tool, "tool_use_id": f"{session}-{number}", "cwd": f"/p/{'ab'[number % 2]}/"},
        }
        for number, tool in enumerate(["Edit", "Bash", "Edit", "Bash", "Edit", "Bash", "Edit", "Bash", "Edit"])
    ]


async def export(http: aiohttp.ClientSession, url: str, session: str) -> list[dict[str, Any]]:
    """Every event of a session as the API has it."""
    found: list[dict[str, Any]] = []
    params = {"session_id": session, "limit": "2"}
    while True:
        async with http.get(f"{url}/events", params=params) as answer:
            assert answer.status == 200
            page = await answer.json()
        found += page["items"]
        if page["next"] is None:
            return found
        params["cursor"] = page["next"]


async def test_the_duckdb_example_answers_of_an_export(stack: dict[str, Any], tmp_path: Path) -> None:
    """What was sent comes back as figures: tools by failure rate, events by hour, sessions by project."""
    pytest.importorskip("duckdb", reason="duckdb is not installed: the DuckDB example is not tried")
    session = uuid.uuid4().hex
    async with aiohttp.ClientSession() as http:
        async with http.post(f"{stack['url']}/events", json=sent(session)) as answer:
            assert answer.status < 300, await answer.text()

        async def stored() -> list[dict[str, Any]]:
            found = [one for number in (0, 1) for one in await export(http, stack["url"], f"{session}-{number}")]
            return found if len(found) == len(sent(session)) else []

        events = await until(stored, what="all that was sent, in the export")
    file = tmp_path / "events.jsonl"
    file.write_text("".join(f"{json.dumps(event)}\n" for event in events))
    found = json.loads(await run("duckdb_export.py", str(file), "--json"))
    assert found["tools"] == [
        {"tool": "Edit", "calls": 5, "failures": 2, "failed_percent": 40.0},
        {"tool": "Bash", "calls": 4, "failures": 0, "failed_percent": 0.0},
    ]
    assert [(row["hour"], row["events"], row["sessions"]) for row in found["hours"]] == [
        ("2026-01-31 09:00:00", 5, 2),
        ("2026-01-31 10:00:00", 4, 2),
    ]
    assert found["projects"] == [
        {"project": "a", "sessions": 1, "events": 5},
        {"project": "b", "sessions": 1, "events": 4},
    ]
    assert "failed_percent" in await run("duckdb_export.py", str(file), "--query", "tools")
