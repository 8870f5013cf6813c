"""The spool file: durable, ordered, bounded, and saved as far as it can be read."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from connectors.ports import Record
from connectors.spool import Spool
from schemas.clock import SystemClock
from schemas.errors import Misconfigured, Unavailable

ROOT = Path(__file__).resolve().parents[2]
CLOCK = SystemClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "spool.db"


@pytest.fixture
async def spool(path: Path) -> AsyncIterator[Spool]:
    made = Spool(path, clock=CLOCK)
    await made.open()
    yield made
    await made.close()


def records(*numbers: int) -> list[Record]:
    return [Record(b"k", b"%d" % number, (("h", b"1"),), 3, 42) for number in numbers]


async def contents(path: Path) -> tuple[Spool, list[bytes | None]]:
    spool = Spool(path, clock=CLOCK)
    await spool.open()
    rows = await spool.peek(100_000, 1 << 30)
    await spool.close()
    return spool, [row.record.value for row in rows]


async def filled(path: Path, count: int) -> None:
    spool = Spool(path, clock=CLOCK)
    await spool.open()
    for number in range(count):
        await spool.append([Record(b"k", b"%06d" % number + b"x" * 200)])
    await spool.close()


async def test_rows_come_back_as_they_were_and_in_order(spool: Spool) -> None:
    """Key, headers, partition and timestamp included; dropping takes the head away."""
    await spool.append(records(1, 2))
    await spool.append(records(3))
    rows = await spool.peek(10)
    assert [row.record for row in rows] == records(1, 2, 3)
    await spool.drop(rows[1].seq)
    assert [row.record for row in await spool.peek(10)] == records(3)
    assert spool.pending == 1
    await spool.drop(rows[2].seq)
    assert (spool.pending, spool.bytes, spool.oldest_at) == (0, 0, None)


async def test_appends_keep_the_order_of_the_calls(spool: Spool) -> None:
    """Handed in together, committed together, in order."""
    await asyncio.gather(*(spool.append(records(number)) for number in range(500)))
    assert [row.record.value for row in await spool.peek(1000)] == [b"%d" % number for number in range(500)]


async def test_a_peek_is_bounded_by_bytes_but_never_empty(spool: Spool) -> None:
    """A batch of large events stays small; one that is over the bound comes alone."""
    await spool.append([Record(None, b"x" * 1000) for _ in range(3)])
    assert [len(await spool.peek(10, limit)) for limit in (1, 2500, 10_000)] == [1, 2, 3]


async def test_a_cancelled_caller_does_not_spoil_the_counters(spool: Spool) -> None:
    """The row is on disk all the same and is counted."""
    future = spool.append(records(1))
    future.cancel()
    rows = await spool.peek(10)
    assert (len(rows), spool.pending) == (1, 1)


async def test_the_cap_refuses_the_whole_call(path: Path) -> None:
    """Full is a 503, not a half-kept batch; dropping makes room."""
    spool = Spool(path, clock=CLOCK, max_bytes=1000)
    await spool.open()
    last = await spool.append([Record(None, b"x" * 700)])
    with pytest.raises(Unavailable) as caught:
        spool.append([Record(None, b"x" * 700)])
    assert caught.value.retry_after > 0
    assert spool.pending == 1
    await spool.drop(last)
    await spool.append([Record(None, b"x" * 700)])
    await spool.close()


async def test_a_disk_with_little_room_takes_nothing_new_and_gives_back_what_it_has(path: Path) -> None:
    """SQLite needs room to delete: what fills the disk to the end could never be sent and forgotten."""
    spool = Spool(path, clock=CLOCK)
    await spool.open()
    last = await spool.append(records(1, 2, 3))
    await spool.close()
    short = Spool(path, clock=CLOCK, room_bytes=1 << 62)
    await short.open()
    with pytest.raises(Unavailable, match="make room there") as caught:
        short.append(records(1))
    assert caught.value.retry_after > 0
    assert len(await short.peek(10)) == 3
    await short.drop(last)
    assert short.pending == 0
    await short.close()


async def test_a_disk_that_is_full_refuses_and_recovers(spool: Spool, path: Path) -> None:
    """SQLITE_FULL is `Unavailable`, the counters stay true, and it goes on when there is room."""
    await spool.append(records(1))
    limit = spool._submit(lambda connection: connection.execute("PRAGMA max_page_count = 20").fetchone())
    await limit
    with pytest.raises(Unavailable):
        await spool.append([Record(None, b"x" * 200_000)])
    assert spool.pending == 1
    await spool._submit(lambda connection: connection.execute("PRAGMA max_page_count = 100000").fetchone())
    await spool.append([Record(None, b"x" * 200_000)])
    assert spool.pending == 2


async def test_rows_outlive_the_process(path: Path) -> None:
    """Numbers go on where they were; nothing is sent twice because of a new start."""
    await filled(path, 3)
    spool = Spool(path, clock=CLOCK)
    await spool.open()
    assert spool.pending == 3
    assert spool.oldest_at is not None
    assert spool.bytes > 600
    await spool.drop(3)
    await spool.close()
    await spool.open()
    assert await spool.append(records(4)) == 4
    await spool.close()


async def test_kill_9_loses_nothing_that_was_acked(path: Path) -> None:
    """Every number printed after its ack is in the file after the process was killed in the middle of its work."""
    code = (
        "import asyncio, sys; from pathlib import Path; from connectors.ports import Record\n"
        "from connectors.spool import Spool; from schemas.clock import SystemClock\n"
        "async def main():\n"
        "    spool = Spool(Path(sys.argv[1]), clock=SystemClock()); await spool.open()\n"
        "    for n in range(10**6):\n"
        "        await spool.append([Record(b'k', b'%d' % n)]); print(n, flush=True)\n"
        "asyncio.run(main())"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    acked = [int(process.stdout.readline()) for _ in range(50)]
    os.kill(process.pid, signal.SIGKILL)
    acked += [int(line) for line in process.stdout.read().split("\n") if line.strip()][:-1]
    process.wait()
    process.stdout.close()
    spool, values = await contents(path)
    assert spool.salvage is None
    assert values[: len(acked)] == [b"%d" % number for number in acked]


async def test_a_file_in_use_is_an_operators_mistake(spool: Spool, path: Path) -> None:
    """Two processes would send each other's rows; the sentence says what to do."""
    code = (
        "import asyncio, sys; from pathlib import Path; from connectors.spool import Spool\n"
        "from schemas.clock import SystemClock\n"
        "asyncio.run(Spool(Path(sys.argv[1]), clock=SystemClock()).open())"
    )
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "schemas.errors.Misconfigured" in done.stderr
    assert "in use by another process" in done.stderr


async def test_a_folder_that_cannot_be_made_is_an_operators_mistake(tmp_path: Path) -> None:
    """Not a traceback of sqlite."""
    (tmp_path / "file").write_text("")
    with pytest.raises(Misconfigured):
        await Spool(tmp_path / "file" / "spool.db", clock=CLOCK).open()


async def test_a_torn_file_is_put_aside_and_what_can_be_read_is_saved(path: Path) -> None:
    """Rows before and after the hole come over in order; the hole is counted; the old file is kept."""
    await filled(path, 2000)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2 // 4096 * 4096)
        file.write(b"\xde\xad" * 4096)
    spool, values = await contents(path)
    assert spool.salvage is not None
    assert spool.salvage.rows == len(values)
    assert spool.salvage.lost == 2000 - len(values)
    assert 1000 < len(values) < 2000
    assert values == sorted(values, key=lambda value: value or b"")
    assert values[0] == b"000000" + b"x" * 200
    assert values[-1] == b"001999" + b"x" * 200
    assert Path(spool.salvage.quarantined).stat().st_size == size


async def test_a_file_that_is_no_database_is_put_aside(path: Path) -> None:
    """The process starts with a fresh spool and says that nothing could be read."""
    path.parent.mkdir()
    path.write_bytes(b"this is not a database, " * 1000)
    spool, values = await contents(path)
    assert spool.salvage is not None
    assert (values, spool.salvage.rows, spool.salvage.lost) == ([], 0, None)
    again, _ = await contents(path)
    assert again.salvage is None


async def test_a_salvage_cut_short_is_finished_by_the_next_start(path: Path) -> None:
    """Killed between the renames: the saved rows win over the corrupt file and over its write-ahead log."""
    await filled(path, 5)
    path.rename(path.with_name("spool.db.salvaged"))
    path.write_bytes(b"corrupt")
    path.with_name("spool.db-wal").write_bytes(b"its log")
    path.with_name("spool.db.building").write_bytes(b"unfinished")
    _, values = await contents(path)
    assert len(values) == 5
    assert [name.name for name in path.parent.glob("*.building")] == []


async def test_a_flipped_bit_is_noticed_and_set_aside(path: Path) -> None:
    """SQLite does not see it, the row's checksum does; the rows around it are sent."""
    await filled(path, 3)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE spool SET record = zeroblob(length(record)) WHERE seq = 2")
    connection.commit()
    connection.close()
    spool = Spool(path, clock=CLOCK)
    await spool.open()
    first = await spool.peek(10)
    assert [row.seq for row in first] == [1]
    await spool.drop(1)
    assert [row.seq for row in await spool.peek(10)] == [3]
    assert (spool.refused, spool.pending) == (1, 1)
    await spool.close()


async def test_an_emptied_spool_gives_its_disk_back(path: Path) -> None:
    """The pages of a long outage do not stay for ever."""
    spool = Spool(path, clock=CLOCK)
    await spool.open()
    last = await spool.append([Record(None, b"x" * 500_000) for _ in range(50)])
    assert spool.file_bytes() > 20_000_000
    await spool.drop(last)
    await spool.peek(1)
    assert spool.file_bytes() < 5_000_000
    await spool.close()
