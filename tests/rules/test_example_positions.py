"""The example consumers by themselves: positions in the Python one, and where the file of the DuckDB one comes from."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from example_files import example

AVRO = example("python_avro")
EXPORT = example("duckdb_export")


def test_a_position_is_new_once() -> None:
    """At or below the highest of its partition it has been applied; partitions know nothing of each other."""
    applied = AVRO.Applied()
    for position, new in [((0, 0), True), ((0, 0), False), ((0, 5), True), ((0, 3), False), ((1, 3), True)]:
        assert applied.is_new(position) is new, position
        if new:
            applied.add(position)


def test_a_record_without_a_position_is_always_new() -> None:
    """It did not come through Chronicle's intake; nothing is remembered of it."""
    applied = AVRO.Applied()
    applied.add(None)
    assert applied.is_new(None)


def test_positions_outlive_the_process(tmp_path: Path) -> None:
    """In the file that stands for a table of yours."""
    path = tmp_path / "state.json"
    AVRO.Applied(path).add((3, 41))
    again = AVRO.Applied(path)
    assert not again.is_new((3, 41))
    assert again.is_new((3, 42))


@pytest.mark.parametrize("headers", [None, [], [("other", b"x")], [("chronicle-position", b"short")]])
def test_headers_without_a_position(headers: list[tuple[str, bytes]] | None) -> None:
    """None, not an error: others may produce into the topic."""
    assert AVRO.position_of(headers) is None


def test_a_position_out_of_its_header() -> None:
    """Twelve bytes, big-endian."""
    assert AVRO.position_of([("chronicle-position", struct.pack(">iq", 2, 41))]) == (2, 41)


async def test_an_export_is_fetched_from_an_address(tmp_path: Path) -> None:
    """Asked for as JSON lines; what answers with something else is refused with a sentence."""

    async def answer(request: web.Request) -> web.Response:
        asked = request.headers["Accept"]
        kind = asked if request.path == "/lines" else "application/json"
        return web.Response(body=b'{"event_id": 1}\n', content_type=kind)

    app = web.Application()
    app.router.add_get("/lines", answer)
    app.router.add_get("/page", answer)
    async with TestServer(app) as server:
        found = await asyncio.to_thread(EXPORT.local_file, str(server.make_url("/lines")), tmp_path)
        assert found.read_bytes() == b'{"event_id": 1}\n'
        with pytest.raises(SystemExit) as refused:
            await asyncio.to_thread(EXPORT.local_file, str(server.make_url("/page")), tmp_path)
    assert "application/json" in str(refused.value)


def test_a_file_is_taken_as_it_is(tmp_path: Path) -> None:
    """No copy."""
    assert EXPORT.local_file(str(tmp_path / "x.jsonl"), tmp_path / "other") == tmp_path / "x.jsonl"
