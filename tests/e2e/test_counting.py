"""What the stream counts and what it shows live, through kills of the workers, against SQL over the stored events."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from running import rows, settled, until, up
from tables.histogram import add, quantile

# Two starts of the whole stack each, with workers that come back meanwhile.
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(420)]
EVENTS = 3_000
PROJECTS = ("shop", "blog", "api")
TOOLS = ("Bash", "Edit", "Read")


def made(number: int, now: float, chance: random.Random) -> list[dict[str, Any]]:
    """A prompt and a tool call of some session, within the last two hours."""
    session = f"session-{number % 17}"
    at = now - chance.uniform(70, 7000)
    call = {"tool_name": chance.choice(TOOLS), "tool_use_id": f"t-{number}", "cwd": f"/p/{PROJECTS[number % 3]}"}
    end = "tool_post_use" if chance.random() < 0.8 else "post_tool_use_failure"
    parts = [("user_prompt", at, {"cwd": call["cwd"]}), ("tool_pre_use", at + 1, call)]
    parts.append((end, at + 1 + chance.uniform(0.001, 60), call))
    return [
        {
            "event_id": str(uuid.UUID(int=chance.getrandbits(128), version=4)),
            "session_id": session,
            "event_type": kind,
            "timestamp": round(when * 1000),
            "payload": payload,
            "metadata": {"machine": f"machine-{number % 2}"},
        }
        for kind, when, payload in parts
    ]


class Watching:
    """Everybody's event ids from the live feed; goes on where it was when the connection is lost."""

    def __init__(self, url: str) -> None:
        self.url, self.seen, self.missed = url, list[str](), list[Any]()
        self.place = ""
        self.ready = asyncio.Event()

    async def run(self) -> None:
        while True:
            try:
                await self._read()
            except aiohttp.ClientError:
                await asyncio.sleep(0.1)

    async def _read(self) -> None:
        headers = {"Last-Event-ID": self.place} if self.place else {}
        timeout = aiohttp.ClientTimeout(total=None)
        async with (
            aiohttp.ClientSession(timeout=timeout, read_bufsize=1 << 20) as http,
            http.get(f"{self.url}/sse/events", headers=headers) as answer,
        ):
            answer.raise_for_status()
            kind = place = ""
            async for line in answer.content:
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name == "id":
                    place = value
                elif name == "event":
                    kind = value
                    self.ready.set()
                elif name == "data" and not kind:
                    self.seen.append(json.loads(value)["event_id"])
                elif name == "data" and kind == "missed":
                    self.missed.append(json.loads(value))
                elif not name:
                    kind, self.place = "", place or self.place


async def get(http: aiohttp.ClientSession, url: str, **params: str) -> dict[str, Any]:
    async with http.get(url, params=params) as answer:
        body: dict[str, Any] = await answer.json()
        assert answer.status == 200, body
        return body


async def figures(http: aiohttp.ClientSession, url: str, since: float) -> dict[str, Any]:
    """What the stream says: by minute and type, by project, tools, sessions."""
    at = {"since": str(round(since * 1000))}
    usage = await get(http, f"{url}/analytics/usage", group_by="type", interval="minute", **at)
    points = {
        (bucket, one["name"]): value
        for one in usage["series"]
        for bucket, value in zip(usage["buckets"], one["values"], strict=True)
        if value
    }
    tools = {row["name"]: row for row in (await get(http, f"{url}/tools", interval="hour", **at))["items"]}
    values = {
        dimension: {row["name"]: row["events"] for row in found["items"]}
        for dimension in ("project", "machine")
        for found in [await get(http, f"{url}/analytics/values/{dimension}", interval="hour", **at)]
    }
    sessions = await get(http, f"{url}/analytics/usage", metric="sessions", interval="hour", **at)
    by_hour = dict(zip(sessions["buckets"], sessions["series"][0]["values"], strict=True))
    return {"points": points, "tools": tools, **values, "sessions": {at: n for at, n in by_hour.items() if n}}


async def recomputed(dsn: str) -> dict[str, Any]:
    """The same by SQL over `events`."""
    instant = """to_char(date_trunc('{}', occurred_at AT TIME ZONE 'UTC'), 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""
    minute, hour = (instant.format(size) for size in ("minute", "hour"))
    minutes = await rows(dsn, f"SELECT {minute} AS at, event_type, count(*) FROM events GROUP BY 1, 2")
    projects = await rows(dsn, "SELECT split_part(cwd, '/', 3) AS name, count(*) FROM events GROUP BY 1")
    machines = await rows(dsn, "SELECT metadata->>'machine' AS name, count(*) FROM events GROUP BY 1")
    hours = await rows(dsn, f"SELECT {hour} AS at, count(DISTINCT session_id) FROM events GROUP BY 1")
    calls = await rows(
        dsn,
        """
        SELECT post.tool_name, post.event_type = 'tool_post_use' AS good,
               extract(epoch FROM post.occurred_at - pre.occurred_at)::float8 * 1000 AS ms
        FROM events post LEFT JOIN LATERAL (
            SELECT occurred_at FROM events
            WHERE event_type = 'tool_pre_use' AND session_id = post.session_id AND tool_use_id = post.tool_use_id
                  AND ingest_offset < post.ingest_offset
            ORDER BY ingest_offset DESC LIMIT 1) pre ON true
        WHERE post.event_type IN ('tool_post_use', 'post_tool_use_failure')
        """,
    )
    return {
        "points": {(row["at"], row["event_type"]): row["count"] for row in minutes},
        "tools": {name: _tool(name, [row for row in calls if row["tool_name"] == name]) for name in TOOLS},
        "project": {row["name"]: row["count"] for row in projects},
        "machine": {row["name"]: row["count"] for row in machines},
        "sessions": {row["at"]: row["count"] for row in hours},
    }


def _tool(name: str, calls: list[Any]) -> dict[str, Any]:
    durations: dict[int, int] = {}
    for row in calls:
        if row["ms"] is not None:
            add(durations, row["ms"])
    times = {f"p{round(q * 100)}_ms": quantile(durations, q) for q in (0.5, 0.95, 0.99)}
    rounded = {key: None if value is None else round(value, 1) for key, value in times.items()}
    return {"name": name, "calls": len(calls), "failures": sum(not row["good"] for row in calls), **rounded}


async def equal(http: aiohttp.ClientSession, url: str, dsn: str, since: float) -> dict[str, Any]:
    """Wait until the stream has counted what SQL says, and hold all of it against that; gives what it is."""
    wanted = await recomputed(dsn)

    async def counted() -> bool:
        return (await figures(http, url, since))["points"] == wanted["points"]

    await until(counted, seconds=60, what="the counts of all events")
    assert await figures(http, url, since) == wanted
    return wanted


async def test_counts_and_feed_are_right_through_kills_and_a_restart(tmp_path: Path) -> None:
    """Workers die while they count; the tables equal a recomputation, and the feed has every event once."""
    now, chance = time.time(), random.Random(7)
    events = [event for number in range(EVENTS // 3) for event in made(number, now, chance)]
    async with up(tmp_path, "--stream-workers", "2") as ready, aiohttp.ClientSession() as http:
        url = ready["url"]
        watching = Watching(url)
        watcher = asyncio.create_task(watching.run())
        await asyncio.wait_for(watching.ready.wait(), 30)
        for at in range(0, EVENTS, 50):
            async with http.post(f"{url}/events", json=events[at : at + 50]) as answer:
                assert answer.status == 202, await answer.text()
            if at in (EVENTS // 4, EVENTS // 2):
                os.kill(ready["pids"]["stream"][0 if at < EVENTS // 2 else 1], signal.SIGKILL)
            await asyncio.sleep(0.02)
        await settled(http, url, accepted=EVENTS, seconds=90)
        wanted = await equal(http, url, ready["database"], now - 7200)

        async def seen() -> bool:
            return len(watching.seen) >= EVENTS or bool(watching.missed)

        await until(seen, seconds=30, what="all events in the live feed")
        assert not watching.missed  # a burst of what waited for a worker is no reason to leave anything out
        watcher.cancel()
        assert Counter(watching.seen) == Counter(event["event_id"] for event in events)

    async with up(tmp_path, "--stream-workers", "1") as ready, aiohttp.ClientSession() as http:

        async def answers() -> bool:
            async with http.get(f"{ready['url']}/tools") as answer:
                return answer.status == 200

        await until(answers, what="the aggregate tables after a restart")
        assert await figures(http, ready["url"], now - 7200) == wanted


#: Seconds after which the broker gives away the partitions of a worker that says nothing (10), and some.
GIVEN_AWAY_S = 14


async def test_a_worker_that_was_suspended_overtakes_nothing(tmp_path: Path) -> None:
    """It wakes with a batch in hand after its partitions were counted on by another: no count goes back."""
    now, chance = time.time(), random.Random(11)
    events = [event for number in range(EVENTS // 3) for event in made(number, now, chance)]
    async with up(tmp_path, "--stream-workers", "2") as ready, aiohttp.ClientSession() as http:
        url, suspended = ready["url"], ready["pids"]["stream"][0]
        pause = GIVEN_AWAY_S / (EVENTS // 50)
        for at in range(0, EVENTS, 50):
            async with http.post(f"{url}/events", json=events[at : at + 50]) as answer:
                assert answer.status == 202, await answer.text()
            if at == 200:
                os.kill(suspended, signal.SIGSTOP)
            await asyncio.sleep(pause)
        os.kill(suspended, signal.SIGCONT)
        await settled(http, url, accepted=EVENTS, seconds=90)
        await equal(http, url, ready["database"], now - 7200)
    async with up(tmp_path) as ready, aiohttp.ClientSession() as http:

        async def answers() -> bool:
            async with http.get(f"{ready['url']}/tools") as answer:
                return answer.status == 200

        await until(answers, what="the aggregate tables after a restart")
        await equal(http, ready["url"], ready["database"], now - 7200)
