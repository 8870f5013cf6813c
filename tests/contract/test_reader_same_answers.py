"""One question, one answer: what both databases say of payloads that each would keep, or read, in its own way."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from connectors import migrate
from connectors.postgres import PostgresSink
from connectors.readers.postgres import PostgresReader
from connectors.readers.sqlite import SqliteReader
from connectors.sqlite import SqliteSink
from schemas import words
from schemas.jsontext import check
from schemas.query import CallFilter, EventFilter, SessionFilter
from sink_events import batch, decode, logged

KINDS = ["sqlite", pytest.param("postgres", marks=pytest.mark.e2e)]
Stored = tuple[SqliteSink | PostgresSink, SqliteReader | PostgresReader]


@pytest.fixture(params=KINDS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stored]:
    """A sink and a reader over one database: rows get in as they do in life."""
    if request.param == "sqlite":
        path = tmp_path / "failover.sqlite"
        made: Stored = (SqliteSink(path, decode=decode), SqliteReader(path))
    else:
        dsn = request.getfixturevalue("postgres")
        await migrate.upgrade(dsn)
        made = (PostgresSink(dsn), PostgresReader(dsn))
    for part in made:
        await part.open()
    yield made
    for part in made:
        await part.close()


async def put(store: Stored, *payloads: str, metadata: str = "{}", **fields: Any) -> None:
    """One event a payload, numbered from 0, with the flags that the door gives it."""
    events = []
    for number, payload in enumerate(payloads):
        flags = check(payload.encode()).flags | check(metadata.encode()).flags
        more = {"session_id": "s", "tool_use_id": f"t{number}"} | fields
        events.append(logged(number, payload=payload, metadata=metadata, flags=int(flags), **more))
    await store[0].write(batch(events))


async def found(store: Stored, question: str) -> list[int]:
    page = await store[1].events(EventFilter(words=words.question(question), ascending=True))
    return [int(item["event_id"].replace("-", ""), 16) - 1 for item in page.items]


async def test_of_a_repeated_key_the_last_counts_everywhere(store: Stored) -> None:
    """For columns made of the payload, for searching, in the metadata; the payload itself is shown as it was sent."""
    call = '{"duration_ms": 1, "error": "first", "duration_ms": 2.5e1, "error": "last"}'
    await put(store, call, metadata='{"k":1,"k":{"b":1,"b":2}}', event_type="post_tool_use_failure")
    (row,) = (await store[1].calls(CallFilter(session_id="s"))).items
    assert (row["execution_time_ms"], row["error_message"]) == (25, "last")
    assert (await found(store, "last"), await found(store, "first")) == ([0], [])
    (item,) = (await store[1].events(EventFilter())).items
    assert bytes(item["payload"]).decode() == call
    assert exactly(item["metadata"]) == {"k": {"b": 2}}
    assert bytes(item["metadata"]).count(b'"k"') == 1


async def test_a_replaced_character_makes_no_second_key(store: Stored) -> None:
    """The key with U+0000 becomes the one that is there already: the last of both stays."""
    await put(store, r'{"a":1}', metadata='{"\u2400":1,"\\u0000":2}')
    (item,) = (await store[1].events(EventFilter())).items
    assert exactly(item["metadata"]) == {"\u2400": 2}


async def test_numbers_are_the_same_to_the_last_digit(store: Stored) -> None:
    """However each database spells them; only a reader that makes doubles of them sees a difference."""
    sent = '{"a":1e300,"b":-1E-2,"c":1.50,"d":' + "9" * 400 + ',"e":5e-324,"f":-0}'
    await put(store, sent)
    (item,) = (await store[1].events(EventFilter())).items
    assert exactly(item["payload"]) == exactly(msgspec.Raw(sent.encode()))


async def test_only_text_is_searched(store: Stored) -> None:
    """A number, a list or a truth value is spelled otherwise in each database; null leaves it to the next member."""
    odd = ["1e300", "100", "true", '["lexer"]', '{"lexer":1}', '"lexer"', "null"]
    await put(store, *(f'{{"prompt": {value}, "message": "lexer 1 100"}}' for value in odd), event_type="user_prompt")
    assert await found(store, "lexer") == [5, 6]
    assert await found(store, "1") == [6]
    assert await found(store, "true") == []


async def test_equal_times_are_in_order_of_the_bytes_of_the_names(store: Stored) -> None:
    """Not in that of some language: a cursor of one database means the same place in the other."""
    names = ["a", "B", "é", "Z", "_", "ä"]
    await put(store, *("{}" for _ in names))
    events = [logged(9 + n, session_id=name, occurred_at=5, received_at=5) for n, name in enumerate(names)]
    call = {"session_id": "q", "tool_use_id": "t", "occurred_at": 7}
    calls = [logged(50 + n, agent_id=name, **call) for n, name in enumerate(names)]
    await store[0].write(batch([*events, *calls]))
    page = await store[1].calls(CallFilter(session_id="q"))
    assert [row["agent_id"] for row in page.items] == sorted(names)
    listed = await store[1].sessions(SessionFilter(ascending=True))
    assert [row["session_id"] for row in listed.items if row["session_id"] in names] == sorted(names)


def exactly(raw: Any) -> Any:
    """The JSON value with every digit."""
    return json.loads(bytes(raw), parse_int=Decimal, parse_float=Decimal)
