"""The five steps of dedupe on a real store and a log in memory: their order, what is produced, what is held."""

from __future__ import annotations

import asyncio
import struct
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agents.dedupe import MAX_LETTER_BYTES, MAX_RECORD_BYTES, Lane, Output, output, read
from connectors.ports import Record
from schemas.event import DeadLetter, IdOrigin, Position
from schemas.metrics import NullMetrics
from schemas.topics import POSITION_HEADER
from seen_world import CODEC, T0, TOPICS, Aborted, Chunk, MemoryLog, OneTable, Read, deps, record, work_off
from tables.rocks import Corrupt
from tables.seen import Head, Retention, decide

EVENTS, LETTERS, SEEN = TOPICS.events.name, TOPICS.dead_letters.name, TOPICS.seen.name


def uid(number: int) -> uuid.UUID:
    return uuid.UUID(int=number)


class Nothing:
    """A memory of nothing."""

    head, buckets = Head(), ()

    def recent(self, fingerprint: bytes) -> None:
        return None

    def lookup(self, ids: Sequence[bytes]) -> list[None]:
        return [None] * len(ids)


def produced(rows: Sequence[Read]) -> Output:
    """What the pure part makes of a first chunk."""
    seen = read(rows, CODEC.peek)
    decision = decide(seen.items, Nothing(), T0, Retention())
    return output(TOPICS.ingest.name, 3, rows, seen, decision, CODEC.remark, 1_000_000)


# --- what is produced ------------------------------------------------------------------------------------------------


def test_dedupe_event_keeps_everything_and_gets_its_place() -> None:
    """Key, value, timestamp and headers as they were, partition as read, the ingest position in the header."""
    row = record(41, uid(1))._replace(headers=[("traceparent", b"t"), (POSITION_HEADER, b"forged")])
    (event,) = produced([row]).events
    assert (event.key, event.value, event.timestamp_ms, event.partition) == (row.key, row.value, row.timestamp, 3)
    assert event.headers == ((POSITION_HEADER, struct.pack(">iq", 3, 41)), ("traceparent", b"t"))


def test_dedupe_suspected_duplicate_differs_in_its_mark_alone() -> None:
    """The second of two equal fresh events carries the id of the first."""
    rows = [record(n, uid(n), origin=IdOrigin.FRESH) for n in range(2)]
    first, second = produced(rows).events
    assert first.value == rows[0].value
    before, after = CODEC.decode(rows[1].value), CODEC.decode(second.value)
    assert after == msgspec.structs.replace(before, suspected_duplicate_of=uid(0))


def test_dedupe_suspect_with_a_broken_body_passes_as_it_is() -> None:
    """What cannot be decoded cannot be marked; the next stage sets it aside with its bytes."""
    rows = [record(n, uid(n), origin=IdOrigin.FRESH) for n in range(2)]
    broken = rows[1]._replace(value=(rows[1].value or b"") + b"\0")
    assert produced([rows[0], broken]).events[1].value == broken.value


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        (None, "undecodable"),
        (b"", "undecodable"),
        (b"\x00\x00", "undecodable"),
        (b"{}", "undecodable"),
        (b"\x00\xff\xff\xff\xff" + bytes(100), "unknown_schema"),
        (b"\x00" * (MAX_RECORD_BYTES + 1), "oversize"),
    ],
)
def test_dedupe_poison_is_set_aside_with_its_bytes_and_place(value: bytes | None, cause: str) -> None:
    """Cause, bytes, key and place are in the letter; the neighbours pass."""
    out = produced([record(0, uid(1)), Read(1, T0, b"k", value), record(2, uid(2))])
    assert len(out.events) == 2
    letter = msgspec.json.decode(out.letters[0].value or b"", type=DeadLetter)
    assert (letter.cause, letter.stage, letter.ingest) == (cause, "dedupe", Position(3, 1))
    assert out.letters[0].key == b"t.ingest/3/1"
    assert letter.key == b"k"
    assert letter.value == (value and value[:MAX_LETTER_BYTES])
    assert ("Cut here" in letter.detail) == (value is not None and len(value) > MAX_LETTER_BYTES)


def test_dedupe_conflict_is_set_aside_with_its_bytes() -> None:
    """Same id, other payload: the first stays, the other is a dead letter that names the event."""
    rows = [record(0, uid(1)), record(1, uid(1), '{"other":1}')]
    out = produced(rows)
    letter = msgspec.json.decode(out.letters[0].value or b"", type=DeadLetter)
    assert (letter.cause, letter.value, letter.event_id, letter.session_id) == ("conflict", rows[1].value, uid(1), "s")


# --- the steps -------------------------------------------------------------------------------------------------------


class Bench:
    """A lane on a real store, and a list of everything that happened in order."""

    def __init__(self, path: Path) -> None:
        self.table = OneTable(path)
        self.log = MemoryLog()
        self.abort = Aborted()
        self.slept: list[float] = []
        self.acked = 0
        self.counted: list[tuple[str, float]] = []
        self.happened: list[str] = []

    def chunk(self, *rows: Read) -> Chunk:
        def ack(through: int) -> None:
            self.happened.append(f"ack {through}")
            self.acked = through

        return Chunk(rows, ack)

    async def run(self, *chunks: Chunk, until: Callable[[], bool] | None = None, **changes: Any) -> None:
        end = chunks[-1].next

        async def sleep(seconds: float) -> None:
            self.slept.append(seconds)
            await asyncio.sleep(0)

        given = deps(self.table, self.log, self.abort, **{"sleep": sleep, "jitter": lambda: 0.0, **changes})
        await work_off(Lane(0, given), chunks, until or (lambda: self.acked == end), self.abort)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A bench whose store is closed at the end."""
    bench = Bench(tmp_path / "0")
    yield bench
    bench.table.close()


class Telling(MemoryLog):
    """Says what is sent; sends to `held` wait for `release`."""

    def __init__(self, happened: list[str], held: str = "") -> None:
        super().__init__()
        self.happened, self.held, self.release = happened, held, asyncio.Event()

    async def send(self, topic: str, records: Sequence[Record], *, timeout: float = 2.0) -> list[Position]:
        if topic == self.held:
            await self.release.wait()
        positions = await super().send(topic, records, timeout=timeout)
        self.happened.append(f"sent {len(records)} to {topic}")
        return positions


async def test_dedupe_acks_last_and_remembers_only_what_was_produced(bench: Bench) -> None:
    """Dead letters and events are acked, then the changelog, then the store has it, then the chunk is acked."""
    bench.log = Telling(bench.happened)

    def step(number: int) -> None:
        bench.happened.append(f"step {number}, stored to {bench.table.partition(0).head.next}")

    await bench.run(bench.chunk(record(0, uid(1)), Read(1, T0, None, b"bad")), step=step)
    assert bench.happened == [
        "step 1, stored to 0",
        f"sent 1 to {LETTERS}",
        f"sent 1 to {EVENTS}",
        "step 2, stored to 0",
        f"sent 1 to {SEEN}",
        "step 3, stored to 0",
        "step 4, stored to 2",
        "ack 2",
        "step 5, stored to 2",
    ]


async def test_dedupe_holds_for_ever_while_the_log_is_away(bench: Bench) -> None:
    """Ten failures in a row: longer and longer waits up to 10 s, nothing acked, then all goes on where it was."""
    bench.log.faults = iter(["lost"] * 6 + ["unknown"] * 4)
    waiting: set[int] = set()
    told: list[set[int]] = []

    async def sleep(seconds: float) -> None:
        bench.slept.append(seconds)
        told.append(set(waiting))

    await bench.run(bench.chunk(record(0, uid(1)), record(1, uid(2))), sleep=sleep, held=waiting)
    assert told == [{0}] * 10, "a partition that waits is told, so that nobody takes it for stuck"
    assert waiting == set()
    assert bench.slept == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0, 10.0, 10.0]
    assert bench.table.partition(0).head.passed == 2
    assert not bench.abort.reasons


async def test_dedupe_next_chunk_is_produced_while_the_last_is_remembered(bench: Bench) -> None:
    """With the changelog slow, the next chunk is judged by what is on its way, and produced; it is acked after it."""
    bench.log = log = Telling(bench.happened, held=SEEN)
    chunks = [bench.chunk(record(0, uid(1))), bench.chunk(record(1, uid(1)), record(2, uid(2)))]
    running = asyncio.ensure_future(bench.run(*chunks))
    async with asyncio.timeout(10):
        while len(bench.log.topics.get(EVENTS, [])) < 2:
            await asyncio.sleep(0)
    assert bench.acked == 0
    log.release.set()
    await running
    assert [happened for happened in bench.happened if happened.startswith("ack")] == ["ack 1", "ack 3"]
    assert bench.table.partition(0).head.duplicates == 1


async def test_dedupe_replayed_chunk_is_produced_again_and_written_nowhere(bench: Bench) -> None:
    """After a restart the chunk passes once more with equal bytes; changelog and store stay as they are."""
    row = record(0, uid(1))
    await bench.run(bench.chunk(row))
    before = bench.table.partition(0).dump()
    bench.acked = 0
    await bench.run(bench.chunk(row))
    first, again = bench.log.topics[EVENTS]
    assert first == again
    assert len(bench.log.topics[SEEN]) == 1
    assert bench.table.partition(0).dump() == before


async def test_dedupe_leaves_a_chunk_whose_assignment_ended(bench: Bench) -> None:
    """The partition moved while the log was away: no more tries, no changelog record, no ack."""
    chunk = bench.chunk(record(0, uid(1)))
    bench.log.faults = iter(["lost"] * 10**6)

    async def sleep(seconds: float) -> None:
        bench.slept.append(seconds)
        chunk.live = len(bench.slept) < 5
        await asyncio.sleep(0)

    later = bench.chunk(record(1, uid(2)))
    later.live = False
    await bench.run(chunk, later, until=lambda: not chunk.live, sleep=sleep)
    assert len(bench.slept) == 5
    assert (bench.acked, bench.log.topics, bench.abort.reasons) == (0, {}, [])


async def test_dedupe_new_assignment_starts_from_what_is_stored(bench: Bench) -> None:
    """What a former assignment had decided but not stored does not count: its events pass again."""
    bench.log = log = Telling(bench.happened, held=SEEN)
    lost, again = bench.chunk(record(0, uid(1))), bench.chunk(record(0, uid(1)))
    again.generation = 2
    running = asyncio.ensure_future(bench.run(lost, again))
    async with asyncio.timeout(10):
        while not bench.log.topics.get(EVENTS):
            await asyncio.sleep(0)
    lost.live = False
    log.faults = iter(["lost", None])
    log.release.set()
    await running
    assert len(bench.log.topics[EVENTS]) == 2
    assert len(bench.log.topics[SEEN]) == 1
    assert bench.table.partition(0).head.passed == 1


async def test_dedupe_bug_ends_the_process_before_anything_is_acked(bench: Bench) -> None:
    """An error nobody expected: said, and the process ends; the chunk comes again after the restart."""

    def peek(value: bytes | None) -> Any:
        raise ZeroDivisionError

    await bench.run(bench.chunk(record(0, uid(1))), peek=peek)
    assert bench.abort.reasons == ["dedupe: ZeroDivisionError()"]
    assert bench.acked == 0


async def test_dedupe_corrupt_store_is_set_aside_and_ends_the_process(bench: Bench) -> None:
    """A bad block found by a look-up: the database is quarantined, and the restart restores it."""

    class Bad(Nothing):
        def lookup(self, ids: Sequence[bytes]) -> list[None]:
            raise Corrupt("bad block")

    bench.table.close()
    bench.table.store = Bad()  # type: ignore[assignment]
    await bench.run(bench.chunk(record(0, uid(1))))
    bench.table.store = None
    assert bench.table.set_aside_for == ["bad block"]
    assert len(bench.abort.reasons) == 1
    assert bench.acked == 0


async def test_dedupe_counts_what_it_did(bench: Bench) -> None:
    """Metrics tell passes, duplicates, marks, replays and dead letters by cause; the status follows each chunk."""
    counted: dict[tuple[str, str], float] = {}

    class Counting(NullMetrics):
        def inc(self, name: str, value: float = 1, **labels: str) -> None:
            counted[name.removeprefix("chronicle_"), labels.get("cause", "")] = value

    fresh = [record(n, uid(n), '{"f":1}', origin=IdOrigin.FRESH) for n in range(2)]
    rest = [record(2, uid(0)), fresh[0]._replace(offset=3), Read(4, T0, None, b"bad")]
    status: dict[str, Any] = {}
    await bench.run(bench.chunk(*fresh, *rest), metrics=Counting(), status=status, until=lambda: bool(counted))
    assert counted == {
        ("dedupe_passed_total", ""): 2,
        ("dedupe_marked_total", ""): 1,
        ("dedupe_duplicates_total", ""): 1,
        ("dead_letters_total", "undecodable"): 1,
        ("dead_letters_total", "conflict"): 1,
    }
    assert status == {"next": 5}


async def test_dedupe_single_events_leave_few_changelog_records(bench: Bench, tmp_path: Path) -> None:
    """Five chunks of one event are five records under one key; what compaction leaves restores all of them."""
    await bench.run(*(bench.chunk(record(n, uid(n), origin=IdOrigin.FRESH)) for n in range(5)))
    assert len(bench.log.topics[SEEN]) == 5
    assert len(bench.log.compacted()) == 1
    restored = OneTable(tmp_path / "restored")
    restored.restore(bench.log.compacted())
    assert restored.partition(0).dump() == bench.table.partition(0).dump()
    restored.close()
