"""Bodies of every kind over real HTTP: packed, of other media types, broken, too large, too slow."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from typing import Any

import brotli
import pytest

from connectors.memory import MemoryIntake
from door import JSON, Client, door, event, fault


@pytest.fixture
def intake() -> MemoryIntake:
    return MemoryIntake()


@pytest.fixture
async def client(intake: MemoryIntake) -> AsyncIterator[Client]:
    async with door(intake) as opened:
        yield opened


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
        (gzip.compress(b"") * 100_000, "gzip", 400, "corrupt_body"),  # seconds of a core, were it not for the limit
    ],
    ids=range(13),
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
