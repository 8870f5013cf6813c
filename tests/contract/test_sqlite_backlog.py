"""The SQLite sink as a backlog, and what it does when its file or disk misbehaves."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from connectors.pgerrors import SinkDown
from connectors.ports import Batch, Span
from connectors.sqlite import SqliteSink
from schemas.codec import AvroCodec
from schemas.event import DeadLetter, LoggedEvent, Position
from sink_events import InSqlite, batch, decode, logged

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "failover.db"


@pytest_asyncio.fixture
async def sink(path: Path) -> AsyncIterator[SqliteSink]:
    made = SqliteSink(path, decode=decode)
    await made.open()
    yield made
    await made.close()


async def test_rows_leave_in_the_order_they_came(sink: SqliteSink) -> None:
    """peek gives the oldest first; what is marked is gone, the rest stays."""
    events = [logged(n) for n in (5, 3, 9, 1)]
    await sink.write(batch(events[:2]))
    await sink.write(batch(events[2:]))
    rows = await sink.peek(3)
    assert [row.event for row in rows] == events[:3]
    assert [row.event for row in await sink.peek(2, after=rows[0].seq)] == events[1:3]
    assert await sink.peek(2, after=rows[2].seq + 1) == []
    assert await sink.pending() == 4
    await sink.mark_synced(rows[1].seq)
    assert [row.event for row in await sink.peek(10)] == events[2:]


async def test_a_real_avro_record_comes_back_as_the_event(path: Path) -> None:
    """The outbox keeps the framed record itself; the sink's own codec reads it."""
    event = logged(1).event
    real = LoggedEvent(event=event, ingest=Position(0, 1), events=Position(0, 1), value=AvroCodec().encode(event))
    sink = SqliteSink(path)
    await sink.write(batch([real]))
    assert [row.event for row in await sink.peek(1)] == [real]
    await sink.close()


async def test_repeats_wait_for_postgres_to_judge_them(sink: SqliteSink) -> None:
    """A duplicate goes into the outbox as well, once, behind its first."""
    repeat = logged(1, ingest=Position(0, 900))
    await sink.write(Batch([logged(1), repeat], []))
    receipt = await sink.write(Batch([repeat], []))
    assert (receipt.duplicates, receipt.replays) == (0, 1)
    assert [row.event for row in await sink.peek(10)] == [logged(1), repeat]


async def test_a_cache_of_what_is_synced_stays_and_is_bounded(path: Path) -> None:
    """After sync-back the newest rows stay readable; unsynced ones are never dropped."""
    sink = SqliteSink(path, decode=decode, keep_events=10, grace_s=0)
    await sink.write(batch([logged(n) for n in range(30)]))
    await sink.mark_synced((await sink.peek(15))[-1].seq)
    assert len(await InSqlite(path).ids()) == 15
    await sink.mark_synced((await sink.peek(100))[-1].seq)
    assert await InSqlite(path).ids() == [logged(n).event.event_id for n in range(20, 30)]
    assert await sink.pending() == 0
    await sink.close()


async def test_large_rows_come_in_smaller_portions(sink: SqliteSink) -> None:
    """However many are asked for, what lies in memory stays bounded; one row always comes."""
    text = "x" * 900_000
    await sink.write(batch([logged(n, payload=f'{{"text":"{text}"}}') for n in range(30)]))
    sizes = []
    while rows := await sink.peek(1000):
        sizes.append(len(rows))
        await sink.mark_synced(rows[-1].seq)
    assert sum(sizes) == 30
    assert max(sizes) == 7


async def test_a_seq_is_never_given_out_twice(path: Path) -> None:
    """Also when the outbox has been emptied in between: a late mark_synced cannot hit new rows."""
    sink = SqliteSink(path, decode=decode, grace_s=-60)
    await sink.write(batch([logged(1)]))
    seq = (await sink.peek(1))[0].seq
    await sink.mark_synced(seq)
    await sink.write(batch([logged(2)]))
    await sink.mark_synced(seq)
    assert await sink.pending() == 1
    await sink.close()


async def test_dead_letters_are_held_until_synced(sink: SqliteSink) -> None:
    """They come back whole, and only until they are marked."""
    letters = [letter(n) for n in range(3)]
    await sink.write_dead_letters(letters)
    assert await sink.dead_letters(10) == letters
    await sink.mark_dead_letters_synced(letters[:2])
    assert await sink.dead_letters(10) == letters[2:]
    await sink.write_dead_letters(letters)
    assert await sink.dead_letters(10) == letters[2:]


def letter(n: int) -> DeadLetter:
    return DeadLetter(
        topic="t",
        partition=0,
        offset=n,
        ingest=Position(1, n) if n else None,
        stage="persist",
        cause="undecodable",
        detail="why",
        key=b"k",
        value=b"\0\xff",
        failed_at=n,
        event_id=logged(n).event.event_id if n else None,
    )


async def fill_up(sink: SqliteSink, **fields: Any) -> tuple[int, SinkDown]:
    """Write until it says no: how many were taken, and what it said."""
    for start in range(0, 100_000, 40):
        try:
            await sink.write(batch([logged(n, **fields) for n in range(start, start + 40)]))
        except SinkDown as down:
            return start, down
    raise AssertionError("it was never full")


# --- trouble ---------------------------------------------------------------------------------------------------------


async def test_a_full_store_takes_nothing_and_keeps_what_it_has(path: Path) -> None:
    """At the cap: unavailable, no half batch; after sync-back there is room again."""
    sink = SqliteSink(path, decode=decode, max_bytes=1 << 20, grace_s=-60, keep_events=0)
    taken, error = await fill_up(sink, payload='{"x": "' + "y" * 500 + '"}')
    assert "full" in error.detail
    assert await sink.pending() == taken > 0
    await sink.mark_synced((await sink.peek(taken))[-1].seq)
    assert (await sink.write(batch([logged(9000)]))).stored == 1
    assert path.stat().st_size <= 1 << 20
    await sink.close()


async def test_a_store_that_others_hold_too_long_is_unavailable(sink: SqliteSink, path: Path) -> None:
    """Another writer inside a transaction: busy, told as transient, taken afterwards."""
    await sink.close()
    impatient = SqliteSink(path, decode=decode, busy_s=0.1)
    await impatient.open()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(SinkDown) as caught:
        await impatient.write(batch([logged(1)]))
    other.close()
    assert caught.value.kind == "transient"
    assert (await impatient.write(batch([logged(1)]))).stored == 1
    await impatient.close()


async def test_garbage_at_open_is_set_aside(path: Path) -> None:
    """A file that is no database is moved away, told, and a fresh one takes over."""
    path.parent.mkdir()
    path.write_bytes(b"this is no database" * 500)
    sink = SqliteSink(path, decode=decode)
    assert (await sink.write(batch([logged(1)]))).stored == 1
    [found] = sink.quarantines
    assert found.path.read_bytes().startswith(b"this is no database")
    assert found.spans is None
    await sink.close()


async def test_a_corrupt_page_at_open_is_found_and_the_ranges_are_told(path: Path) -> None:
    """quick_check finds a flipped page before anything is built on it; what must be read again is said."""
    sink = SqliteSink(path, decode=decode)
    await sink.write(batch([logged(n, payload='{"x": "' + "y" * 300 + '"}') for n in range(200)]))
    await sink.close()
    damage(path, "ix_events_session")
    again = SqliteSink(path, decode=decode)
    await again.open()
    assert [found.spans for found in again.quarantines] == [(Span(0, 0, 200),)]
    assert (await again.write(batch([logged(1)]))).stored == 1
    await again.close()


async def test_corruption_while_running_costs_no_batch(sink: SqliteSink, path: Path) -> None:
    """Found in the middle of a write: set aside, and the same write succeeds in the fresh file."""
    await sink.write(batch([logged(n) for n in range(200)]))
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    damage(path, "events", "ix_events_session", "sqlite_autoindex_events_1")
    receipt = await sink.write(batch([logged(n) for n in range(200, 400)]))
    assert receipt.stored == 200
    assert len(sink.quarantines) == 1
    assert await sink.pending() == 200


def damage(path: Path, *names: str) -> None:
    """Overwrite the root pages of tables or indexes."""
    with sqlite3.connect(path) as connection:
        size = connection.execute("PRAGMA page_size").fetchone()[0]
        roots = [
            connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,)).fetchone()[0]
            for name in names
        ]
    connection.close()
    with path.open("r+b") as file:
        for root in roots:
            file.seek((root - 1) * size)
            file.write(b"\xff" * size)


async def test_a_deleted_file_is_noticed_before_the_next_write(sink: SqliteSink, path: Path) -> None:
    """Nobody writes into a file that is no longer there."""
    await sink.write(batch([logged(1)]))
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    assert (await sink.write(batch([logged(2)]))).stored == 1
    assert await InSqlite(path).ids() == [logged(2).event.event_id]


async def test_who_shares_the_file_follows_a_quarantine(sink: SqliteSink, path: Path) -> None:
    """One process sets the file aside; the other, which had it open, writes into the new one."""
    await sink.write(batch([logged(1)]))
    path.rename(path.with_suffix(".aside"))
    other = SqliteSink(path, decode=decode)
    await other.write(batch([logged(2)]))
    await sink.write(batch([logged(3)]))
    assert await InSqlite(path).ids() == [logged(2).event.event_id, logged(3).event.event_id]
    assert await other.pending() == 2
    await other.close()


@pytest.mark.parametrize("where", ["/proc/chronicle/failover.db", "/dev/full/failover.db"])
async def test_a_place_that_cannot_be_written_is_unavailable(where: str) -> None:
    """No directory, no rights: told at write, not at open, and never as the data's fault."""
    sink = SqliteSink(Path(where), decode=decode)
    await sink.open()
    with pytest.raises(SinkDown) as caught:
        await sink.write(batch([logged(1)]))
    assert caught.value.kind == "unavailable"
    await sink.close()


async def test_a_store_of_a_newer_version_is_left_alone(sink: SqliteSink, path: Path) -> None:
    """It is neither written nor set aside; the operator is told."""
    await sink.write(batch([logged(1)]))
    await sink.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    old = SqliteSink(path, decode=decode)
    with pytest.raises(SinkDown) as caught:
        await old.write(batch([logged(2)]))
    assert caught.value.kind == "configuration"
    assert old.quarantines == []
    await old.close()


async def test_the_file_is_for_its_owner_only(sink: SqliteSink, path: Path) -> None:
    """Payloads hold code and keys."""
    await sink.write(batch([logged(1)]))
    assert {file.stat().st_mode & 0o077 for file in path.parent.iterdir()} == {0}


async def test_writers_in_several_processes_share_the_file(sink: SqliteSink, path: Path) -> None:
    """Two sinks with threads of their own, in turns: everything is there, in one outbox."""
    other = SqliteSink(path, decode=decode)

    async def fill(writer: SqliteSink, start: int) -> None:
        for n in range(start, start + 200, 10):
            await writer.write(batch([logged(m) for m in range(n, n + 10)]))

    await asyncio.gather(fill(sink, 0), fill(other, 1000))
    assert await sink.pending() == 400
    await other.close()


WRITER = """
    import asyncio, sys
    from pathlib import Path
    from sink_events import batch, decode, logged
    from connectors.sqlite import SqliteSink

    async def main():
        sink = SqliteSink(Path(sys.argv[1]), decode=decode)
        for n in range(0, 100000, 10):
            await sink.write(batch([logged(m) for m in range(n, n + 10)]))
            print(n + 10, flush=True)

    asyncio.run(main())
"""


@pytest.mark.parametrize("after", [1, 7, 23])
async def test_kill_9_loses_nothing_that_was_acked(path: Path, after: int) -> None:
    """What write returned for is there after kill -9, and what is there is whole."""
    environment: dict[str, Any] = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'support'}"}
    command = [sys.executable, "-c", textwrap.dedent(WRITER), str(path)]
    writer = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, env=environment)
    assert writer.stdout is not None
    acked = 0
    for _ in range(after):
        acked = int(await writer.stdout.readline())
    writer.send_signal(signal.SIGKILL)
    await writer.wait()
    sink = SqliteSink(path, decode=decode)
    pending = await sink.pending()
    assert pending >= acked > 0
    assert pending % 10 == 0
    assert (await sink.progress())[0] == pending
    assert sum(row["event_count"] for row in (await InSqlite(path).sessions()).values()) == pending
    await sink.close()


async def test_a_disk_with_little_room_takes_no_batch_and_gives_back_what_it_has(path: Path) -> None:
    """SQLite needs room to delete: a file that fills the disk to the end could never be synced and emptied."""
    roomy = SqliteSink(path, decode=decode)
    await roomy.write(batch([logged(1)]))
    await roomy.close()
    sink = SqliteSink(path, decode=decode, room_bytes=1 << 62)
    with pytest.raises(SinkDown, match="make room there"):
        await sink.write(batch([logged(2)]))
    rows = await sink.peek(10)
    await sink.mark_synced(rows[-1].seq)
    assert await sink.pending() == 0
    await sink.close()


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="mounts a small disk: needs root")
async def test_a_full_disk_is_unavailable_and_passes(tmp_path: Path) -> None:
    """A real disk without room: unavailable, whole batches only; with room again the same sink writes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], check=False).returncode:
        pytest.skip("no right to mount")
    try:
        ballast = disk / "ballast"
        ballast.write_bytes(b"x" * (1 << 20))
        sink = SqliteSink(disk / "failover.db", decode=decode, room_bytes=0)
        taken, _ = await fill_up(sink)
        ballast.unlink()
        assert (await sink.write(batch([logged(999_999)]))).stored == 1
        assert await sink.pending() == taken + 1 > 1
        assert sink.quarantines == []
        await sink.close()
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
