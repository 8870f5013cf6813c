"""The way in over real HTTP: what is answered, what is handed to the intake, and that nothing bad gets through."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import brotli
import pytest
from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer

from app.problems import problems
from app.views.body import SERVER_ARGS
from app.views.ingest import routes
from connectors.memory import MemoryIntake
from connectors.ports import Record
from schemas.clock import SystemClock
from schemas.codec import AvroCodec
from schemas.envelope import IngestLimits
from schemas.errors import Unavailable
from schemas.event import Flag, HookEvent, IdOrigin
from schemas.metrics import NullMetrics
from schemas.redact import Redactor

CODEC = AvroCodec()
ID = "0190a8f0-7c1e-7b3a-9c55-2f0d2f6f7a11"
JSON = {"Content-Type": "application/json"}
Client = TestClient[web.Request, web.Application]


class Counting(NullMetrics):
    """Remembers what was counted."""

    def __init__(self) -> None:
        self.counts: dict[tuple[Any, ...], float] = {}

    def inc(self, name: str, value: float = 1, **labels: str) -> None:
        """As `Metrics.inc`."""
        key = (name, *sorted(labels.values()))
        self.counts[key] = self.counts.get(key, 0) + value


class UnsureIntake(MemoryIntake):
    """The broker did not answer in time: nobody knows."""

    async def take(self, records: Any) -> Any:
        """As `Intake.take`, but it raises."""
        raise Unavailable("the broker", "timed out", retry_after=1.4, unknown=True)


@asynccontextmanager
async def door(intake: MemoryIntake, metrics: Counting | None = None, **limits: Any) -> AsyncIterator[Client]:
    clock, metrics = SystemClock(), metrics or Counting()
    app = web.Application(middlewares=[problems(clock, metrics)], handler_args=SERVER_ARGS)
    for route in routes(intake, CODEC, clock, IngestLimits(**limits), Redactor(), metrics):
        app.router.add_route(route.method, route.path, route.handler)
    async with TestClient(TestServer(app)) as client:
        yield client


@pytest.fixture
def intake() -> MemoryIntake:
    return MemoryIntake()


@pytest.fixture
async def client(intake: MemoryIntake) -> AsyncIterator[Client]:
    async with door(intake) as opened:
        yield opened


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


async def test_a_receipt_tells_what_was_taken(client: Client, intake: MemoryIntake) -> None:
    """202 with ids in order, rejections by index, and where it is safe; the record has key and time."""
    answer = await client.post("/events", json=[event(event_id=ID), event(session_id=5), event()])
    body = await answer.json()
    first, second = taken(intake)
    assert answer.status == 202
    assert body["accepted"] == 2
    assert body["event_ids"] == [ID, str(second.event_id)]
    assert body["durability"] == "log"
    (rejected,) = body["rejected"]
    assert (rejected["index"], rejected["code"], rejected["pointer"]) == (1, "wrong_type", "/session_id")
    assert first.event_id == UUID(ID)
    assert intake.records[0].key == b"s"
    assert intake.records[0].timestamp_ms == first.received_at // 1000


async def test_the_spool_is_told(client: Client) -> None:
    """While the broker is away the receipt says spool."""
    async with door(MemoryIntake("spool")) as spooling:
        answer = await spooling.post("/events", json=event())
        assert (await answer.json())["durability"] == "spool"


async def test_duplicates_in_one_request_are_both_accepted(client: Client, intake: MemoryIntake) -> None:
    """Dedup decides about ids, not the door."""
    answer = await client.post("/events", json=[event(event_id=ID)] * 2)
    assert (await answer.json())["event_ids"] == [ID, ID]


async def test_an_empty_receipt_list_is_there(client: Client) -> None:
    """`rejected` is always a list."""
    answer = await client.post("/events", json=event())
    assert (await answer.json())["rejected"] == []


@pytest.mark.parametrize("media", ["application/x-ndjson", "application/jsonl", "application/json; charset=utf-8"])
async def test_lines_are_taken_one_by_one(client: Client, intake: MemoryIntake, media: str) -> None:
    """NDJSON by media type or by itself; a broken line costs only itself."""
    lines = "\n".join([json.dumps(event()), '{"session_id": NaN}', json.dumps(event()), ""])
    answer = await client.post("/events", data=lines, headers={"Content-Type": media})
    body = await answer.json()
    assert (answer.status, body["accepted"], body["rejected"][0]["index"]) == (202, 2, 1)


async def test_nothing_acceptable_is_422_with_the_list(client: Client, intake: MemoryIntake) -> None:
    """The same list, inside the problem; nothing reaches the intake."""
    answer = await client.post("/events", json=[event(session_id=""), event(event_type=None)])
    body = await fault(answer)
    assert answer.status == 422
    assert [row["index"] for row in body["rejected"]] == [0, 1]
    assert body["pointer"] == "/session_id"
    assert intake.records == []


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("/events/tool_pre_use", event(event_type=None), "tool_pre_use"),
        ("/events/PreToolUse", event(event_type="tool_pre_use"), "tool_pre_use"),
        ("/sessions/start", event(event_type=None), "session_start"),
        ("/sessions/start", {"session_id": "s", "user": "x"}, "session_start"),
        ("/sessions/s/end", {"reason": "logout"}, "session_end"),
    ],
)
async def test_the_seeds_routes_work(client: Client, intake: MemoryIntake, path: str, body: Any, kind: str) -> None:
    """Old hooks' addresses, with the type and session of the path."""
    answer = await client.post(path, json=body)
    assert answer.status == 202
    (found,) = taken(intake)
    assert (found.event_type, found.session_id) == (kind, "s")


async def test_a_session_may_start_and_end_without_a_body(client: Client, intake: MemoryIntake) -> None:
    """The server makes the session's id and tells it."""
    answer = await client.post("/sessions/start")
    session_id = (await answer.json())["session_id"]
    await client.post(f"/sessions/{session_id}/end")
    assert [(found.session_id, found.event_type) for found in taken(intake)] == [
        (session_id, "session_start"),
        (session_id, "session_end"),
    ]


async def test_a_type_or_session_against_the_path_is_refused(client: Client) -> None:
    """Path and body must not disagree."""
    assert (await fault(await client.post("/events/a", json=event(event_type="b"))))["code"] == "event_type_mismatch"
    assert (await fault(await client.post("/sessions/a/end", json={"session_id": "b"})))[
        "code"
    ] == "session_id_mismatch"
    assert (await client.post("/events/" + "x" * 101, json=event())).status == 422


HOOK = {"session_id": "s", "hook_event_name": "PreToolUse", "tool_use_id": "t", "tool_name": "Bash"}


async def test_a_hook_is_answered_with_nothing_but_its_id(client: Client, intake: MemoryIntake) -> None:
    """204, an empty body, and the id in a header."""
    answer = await client.post("/hooks/claude-code", json=HOOK)
    (found,) = taken(intake)
    assert (answer.status, await answer.read()) == (204, b"")
    assert answer.headers["Chronicle-Event-Id"] == str(found.event_id)
    assert (found.id_origin, found.source, found.event_type) == (IdOrigin.NATURAL, "claude-code", "tool_pre_use")


async def test_our_clients_headers_are_believed(client: Client, intake: MemoryIntake) -> None:
    """Id, time and source as stamped at the source; bad ones are refused."""
    stamps = {"Chronicle-Event-Id": ID, "Chronicle-Occurred-At": "2026-01-31T12:00:00Z", "Chronicle-Source": "codex"}
    await client.post("/hooks/claude-code", json=HOOK, headers=stamps)
    (found,) = taken(intake)
    assert (str(found.event_id), found.id_origin, found.source) == (ID, IdOrigin.CLIENT, "codex")
    assert found.occurred_at == 1_769_860_800_000_000
    for name in ("Chronicle-Event-Id", "Chronicle-Occurred-At"):
        assert (await client.post("/hooks/claude-code", json=HOOK, headers={name: "x"})).status == 422
    many = await client.post("/events", json=[event(), event()], headers={"Chronicle-Event-Id": ID})
    assert (await fault(many))["code"] == "bad_event_id"


async def test_an_oversize_hook_is_cut_not_refused(client: Client, intake: MemoryIntake) -> None:
    """Two megabytes of output land in 900 KiB, marked."""
    answer = await client.post("/hooks/claude-code", json={**HOOK, "tool_response": {"stdout": "x" * 2_000_000}})
    (found,) = taken(intake)
    assert answer.status == 204
    assert len(found.payload.encode()) <= 900 * 1024
    assert found.flags == Flag.TRUNCATED


async def test_secrets_never_reach_the_intake(client: Client, intake: MemoryIntake) -> None:
    """Redacted before the spool and the topic, in payload and metadata, on both ways in."""
    secret = "ghp_" + "a1B2" * 9
    await client.post("/events", json=event(payload={"x": secret}, metadata={"password": "hunter2"}, extra=secret))
    await client.post("/hooks/claude-code", json={**HOOK, "tool_input": {"command": f"TOKEN={secret}"}})
    for record, found in zip(intake.records, taken(intake), strict=True):
        assert secret.encode() not in (record.value or b"")
        assert b"hunter2" not in (record.value or b"")
        assert found.flags & Flag.REDACTED


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [("gzip", gzip.compress), ("br", brotli.compress), ("GZIP", gzip.compress), ("identity", bytes)],
)
async def test_packed_bodies_are_unpacked(client: Client, encoding: str, pack: Any) -> None:
    """gzip and br."""
    body = pack(json.dumps([event()] * 100).encode())
    answer = await client.post("/events", data=body, headers={**JSON, "Content-Encoding": encoding})
    assert (await answer.json())["accepted"] == 100


PACKED = gzip.compress(json.dumps([event()] * 50).encode())
BOMB = gzip.compress(b"[" + b" " * 200_000_000 + b"]")


@pytest.mark.parametrize(
    ("body", "encoding", "status", "code"),
    [
        (b"{}", "zstd", 415, "unsupported_encoding"),
        (zlib.compress(b"{}"), "deflate", 415, "unsupported_encoding"),
        (gzip.compress(PACKED), "gzip, gzip", 415, "unsupported_encoding"),
        (b"{}", "x-unknown", 415, "unsupported_encoding"),
        (b"not gzip", "gzip", 400, "corrupt_body"),
        (PACKED[:20] + b"\0\0\0\0" + PACKED[24:], "gzip", 400, "corrupt_body"),
        (b"not brotli at all", "br", 400, "corrupt_body"),
        (PACKED[:-20], "gzip", 400, "corrupt_body"),
        (brotli.compress(PACKED * 50)[:-9], "br", 400, "corrupt_body"),
        (BOMB, "gzip", 413, "body_too_large"),
        (brotli.compress(b"[" + b" " * 200_000_000 + b"]"), "br", 413, "body_too_large"),
        (gzip.compress(b"[" + b" " * 7_000_000 + b"]"), "gzip", 413, "ratio_too_high"),
    ],
    ids=range(12),
)
async def test_bad_encodings_are_told_apart(
    client: Client, intake: MemoryIntake, body: bytes, encoding: str, status: int, code: str
) -> None:
    """Unknown and nested are 415, corrupt and cut 400, bombs 413; the server lives on."""
    for path in ("/events", "/hooks/claude-code"):
        answer = await client.post(path, data=body, headers={**JSON, "Content-Encoding": encoding})
        found = await fault(answer)
        assert (answer.status, found["code"]) == (status, code)
    assert intake.records == []
    assert (await client.post("/events", json=event())).status == 202


@pytest.mark.parametrize("media", ["text/plain", "application/xml", "multipart/form-data; boundary=x"])
async def test_other_media_types_are_415(client: Client, media: str) -> None:
    """Only JSON and NDJSON."""
    answer = await client.post("/events", data=b"{}", headers={"Content-Type": media})
    assert (await fault(answer))["code"] == "unsupported_media_type"
    assert answer.status == 415


@pytest.mark.parametrize("media", ["application/json", "application/cloudevents+json", ""])
async def test_json_by_any_of_its_names_is_taken(client: Client, media: str) -> None:
    """With a suffix, or with no type at all."""
    headers = {"Content-Type": media} if media else {}
    skip = ["Content-Type"] if not media else None
    answer = await client.post("/events", data=json.dumps(event()).encode(), headers=headers, skip_auto_headers=skip)
    assert answer.status == 202


DEEP = (
    b'{"session_id":"s","hook_event_name":"Stop","event_type":"t","payload":'
    + b'{"a":' * 100_000
    + b"1"
    + b"}" * 100_001
)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (DEEP, 422),
        (b"[" * 900_000 + b"]" * 900_000, 422),
        (b"", 400),
        (b"{", 400),
        (b"5", 422),
        (b'"x"', 422),
        (b"null", 422),
        (b"NaN", 400),
        (b'{"session_id":"s","event_type":"t","hook_event_name":"Stop","payload":{"a":NaN}}', 400),
        (b'{"session_id":"s","event_type":"t","hook_event_name":"Stop","payload":{"a":1e999}}', 422),
        (b'{"session_id":"s","event_type":"t","hook_event_name":"Stop","payload":{"a":"\xff"}}', 400),
        (b"\xff\xfe", 400),
        (b" " * (8 * 1024 * 1024 + 1), 413),
    ],
    ids=range(13),
)
async def test_bad_bodies_are_never_a_500(client: Client, intake: MemoryIntake, body: bytes, status: int) -> None:
    """The fuzz list of the fault catalogue, on every route that takes a body."""
    for path in ("/events", "/events/t", "/hooks/claude-code"):
        answer = await client.post(path, data=body, headers=JSON)
        await fault(answer)
        assert answer.status == status, path
    assert intake.records == []


async def test_bad_neighbours_cost_nothing_over_http(client: Client, intake: MemoryIntake) -> None:
    """Depth, NaN, bad UTF-8 and size in one array: each is told, all others are taken."""
    good = json.dumps(event()).encode()
    bad = [
        DEEP,
        b'{"session_id":"s","event_type":"t","payload":{"a":NaN}}',
        b'{"session_id":"s","event_type":"t","payload":{"a":"\xff"}}',
        b'{"session_id":"s","event_type":"t","payload":{"a":"' + b"x" * 1_000_000 + b'"}}',
    ]
    answer = await client.post("/events", data=b"[" + b",".join([good, *bad, good]) + b"]", headers=JSON)
    body = await answer.json()
    assert (answer.status, body["accepted"]) == (202, 2)
    assert [(row["index"], row["code"]) for row in body["rejected"]] == [
        (1, "too_deep"),
        (2, "not_json"),
        (3, "bad_utf8"),
        (4, "too_large"),
    ]


async def test_too_many_events_are_413(client: Client) -> None:
    """A thousand are taken, one more is not."""
    assert (await client.post("/events", json=[event()] * 1000)).status == 202
    answer = await client.post("/events", json=[event()] * 1001)
    assert (answer.status, (await fault(answer))["code"]) == (413, "too_many_events")


async def test_one_event_that_is_too_large_is_413(client: Client) -> None:
    """Alone in its request, an oversize event is the request's fault."""
    answer = await client.post("/events", json=event(payload={"a": "x" * 1_000_000}))
    assert (answer.status, (await fault(answer))["code"]) == (413, "too_large")


async def test_a_body_that_drips_is_cut_off() -> None:
    """408 when the body does not arrive in time; nothing is held open."""

    async def drip() -> AsyncIterator[bytes]:
        yield b'{"session_id":'
        await asyncio.Event().wait()

    async with door(MemoryIntake(), read_seconds=0.2) as client:
        answer = await asyncio.wait_for(client.post("/events", data=drip(), headers=JSON), 5)
        assert (answer.status, (await fault(answer))["code"]) == (408, "read_timeout")


@pytest.mark.parametrize(
    ("cls", "code", "retry"), [(MemoryIntake, "unavailable", "2"), (UnsureIntake, "outcome_unknown", "1")]
)
@pytest.mark.parametrize("path", ["/events", "/hooks/claude-code"])
async def test_an_outage_is_503_with_retry_after(cls: type[MemoryIntake], code: str, retry: str, path: str) -> None:
    """Nothing promised, or not known: both say that the same ids may be sent again."""
    intake = cls()
    intake.down = True
    async with door(intake) as client:
        answer = await client.post(path, json={**event(), **HOOK})
        body = await fault(answer)
    assert (answer.status, body["code"], answer.headers["Retry-After"]) == (503, code, retry)
    assert "same event ids" in body["detail"]


async def test_what_was_taken_and_refused_is_counted() -> None:
    """Accepted by durability, refused by code, blanked events, requests by route template."""
    metrics = Counting()
    async with door(MemoryIntake(), metrics) as client:
        await client.post("/events", json=[event(payload={"password": "x"}), event(session_id=5)])
        await client.post("/sessions/abc/end")
        await client.get("/nowhere")
        await client.post("/events", data=b"{", headers=JSON)
    assert metrics.counts == {
        ("chronicle_ingest_accepted_total", "log"): 2,
        ("chronicle_ingest_rejected_total", "wrong_type"): 1,
        ("chronicle_ingest_rejected_total", "not_json"): 1,
        ("chronicle_ingest_redacted_total",): 1,
        ("chronicle_http_requests_total", "/events", "202", "POST"): 1,
        ("chronicle_http_requests_total", "/sessions/{session_id}/end", "202", "POST"): 1,
        ("chronicle_http_requests_total", "404", "GET", "unmatched"): 1,
        ("chronicle_http_requests_total", "/events", "400", "POST"): 1,
    }


async def test_many_senders_at_once_lose_nothing(client: Client, intake: MemoryIntake) -> None:
    """Large bodies are judged in threads beside small ones; every event arrives once."""
    large = [event(payload={"x": "y" * 4000}) for _ in range(100)]
    answers = await asyncio.gather(*(client.post("/events", json=body) for body in [large, event()] * 10))
    assert all(answer.status == 202 for answer in answers)
    assert len(intake.records) == 1010
    assert all(isinstance(record, Record) for record in intake.records)
