"""What a lost SQLite store took is read again: the arithmetic, the verdicts, and one look a second."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from faust.types import TP
from structlog.testing import capture_logs

from agents.persist import lowered, resume
from agents.recall import KEEP_GONE_S, ORPHAN_S, Recall, begin_at, judge, left
from connectors.memory import MemoryRangeBook
from connectors.ports import FailoverRange, Holdings, StoredRange
from fakes_persist import FakeSink, ManualClock, away
from schemas.errors import Unavailable
from schemas.intervals import reach, subtract, union


def span(
    start: int, end: int, *, store: str = "old", number: int = 1, scope: str = "here", **more: Any
) -> FailoverRange:
    return FailoverRange(
        **{"store": store, "scope": scope, "number": number, "partition": 0, "start": start, "end": end, "at": 7} | more
    )


def holdings(*ranges: FailoverRange, store: str = "new", synced: bool = False) -> Holdings:
    return Holdings(store=store, scope="here", ranges=[StoredRange(one, synced) for one in ranges])


# --- intervals -------------------------------------------------------------------------------------------------------


def test_intervals_union_joins_neighbours_and_drops_the_empty() -> None:
    """Sorted and disjoint, whatever comes in."""
    assert union([(5, 9), (0, 2), (2, 4), (6, 7), (3, 3)]) == [(0, 4), (5, 9)]


@pytest.mark.parametrize(
    ("parts", "rest"),
    [
        ([], [(10, 20)]),
        ([(0, 10), (20, 30)], [(10, 20)]),
        ([(0, 12), (15, 16), (19, 30)], [(12, 15), (16, 19)]),
        ([(12, 14), (13, 18)], [(10, 12), (18, 20)]),
        ([(0, 99)], []),
    ],
)
def test_intervals_subtract_leaves_exactly_the_rest(parts: list[tuple[int, int]], rest: list[tuple[int, int]]) -> None:
    """Before, between and behind the parts."""
    assert subtract([(10, 20)], parts) == rest


def test_intervals_reach_stops_at_a_gap() -> None:
    """Touching counts, a gap of one offset does not."""
    assert reach(10, [(12, 20), (10, 12), (21, 30)]) == 20
    assert reach(9, [(10, 12)]) == 9
    assert reach(15, [(0, 12)]) == 15


# --- verdicts --------------------------------------------------------------------------------------------------------


def test_a_range_our_file_holds_waits_and_one_it_has_synced_is_settled() -> None:
    """The file of the range is there and knows it."""
    one = span(0, 10, store="new")
    assert judge([one], holdings(one)).held == [one]
    assert judge([one], holdings(one, synced=True)).settled == [one]


def test_a_range_of_a_file_that_is_not_there_is_lost() -> None:
    """Deleted, set aside, or replaced: another id at the same place."""
    assert judge([span(0, 10)], holdings()).lost == [span(0, 10)]


@pytest.mark.parametrize("known", [[], [span(0, 6, store="new")], [span(0, 10, store="new", at=8)]])
def test_a_range_that_its_own_file_does_not_know_is_lost(known: list[FailoverRange]) -> None:
    """An old copy of the file was put back: the row is missing, shorter, or another one under the same number."""
    one = span(0, 10, store="new")
    assert judge([one], holdings(*known)).lost == [one]


def test_the_range_of_another_machine_is_left_to_it_until_it_is_an_orphan() -> None:
    """Its file is there, where we cannot see it."""
    one = span(0, 10, scope="there")
    assert judge([one], holdings()).foreign == [one]
    orphan = msgspec.structs.replace(one, orphan=True)
    assert judge([orphan], holdings()).lost == [orphan]


def test_what_the_file_holds_and_the_book_does_not_is_recorded_again() -> None:
    """A file from before there was a book, or a record that came late and short."""
    one = span(0, 10, store="new")
    assert judge([], holdings(one)).unrecorded == [one]
    assert judge([span(0, 8, store="new")], holdings(one)).unrecorded == [one]
    assert judge([one], holdings(one)).unrecorded == []
    assert judge([], holdings(one, synced=True)).unrecorded == []


def test_left_is_what_was_not_applied_again() -> None:
    """What the new file took counts, what was acked counts, but not what went to the lost file itself."""
    one = span(100, 200)
    assert left(one, holdings()) == [(100, 200)]
    assert left(one, holdings(span(90, 120, store="new"))) == [(120, 200)]
    assert left(one, holdings(), read=(50, 150)) == [(150, 200)]
    assert left(one, holdings(), read=(0, 300), taken=[(100, 200)]) == [(100, 200)]
    assert left(one, holdings(span(0, 500, store="new", partition=1))) == [(100, 200)]


def test_reading_begins_at_the_first_thing_lost_of_each_partition() -> None:
    """The smallest of all lost ranges of a partition."""
    lost = [span(100, 200), span(40, 60, number=2), span(7, 9, partition=2, number=3)]
    assert begin_at(lost, holdings(span(40, 50, store="new"))) == {0: 50, 2: 7}


def test_a_loss_lowers_the_start_and_nothing_raises_it() -> None:
    """The smallest of group, durable progress and loss; the dead letters of the lost file are mirrored again."""
    events, other, dead = TP("events", 0), TP("events", 1), TP("dead", 0)
    committed = {events: 500, other: 30, dead: 9}
    assert lowered(committed, {events: 300, other: 30}, {0: 100}, "events", "dead") == {events: 100, other: 30, dead: 0}
    assert lowered(committed, {events: 50}, {0: 100}, "events", "dead") == {events: 50, dead: 0}
    assert lowered(committed, {}, {0: 900}, "events") == {events: 500}
    assert lowered(committed, {events: 300}, {}, "events", "dead") == {events: 300}


async def test_resume_knows_of_a_loss_while_postgres_is_away() -> None:
    """It can be read again into the new SQLite file at once; when the ranges are unknown progress still counts."""
    sink, asked = FakeSink(), {TP("events", 0): 500, TP("events", 1): 20}

    async def lost() -> dict[int, int]:
        return {0: 100}

    async def unknown() -> dict[int, int]:
        raise away()

    sink.next = {0: 400, 1: 20}
    assert await resume(sink, "events", lost)(asked) == {TP("events", 0): 100, TP("events", 1): 20}
    assert await resume(sink, "events", unknown)(asked) == {TP("events", 0): 400, TP("events", 1): 20}
    sink.down = away()
    assert await resume(sink, "events", lost)(asked) == {TP("events", 0): 100}
    with pytest.raises(Unavailable):
        await resume(sink, "events", unknown)(asked)


# --- one look a second -----------------------------------------------------------------------------------------------


class World:
    """A book, a file, a reader and its process."""

    def __init__(self, *known: FailoverRange) -> None:
        self.book, self.clock = MemoryRangeBook({one.key: one for one in known}), ManualClock()
        self.have = holdings()
        self.begin = 0
        self.read: dict[int, tuple[int, int]] = {}
        self.postgres = True
        self.ended: list[str] = []
        self.recall = Recall(
            book=self.book,
            store=self,
            begins=self._begins,
            reading=lambda: self.read,
            reachable=lambda: self.postgres,
            clock=self.clock,
            abort=self.ended.append,
        )

    async def holdings(self) -> Holdings:
        return self.have

    async def _begins(self) -> dict[int, int]:
        return {0: self.begin}

    async def known(self) -> list[tuple[int, int]]:
        return [(one.start, one.end) for one in await self.book.read()]


async def test_what_is_settled_is_released_and_what_is_held_is_kept() -> None:
    """The book has what Postgres may lack, no more."""
    world = World(span(0, 10, store="new"), span(10, 20, store="new", number=2))
    world.have = Holdings(
        store="new",
        scope="here",
        ranges=[
            StoredRange(span(0, 10, store="new"), True),
            StoredRange(span(10, 25, store="new", number=2), False),
        ],
    )
    await world.recall.check()
    assert await world.known() == [(10, 25)]
    assert world.ended == []


async def test_a_loss_the_reader_has_passed_ends_the_process() -> None:
    """Only a new assignment can begin lower; it is told where."""
    world = World(span(100, 200))
    world.read = {0: (0, 300)}
    await world.recall.record([span(100, 200)])
    await world.recall.check()
    assert "offsets 100 to 199 of partition 0" in world.ended[0]
    assert await world.recall.starts() == {0: 100}


async def test_a_loss_that_is_being_read_again_is_waited_for_and_then_released() -> None:
    """The process began low enough: it goes on, says what is lost, and says when it is no longer."""
    world = World(span(100, 200))
    for position in (100, 150):
        world.read = {0: (100, position)}
        await world.recall.check()
    assert [(one["start"], one["end"]) for one in world.recall.state()["lost"]] == [(100, 200)]
    world.read = {0: (100, 200)}
    await world.recall.check()
    await world.recall.check()
    assert (world.ended, await world.known(), world.recall.state()["lost"]) == ([], [], [])


async def test_a_loss_in_a_partition_of_somebody_else_is_left_to_him() -> None:
    """Each process looks after what it reads."""
    world = World(span(100, 200))
    await world.recall.check()
    assert (world.ended, await world.known()) == ([], [(100, 200)])


async def test_what_the_log_no_longer_has_is_told_exactly_and_kept_for_people() -> None:
    """A critical line once, and a place in the status for a week; the rest is read again all the same."""
    world = World(span(100, 200))
    world.begin, world.read = 130, {0: (130, 140)}
    with capture_logs() as lines:
        await world.recall.check()
        world.read = {0: (130, 200)}
        await world.recall.check()
        await world.recall.check()
    said = [line for line in lines if line["log_level"] == "critical"]
    assert ["offsets 100 to 129 of partition 0" in line["event"] for line in said] == [True]
    assert [(one["start"], one["end"]) for one in world.recall.state()["gone"]] == [(100, 130)]
    assert (world.ended, await world.recall.starts()) == ([], {})
    world.clock.at += KEEP_GONE_S + 1
    await world.recall.check()
    assert await world.known() == []


async def test_a_machine_that_does_not_come_back_is_inherited_from() -> None:
    """Postgres was there for an hour and its range did not move: who reads the partition reads it again."""
    world = World(span(100, 200, scope="there"))
    world.read = {0: (200, 300)}
    await world.recall.check()
    world.clock.at += ORPHAN_S + 1
    world.postgres = False
    await world.recall.check()
    world.postgres = True
    await world.recall.check()
    assert world.ended == []
    world.clock.at += ORPHAN_S + 1
    await world.recall.check()
    await world.recall.check()
    assert len(world.ended) == 1
    assert await world.recall.starts() == {0: 100}


async def test_a_book_that_cannot_be_read_decides_nothing() -> None:
    """No answer is no loss."""
    world = World(span(100, 200))
    world.read, world.book.down = {0: (0, 300)}, True
    with pytest.raises(Unavailable):
        await world.recall.check()
    assert world.ended == []
