"""Rows as other tools read them."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import msgspec
import pytest

from app.views.formats import FORMATS, chosen, columns_of, writer
from app.views.shapes import Event, Session, ToolCall
from schemas.errors import Refused

COLUMNS: dict[str, type] = {"name": str, "n": int, "took_ms": float, "ok": bool, "stored_at": str, "payload": str}
ROWS: list[dict[str, Any]] = [
    {
        "name": 'a,"b"\r\nc',
        "n": 1,
        "took_ms": 1.5,
        "ok": True,
        "stored_at": "2026-01-31T09:30:00.000001Z",
        "payload": msgspec.Raw(b'{"x": [1, "\xc3\xa4"]}'),
    },
    {"name": None, "n": None, "took_ms": None, "ok": None, "stored_at": None, "payload": msgspec.Raw(b"{}")},
]


def written(format: str, *parts: list[dict[str, Any]]) -> bytes:
    out = writer(format, COLUMNS)
    return out.begin() + b"".join(out.rows(part) for part in parts) + out.end()


def test_json_lines_are_the_items_of_the_page() -> None:
    """One object a line, payloads as they are."""
    first, second = written("jsonl", ROWS[:1], ROWS[1:]).splitlines()
    assert json.loads(first) | {"name": 'a,"b"\r\nc'} == json.loads(first)
    assert (json.loads(first)["payload"], json.loads(second)["payload"]) == ({"x": [1, "ä"]}, {})


def test_csv_is_read_back_by_a_reader_of_csv() -> None:
    """Quotes and line ends in a cell stay in the cell; null is empty; the header names the columns."""
    found = list(csv.reader(io.StringIO(written("csv", ROWS).decode(), newline="")))
    assert found[0] == list(COLUMNS)
    assert found[1] == ['a,"b"\r\nc', "1", "1.5", "True", "2026-01-31T09:30:00.000001Z", '{"x": [1, "ä"]}']
    assert found[2] == ["", "", "", "", "", "{}"]


def test_parquet_keeps_types() -> None:
    """Times are timestamps, numbers are numbers, objects are JSON text; also over many pieces."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow, which writes Parquet, is not installed")
    table = parquet.read_table(io.BytesIO(written("parquet", ROWS, ROWS * 6000, ROWS)))
    assert table.num_rows == 12_004
    assert [str(field.type) for field in table.schema] == [
        "string",
        "int64",
        "double",
        "bool",
        "timestamp[us, tz=UTC]",
        "string",
    ]
    first = table.slice(0, 1).to_pylist()[0]
    assert (first["stored_at"].microsecond, first["payload"]) == (1, '{"x": [1, "ä"]}')


def test_the_columns_are_those_of_the_answer() -> None:
    """Taken from the types that the API document tells."""
    assert columns_of(Session)["event_count"] is int
    assert columns_of(ToolCall)["duration_ms"] is float
    assert columns_of(ToolCall)["success"] is bool
    assert (columns_of(Event)["payload"], columns_of(Event)["position"]) == (str, str)


@pytest.mark.parametrize(
    ("named", "accept", "format"),
    [
        (None, "", "json"),
        (None, "*/*", "json"),
        (None, "text/csv", "csv"),
        (None, "text/html,application/xhtml+xml,*/*;q=0.8", "json"),
        (None, "application/x-ndjson, application/json", "json"),
        (None, "application/vnd.apache.parquet", "parquet"),
        ("csv", "application/json", "csv"),
        (None, "application/json;q=0.1, text/csv", "csv"),
        (None, "*/*;q=0.1, application/x-ndjson;q=0.9", "jsonl"),
        (None, "text/*", "csv"),
    ],
)
def test_the_format_is_named_or_negotiated(named: str | None, accept: str, format: str) -> None:
    """The parameter beats the header; a browser gets JSON."""
    assert chosen(named, accept) == format


def test_a_format_that_nobody_has_is_refused() -> None:
    """406, and what there is."""
    for header in ("application/json;q=0", "image/*"):
        with pytest.raises(Refused):
            chosen(None, header)
    with pytest.raises(Refused) as refused:
        chosen(None, "image/png")
    assert refused.value.status == 406
    assert all(media in refused.value.detail for media in FORMATS.values())
