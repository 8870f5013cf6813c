"""Whatever the chunks, faults and crashes: every event passes, once by its place, and the counters are exact."""

from __future__ import annotations

import asyncio
import shutil
import struct
import tempfile
import uuid
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.dedupe import Lane
from schemas.event import IdOrigin
from schemas.topics import POSITION_HEADER
from seen_world import CODEC, T0, TOPICS, Aborted, Chunk, Crash, MemoryLog, OneTable, Read, deps, record, work_off

# What is posted: (kind, id number, payload number, milliseconds since the one before)
posts = st.lists(
    st.tuples(
        st.sampled_from(["client", "natural", "fresh", "again", "garbage"]),
        st.integers(0, 4),
        st.integers(0, 1),
        st.sampled_from([0, 1, 400, 1000, 1001]),
    ),
    min_size=1,
    max_size=30,
)


class Life(NamedTuple):
    """One run of the process: sizes of its chunks, the step call it dies at, whether the disk is lost after it."""

    sizes: list[int]
    dies_at: int
    disk_lost: bool
    same_generation: bool


lives = st.lists(
    st.builds(
        Life, st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(1, 9), st.booleans(), st.booleans()
    ),
    max_size=3,
)
faults = st.lists(st.sampled_from([None, None, "lost", "unknown"]), max_size=12)


class Expected(NamedTuple):
    passed: dict[int, bytes | None]  # offset -> suspected id
    duplicates: int
    conflicts: int
    dead: int


def log_of(plan: list[tuple[str, int, int, int]]) -> list[Read]:
    """The posts as records of the ingest topic."""
    rows: list[Read] = []
    at = T0
    for offset, (kind, number, payload, gap) in enumerate(plan):
        at += gap
        body = f'{{"n":{payload}}}'
        if kind == "garbage":
            rows.append(Read(offset, at, b"s", b"\x01nonsense"))
        elif kind == "fresh":
            rows.append(record(offset, uuid.UUID(int=1000 + offset), body, origin=IdOrigin.FRESH, at=at))
        elif kind == "again" and rows:  # the spool sent what was in the log already
            rows.append(Read(offset, at, b"s", rows[number % len(rows)].value))
        else:
            origin = IdOrigin.NATURAL if kind == "natural" else IdOrigin.CLIENT
            rows.append(record(offset, uuid.UUID(int=number), body, origin=origin, at=at))
    return rows


def expect(rows: list[Read]) -> Expected:
    """The promise, said without chunks, stores or crashes."""
    first: dict[bytes, bytes] = {}
    recent: dict[bytes, tuple[int, bytes]] = {}
    passed: dict[int, bytes | None] = {}
    duplicates = conflicts = dead = 0
    for row in rows:
        if row.value is None or row.value[:1] != b"\0":
            dead += 1
            continue
        event_id, fingerprint, origin = CODEC.peek(row.value)
        if event_id in first:
            duplicates += first[event_id] == fingerprint
            conflicts += first[event_id] != fingerprint
            continue
        first[event_id] = fingerprint
        passed[row.offset] = None
        if origin is IdOrigin.FRESH:
            at, earlier = recent.get(fingerprint, (-10_000, b""))
            passed[row.offset] = earlier if row.timestamp - at <= 1000 else None
            recent[fingerprint] = (row.timestamp, event_id)
    return Expected(passed, duplicates, conflicts, dead)


class House:
    """The log, the disk and the group's offset survive a life; the rest does not."""

    def __init__(self, rows: list[Read], log: MemoryLog, path: Path) -> None:
        self.rows, self.log, self.path, self.committed, self.generation = rows, log, path, 0, 0

    def commit(self, offset: int) -> None:
        self.committed = max(self.committed, offset)

    async def live(self, life: Life) -> None:
        calls = iter(range(1, 1_000_000))

        def step(number: int) -> None:
            if next(calls) >= life.dies_at:
                raise Crash

        table = OneTable(self.path)
        table.restore(self.log.compacted())
        self.generation += not life.same_generation
        abort = Aborted()
        lane = Lane(0, deps(table, self.log, abort, step=step, fold_ids=5))  # type: ignore[arg-type]
        chunks = self.chunks(life.sizes)
        await work_off(lane, chunks, lambda: self.committed == len(self.rows), abort)
        table.close()
        if life.disk_lost:
            shutil.rmtree(self.path)

    def chunks(self, sizes: list[int]) -> list[Chunk]:
        chunks, at, turn = [], self.committed, 0
        while at < len(self.rows):
            end = min(len(self.rows), at + sizes[turn % len(sizes)])
            chunks.append(Chunk(self.rows[at:end], self.commit, self.generation))
            at, turn = end, turn + 1
        return chunks


def position(headers: Any) -> int:
    return int(struct.unpack(">iq", dict(headers)[POSITION_HEADER])[1])


@settings(max_examples=settings().max_examples // 5, suppress_health_check=[HealthCheck.too_slow])
@given(posts, lives, faults)
def test_each_event_passes_once_by_its_place_through_any_crash(
    plan: list[tuple[str, int, int, int]], deaths: list[Life], broken: list[str | None]
) -> None:
    """First occurrences all pass, in order, equal in every copy; repeats and poison are counted once; disk = log."""
    rows = log_of(plan)
    path = Path(tempfile.mkdtemp()) / "0"
    house = House(rows, MemoryLog(broken), path)

    async def all_lives() -> dict[str, Any]:
        for life in [*deaths, Life([4], 10**6, False, True)]:
            await house.live(life)
        table, lost = OneTable(path), OneTable(path.with_name("lost"))
        lost.restore(house.log.compacted())
        dumps = {"live": table.store.dump(), "restored": lost.store.dump()}  # type: ignore[union-attr]
        table.close()
        lost.close()
        return dumps

    dumps = asyncio.run(all_lives())
    shutil.rmtree(path.parent)
    promised = expect(rows)
    produced = house.log.topics.get(TOPICS.events.name, [])
    copies: dict[int, set[bytes | None]] = {}
    for out in produced:
        copies.setdefault(position(out.headers), set()).add(out.value)
    assert list(copies) == sorted(promised.passed), "every first occurrence, in the order of the log"
    for offset, values in copies.items():
        (value,) = values
        suspect = CODEC.decode(value).suspected_duplicate_of
        assert (suspect and suspect.bytes) == promised.passed[offset]
    letters = {out.key for out in house.log.topics.get(TOPICS.dead_letters.name, [])}
    assert len(letters) == promised.dead + promised.conflicts
    head = dumps["live"]["head"]
    assert head.next == len(rows)
    assert (head.passed, head.duplicates) == (len(promised.passed), promised.duplicates)
    assert (head.dead, head.conflicts, head.skipped) == (promised.dead, promised.conflicts, 0)
    assert head.marked == sum(suspect is not None for suspect in promised.passed.values())
    assert dumps["live"] == dumps["restored"]
