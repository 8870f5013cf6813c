"""The way in over real HTTP: what is answered and what is handed to the intake."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest

from connectors.memory import MemoryIntake
from connectors.ports import Record
from door import HOOK, ID, JSON, Client, Counting, door, event, fault, taken
from schemas.errors import Unavailable
from schemas.event import Flag, IdOrigin


class UnsureIntake(MemoryIntake):
    """The broker did not answer in time: nobody knows."""

    async def take(self, records: Any) -> Any:
        """As `Intake.take`, but it raises."""
        raise Unavailable("the broker", "timed out", retry_after=1.4, unknown=True)


@pytest.fixture
def intake() -> MemoryIntake:
    return MemoryIntake()


@pytest.fixture
async def client(intake: MemoryIntake) -> AsyncIterator[Client]:
    async with door(intake) as opened:
        yield opened


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


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        (None, {"machine": "ada's laptop"}),
        ({"hook_version": "1"}, {"machine": "ada's laptop", "hook_version": "1"}),
        ({"hostname": "build-7"}, {"hostname": "build-7"}),
        ({"x": "y" * 300}, {"machine": "ada's laptop", "x": "y" * 300}),
    ],
)
async def test_the_machine_of_a_header_goes_into_the_metadata(
    client: Client, intake: MemoryIntake, metadata: dict[str, str] | None, told: dict[str, str]
) -> None:
    """Of hooks, which have none, and of envelopes that do not name one themselves."""
    named = {"Chronicle-Machine": "ada's laptop"}
    if metadata is None:
        await client.post("/hooks/claude-code", json=HOOK, headers=named)
    else:
        await client.post("/events", json=[{**event(), "metadata": metadata}], headers=named)
    (found,) = taken(intake)
    assert json.loads(found.metadata) == told


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
