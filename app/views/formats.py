"""Rows as text that other tools read: JSON lines, CSV, Parquet. Pure, but for the Parquet library.

A row is an item of the JSON answer: plain values, `msgspec.Raw` for JSON that goes in as it is. A column of CSV or
Parquet that holds an object or a list holds its JSON text.
"""

from __future__ import annotations

import csv
import importlib
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Protocol

import msgspec

from schemas.errors import Refused

Row = Mapping[str, Any]

#: Format -> media type, in the order in which `Accept: */*` takes them.
FORMATS: Final[Mapping[str, str]] = {
    "json": "application/json",
    "jsonl": "application/x-ndjson",
    "csv": "text/csv",
    "parquet": "application/vnd.apache.parquet",
}
#: Rows that a Parquet file has in one group at most.
GROUP: Final = 10_000
#: Bytes of texts after which a group ends, however few its rows are.
GROUP_BYTES: Final = 32 << 20
_LONG: Final = (str, msgspec.Raw)
_json = msgspec.json.Encoder()


class Writer(Protocol):
    """Gives the bytes of a file, piece by piece: `begin`, `rows` as often as there are some, `end`."""

    def begin(self) -> bytes: ...

    def rows(self, rows: Sequence[Row]) -> bytes: ...

    def end(self) -> bytes: ...


class JsonLines:
    """One object a line."""

    def begin(self) -> bytes:
        return b""

    def rows(self, rows: Sequence[Row]) -> bytes:
        return b"".join(_json.encode(row) + b"\n" for row in rows)

    def end(self) -> bytes:
        return b""


class Csv:
    """RFC 4180, UTF-8, a header line, `\\r\\n`; null is empty."""

    def __init__(self, fields: Sequence[str]) -> None:
        self._fields = fields

    def begin(self) -> bytes:
        return self._lines([self._fields])

    def rows(self, rows: Sequence[Row]) -> bytes:
        return self._lines([[flat(row[name]) for name in self._fields] for row in rows])

    def end(self) -> bytes:
        return b""

    def _lines(self, rows: Sequence[Sequence[Any]]) -> bytes:
        out = io.StringIO()
        csv.writer(out).writerows(rows)
        return out.getvalue().encode("utf-8", "replace")


class Parquet:
    """Row groups of about GROUP rows, zstd. Needs the extra `parquet`; raises `Refused` (406) where it is not there."""

    def __init__(self, columns: Mapping[str, type]) -> None:
        self._arrow, parquet = _libraries()
        self._schema = self._arrow.schema([(name, self._type(name, kind)) for name, kind in columns.items()])
        self._out = _Pipe()
        self._writer = parquet.ParquetWriter(self._out, self._schema, compression="zstd")
        self._waiting: list[Row] = []
        self._bytes = 0

    def begin(self) -> bytes:
        return self._out.taken()

    def rows(self, rows: Sequence[Row]) -> bytes:
        self._waiting += rows
        self._bytes += weight(rows)
        if len(self._waiting) >= GROUP or self._bytes >= GROUP_BYTES:
            self._write_group()
        return self._out.taken()

    def end(self) -> bytes:
        if self._waiting:
            self._write_group()
        self._writer.close()
        return self._out.taken()

    def _write_group(self) -> None:
        columns = {name: [_cell(row[name], name) for row in self._waiting] for name in self._schema.names}
        self._writer.write_table(self._arrow.table(columns, schema=self._schema))
        self._waiting.clear()
        self._bytes = 0

    def _type(self, name: str, kind: type) -> Any:
        if is_instant(name):
            return self._arrow.timestamp("us", tz="UTC")
        plain = {int: self._arrow.int64(), float: self._arrow.float64(), bool: self._arrow.bool_()}
        return plain.get(kind, self._arrow.string())


class _Pipe(io.RawIOBase):
    """A file that is written from its beginning to its end; what was written is taken away piece by piece."""

    def __init__(self) -> None:
        super().__init__()
        self._pieces: list[bytes] = []
        self._size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        piece = bytes(data)
        self._pieces.append(piece)
        self._size += len(piece)
        return len(piece)

    def tell(self) -> int:
        return self._size

    def taken(self) -> bytes:
        """What was written since the last time."""
        found, self._pieces = b"".join(self._pieces), []
        return found


def writer(format: str, columns: Mapping[str, type]) -> Writer:
    """One for `jsonl`, `csv` or `parquet`. `columns`: names and types in the order they go out."""
    if format == "parquet":
        return Parquet(columns)
    return Csv(tuple(columns)) if format == "csv" else JsonLines()


def columns_of(shape: type[msgspec.Struct]) -> dict[str, type]:
    """The fields of an answer's item with int, float, bool or str; str for everything that goes out as text."""
    found: dict[str, type] = {}
    for field in msgspec.structs.fields(shape):
        kinds = [
            kind for kind in (int, float, bool) if field.type is kind or kind in getattr(field.type, "__args__", ())
        ]
        found[field.name] = kinds[0] if kinds else str
    return found


def chosen(named: str | None, accept: str) -> str:
    """The format: `named` if it is one, else by the header `Accept`; JSON for whoever says nothing of the kind.

    Raises `Refused` (406) when the header asks for none that we have.
    """
    if named is not None:
        return named
    ranked = sorted(FORMATS, key=lambda format: -quality(FORMATS[format], accept))
    if not accept.strip() or quality(FORMATS[ranked[0]], accept) > 0:
        return ranked[0]
    raise Refused(406, "not_acceptable", f"It can be had as {', '.join(FORMATS.values())}.", "/Accept")


def quality(wanted: str, header: str) -> float:
    """How much a header of the family `Accept` likes `wanted`, 0 (not at all) to 1 (RFC 9110, section 12.4.2).

    The most specific part of it counts; one whose quality cannot be read is liked.
    """
    found: dict[int, float] = {}
    for part in header.lower().split(","):
        kind, _, rest = part.strip().partition(";")
        places = {wanted: 2, f"{wanted.partition('/')[0]}/*": 1, "*/*": 0, "*": 0}
        if kind.strip() in places:
            said = _Q.search(rest)
            found[places[kind.strip()]] = float(said.group(1)) if said else 1.0
    return found[max(found)] if found else 0.0


_Q: Final = re.compile(r"\bq\s*=\s*(0(?:\.\d{1,3})?|1(?:\.0{1,3})?)\s*$")


def is_instant(name: str) -> bool:
    """Whether a column holds a time."""
    return name.endswith("_at")


def weight(rows: Iterable[Row]) -> int:
    """About how many bytes the texts of these rows have: a payload or an error may have 900 KiB."""
    cells = (cell for row in rows for cell in row.values())
    return sum(len(cell) if isinstance(cell, str) else len(bytes(cell)) for cell in cells if isinstance(cell, _LONG))


def flat(value: Any) -> Any:
    """As a cell of a table: objects and lists as JSON text."""
    if isinstance(value, msgspec.Raw):
        return bytes(value).decode()
    return _json.encode(value).decode() if isinstance(value, dict | list) else value


def _cell(value: Any, name: str) -> Any:
    return datetime.fromisoformat(value) if is_instant(name) and value is not None else flat(value)


def _libraries() -> tuple[Any, Any]:
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        detail = "Parquet needs the extra `parquet` on the server (pip install 'chronicle-streams[parquet]')."
        raise Refused(406, "not_acceptable", detail, "/format") from error
