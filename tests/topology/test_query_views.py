"""The reading routes over HTTP: what is found, what is refused, and what is said while Postgres is away."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import ClientError
from aiohttp.test_utils import TestClient

from connectors.readers.failover import FailoverReader
from connectors.readers.memory import MemoryReader
from reading import ManualClock, event_row, letter_row, query_routes, serving, session_row, uid
from schemas.query import EventFilter, Page


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
    async with serving(query_routes(FailoverReader(primary, local))) as client:
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
        ("/events?fields=payload,size", 422, "bad_parameter", "/fields"),
        ("/events?format=xml", 422, "bad_parameter", "/format"),
        ("/events?event_type=a,,b", 422, "bad_parameter", "/event_type"),
        ("/events?tool_use_id=toolu_1", 422, "bad_parameter", "/tool_use_id"),
        ("/events?agent_type=Explore&limit=1", 422, "bad_parameter", "/agent_type"),
        ("/sessions?cursor=WzEsImFcdTAwMDBiIl0", 422, "bad_cursor", "/cursor"),
        ("/events?format=csv&limit=0", 422, "bad_parameter", "/limit"),
        ("/search", 422, "bad_parameter", "/q"),
        ("/search?q=%21%3F", 422, "bad_parameter", "/q"),
        ("/sessions?sort=name", 422, "bad_parameter", "/sort"),
        ("/sessions/s-1/tools?success=maybe", 422, "bad_parameter", "/success"),
        ("/sessions/nobody/tools", 404, "not_found", ""),
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


async def test_a_session_that_waits_to_be_synced_back_has_its_events(side: Side) -> None:
    """Postgres is back and does not know it yet; its events and tool calls come from where the session was found."""
    side.local.session_rows.append(session_row("s-late", 9))
    side.local.event_rows.append(event_row(11, session_id="s-late"))
    status, body, source = await side.get("/sessions/s-late/events")
    assert (status, source, body["degraded"]) == (200, "sqlite", False)
    assert [item["event_id"] for item in body["items"]] == [str(uid(11))]
    _, body, source = await side.get("/sessions/s-late/tools")
    assert (source, [row["tool_use_id"] for row in body["items"]]) == ("sqlite", ["toolu_11"])


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


async def test_only_the_fields_that_were_asked_for(side: Side) -> None:
    """In the order in which they were named."""
    _, body, _ = await side.get("/events?fields=tool_name,event_id&limit=1")
    assert list(body["items"][0]) == ["tool_name", "event_id"]
    _, body, _ = await side.get("/sessions?fields=event_count&limit=1")
    assert body["items"] == [{"event_count": 3}]


async def test_a_page_that_has_not_changed_is_not_sent_again(side: Side) -> None:
    """304 for the ETag of the page before; another page has another."""
    async with side.client.get("/events?limit=2") as answer:
        tag = answer.headers["ETag"]
    async with side.client.get("/events?limit=2", headers={"If-None-Match": f'"other", {tag}'}) as answer:
        assert (answer.status, await answer.read()) == (304, b"")
    side.primary.event_rows.append(event_row(6))
    async with side.client.get("/events?limit=2", headers={"If-None-Match": tag}) as answer:
        assert (answer.status, answer.headers["ETag"] != tag) == (200, True)


async def test_large_pages_are_packed_for_whom_takes_that(side: Side) -> None:
    """gzip, and the answer says on what it depends; a small answer goes as it is."""
    side.primary.event_rows += [event_row(n) for n in range(10, 60)]
    for path, packing, expected in (
        ("/events", "gzip, br", "gzip"),
        ("/events", "identity", None),
        ("/events?limit=1&fields=event_id", "gzip", None),
        ("/events?format=jsonl", "gzip", "gzip"),
    ):
        async with side.client.get(path, headers={"Accept-Encoding": packing}) as answer:
            assert answer.headers.get("Content-Encoding") == expected, path
            assert "Accept-Encoding" in answer.headers["Vary"]
            assert (await answer.text()).startswith("{")


async def test_everything_goes_out_as_lines_or_csv(side: Side) -> None:
    """All pages, not one: the filters hold, `limit` cuts, the file has a name."""
    side.primary.event_rows += [event_row(n) for n in range(10, 2510)]
    async with side.client.get("/events?order=asc", headers={"Accept": "application/x-ndjson"}) as answer:
        lines = [json.loads(line) for line in (await answer.text()).splitlines()]
        assert answer.headers["Content-Type"] == "application/x-ndjson"
        assert "chronicle-events.jsonl" in answer.headers["Content-Disposition"]
    assert [line["event_id"] for line in lines] == [str(uid(n)) for n in (*range(1, 6), *range(10, 2510))]
    assert lines[0]["payload"] == {"n": 1}
    async with side.client.get("/events?format=csv&fields=event_id,payload&limit=1200") as answer:
        rows = list(csv.reader(io.StringIO(await answer.text())))
    assert (len(rows), rows[0], rows[1][1]) == (1201, ["event_id", "payload"], '{"n": 2509}')


async def test_an_export_that_fails_on_the_way_never_looks_whole(side: Side) -> None:
    """The connection is cut: an answer that merely ended would be taken for all there is."""
    side.primary.event_rows += [event_row(n) for n in range(10, 2510)]
    whole, asked = side.primary.events, 0

    async def fails(wanted: EventFilter) -> Page:
        nonlocal asked
        asked += 1
        side.primary.away = "gone" if asked > 1 else None
        return await whole(wanted)

    side.primary.events = fails  # type: ignore[method-assign]
    with pytest.raises(ClientError):
        async with side.client.get("/events?format=jsonl") as answer:
            await answer.read()


async def test_a_search_shows_the_place_it_found(side: Side) -> None:
    """Filters go with it; the words may be anywhere in prompts, errors and notifications."""
    said = {"event_type": "user_prompt", "tool_name": None}
    side.primary.event_rows.append(event_row(8, payload='{"prompt": "mend the parser"}', **said))
    _, body, _ = await side.get("/search?q=PARS&session_id=s-1&fields=event_id,snippet")
    assert body["items"] == [{"event_id": str(uid(8)), "snippet": "mend the parser"}]
    assert (await side.get("/search?q=parser&event_type=notification"))[1]["items"] == []


async def test_a_hit_that_no_json_column_could_hold_as_it_is(side: Side) -> None:
    """A lone surrogate in a prompt: found, and shown with a mark in its place."""
    raw = '{"prompt": "mend \\ud83d the parser"}'
    said = {"event_type": "user_prompt", "tool_name": None, "payload_raw": raw, "flags": 4}
    side.primary.event_rows.append(event_row(8, payload='{"prompt": "mend \ufffd the parser"}', **said))
    status, body, _ = await side.get("/search?q=parser")
    assert (status, body["items"][0]["snippet"]) == (200, "mend \ufffd the parser")


async def test_a_page_of_large_payloads_is_short_and_goes_on(side: Side) -> None:
    """16 MiB are enough for one answer; nothing is left out between the pages."""
    side.primary.event_rows.clear()
    big = '{"text": "' + "x" * 900_000 + '"}'
    side.primary.event_rows += [event_row(n, payload=big) for n in range(1, 231)]
    _, first, _ = await side.get("/events?limit=230&fields=event_id,payload&order=asc")
    assert len(first["items"]) == 100
    _, second, _ = await side.get(f"/events?limit=230&fields=event_id&order=asc&cursor={first['next']}")
    assert [item["event_id"] for item in (*first["items"], *second["items"])] == [str(uid(n)) for n in range(1, 231)]


async def test_a_sessions_tool_calls(side: Side) -> None:
    """Both ends in one row, oldest first; also as CSV."""
    side.primary.event_rows.append(event_row(7, event_type="tool_post_use", tool_use_id="toolu_2"))
    _, body, _ = await side.get("/sessions/s-1/tools?limit=2")
    assert [(row["tool_use_id"], row["duration_ms"]) for row in body["items"]] == [("toolu_1", None), ("toolu_2", 5000)]
    assert (await side.get("/sessions/s-1/tools?success=true"))[1]["items"] == [body["items"][1]]
    async with side.client.get("/sessions/s-1/tools?format=csv&fields=tool_use_id,success") as answer:
        assert (await answer.text()).splitlines()[:3] == ["tool_use_id,success", "toolu_1,", "toolu_2,True"]


async def test_a_silent_session_has_ended() -> None:
    """After the hours of the setting; the list and the session say the same."""
    store, clock = MemoryReader("postgres"), ManualClock()
    store.session_rows += [session_row("old", -7200), session_row("new", -60)]
    async with serving(query_routes(FailoverReader(store, None), clock, idle_hours=1.0)) as client:
        async with client.get("/sessions?status=terminated") as answer:
            assert [one["session_id"] for one in (await answer.json())["items"]] == ["old"]
        async with client.get("/sessions/old") as answer:
            found = await answer.json()
        assert (found["status"], found["ended_at"]) == ("terminated", found["last_event_at"])
