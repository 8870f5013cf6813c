"""What the door lets in, Postgres' jsonb takes: the written rule against the real database."""

from __future__ import annotations

import json

import asyncpg
import pytest

from schemas.errors import Refused
from schemas.jsontext import check, jsonb_text

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
