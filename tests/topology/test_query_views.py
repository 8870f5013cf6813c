"""The reading routes over HTTP: what is found, what is refused, and what is said while Postgres is away."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp.test_utils import TestClient

from app.views import query
from connectors.readers.failover import FailoverReader
from connectors.readers.memory import MemoryReader
from reading import TOPICS, event_row, letter_row, serving, session_row, uid


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
    primary.session_rows += [session_row("s-1", 5), session_row("a/b c", 3)]
    local.event_rows.append(event_row(9))
    async with serving(query.routes(FailoverReader(primary, local), TOPICS)) as client:
        yield Side(client, primary, local)


async def test_events_page_by_cursor_until_the_end(side: Side) -> None:
    """`next` goes into `cursor`; the last page has none."""
    seen: list[str] = []
    path = "/events?limit=2&order=asc"
    while True:
        status, body, source = await side.get(path)
        assert (status, source, body["degraded"]) == (200, "postgres", False)
        seen += [item["event_id"] for item in body["items"]]
        if body["next"] is None:
            break
        path = f"/events?limit=2&order=asc&cursor={body['next']}"
    assert seen == [str(uid(n)) for n in range(1, 6)]
    assert "note" not in body


async def test_times_are_taken_in_three_forms(side: Side) -> None:
    """Z, an offset whose plus sign was not encoded, and epoch milliseconds."""
    for since in ("2026-01-31T09:30:04Z", "2026-01-31T11:30:04+02:00", "1769851804000"):
        _, body, _ = await side.get(f"/events?since={since}")
        assert len(body["items"]) == 2, since


async def test_one_event_has_its_payload(side: Side) -> None:
    """The JSON of the payload stands in the answer as an object."""
    status, body, source = await side.get(f"/events/{uid(3)}")
    assert (status, source) == (200, "postgres")
    assert body["payload"] == {"n": 3}
    assert body["position"] == {"partition": 1, "offset": 3}


@pytest.mark.parametrize(
    ("path", "status", "code", "pointer"),
    [
        ("/events?limit=0", 422, "bad_parameter", "/limit"),
        ("/events?limit=1001", 422, "bad_parameter", "/limit"),
        ("/events?limit=ten", 422, "bad_parameter", "/limit"),
        ("/events?limit=%D9%A3", 422, "bad_parameter", "/limit"),
        ("/events?limit=1&limit=2", 422, "bad_parameter", "/limit"),
        ("/events?offset=3", 422, "unknown_parameter", "/offset"),
        ("/events?a%2Fb=3", 422, "unknown_parameter", "/a~1b"),
        ("/events?since=yesterday", 422, "bad_parameter", "/since"),
        ("/events?since=2026-01-31T09:30:00", 422, "bad_parameter", "/since"),
        ("/events?since=999999999999999", 422, "bad_parameter", "/since"),
        ("/events?since=0001-01-01T00:00:00Z", 422, "bad_parameter", "/since"),
        ("/events?since=2026-02-01T00:00:00Z&until=2026-01-01T00:00:00Z", 422, "bad_parameter", "/until"),
        ("/events?order=up", 422, "bad_parameter", "/order"),
        ("/events?session_id=", 422, "bad_parameter", "/session_id"),
        ("/events?tool_name=a%00b", 422, "bad_parameter", "/tool_name"),
        (f"/events?tool_name={'x' * 1025}", 422, "bad_parameter", "/tool_name"),
        ("/events?cursor=%00", 422, "bad_parameter", "/cursor"),
        ("/events?cursor=zzz", 422, "bad_cursor", "/cursor"),
        ("/events?cursor=WzEsIngiXQ", 422, "bad_cursor", "/cursor"),
        ("/events/not-a-uuid", 422, "bad_parameter", "/event_id"),
        (f"/events/{uid(1)}?x=1", 422, "unknown_parameter", "/x"),
        ("/sessions?status=gone", 422, "bad_parameter", "/status"),
        (f"/sessions/{'x' * 256}", 422, "bad_parameter", "/session_id"),
        ("/sessions/s-1/events?session_id=s-2", 422, "unknown_parameter", "/session_id"),
        (f"/events/{uid(404)}", 404, "not_found", ""),
        (f"/events/{uid(404)}/trace", 404, "not_found", ""),
        ("/sessions/nobody", 404, "not_found", ""),
        ("/sessions/nobody/events", 404, "not_found", ""),
    ],
)
async def test_a_wrong_request_is_refused_with_a_pointer(
    side: Side, path: str, status: int, code: str, pointer: str
) -> None:
    """Bad and unknown parameters are named; nothing is guessed."""
    got, body, _ = await side.get(path)
    assert (got, body["code"], body["pointer"]) == (status, code, pointer)
    assert body["detail"]


@pytest.mark.parametrize("text", ["%FF", "%ED%A0%80", "%F4%90%80%80"])
async def test_bytes_that_are_no_text_are_never_a_server_error(side: Side, text: str) -> None:
    """Broken UTF-8 is refused or found nowhere; no database sees it."""
    for path in (f"/events?tool_name={text}", f"/sessions/{text}"):
        status, _, _ = await side.get(path)
        assert status in {200, 404, 422}


async def test_a_session_and_its_events(side: Side) -> None:
    """The id is opaque text: slashes and spaces are part of it."""
    status, body, _ = await side.get("/sessions/s-1")
    assert (status, body["event_count"]) == (200, 3)
    assert (await side.get("/sessions/" + quote("a/b c", safe="")))[1]["session_id"] == "a/b c"
    _, listed, _ = await side.get("/sessions?limit=1")
    assert [item["session_id"] for item in listed["items"]] == ["s-1"]
    assert listed["next"]
    _, events, _ = await side.get("/sessions/s-1/events?limit=2&order=asc")
    assert [item["event_id"] for item in events["items"]] == [str(uid(1)), str(uid(2))]


async def test_lists_come_from_sqlite_while_postgres_is_away_and_say_so(side: Side) -> None:
    """200 with the mark, the header and a note that tells what is missing."""
    side.primary.away = "connection refused"
    status, body, source = await side.get("/events")
    assert (status, source, body["source"], body["degraded"]) == (200, "sqlite", "sqlite", True)
    assert [item["event_id"] for item in body["items"]] == [str(uid(9))]
    assert "Postgres is away" in body["note"]
    status, body, _ = await side.get("/sessions/s-1/events")
    assert (status, body["degraded"]) == (200, True)


async def test_an_event_not_in_sqlite_is_no_404_while_postgres_is_away(side: Side) -> None:
    """Nobody knows whether it exists: 503 that says so. What is there is served."""
    side.primary.away = "connection refused"
    for path in (f"/events/{uid(3)}", "/sessions/s-1", f"/events/{uid(3)}/trace"):
        status, body, _ = await side.get(path)
        assert status == 503, path
        assert "not in the local store" in body["detail"]
    assert (await side.get(f"/events/{uid(9)}"))[0] == 200


async def test_both_databases_away_is_503(side: Side) -> None:
    """And nothing else."""
    side.primary.away = side.local.away = "gone"
    assert (await side.get("/events"))[0] == 503


async def test_a_trace_tells_every_hop(side: Side) -> None:
    """Received, both logs with their places, stored; and everything that points at the event."""
    side.primary.event_rows.append(event_row(8, suspected_duplicate_of=uid(3)))
    side.primary.letter_rows.append(letter_row(4, event_id=uid(3), cause="conflict"))
    status, body, _ = await side.get(f"/events/{uid(3)}/trace")
    assert (status, body["outcome"]) == (200, "stored")
    hops = {hop["hop"]: hop for hop in body["hops"]}
    assert list(hops) == ["received", "ingest_log", "public_log", "stored", "dead_letter"]
    assert (hops["ingest_log"]["topic"], hops["ingest_log"]["partition"], hops["ingest_log"]["offset"]) == (
        "t.ingest",
        1,
        3,
    )
    assert (hops["public_log"]["topic"], hops["public_log"]["offset"]) == ("t.events", 103)
    assert (hops["stored"]["detail"], hops["stored"]["at"]) == ("postgres", "2026-01-31T09:30:03.000900Z")
    assert "conflict" in hops["dead_letter"]["detail"]
    assert body["suspected_duplicates"] == [str(uid(8))]


async def test_a_trace_of_a_dead_event_ends_at_its_letter(side: Side) -> None:
    """An event that was never stored has a trace all the same."""
    side.primary.letter_rows.append(letter_row(6, event_id=uid(77)))
    status, body, _ = await side.get(f"/events/{uid(77)}/trace")
    assert (status, body["outcome"], [hop["hop"] for hop in body["hops"]]) == (200, "dead", ["dead_letter"])
