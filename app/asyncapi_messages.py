"""What a record of each public topic is: key, headers, value, an example. Pure; `app.asyncapi` makes a document of it.

The values are told by the types that are encoded, so a field that is added shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any, Final
from uuid import UUID

import fastavro
import msgspec

from agents import quarantine
from schemas.codec import to_fields
from schemas.event import DeadLetter, HookEvent, IdOrigin, Position
from schemas.registry import Registry, SchemaVersion
from schemas.topics import CAUSES, POSITION_HEADER, Topics
from tables.usage import GRAINS, SessionUse, ToolUse, Usage
from tables.usage_codec import NewestTime
from tables.usage_names import Given, Names

Schema = dict[str, Any]

#: The media type that the Avro specification gives to its binary encoding.
AVRO: Final = "avro/binary"
AVRO_SCHEMA: Final = "application/vnd.apache.avro;version=1.9.0"
JSON: Final = "application/json"


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of record. `payload` is a msgspec type or a schema in AsyncAPI's form, `key` and `headers` JSON Schema.

    `framed`: the value begins with a schema id, as Confluent's serializers write it. `example`: (payload, headers).
    """

    name: str
    title: str
    summary: str
    payload: Any
    key: Schema
    headers: Schema | None = None
    content_type: str = JSON
    framed: bool = False
    example: tuple[Any, Mapping[str, str] | None] | None = None


def messages(topics: Topics, registry: Registry) -> dict[str, Sequence[Message]]:
    """The messages of each public topic, by its role in `Topics`."""
    versions = registry.subject(f"{topics.events.name}-value")
    assert versions, "the events topic has a subject"
    return {
        "events": (_event(versions[-1]),),
        "dead_letters": (_letter(topics),),
        "aggregates": _aggregates(),
    }


# --- events ----------------------------------------------------------------------------------------------------------

_POSITION: Final[Schema] = {
    "type": "string",
    "format": "binary",
    "minLength": 12,
    "maxLength": 12,
    "description": "12 bytes, big-endian: partition (int32) and offset (int64) in the ingest topic, the sequence "
    "number of the event. It may come again, equal in every byte: keep the highest offset of each partition, and pass "
    "over what is at or below it. A record without it did not come through Chronicle's intake.",
}
_EVENT: Final = HookEvent(
    event_id=UUID("0198f1a2-7b3c-7def-8123-456789abcdef"),
    fingerprint=bytes(range(16)),
    id_origin=IdOrigin.NATURAL,
    session_id="s-1",
    event_type="tool_post_use",
    hook_event_name="PostToolUse",
    occurred_at=1_769_851_800_000_000,
    received_at=1_769_851_800_250_000,
    source="claude-code",
    tool_name="Bash",
    tool_use_id="toolu_01",
    cwd="/home/ann/shop",
    payload='{"tool_name":"Bash","tool_input":{"command":"ls"}}',
)


def _event(newest: SchemaVersion) -> Message:
    shown = StringIO()
    fastavro.json_writer(shown, fastavro.parse_schema(newest.parsed()), [to_fields(_EVENT)])
    position = (2).to_bytes(4, "big") + (41).to_bytes(8, "big")
    return Message(
        name="HookEvent",
        title="A hook event",
        summary="Each event once, but for a crash between produce and mark: then equal bytes come a second time.",
        payload={"schemaFormat": AVRO_SCHEMA, "schema": newest.parsed()},
        key={"type": "string", "description": "session_id, UTF-8: a session is in one partition, in order."},
        headers={"type": "object", "properties": {POSITION_HEADER: _POSITION}},
        content_type=AVRO,
        framed=True,
        example=(msgspec.json.decode(shown.getvalue()), {POSITION_HEADER: position.decode("latin-1")}),
    )


# --- dead letters ----------------------------------------------------------------------------------------------------


def _letter(topics: Topics) -> Message:
    digits = {"type": "string", "pattern": "^[0-9]+$"}
    letter = DeadLetter(
        topic=topics.events.name,
        partition=2,
        offset=57,
        ingest=Position(2, 41),
        stage="persist",
        cause="refused_by_database",
        detail="invalid byte sequence",
        key=b"s-1",
        value=b"\x00\x00\x00\x00\x01",
        failed_at=1_769_851_801_000_000,
        event_id=_EVENT.event_id,
        session_id="s-1",
    )
    record = quarantine.encode(letter)
    return Message(
        name="DeadLetter",
        title="A record that could not be decoded or stored",
        summary="With its bytes, cause and position. An outage never makes one.",
        payload=DeadLetter,
        key={"type": "string", "description": "TOPIC/PARTITION/OFFSET where the record was read: the letter's id."},
        headers={
            "type": "object",
            "properties": {
                quarantine.CAUSE_HEADER: {"type": "string", "enum": list(CAUSES)},
                quarantine.DETAIL_HEADER: {"type": "string"},
                quarantine.TOPIC_HEADER: {"type": "string"},
                quarantine.PARTITION_HEADER: digits,
                quarantine.OFFSET_HEADER: digits,
            },
        },
        example=(
            msgspec.json.decode(record.value or b""),
            {name: value.decode() for name, value in record.headers},
        ),
    )


# --- aggregates ------------------------------------------------------------------------------------------------------


def _key(table: str, *parts: Schema, doc: str) -> Schema:
    items = [{"const": table}, *parts]
    told = f"A JSON array: {doc}. Compaction keeps the newest value under each key."
    return {"type": "array", "items": items, "minItems": len(items), "maxItems": len(items), "description": told}


def _bucket(*dimensions: str) -> tuple[Schema, ...]:
    return (
        {"enum": list(GRAINS)},
        {"type": "integer", "description": "The epoch second at which the bucket begins, UTC."},
        {"enum": list(dimensions)},
        {"type": "string", "description": "The project, machine or kind of sub-agent; empty for `all`."},
    )


def _aggregate(name: str, title: str, summary: str, key: Schema, value: msgspec.Struct) -> Message:
    shown = msgspec.json.decode(msgspec.json.encode(value))
    return Message(name=name, title=title, summary=summary, payload=type(value), key=key, example=(shown, None))


def _aggregates() -> Sequence[Message]:
    text = {"type": "string"}
    return (
        _aggregate(
            "Usage",
            "Events of a bucket",
            "One value for each partition that had any: add up the same key over the partitions.",
            _key("usage", *_bucket("all", "project", "machine", "agent"), doc="table, grain, bucket, dimension, value"),
            Usage(at=41, events={"tool_post_use": 3, "user_prompt": 1}, sessions={11_184_810}),
        ),
        _aggregate(
            "ToolUse",
            "Finished calls of a tool in a bucket",
            "One value for each partition that had any: add up the same key over the partitions.",
            _key("tools", *_bucket("all", "project"), text, doc="table, grain, bucket, dimension, value, tool"),
            ToolUse(at=41, calls=3, failures=1, durations={40: 2, 57: 1}),
        ),
        _aggregate(
            "SessionUse",
            "A session so far",
            "A session is in one partition, so there is one value.",
            _key("session", text, doc="table, session_id"),
            SessionUse(
                at=41,
                first=_EVENT.occurred_at,
                last=_EVENT.occurred_at,
                events={"tool_post_use": 3, "user_prompt": 1},
                prompts=1,
                tools={"Bash": [3, 1]},
                files={"/home/ann/shop/cart.py"},
            ),
        ),
        _aggregate(
            "Names",
            "The names that are told apart",
            "One value for each dimension and partition; for whoever counts, not for whoever reads.",
            _key("names", {"enum": list(Given._fields)}, doc="table, dimension"),
            Names(at=41, names={"shop": 20_481}),
        ),
        _aggregate(
            "NewestTime",
            "How far a partition has come",
            "Written with every chunk.",
            _key("clock", doc="table"),
            NewestTime(newest=_EVENT.occurred_at),
        ),
        Message(
            name="AggregateEnded",
            title="The end of a key",
            summary="A record without a value: its bucket, or its session, is no longer kept.",
            payload={"type": "null"},
            key={"type": "array", "items": {"type": ["string", "integer"]}, "description": "As of what ends."},
        ),
    )
