"""The faults on data: what they send is what they say, and their own judgement can fail."""

from __future__ import annotations

import asyncio
import inspect
import os
import random
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from chaos.faults import at_points, bad_input, clocks, own, sqlite, state, storms, topics
from chaos.faults.bad_input import Bodies, Case, Memory, framing, spelling, status_of, unpacking
from chaos.faults.own import Own, sqlite_takes, until, waiting_ids
from chaos.faults.topics import LIMIT, bad_records, same, too_good
from chaos.model import Fault
from chaos.units import alive

ROOMS = (at_points, bad_input, clocks, sqlite, state, storms, topics)
KINDS = [
    kind
    for room in ROOMS
    for kind in vars(room).values()
    if inspect.isclass(kind) and issubclass(kind, Fault) and kind.__module__ == room.__name__ and hasattr(kind, "name")
]
ROWS = {"F1", "F3", "F6", "F7", "F24", "F25", "F26", "F27", "F28", "F29", "F30", "F31"} | {
    "F33",
    "F34",
    "F35",
    "F36",
    "F37",
    "F41",
}


def test_faults_on_data_have_names_of_their_own_and_can_be_made() -> None:
    """Each is a whole fault: a name, rows, a sentence, three hits at least."""
    assert len({kind.name for kind in KINDS}) == len(KINDS) >= 19
    for kind in KINDS:
        assert not inspect.isabstract(kind)
        assert kind.hits >= 3
        assert kind.what.endswith(".")
        assert kind(random.Random(1)).found.broken == []


def test_faults_on_data_cover_their_rows() -> None:
    """No row of theirs is without a fault."""
    assert {row for kind in KINDS for row in kind.rows} >= ROWS


@pytest.mark.parametrize("make", [unpacking, spelling, framing])
def test_bad_cases_say_what_is_right_and_never_5xx_but_not_implemented(make: Callable[..., list[Case]]) -> None:
    """A case without an expectation proves nothing."""
    cases = list(make(Bodies(random.Random(1))))
    assert len({case.what for case in cases}) == len(cases) > 10
    for case in cases:
        assert case.right
        assert all(status < 500 or status == 501 for status in case.right)


def test_bad_records_are_all_different_and_fit_the_topic() -> None:
    """What the broker refuses would prove nothing."""
    good = b"\0\0\0\0\1" + random.Random(1).randbytes(200)
    records = [*bad_records(random.Random(2), good), too_good(random.Random(2), good)]
    assert len({record.what for record in records}) == len(records)
    for record in records:
        headers = sum(len(name) + len(value) for name, value in record.headers)
        assert len(record.key or b"") + len(record.value or b"") + headers < LIMIT


def test_dead_letter_bytes_are_compared() -> None:
    """The same, or the beginning of something very large; never something else."""
    assert same(b"abc", b"abc")
    assert same(None, None)
    assert not same(b"", None)
    assert not same(b"ab", b"abc")
    assert same(b"x" * 1_400_000, b"x" * 2_000_000)
    assert not same(b"y" * 1_400_000, b"x" * 2_000_000)


# --- own events ------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def server(answer: Callable[[web.Request], web.Response]) -> AsyncIterator[str]:
    """A server that says the same to everything."""

    async def handle(request: web.Request) -> web.Response:
        await request.read()
        return answer(request)

    app = web.Application()
    app.router.add_post("/events", handle)
    async with TestServer(app) as there:
        yield str(there.make_url("")).rstrip("/")


async def test_own_events_are_noted_by_what_was_told_of_them() -> None:
    """2xx is acked; an error and no answer at all are open."""
    mine = Own("test", random.Random(1))
    async with server(lambda _: web.json_response({}, status=202)) as url:
        await mine.send(url, mine.events(3))
    async with server(lambda _: web.json_response({}, status=503)) as url:
        await mine.send(url, mine.events(2))
    await mine.send("http://127.0.0.1:9", mine.events(1))
    assert (len(mine.acked), len(mine.open)) == (3, 3)
    assert mine.statuses == {202: 1, 503: 1, None: 1}
    assert mine.session.startswith(own.PREFIX)


async def test_own_events_left_open_are_sent_again_with_their_ids() -> None:
    """Until they are taken; false when they never are."""
    mine = Own("test", random.Random(1))
    await mine.send("http://127.0.0.1:9", mine.events(2))
    ids = set(mine.open)
    assert not await mine.send_again("http://127.0.0.1:9", 0.1)
    async with server(lambda _: web.json_response({}, status=202)) as url:
        assert await mine.send_again(url, 5)
    assert set(mine.acked) == ids


async def test_own_events_lost_and_doubled_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The judgement of a fault can fail: an event that is not there, one that is there twice."""
    mine = Own("test", random.Random(1))
    first, second, third = mine.events(3)
    mine.acked = {event["event_id"]: event for event in (first, second, third)}
    there = own.Counter({first["event_id"]: 1, second["event_id"]: 2})

    async def stored(dsn: str, ids: list[str]) -> own.Counter[str]:
        return own.Counter({one: there[one] for one in ids if one in there})

    monkeypatch.setattr(own, "stored", stored)
    monkeypatch.setattr(own, "STORED_S", 0.1)
    monkeypatch.setattr(own.missing_after, "__defaults__", (0.1,))
    broken = await mine.broken("")
    assert len(broken) == 2
    assert second["event_id"] in broken[0]
    assert third["event_id"] in broken[1]


async def test_until_looks_once_even_without_time() -> None:
    """A condition that is true already is true."""
    assert await until(lambda: True, 0)
    assert not await until(lambda: False, 0)


# --- raw requests ----------------------------------------------------------------------------------------------------


async def test_status_of_tells_answer_hang_up_and_silence() -> None:
    """Three fates of a request."""
    async with server(lambda _: web.json_response({}, status=418)) as url:
        assert await status_of(url, bad_input.request(b"{}")) == 418

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    for behave, status in ((hang_up, 0), (say_nothing, -1)):
        there = await asyncio.start_server(behave, "127.0.0.1", 0)
        async with there:
            port = there.sockets[0].getsockname()[1]
            assert await status_of(f"http://127.0.0.1:{port}", b"x", seconds=0.3) == status


def test_memory_sees_a_peak_that_is_over() -> None:
    """Also what was given back before anybody looked."""
    memory = Memory(os.getpid())
    memory.next()
    block = bytearray(64 << 20)
    block[::4096] = b"x" * len(block[::4096])
    del block
    assert memory.grown() > 48 << 20
    memory.next()
    assert memory.grown() < 16 << 20


# --- SQLite and files ------------------------------------------------------------------------------------------------


def outbox(path: Path, *ids: str) -> None:
    """A file as Chronicle leaves it, as far as the drill looks."""
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE outbox (event_id TEXT, state TEXT)")
        connection.executemany("INSERT INTO outbox VALUES (?, 'pending')", [(one,) for one in ids])
        connection.execute("INSERT INTO outbox VALUES ('synced', 'synced')")
    connection.close()


async def test_waiting_ids_are_those_postgres_lacks(tmp_path: Path) -> None:
    """And none when the file is missing or broken."""
    assert waiting_ids(tmp_path / "none.db") == []
    (tmp_path / "broken.db").write_bytes(b"x" * 10_000)
    assert waiting_ids(tmp_path / "broken.db") == []
    outbox(tmp_path / "there.db", "a", "b")
    assert await sqlite_takes(tmp_path / "there.db", seconds=0) == ["a", "b"]


def test_sqlite_lock_keeps_writers_out(tmp_path: Path) -> None:
    """Root, too: that is why it is a lock and not a mode."""
    path = tmp_path / "failover.db"
    outbox(path, "a")
    held = sqlite._lock(path)
    with sqlite3.connect(path, timeout=0.05) as other, pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("DELETE FROM outbox")
    other.close()
    held.close()
    with sqlite3.connect(path, timeout=0.05) as other:
        other.execute("DELETE FROM outbox")
    other.close()


def test_sqlite_corrupt_changes_the_file(tmp_path: Path) -> None:
    """Pages of it, not its length."""
    path = tmp_path / "failover.db"
    path.write_bytes(bytes(40_960))
    sqlite.SqliteCorrupt(random.Random(1))._scribble(path)
    assert path.stat().st_size == 40_960
    assert path.read_bytes() != bytes(40_960)


def test_damage_that_nobody_has_met_is_seen(tmp_path: Path) -> None:
    """A page that no query of Chronicle needs; a whole file, an absent one and one that is written are no damage."""
    path = tmp_path / "failover.db"
    assert not sqlite._damaged(path)
    outbox(path, *(f"event-{number}" * 50 for number in range(500)))
    assert not sqlite._damaged(path)
    held = sqlite._lock(path)
    assert not sqlite._damaged(path)
    held.close()
    with path.open("r+b") as file:
        file.seek(5 * sqlite.PAGE)
        file.write(random.Random(1).randbytes(sqlite.PAGE))
    assert sqlite._damaged(path)


def test_seen_corrupt_changes_one_file_of_a_table(tmp_path: Path) -> None:
    """One of those that RocksDB cannot do without."""
    for name in ("CURRENT", "MANIFEST-000001", "000004.log", "OPTIONS-1"):
        (tmp_path / name).write_bytes(b"\0" * 100)
    state.SeenCorrupt(random.Random(1)).spoil(tmp_path)
    changed = [path.name for path in tmp_path.iterdir() if path.read_bytes() != b"\0" * 100]
    assert len(changed) == 1
    assert changed != ["OPTIONS-1"]


def test_running_knows_the_living_from_the_dead() -> None:
    """Its own process lives; a number that no process has does not."""
    assert alive(os.getpid())
    assert not alive(2**22 + 1)
