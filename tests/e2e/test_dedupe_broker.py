"""Dedup workers on a real broker: killed at every step, robbed of their disk, given a bad one."""

from __future__ import annotations

import asyncio
import shutil
import signal
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dedupe_runs import Runner, empty_topics, everything, new_prefix, position, post, recreate
from schemas.event import IdOrigin
from schemas.topics import Topics
from seen_world import Read, record

pytestmark = pytest.mark.e2e

EVENTS = 300
#: Real time: the broker deletes what is older than its retention.
NOW = int(time.time() * 1000) - 60_000


def first(partition: int, start: int = 0, count: int = EVENTS) -> list[Read]:
    """Different events, some of them with an id the server made."""
    return [
        record(
            number,
            uuid.UUID(int=(partition + 1) << 64 | number),
            f'{{"n":{number}}}',
            origin=IdOrigin.FRESH if number % 3 == 0 else IdOrigin.NATURAL,
            at=NOW + number * 10,
        )
        for number in range(start, start + count)
    ]


@pytest.fixture
def prefix() -> str:
    """Topic names and group of this test's own."""
    return new_prefix()


@pytest.fixture
async def names(kafka: str, prefix: str) -> AsyncIterator[Topics]:
    """Its topics, empty."""
    async with empty_topics(kafka, prefix) as made:
        yield made


@pytest.fixture
async def runner(kafka: str, prefix: str, names: Topics, tmp_path: Path) -> AsyncIterator[Runner]:
    """Starts workers and ends them all; depends on `names` so that topics outlive the workers."""
    runner = Runner(kafka, prefix, tmp_path)
    yield runner
    runner.stop()


async def ended(worker: object, seconds: float = 30) -> int:
    """The exit status."""
    return await asyncio.wait_for(asyncio.to_thread(worker.wait), seconds)  # type: ignore[attr-defined]


async def test_dedupe_kill_9_after_every_step_passes_each_event_once(kafka: str, names: Topics, runner: Runner) -> None:
    """Killed after each of the five steps: every event passes, its copies are equal, repeats are counted."""
    for partition in (0, 1):
        rows = first(partition)
        poison = Read(0, NOW + 3000, b"s", b"\1bad")
        other = record(0, uuid.UUID(int=(partition + 1) << 64 | 1), '{"changed":1}', at=NOW + 3000)
        await post(kafka, names.ingest.name, partition, [*rows, *rows[:100], poison, other])
    for step in (1, 2, 3, 4, 5):
        assert await ended(runner.start(die=[step, 3])) == -signal.SIGKILL
    runner.start()
    counters = await runner.reached({0: EVENTS + 102, 1: EVENTS + 102})
    events = await everything(kafka, names.events.name)
    copies: dict[tuple[int, int], set[bytes]] = {}
    for event in events:
        copies.setdefault(position(event), set()).add(event.value)
        assert position(event)[0] == event.partition
    in_order = sorted(copies, key=lambda place: place[0])  # partitions come mixed, each in its own order
    assert in_order == [(p, offset) for p in (0, 1) for offset in range(EVENTS)]
    assert all(len(values) == 1 for values in copies.values())
    assert len(events) > len(copies), "nothing was replayed: the kills proved nothing"
    letters = {letter.key for letter in await everything(kafka, names.dead_letters.name, 1)}
    assert len(letters) == 4
    for row in counters.values():
        assert (row["passed"], row["duplicates"], row["dead"], row["conflicts"]) == (EVENTS, 100, 1, 1)
        assert row["skipped"] == 0


async def test_dedupe_lost_disk_is_restored_and_duplicates_are_still_caught(
    kafka: str, names: Topics, runner: Runner
) -> None:
    """The state directory is deleted: ids and counters come back from the changelog, repeats do not pass."""
    for partition in (0, 1):
        await post(kafka, names.ingest.name, partition, first(partition))
    worker = runner.start()
    before = await runner.reached({0: EVENTS, 1: EVENTS})
    worker.send_signal(signal.SIGTERM)
    await ended(worker)
    shutil.rmtree(runner.state() / "seen")
    runner.start()
    assert await runner.reached({0: EVENTS, 1: EVENTS}) == before
    for partition in (0, 1):
        await post(kafka, names.ingest.name, partition, first(partition)[:50])
    after = await runner.reached({0: EVENTS + 50, 1: EVENTS + 50})
    assert [row["duplicates"] for row in after.values()] == [50, 50]
    assert len({position(event) for event in await everything(kafka, names.events.name)}) == 2 * EVENTS


async def test_dedupe_moves_to_another_worker_with_its_memory(kafka: str, names: Topics, runner: Runner) -> None:
    """A second worker without any state takes partitions over: it knows their ids and goes on counting."""
    for partition in (0, 1):
        await post(kafka, names.ingest.name, partition, first(partition))
    runner.start("one")
    await runner.reached({0: EVENTS, 1: EVENTS}, "one")
    second = runner.start("two")
    for partition in (0, 1):
        await post(kafka, names.ingest.name, partition, first(partition)[:50])

    async def shared() -> None:
        while not (runner.counters("two") and len(runner.counters("one")) == 1):
            await asyncio.sleep(0.1)
        rows = {**runner.counters("one"), **runner.counters("two")}
        while [row["next"] for row in rows.values()] != [EVENTS + 50] * 2:
            await asyncio.sleep(0.1)
            rows = {**runner.counters("one"), **runner.counters("two")}
        assert [row["duplicates"] for row in rows.values()] == [50, 50]

    await asyncio.wait_for(shared(), 60)
    assert second.poll() is None


@pytest.mark.parametrize("fault", ["current", "tables"])
async def test_dedupe_corrupt_database_is_set_aside_and_restored(
    kafka: str, names: Topics, runner: Runner, fault: str
) -> None:
    """Bad bytes in CURRENT or in the table files: the worker restores from the changelog and duplicates are caught."""
    await post(kafka, names.ingest.name, 0, first(0))
    worker = runner.start()
    await runner.reached({0: EVENTS})
    worker.send_signal(signal.SIGTERM)
    await ended(worker)
    folder = runner.state() / "seen" / "0"
    files = [folder / "CURRENT"] if fault == "current" else [*folder.glob("*.sst"), *folder.glob("*.log")]
    for file in files:
        file.write_bytes(b"\xff" * file.stat().st_size)
    await post(kafka, names.ingest.name, 0, first(0)[:50])
    for _ in range(2):  # a fault found while running ends the process once
        worker = runner.start()
        reached = asyncio.ensure_future(runner.reached({0: EVENTS + 50}))
        died = asyncio.ensure_future(ended(worker, 60))
        await asyncio.wait({reached, died}, return_when=asyncio.FIRST_COMPLETED)
        if reached.done():
            died.cancel()
            break
        reached.cancel()
    assert (await reached)["0"]["duplicates"] == 50
    assert (runner.state() / "seen" / "0.corrupt").is_dir()


async def test_dedupe_lost_changelog_starts_empty_and_goes_on(kafka: str, names: Topics, runner: Runner) -> None:
    """The changelog is lost while the disk is ahead of it: no crash loop, the table starts anew, events flow."""
    await post(kafka, names.ingest.name, 0, first(0))
    worker = runner.start()
    await runner.reached({0: EVENTS})
    worker.send_signal(signal.SIGTERM)
    await ended(worker)
    await recreate(kafka, names.seen)
    await post(kafka, names.ingest.name, 0, first(0, EVENTS, 50))
    runner.start()
    counters = (await runner.reached({0: EVENTS + 50}))["0"]
    assert (counters["passed"], counters["skipped"]) == (50, EVENTS)
    assert "set aside" in runner.log()
