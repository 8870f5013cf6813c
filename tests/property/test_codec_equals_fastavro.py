"""The layout by hand is the schema's: the same bytes as fastavro, both ways, for any event and any garbage."""

from __future__ import annotations

from io import BytesIO
from uuid import UUID

import fastavro
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import AvroCodec, from_fields, to_fields
from schemas.errors import Poison
from schemas.event import HookEvent, IdOrigin
from schemas.registry import packaged

CODEC = AvroCodec()


def plain(schema: object) -> object:
    """Without logical types, so that fastavro takes integers and bytes as they are."""
    if isinstance(schema, dict):
        return {key: plain(part) for key, part in schema.items() if key != "logicalType"}
    return [plain(part) for part in schema] if isinstance(schema, list) else schema


SCHEMA = fastavro.parse_schema(plain(packaged()[-1].parsed()))  # type: ignore[arg-type]

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
OPTIONAL = st.none() | TEXT
MICROS = st.integers(-(1 << 63), (1 << 63) - 1)
EVENTS = st.builds(
    HookEvent,
    event_id=st.uuids(),
    fingerprint=st.binary(min_size=16, max_size=16),
    id_origin=st.sampled_from(IdOrigin),
    session_id=TEXT,
    event_type=TEXT,
    occurred_at=MICROS,
    received_at=MICROS,
    source=TEXT,
    payload=TEXT | st.just("x" * 5000),
    hook_event_name=OPTIONAL,
    tool_name=OPTIONAL,
    tool_use_id=OPTIONAL,
    agent_id=OPTIONAL,
    agent_type=OPTIONAL,
    prompt_id=OPTIONAL,
    cwd=OPTIONAL,
    suspected_duplicate_of=st.none() | st.uuids(),
    flags=st.integers(0, (1 << 31) - 1),
    metadata=TEXT,
)


@given(EVENTS)
def test_encode_writes_what_fastavro_writes(event: HookEvent) -> None:
    """Any Avro reader can read our records."""
    out = BytesIO()
    fastavro.schemaless_writer(out, SCHEMA, to_fields(event))
    assert CODEC.encode(event)[5:] == out.getvalue()


@given(EVENTS)
def test_decode_gives_back_what_was_encoded(event: HookEvent) -> None:
    """The round trip changes nothing, types included."""
    again = CODEC.decode(CODEC.encode(event))
    assert again == event
    assert type(again.event_id) is UUID
    assert str(again.event_id) == str(event.event_id)
    assert hash(again.event_id) == hash(event.event_id)


@given(EVENTS, st.data())
def test_a_changed_byte_is_read_as_fastavro_reads_it_or_is_poison(event: HookEvent, data: st.DataObject) -> None:
    """Never an exception that is not `Poison`, never another event than Avro's rules give."""
    value = bytearray(CODEC.encode(event))
    at = data.draw(st.integers(5, len(value) - 1))
    value[at] = data.draw(st.integers(0, 255))
    try:
        ours = CODEC.decode(bytes(value))
    except Poison:
        return
    body = BytesIO(bytes(value)[5:])
    assert ours == from_fields(fastavro.schemaless_reader(body, SCHEMA, SCHEMA))  # type: ignore[arg-type]
    assert not body.read()


@given(st.binary(max_size=200))
def test_garbage_is_poison(garbage: bytes) -> None:
    """Random bytes never become an event by accident of our own making."""
    for value in (garbage, b"\0\0\0\0\1" + garbage):
        try:
            CODEC.decode(value)
        except Poison:
            continue
        body = BytesIO(value[5:])
        fastavro.schemaless_reader(body, SCHEMA, SCHEMA)
        assert not body.read()
