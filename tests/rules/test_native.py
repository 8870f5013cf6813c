"""Native hook bodies: ids, columns, cuts, and the recorded ones."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest

from schemas.clock import SystemClock
from schemas.errors import Refused
from schemas.event import Flag, HookEvent, IdOrigin
from schemas.native import Arrival, from_native
from schemas.redact import Redactor

RECORDED = Path(os.environ.get("CHRONICLE_RECORDED") or Path(__file__).parents[2] / "../shared/data/recorded")
REDACT = Redactor()
TOOL = {
    "session_id": "s",
    "cwd": "/w",
    "hook_event_name": "PreToolUse",
    "tool_name": "Bash",
    "tool_use_id": "toolu_1",
    "prompt_id": "p",
    "agent_id": "a",
    "agent_type": "general",
}


def native(body: Any, **changes: Any) -> HookEvent:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    base = Arrival(received_at=5_000_000, new_id=SystemClock().new_id, source="claude-code", redact=REDACT)
    return from_native(raw, msgspec.structs.replace(base, **changes))


def test_the_columns_come_from_the_body() -> None:
    """Everything filtered on is a column; the body is the payload, unchanged."""
    event = native(TOOL)
    assert (event.event_type, event.hook_event_name, event.source) == ("tool_pre_use", "PreToolUse", "claude-code")
    assert (event.tool_name, event.tool_use_id, event.prompt_id) == ("Bash", "toolu_1", "p")
    assert (event.agent_id, event.agent_type, event.cwd) == ("a", "general", "/w")
    assert event.payload == json.dumps(TOOL)
    assert (event.occurred_at, event.received_at, event.metadata) == (5_000_000, 5_000_000, "{}")


@pytest.mark.parametrize(
    "extra",
    [
        {"tool_use_id": "toolu_1"},
        {"message_id": "m", "index": 0},
        {"task_id": "1"},
        {"elicitation_id": "e"},
    ],
)
def test_a_natural_key_makes_the_same_id_each_time(extra: dict[str, Any]) -> None:
    """A second delivery of one tool call, message part or task has the id of the first."""
    body = {"session_id": "s", "hook_event_name": "X", **extra}
    first, second = native(body), native(body)
    assert first.event_id == second.event_id
    assert first.id_origin is IdOrigin.NATURAL
    assert first.event_id.version == 5


def test_natural_ids_differ_by_session_agent_event_and_key() -> None:
    """Pre and post of one call are two events, and so are two agents' calls."""
    variants = [
        TOOL,
        {**TOOL, "session_id": "t"},
        {**TOOL, "agent_id": "b"},
        {**TOOL, "hook_event_name": "PostToolUse"},
        {**TOOL, "tool_use_id": "toolu_2"},
    ]
    assert len({native(body).event_id for body in variants}) == len(variants)


def test_the_derived_id_never_changes() -> None:
    """Ids are in topics and databases: the rule is fixed for good."""
    assert native({"session_id": "s", "hook_event_name": "PreToolUse", "tool_use_id": "t"}).event_id == UUID(
        "b05c5dc9-a6fc-585b-93fb-0787efa66c93"
    )


def test_without_a_natural_key_the_id_is_fresh() -> None:
    """Equal notifications are different events: nothing is dropped on a content hash."""
    body = {"session_id": "s", "hook_event_name": "Notification", "message": "m"}
    first, second = native(body), native(body)
    assert first.event_id != second.event_id
    assert first.id_origin is IdOrigin.FRESH
    assert first.fingerprint == second.fingerprint


def test_our_own_client_stamps_id_and_time() -> None:
    """The headers end the guessing, natural key or not."""
    stamp = UUID("0190a8f0-7c1e-7b3a-9c55-2f0d2f6f7a11")
    event = native(TOOL, event_id=stamp, occurred_at=7)
    assert (event.event_id, event.id_origin, event.occurred_at) == (stamp, IdOrigin.CLIENT, 7)


@pytest.mark.parametrize(
    ("body", "status", "code", "pointer"),
    [
        (b"", 400, "not_json", ""),
        (b"[]", 422, "not_an_object", ""),
        (b'{"session_id":"s"}', 422, "missing_field", "/hook_event_name"),
        (b'{"session_id":"s","hook_event_name":5}', 422, "missing_field", "/hook_event_name"),
        (b'{"hook_event_name":"Stop"}', 422, "missing_field", "/session_id"),
        (b'{"hook_event_name":"Stop","session_id":5}', 422, "wrong_type", "/session_id"),
        (b'{"hook_event_name":"Stop","session_id":"s","x":NaN}', 400, "not_json", ""),
        (b'{"hook_event_name":"Stop","session_id":"s","x":"\xff"}', 400, "bad_utf8", ""),
        (b'{"hook_event_name":"Stop","session_id":"s","x":' + b"[" * 99 + b"]" * 99 + b"}", 422, "too_deep", ""),
    ],
)
def test_what_cannot_be_placed_is_refused(body: bytes, status: int, code: str, pointer: str) -> None:
    """Only what has no session, no name or no JSON."""
    with pytest.raises(Refused) as caught:
        native(body)
    assert (caught.value.status, caught.value.code, caught.value.pointer) == (status, code, pointer)


def test_unknown_events_of_other_clients_land() -> None:
    """An event of next year, or of Codex, is an event."""
    event = native({"session_id": "s", "hook_event_name": "Interrupt", "what": {"ever": 1}})
    assert (event.event_type, event.hook_event_name) == ("interrupt", "Interrupt")


def test_an_absurd_name_is_cut_to_its_column() -> None:
    """The payload keeps the whole name."""
    event = native({"session_id": "s", "hook_event_name": "X" * 5000, "tool_name": "y" * 5000})
    assert len(event.event_type) == 100
    assert len(event.hook_event_name or "") == 255
    assert len(event.tool_name or "") == 255
    assert "X" * 5000 in event.payload


def test_a_session_is_not_redacted() -> None:
    """Two sessions whose ids look like secrets stay two."""
    names = ["ghp_" + "a1" * 18, "ghp_" + "b2" * 18]
    events = [native({"session_id": name, "hook_event_name": "Stop"}) for name in names]
    assert [event.session_id for event in events] == names
    assert all(name not in event.payload for name, event in zip(names, events, strict=True))


@pytest.mark.parametrize("limit", [900 * 1024, 4096])
def test_an_oversize_body_is_cut_with_a_mark_largest_first(limit: int) -> None:
    """The longest string is cut, short fields stay, the result fits and is flagged."""
    body = {**TOOL, "tool_response": {"stdout": "out\n" * limit, "stderr": "short"}, "tool_input": {"command": "ls"}}
    event = native(body, max_event_bytes=limit)
    kept = json.loads(event.payload)
    assert limit - 2048 < len(event.payload.encode()) <= limit
    assert kept["tool_input"] == body["tool_input"]
    assert kept["tool_response"]["stderr"] == "short"
    assert kept["tool_response"]["stdout"].startswith("out\nout\n")
    assert "…[truncated by chronicle: " in kept["tool_response"]["stdout"]
    assert event.flags & Flag.TRUNCATED
    assert event.event_id == native(body, max_event_bytes=limit).event_id
    assert event.fingerprint == native(body, max_event_bytes=limit).fingerprint


@pytest.mark.parametrize(
    "ballast",
    [
        {"numbers": list(range(10_000))},
        {"many": {str(n): "x" * 200 for n in range(1000)}},
        {"k" * 9000: 1},
        {str(n): n for n in range(5000)},
        {"quotes": '"\\\n' * 9000},
        {"emoji": "😀" * 9000},
        {"lone": "\udc90\ud83d" * 9000},
        {"deep": {"a": {"b": ["x" * 9000, "y" * 9000, {"c": "z" * 9000}]}}},
        {"tool_name": "n" * 9000},
    ],
    ids=["numbers", "many", "key", "keys", "quotes", "emoji", "lone", "deep", "name"],
)
def test_whatever_makes_a_body_too_large_it_fits_in_the_end(ballast: dict[str, Any]) -> None:
    """No shape of body defeats the cut, and what places the event is kept."""
    event = native({**TOOL, **ballast}, max_event_bytes=8192)
    assert len(event.payload.encode()) <= 8192
    assert json.loads(event.payload)["session_id"] == "s"
    assert event.flags & Flag.TRUNCATED
    assert (event.session_id, event.tool_use_id) == ("s", "toolu_1")


def recorded() -> Iterator[bytes]:
    for path in sorted(RECORDED.glob("hooks-*.jsonl")):
        yield from path.read_bytes().splitlines()
    for path in sorted(RECORDED.glob("session-*.jsonl")):
        for line in path.read_bytes().splitlines():
            yield bytes(msgspec.json.decode(line, type=dict[str, msgspec.Raw])["body"])


@pytest.mark.skipif(not RECORDED.is_dir(), reason="the recorded payloads are not in the repository")
def test_every_recorded_payload_becomes_an_event() -> None:
    """Real bodies of real sessions: each lands, is unchanged unless flagged, and redaction is stable."""
    count = 0
    for raw in recorded():
        event = native(raw)
        assert event.flags & Flag.REDACTED or event.payload.encode() == raw
        assert REDACT(event.payload.encode()) == event.payload.encode()
        assert (event.id_origin is IdOrigin.NATURAL) == (
            "tool_use_id" in json.loads(raw) or event.event_id.version == 5
        )
        count += 1
    assert count > 400
