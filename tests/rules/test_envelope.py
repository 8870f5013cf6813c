"""The envelope: how a body becomes events, and what is said about each fault."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import msgspec
import pytest

from schemas.clock import SystemClock
from schemas.envelope import Defaults, event_of, split
from schemas.errors import Refused
from schemas.event import Flag, HookEvent, IdOrigin
from schemas.native import Arrival, event_type_of
from schemas.redact import Redactor
from schemas.times import micros_of, micros_of_header

REDACT = Redactor()
NOTHING = Defaults()
ID = "0190a8f0-7c1e-7b3a-9c55-2f0d2f6f7a11"
PRD = {
    "event_id": ID,
    "session_id": "5b2f4b2c-7a51-4c52-93a0-0f6b1f3b1c11",
    "event_type": "tool_pre_use",
    "timestamp": "2026-01-31T12:00:00.5+02:00",
    "payload": {"tool_name": "Bash", "tool_input": {"command": "ls"}, "tool_use_id": "toolu_1", "cwd": "/w"},
    "metadata": {"hook_version": "1.2.0", "retry_count": 0},
}


def arrival(**changes: Any) -> Arrival:
    base = Arrival(received_at=1_700_000_000_000_000, new_id=SystemClock().new_id, source="api", redact=REDACT)
    return msgspec.structs.replace(base, **changes)


def envelope(payload: bytes = b"{}", **fields: Any) -> bytes:
    head = json.dumps({"session_id": "s", "event_type": "t", **fields}).encode()
    return head[:-1] + b',"payload":' + payload + b"}"


def one(body: bytes, defaults: Defaults = NOTHING, **changes: Any) -> HookEvent:
    (item,) = split(body)
    return event_of(item, arrival(**changes), defaults)


def fault(body: bytes, defaults: Defaults = NOTHING) -> Refused:
    with pytest.raises(Refused) as caught:
        one(body, defaults)
    return caught.value


def test_the_envelope_of_old_hooks_becomes_an_event() -> None:
    """The seed PRD's own example, field by field."""
    event = one(json.dumps(PRD).encode())
    assert event.event_id == UUID(ID)
    assert event.id_origin is IdOrigin.CLIENT
    assert (event.session_id, event.event_type) == (PRD["session_id"], "tool_pre_use")
    assert event.occurred_at == 1_769_853_600_500_000
    assert event.received_at == 1_700_000_000_000_000
    assert json.loads(event.payload) == PRD["payload"]
    assert json.loads(event.metadata) == PRD["metadata"]
    assert (event.tool_name, event.tool_use_id, event.cwd) == ("Bash", "toolu_1", "/w")
    assert (event.source, event.flags, event.hook_event_name) == ("api", 0, None)


def test_without_an_id_the_server_makes_a_fresh_one() -> None:
    """Two equal events without ids are two events with one fingerprint."""
    first, second = one(envelope(b'{"a":1}')), one(envelope(b'{"a":1}'))
    assert first.event_id != second.event_id
    assert first.event_id.version == 7
    assert first.id_origin is IdOrigin.FRESH
    assert first.fingerprint == second.fingerprint
    assert len(first.fingerprint) == 16


def test_metadata_and_time_are_not_in_the_fingerprint() -> None:
    """A retry with another retry_count is the same event; another payload, agent, type or session is not."""
    base = one(envelope(b'{"a":1,"b":2}')).fingerprint
    assert one(envelope(b'{"b":2, "a":1}', metadata={"retry_count": 3}, timestamp=5)).fingerprint == base
    others = [
        envelope(b'{"a":2,"b":2}'),
        envelope(b'{"a":1,"b":2}', session_id="z"),
        envelope(b'{"a":1,"b":2}', event_type="u"),
    ]
    assert base not in {one(body).fingerprint for body in others}


@pytest.mark.parametrize(
    ("body", "count"),
    [
        (envelope(), 1),
        (b"[" + envelope() + b"," + envelope() + b"]", 2),
        (b'{"events": [' + envelope() + b"," + envelope() + b"]}", 2),
        (b'{"source": "x", "events": [' + envelope() + b"]}", 1),
        (envelope() + b"\n\n" + envelope() + b"\r\n", 2),
        (b"\xef\xbb\xbf" + envelope(), 1),
        (b" \n" + json.dumps(PRD, indent=2).encode() + b"\n", 1),
        (envelope(extra="\n"), 1),
    ],
)
def test_every_form_of_body_is_recognised(body: bytes, count: int) -> None:
    """One, an array, wrapped, lines, with a BOM, pretty-printed."""
    items = split(body)
    assert len(items) == count
    assert all(event_of(item, arrival(), Defaults()) for item in items)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "empty_body"),
        (b" \n", 400, "empty_body"),
        (b"5", 422, "not_an_object"),
        (b'"x"', 422, "not_an_object"),
        (b"nonsense", 400, "not_json"),
        (b"[]", 422, "no_events"),
        (b'{"events":[]}', 422, "no_events"),
        (b"[" + envelope() + b",", 400, "not_json"),
        (b'{"a":', 400, "not_json"),
        (envelope() + b" x", 400, "not_json"),
        (b"[" + b",".join([envelope()] * 1001) + b"]", 413, "too_many_events"),
        (b"[" * 500_000, 400, "not_json"),
        (b"[" * 500_000 + b"]" * 500_000, 422, "too_deep"),
    ],
)
def test_a_body_that_holds_no_events_is_refused_whole(body: bytes, status: int, code: str) -> None:
    """The fault of a body, not of an event."""
    with pytest.raises(Refused) as caught:
        [event_of(item, arrival(), NOTHING) for item in split(body)]
    assert (caught.value.status, caught.value.code) == (status, code)


def test_a_line_that_is_no_json_costs_only_itself() -> None:
    """NDJSON by its media type: each line is judged alone."""
    items = split(b'{"broken":\n' + envelope(), lines=True)
    with pytest.raises(Refused):
        event_of(items[0], arrival(), Defaults())
    assert event_of(items[1], arrival(), Defaults()).event_type == "t"


BAD_PAYLOADS = [
    b'{"a":"\xff"}',
    b'{"a":NaN}',
    b'{"a":1e999}',
    b'{"a":01}',
    b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b'{"a":' + b"1" * 5000 + b"}",
    b"[]",
    b"null",
    b'"x"',
]


@pytest.mark.parametrize("payload", BAD_PAYLOADS, ids=range(len(BAD_PAYLOADS)))
@pytest.mark.parametrize("form", ["array", "wrapped", "lines"])
def test_a_bad_neighbour_costs_nothing(payload: bytes, form: str) -> None:
    """Whatever is wrong with one event, the others of the request are accepted."""
    bodies = [envelope(event_id=ID), envelope(payload), envelope(b'{"last":1}')]
    body = {
        "array": b"[" + b",".join(bodies) + b"]",
        "wrapped": b'{"events":[' + b",".join(bodies) + b"]}",
        "lines": b"\n".join(bodies),
    }[form]
    items = split(body)
    assert len(items) == 3
    assert event_of(items[0], arrival(), Defaults()).event_id == UUID(ID)
    assert event_of(items[2], arrival(), Defaults()).payload == '{"last":1}'
    with pytest.raises(Refused) as caught:
        event_of(items[1], arrival(), Defaults())
    assert caught.value.pointer.startswith("/payload")


@pytest.mark.parametrize(
    ("fields", "code", "pointer"),
    [
        ({"event_id": "x"}, "bad_event_id", "/event_id"),
        ({"event_id": 5}, "bad_event_id", "/event_id"),
        ({"event_id": "00000000-0000-0000-0000-000000000000"}, "bad_event_id", "/event_id"),
        ({"session_id": None}, "missing_field", "/session_id"),
        ({"session_id": 5}, "wrong_type", "/session_id"),
        ({"session_id": ""}, "bad_session_id", "/session_id"),
        ({"session_id": "x" * 256}, "bad_session_id", "/session_id"),
        ({"session_id": "a\0"}, "bad_session_id", "/session_id"),
        ({"session_id": "a\udc90"}, "bad_session_id", "/session_id"),
        ({"event_type": None}, "missing_field", "/event_type"),
        ({"event_type": " "}, "bad_event_type", "/event_type"),
        ({"event_type": "x" * 101}, "bad_event_type", "/event_type"),
        ({"event_type": ["x"]}, "wrong_type", "/event_type"),
        ({"timestamp": "yesterday"}, "bad_timestamp", "/timestamp"),
        ({"timestamp": "2026-01-01T00:00:00"}, "timestamp_without_zone", "/timestamp"),
        ({"timestamp": True}, "wrong_type", "/timestamp"),
        ({"timestamp": {}}, "wrong_type", "/timestamp"),
        ({"timestamp": -1}, "timestamp_out_of_range", "/timestamp"),
        ({"timestamp": 10**30}, "timestamp_out_of_range", "/timestamp"),
        ({"metadata": []}, "wrong_type", "/metadata"),
        ({"metadata": {"retry_count": -1}}, "bad_metadata", "/metadata/retry_count"),
        ({"metadata": {"retry_count": 1.5}}, "bad_metadata", "/metadata/retry_count"),
        ({"metadata": {"retry_count": True}}, "bad_metadata", "/metadata/retry_count"),
        ({"metadata": {"hook_version": 2}}, "bad_metadata", "/metadata/hook_version"),
    ],
)
def test_each_field_has_its_own_fault(fields: dict[str, Any], code: str, pointer: str) -> None:
    """A sender is told which field is wrong, in a stable word, and what to do."""
    found = fault(envelope(**fields))
    assert (found.status, found.code, found.pointer) == (422, code, pointer)
    assert found.detail.endswith(".")


def test_a_missing_payload_is_a_fault() -> None:
    """An envelope without payload is refused rather than stored empty."""
    assert fault(b'{"session_id":"s","event_type":"t"}').pointer == "/payload"


@pytest.mark.parametrize("item", [b"5", b"null", b'"x"', b"[]"])
def test_an_element_that_is_no_object_is_a_fault(item: bytes) -> None:
    """Scalars and lists among the events are told apart from broken JSON."""
    (found,) = split(b"[" + item + b"]")
    with pytest.raises(Refused) as caught:
        event_of(found, arrival(), Defaults())
    assert caught.value.code == "not_an_object"


def test_an_event_over_the_limit_is_too_large() -> None:
    """The limit counts payload and metadata, as UTF-8."""
    limit = 900 * 1024
    room = limit - len(b'{"a":""}') - len(b"{}")
    assert one(envelope(b'{"a":"' + b"x" * room + b'"}'))
    found = fault(envelope(b'{"a":"' + b"x" * (room + 1) + b'"}'))
    assert (found.status, found.code) == (413, "too_large")
    assert fault(envelope(b'{"a":"' + "é".encode() * (room // 2 + 1) + b'"}')).code == "too_large"


def test_unknown_fields_are_kept_in_metadata() -> None:
    """What the envelope has no field for is under metadata.chronicle.unknown_fields, redacted like the rest."""
    event = one(envelope(host="box", auth={"password": "hunter2"}, metadata={"mine": 1, "chronicle": {"old": 1}}))
    assert json.loads(event.metadata) == {
        "mine": 1,
        "chronicle": {"old": 1, "unknown_fields": {"host": "box", "auth": {"password": "[redacted:password]"}}},
    }
    assert event.flags == Flag.REDACTED


def test_odd_timestamps_are_kept_beside_what_was_stored() -> None:
    """A leap second and nanoseconds cannot be stored; the text is kept."""
    event = one(envelope(timestamp="2016-12-31T23:59:60Z"))
    assert event.occurred_at == 1_483_228_799_000_000
    assert json.loads(event.metadata) == {"chronicle": {"timestamp": "2016-12-31T23:59:60Z"}}


@pytest.mark.parametrize(
    ("sent", "micros"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2026-01-31T12:34:56.789Z", 1_769_862_896_789_000),
        ("2026-01-31T12:34:56,789+00:00", 1_769_862_896_789_000),
        ("20260131T143456.789+0200", 1_769_862_896_789_000),
        ("2026-01-31 12:34:56.123456789Z", 1_769_862_896_123_456),
        (1_769_862_896_789, 1_769_862_896_789_000),
        (1_769_862_896_789.25, 1_769_862_896_789_250),
        (0, 0),
    ],
)
def test_times_are_read_exactly(sent: object, micros: int) -> None:
    """ISO 8601 with a zone or epoch milliseconds, to the microsecond."""
    assert micros_of(sent) == micros


def test_a_header_holds_numbers_as_text() -> None:
    """`Chronicle-Occurred-At` takes both forms."""
    assert micros_of_header("1769862896789") == micros_of_header("2026-01-31T12:34:56.789Z") == 1_769_862_896_789_000


def test_bytes_of_the_payload_stay_as_sent() -> None:
    """Blanks, escapes, order, big integers and duplicate keys survive."""
    payload = b'{ "b" : 1180591620717411303424, "a":"\\u0041\\/" , "a":1.0 }'
    event = one(envelope(payload))
    assert event.payload.encode() == payload
    assert event.flags == Flag.DUPLICATE_KEYS


def test_columns_never_hold_what_text_columns_cannot() -> None:
    """A lone surrogate in cwd is cleaned in the column and kept in the payload."""
    event = one(envelope(b'{"cwd":"C:\\\\\\udc90","tool_name":"a\\u0000","agent_id":5,"prompt_id":""}'))
    assert (event.cwd, event.tool_name, event.agent_id, event.prompt_id) == ("C:\\\ufffd", "a\u2400", None, None)
    assert "\\udc90" in event.payload
    assert event.flags == Flag.SANITIZED


def test_the_path_gives_what_the_body_leaves_out() -> None:
    """POST /events/{event_type}: the type may be left out or equal, never different."""
    defaults = Defaults(event_type="tool_pre_use")
    assert one(envelope(event_type=None), defaults).event_type == "tool_pre_use"
    assert one(envelope(event_type="PreToolUse"), defaults).hook_event_name == "PreToolUse"
    assert fault(envelope(event_type="other"), defaults).code == "event_type_mismatch"


def test_session_routes_take_loose_fields_as_payload() -> None:
    """Without payload, whatever is not the envelope's is the payload."""
    defaults = Defaults(event_type="session_end", session_id="abc", loose=True)
    event = one(b'{"reason":"logout","user":"x\\udc90"}', defaults)
    assert (event.session_id, event.payload) == ("abc", '{"reason":"logout","user":"x\\udc90"}')
    assert fault(b'{"session_id":"other"}', defaults).code == "session_id_mismatch"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("PreToolUse", ("tool_pre_use", "PreToolUse")),
        ("PostToolUse", ("tool_post_use", "PostToolUse")),
        ("UserPromptSubmit", ("user_prompt", "UserPromptSubmit")),
        ("Stop", ("session_stop", "Stop")),
        ("PreCompact", ("compact_pre", "PreCompact")),
        ("SessionStart", ("session_start", "SessionStart")),
        ("SessionEnd", ("session_end", "SessionEnd")),
        ("Notification", ("notification", "Notification")),
        ("PostToolUseFailure", ("post_tool_use_failure", "PostToolUseFailure")),
        ("MCPServerAdded", ("mcp_server_added", "MCPServerAdded")),
        ("Brand-New Event", ("brand_new_event", "Brand-New Event")),
        ("tool_pre_use", ("tool_pre_use", None)),
        ("my-own.type", ("my-own.type", None)),
        ("ÉÉ", ("ÉÉ", "ÉÉ")),
    ],
)
def test_names_map_to_types(name: str, expected: tuple[str, str | None]) -> None:
    """The seeds' words for the seven they knew, snake case for the rest, types as sent."""
    assert event_type_of(name) == expected
