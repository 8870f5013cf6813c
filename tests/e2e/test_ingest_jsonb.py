"""What the door lets in, Postgres' jsonb takes, and `GET /events/{event_id}` gives back by the written rule.

The rule is told in `docs/api-ingest.md`; the examples are for the tables there.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import pytest

from connectors import migrate
from connectors.memory import MemoryIntake
from connectors.postgres import PostgresSink
from connectors.readers.failover import FailoverReader
from connectors.readers.postgres import PostgresReader
from door import CODEC, JSON, door
from reading import query_routes, serving
from schemas import jsonscan
from schemas.errors import Refused
from schemas.event import LoggedEvent, Position
from schemas.jsontext import check, jsonb_text
from sink_events import batch

pytestmark = pytest.mark.e2e

TEXTS = [
    r'{"a":"\u0000","\u0000":1}',
    r'{"a":"\udc90","b":"\ud800x","c":"\ude00\ud83d","d":"\ud83d\ud83d\ude00"}',
    r'{"a":"\\u0000","b":"\\\u0000"}',
    '{"a":' + "9" * 4300 + "}",
    '{"a":1.7976931348623157e308,"b":5e-324,"c":-0.0,"d":1e-16000}',
    '{"a":1e999}',
    '{"a":1e131072}',
    '{"a":1e-16001}',
    '{"a":1e-20000}',
    '{"a":0.' + "1" * 4200 + "}",
    '{"a":0.' + "1" * 20_000 + "}",
    '{"a":' + "1" * 140_000 + "}",
    '{"a":' * 63 + "{}" + "}" * 63,
    '{"a":1,"a":2}',
    '{"a":"😀é\u2028"}',
]


async def test_whatever_is_accepted_can_be_stored(postgres: str) -> None:
    """No accepted text is ever refused by the JSON column; at least half of the list is accepted."""
    connection = await asyncpg.connect(postgres)
    stored = 0
    try:
        for text in TEXTS:
            try:
                check(text.encode())
            except Refused:
                continue
            back = await connection.fetchval("select ($1::text::jsonb)::text", jsonb_text(text))
            assert json.loads(back, parse_float=str, parse_int=str).keys()
            stored += 1
    finally:
        await connection.close()
    assert stored >= len(TEXTS) // 2


#: payload as sent -> its text in the answer; the JSON value is the same, every digit of it.
RESPELLED = {
    '{"bb":1, "a":2,\n"c" : 3}': '{"a": 2, "c": 3, "bb": 1}',
    '{"a":1e2}': '{"a": 100}',
    '{"a":1E-2}': '{"a": 0.01}',
    '{"a":-0}': '{"a": 0}',
    '{"a":1.50}': '{"a": 1.50}',
    '{"a":1180591620717411303424}': '{"a": 1180591620717411303424}',
    '{"a":0.1234567890123456789012345}': '{"a": 0.1234567890123456789012345}',
    '{"a":1e-400}': '{"a": 0.' + "0" * 399 + "1}",
    '{"a":-1e-400}': '{"a": -0.' + "0" * 399 + "1}",
    '{"a":1e308}': '{"a": 1' + "0" * 308 + "}",
    r'{"a":"\u00e9\/\ud83d\ude00"}': '{"a": "é/😀"}',
}
#: payload as sent, which is also its text in the answer -> what the JSON column holds instead, and the flag.
KEPT = {
    '{"a":-0.0}': ('{"a": 0.0}', "sanitized"),
    '{ "b":[-0.0e5], "a":1e2}': ('{"a": 100, "b": [0]}', "sanitized"),
    r'{"a":"\u0000","\u0000" :1}': ('{"a": "␀", "␀": 1}', "sanitized"),
    r'{"a":"\udc90x"}': ('{"a": "\ufffdx"}', "sanitized"),
    '{"b":1,"a":1,"a":2}': ('{"a": 2, "b": 1}', "duplicate_keys"),
}


class Shown(NamedTuple):
    """What a client sees of an event, its JSON as text."""

    payload: str
    metadata: str
    flags: list[str]


async def sent_and_read(dsn: str, payloads: list[str], **fields: str) -> list[Shown]:
    """In by the door, through codec and sink, out by the query route: one answer a payload."""
    intake, answers = MemoryIntake(), []
    members = "".join(f',"{name}":{text}' for name, text in fields.items())
    bodies = [f'{{"session_id":"s","event_type":"t","payload":{text}{members}}}' for text in payloads]
    async with door(intake) as client:
        answer = await client.post("/events", data=f"[{','.join(bodies)}]".encode(), headers=JSON)
        assert (await answer.json())["accepted"] == len(payloads)
    await migrate.upgrade(dsn)
    sink, reader = PostgresSink(dsn), PostgresReader(dsn)
    await sink.write(batch([logged(record.value or b"", n) for n, record in enumerate(intake.records)]))
    await sink.close()
    await reader.open()
    try:
        async with serving(query_routes(FailoverReader(reader, None))) as client:
            for record in intake.records:
                event_id = UUID(bytes=CODEC.peek(record.value or b"")[0])
                async with client.get(f"/events/{event_id}") as found:
                    answers.append(shown(await found.read()))
    finally:
        await reader.close()
    return answers


def shown(body: bytes) -> Shown:
    """Cut, not parsed: a strict parser would refuse the lone surrogate that one client sent and is given back."""
    members = {key.decode().strip('"'): text.decode() for key, text in jsonscan.members(body)}
    return Shown(members["payload"], members["metadata"], json.loads(members["flags"]))


def logged(value: bytes, offset: int) -> LoggedEvent:
    place = Position(0, offset)
    return LoggedEvent(event=CODEC.decode(value), ingest=place, events=place, value=value)


def exactly(text: str) -> Any:
    """The JSON value with every digit."""
    return json.loads(text, parse_float=Decimal, parse_int=Decimal)


async def test_the_column_respells_and_changes_no_value(postgres: str) -> None:
    """Order of keys, blanks, spelling of numbers and escapes are jsonb's own; nothing is flagged or lost."""
    answers = await sent_and_read(postgres, list(RESPELLED))
    assert [event.payload for event in answers] == list(RESPELLED.values())
    assert [exactly(event.payload) for event in answers] == [exactly(text) for text in RESPELLED]
    assert all(event.flags == [] for event in answers)


async def test_what_the_column_would_change_is_given_back_as_sent(postgres: str) -> None:
    """To the byte, flagged; the column holds the nearest thing it can, for queries."""
    answers = await sent_and_read(postgres, list(KEPT))
    assert [event.payload for event in answers] == list(KEPT)
    assert [event.flags for event in answers] == [[flag] for _, flag in KEPT.values()]
    connection = await asyncpg.connect(postgres)
    try:
        rows = await connection.fetch("SELECT payload::text AS held FROM events ORDER BY ingest_offset")
    finally:
        await connection.close()
    assert [row["held"] for row in rows] == [held for held, _ in KEPT.values()]


async def test_metadata_has_the_column_alone(postgres: str) -> None:
    """No text is kept beside it: the replacements stay, and the flag says so."""
    (event,) = await sent_and_read(postgres, ['{"b":1,"a":1}'], metadata=r'{"x":"\u0000","y":-0.0}')
    assert event.flags == ["sanitized"]
    metadata = json.loads(event.metadata)
    assert (metadata["x"], str(metadata["y"])) == ("␀", "0.0")
    assert event.payload == '{"b":1,"a":1}'
