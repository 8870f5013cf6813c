"""Exports and long pages over HTTP: whole or cut, bounded, and never out of what has left the local store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientError
from aiohttp.test_utils import TestClient

from app.views import query
from app.views.fresh import Fresh
from connectors.readers.failover import FailoverReader
from connectors.readers.memory import MemoryReader
from reading import TOPICS, ManualClock, event_row, query_routes, serving, session_row
from schemas.query import EventFilter, Held, Page


class Side:
    """A client with the two stores behind it."""

    def __init__(self, client: TestClient[Any, Any], primary: MemoryReader, local: MemoryReader) -> None:
        self.client, self.primary, self.local = client, primary, local

    async def get(self, path: str) -> tuple[int, Any, str]:
        async with self.client.get(path) as answer:
            return answer.status, await answer.json(), answer.headers.get("Chronicle-Source", "")


@pytest.fixture
async def side() -> AsyncIterator[Side]:
    """Postgres has events 1 to 5 and a session; SQLite has event 9."""
    primary, local = MemoryReader("postgres"), MemoryReader("sqlite")
    primary.event_rows += [event_row(n) for n in range(1, 6)]
    primary.session_rows.append(session_row("s-1", 5))
    local.event_rows.append(event_row(9))
    async with serving(query_routes(FailoverReader(primary, local))) as client:
        yield Side(client, primary, local)


@pytest.mark.parametrize("change", [Held("memory", 2), Held("another file", 1)])
async def test_an_export_out_of_the_local_store_is_whole_or_cut(side: Side, change: Held) -> None:
    """Sync-back drops what Postgres has, or the file is set aside: what follows may be fewer rows than there were."""
    side.local.session_rows.append(session_row("s-late", 9))
    side.local.event_rows += [event_row(n, session_id="s-late") for n in range(10, 2510)]
    path, read, asked = "/sessions/s-late/events?format=jsonl", side.local.events, 0
    async with side.client.get(path) as answer:
        assert (answer.headers["Chronicle-Source"], len((await answer.text()).splitlines())) == ("sqlite", 2500)

    async def drops(filter: EventFilter) -> Page:
        nonlocal asked
        asked += 1
        if asked == 15:  # in the second page of a thousand
            side.local.event_rows = [row for row in side.local.event_rows if row["event_id"].int > 700]
            side.local.holds = change
        return await read(filter)

    side.local.events = drops  # type: ignore[method-assign]
    with pytest.raises(ClientError):
        async with side.client.get(path) as answer:
            await answer.read()


async def test_an_export_that_cannot_even_begin_whole_is_refused(side: Side) -> None:
    """The rows go home between finding the session and its first page: 503, and the next try finds it in Postgres."""
    side.local.session_rows.append(session_row("s-late", 9))
    side.local.event_rows.append(event_row(11, session_id="s-late"))
    read = side.local.events

    async def drops(filter: EventFilter) -> Page:
        side.local.event_rows.clear()
        side.local.holds = Held("memory", 2)
        return await read(filter)

    side.local.events = drops  # type: ignore[method-assign]
    status, body, _ = await side.get("/sessions/s-late/events?format=jsonl")
    assert (status, "ask again" in body["detail"]) == (503, True)


async def test_a_store_that_only_grows_cuts_no_export(side: Side) -> None:
    """Also one that was empty when it began."""
    side.primary.away, side.local.holds = "refused", Held("", 0)
    read = side.local.events

    async def grows(filter: EventFilter) -> Page:
        side.local.holds = Held("memory", 1)
        return await read(filter)

    side.local.events = grows  # type: ignore[method-assign]
    async with side.client.get("/events?format=jsonl&fields=event_id") as answer:
        assert len((await answer.text()).splitlines()) == 1


async def test_what_the_local_store_answers_is_never_kept() -> None:
    """Not even for the moment in which a session waits there to be synced back: it has more rows the next time."""
    primary, local = MemoryReader("postgres"), MemoryReader("sqlite")
    local.session_rows.append(session_row("s-late", 9))
    routes = query.routes(FailoverReader(primary, local), TOPICS, Fresh(ManualClock(), int), ManualClock(), 0.0)
    async with serving(routes) as client:
        for count in (0, 1):
            async with client.get("/sessions/s-late/events") as answer:
                assert len((await answer.json())["items"]) == count
            local.event_rows.append(event_row(11, session_id="s-late"))


async def test_an_export_does_not_begin_backwards(side: Side) -> None:
    """`previous` leads to the page before; from there on to the end would be some rows twice."""
    _, first, _ = await side.get("/events?limit=2")
    _, second, _ = await side.get(f"/events?limit=2&cursor={first['next']}")
    status, body, _ = await side.get(f"/events?format=csv&cursor={second['previous']}")
    assert (status, body["pointer"]) == (422, "/cursor")


async def test_a_page_back_is_as_long_as_a_page_on(side: Side) -> None:
    """With payloads, which are read a hundred at a time."""
    side.primary.event_rows += [event_row(n) for n in range(10, 400)]
    _, first, _ = await side.get("/events?limit=250&order=asc")
    _, second, _ = await side.get(f"/events?limit=250&order=asc&cursor={first['next']}")
    _, back, _ = await side.get(f"/events?limit=250&order=asc&cursor={second['previous']}")
    assert (back["items"], back["previous"], back["next"]) == (first["items"], None, first["next"])


async def test_large_errors_end_a_page_as_payloads_do(side: Side) -> None:
    """They are payloads' text: sixteen MiB are enough for one answer, whichever fields are asked for."""
    failed = {"event_type": "post_tool_use_failure", "payload": '{"error": "' + "x" * 900_000 + '"}'}
    side.primary.event_rows += [event_row(n, tool_use_id=f"f{n}", **failed) for n in range(10, 240)]
    for fields in ("", "&fields=tool_use_id,error_message"):
        _, page, _ = await side.get(f"/sessions/s-1/tools?limit=1000&success=false{fields}")
        assert (len(page["items"]), page["next"] is not None) == (100, True)
