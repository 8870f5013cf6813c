"""Recorded sessions as the API, the terminal and the export show them: equal to what SQL over `events` says."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from app.demo.session import Session
from app.stack.ports import free_port
from app.stack.postgres import Postgres
from recorded import RECORDED, bodies
from running import rows, settled, until, up

# Two starts of the whole stack, an outage, and hundreds of events one after the other.
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(480)]


class Server:
    """A running Chronicle, asked over HTTP and by its own command."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self.http, self.url = http, url

    async def send(self, payloads: list[dict[str, Any]]) -> None:
        for body in payloads:
            async with self.http.post(f"{self.url}/hooks/claude-code", json=body) as answer:
                assert answer.status == 204, await answer.text()

    async def get(self, path: str, **params: str) -> Any:
        async with self.http.get(f"{self.url}{path}", params=params) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def page(self, path: str, **params: str) -> Any:
        """A page, or None while nobody can answer: at the edge of an outage that is no fault."""
        async with self.http.get(f"{self.url}{path}", params=params) as answer:
            return await answer.json() if answer.status == 200 else None

    async def text(self, path: str, **params: str) -> str:
        async with self.http.get(f"{self.url}{path}", params=params) as answer:
            assert answer.status == 200
            return await answer.text()

    def command(self, *words: str) -> Any:
        """What `chronicle … --json` prints."""
        done = subprocess.run(
            [sys.executable, "-m", "chronicle", *words, "--json", "--url", self.url],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return json.loads(done.stdout)


async def by_stream(server: Server) -> dict[str, Any]:
    """What the stream counted: answers with both databases away."""
    usage = await server.get("/analytics/usage", group_by="type")
    tools = await server.get("/tools")
    sessions = await server.get("/tables/sessions", limit="1000")
    return {
        "types": {one["name"]: one["total"] for one in usage["series"]},
        "tools": {one["name"]: (one["calls"], one["failures"]) for one in tools["items"]},
        "prompts": {one["session_id"]: one["prompts"] for one in sessions["items"]},
    }


async def by_sql(dsn: str) -> dict[str, Any]:
    """The same out of the table, repeats that are suspected left out as the stream does."""
    there = "FROM events WHERE suspected_duplicate_of IS NULL"
    ends = "event_type IN ('tool_post_use', 'post_tool_use_failure')"
    types = await rows(dsn, f"SELECT event_type, count(*) AS n {there} GROUP BY 1")
    failed = "count(*) FILTER (WHERE event_type = 'post_tool_use_failure') AS failed"
    tools = await rows(dsn, f"SELECT tool_name, count(*) AS n, {failed} {there} AND {ends} GROUP BY 1")
    prompts = await rows(
        dsn, f"SELECT session_id, count(*) FILTER (WHERE event_type = 'user_prompt') AS n {there} GROUP BY 1"
    )
    return {
        "types": {row["event_type"]: row["n"] for row in types},
        "tools": {row["tool_name"]: (row["n"], row["failed"]) for row in tools},
        "prompts": {row["session_id"]: row["n"] for row in prompts},
    }


async def by_database(server: Server, dsn: str) -> None:
    """Lists, exports and the terminal against SQL."""
    counts = {
        row["session_id"]: row["n"]
        for row in await rows(dsn, "SELECT session_id, count(*) AS n FROM events GROUP BY 1")
    }
    listed = await server.get("/sessions", limit="1000")
    assert {one["session_id"]: one["event_count"] for one in listed["items"]} == counts
    shown = server.command("sessions", "--limit", "1000")
    assert {one["session_id"]: one["event_count"] for one in shown["items"]} == counts
    export = await server.text("/events", format="jsonl")  # texts may hold what `splitlines` takes for a line's end
    lines = [json.loads(line) for line in export.split("\n") if line]
    assert Counter(line["session_id"] for line in lines) == counts
    ids = {row["id"] for row in await rows(dsn, "SELECT event_id::text AS id FROM events")}
    assert {line["event_id"] for line in lines} == ids
    table = list(csv.DictReader(io.StringIO(await server.text("/events", format="csv", fields="event_id,tool_name"))))
    assert {row["event_id"] for row in table} == ids
    for session, events in list(counts.items())[:5]:
        calls = await rows(dsn, "SELECT count(*) AS n FROM tool_calls WHERE session_id = $1", session)
        found = await server.get(f"/sessions/{session}/tools", limit="1000")
        assert len(found["items"]) == calls[0]["n"]
        assert len((await server.get(f"/sessions/{session}/events", limit="1000"))["items"]) == min(events, 1000)


async def stored(server: Server, dsn: str, sent: int) -> dict[str, Any]:
    """Wait until the stream has counted what SQL says; gives that."""
    await settled(server.http, server.url, accepted=sent)

    async def counted() -> dict[str, Any] | None:
        if await server.page("/tools") is None:  # the tables are read once after a start
            return None
        wanted = await by_sql(dsn)
        return wanted if await by_stream(server) == wanted else None

    found: dict[str, Any] = await until(counted, seconds=60, what="the stream's counts equal to SQL's")
    return found


async def test_what_is_shown_is_what_is_stored(tmp_path: Path) -> None:
    """Live, after a restart, and with Postgres away; recorded sessions where they are beside the checkout."""
    postgres = Postgres(tmp_path / "pg", free_port())
    postgres.start()
    payloads = [*Session(3).events(), *Session(4).events(), *(bodies() if RECORDED.is_dir() else ())]
    try:
        async with up(tmp_path, "--database", postgres.dsn) as ready, aiohttp.ClientSession() as http:
            server = Server(http, ready["url"])
            await server.send(payloads)
            wanted = await stored(server, postgres.dsn, len(payloads))
            await by_database(server, postgres.dsn)
        async with up(tmp_path, "--database", postgres.dsn) as ready, aiohttp.ClientSession() as http:
            server = Server(http, ready["url"])
            assert await stored(server, postgres.dsn, len(payloads)) == wanted
            await by_database(server, postgres.dsn)
            found = await server.get("/search", q="discount code")
            assert {"discount code" in hit["snippet"] for hit in found["items"]} == {True}
            postgres.stop()
            assert await by_stream(server) == wanted
            more = list(Session(5).events())
            await server.send(more)

            async def readable() -> bool:
                found = await server.page(f"/sessions/{more[0]['session_id']}/events", limit="1000")
                return bool(found and found["degraded"] and len(found["items"]) == len(more))

            await until(readable, seconds=60, what="the events of the outage, from SQLite")
            calls = await server.get(f"/sessions/{more[0]['session_id']}/tools")
            assert calls["source"] == "sqlite"
            assert any(one["success"] is False for one in calls["items"])
            postgres.start()
            await settled(http, server.url, seconds=90)

            async def home() -> bool:
                found = await server.page("/events", limit="1")
                return bool(found and not found["degraded"])

            await until(home, seconds=30, what="Postgres answers again")
            await stored(server, postgres.dsn, len(payloads) + len(more))
            await by_database(server, postgres.dsn)
    finally:
        postgres.stop()
