"""Recall: what a SQLite file took and lost is read again from the log.

SQLite is a cache of `chronicle.events`. Each range of offsets it takes is kept in a `RangeBook` outside of its file:

1. recorded before the batch is acked (`record`, called by the switch above the sinks)
2. released once the file says that all of it is verified in Postgres
3. lost when the file that took it is not there any more, or does not know it: `starts` lowers where reading begins on
   the next assignment; when the reader has passed it already the process ends itself, so that there is one
4. released when all of it has been applied again, wherever it went this time

Reading twice changes nothing: the primary key judges. What the log no longer has is told, exactly, and kept for people.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec
import structlog

from connectors.ports import FailoverRange, Holdings, RangeBook, RangeStore
from schemas.clock import Clock
from schemas.errors import Unavailable
from schemas.intervals import Interval, subtract, union

TICK = 1.0  # seconds between two looks
ORPHAN_S = 3600.0  # another machine has had Postgres for this long and its range has not moved: it is not coming
KEEP_GONE_S = 7 * 86400.0  # what the log no longer has stays in the status for a week

_logger = structlog.get_logger("chronicle.recall")


# --- rules -----------------------------------------------------------------------------------------------------------


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """The ranges of the book by what is to be done. `unrecorded` are in the file and not, or not as long, in the book.

    `settled` are in Postgres, `held` wait in our file, `lost` must be read again, `foreign` are another machine's,
    `gone` cannot be read again.
    """

    settled: list[FailoverRange] = []
    held: list[FailoverRange] = []
    lost: list[FailoverRange] = []
    foreign: list[FailoverRange] = []
    gone: list[FailoverRange] = []
    unrecorded: list[FailoverRange] = []


def judge(ranges: Sequence[FailoverRange], have: Holdings) -> Judged:
    """`have` must be read after `ranges`: the file knows a range before the book does."""
    found = Judged()
    rows = {row.range.key: row for row in have.ranges}
    for one in ranges:
        row = rows.get(one.key)
        if one.gone_at:
            found.gone.append(one)
        elif row is not None and row.range.start <= one.start and row.range.end >= one.end:
            (found.settled if row.synced else found.held).append(one)
        elif one.orphan or one.scope == have.scope or one.store == have.store:
            found.lost.append(one)
        else:
            found.foreign.append(one)
    known = {one.key: one for one in ranges}
    for row in have.ranges:
        noted = known.get(row.range.key)
        if not row.synced and (noted is None or noted.end < row.range.end):
            found.unrecorded.append(row.range)
    return found


def left(
    one: FailoverRange, have: Holdings, read: Interval | None = None, taken: Sequence[Interval] = ()
) -> list[Interval]:
    """What of a lost range has not been applied again.

    Applied is what our own file has or had, and what this process has acked since it began reading (`read`), but for
    what it gave to the lost file itself (`taken`).
    """
    held = [(row.range.start, row.range.end) for row in have.ranges if row.range.partition == one.partition]
    again = subtract([read] if read else [], taken)
    return subtract([(one.start, one.end)], held + again)


def begin_at(lost: Sequence[FailoverRange], have: Holdings) -> dict[int, int]:
    """Partition -> where reading must begin for everything lost to be read again."""
    starts: dict[int, int] = {}
    for one in lost:
        for start, _ in left(one, have):
            starts[one.partition] = min(start, starts.get(one.partition, start))
    return starts


# --- shell -----------------------------------------------------------------------------------------------------------


class Recall:
    """Keeps the book for one process that reads `chronicle.events`; the workers of a machine share its SQLite file.

    `begins` answers partition -> oldest offset of the log (may raise `Unavailable`); `reading` partition -> (where this
    assignment began, below which offset all is acked); `reachable` whether Postgres answered when last asked.
    `abort(reason)` ends the process.
    """

    def __init__(
        self,
        *,
        book: RangeBook,
        store: RangeStore,
        begins: Callable[[], Awaitable[Mapping[int, int]]],
        reading: Callable[[], Mapping[int, tuple[int, int]]],
        reachable: Callable[[], bool],
        clock: Clock,
        abort: Callable[[str], None],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._book, self._store = book, store
        self._begins, self._reading, self._reachable = begins, reading, reachable
        self._clock, self._abort, self._sleep = clock, abort, sleep
        self._taken: dict[tuple[str, int], list[Interval]] = {}
        self._waiting: dict[tuple[str, int], float] = {}
        self._told: set[str] = set()
        self._judged = Judged()
        self._error: str | None = None

    async def record(self, ranges: Sequence[FailoverRange]) -> None:
        """Step 1. Raises `Unavailable`: the batch must not be acked then."""
        for one in ranges:
            place = (one.store, one.partition)
            self._taken[place] = union([*self._taken.get(place, ()), (one.start, one.end)])
        await self._book.record(ranges)

    async def starts(self) -> Mapping[int, int]:
        """Step 3: partition -> the offset at which reading must begin at the latest. Raises `Unavailable`."""
        ranges = await self._book.read()
        have = await self._store.holdings()
        starts = begin_at(judge(ranges, have).lost, have)
        if starts:
            _logger.warning("a SQLite store is lost: what it took is read again from the log", starts=starts)
        return starts

    async def run_forever(self) -> None:
        """One look a second. Raises only CancelledError: what is away is asked again."""
        while True:
            try:
                await self.check()
            except Exception as error:  # a timer's shell: the next look starts over
                self._say(error)
            else:
                self._error = None
            await self._sleep(TICK)

    async def check(self) -> None:
        """Steps 2 to 4, once. Raises `Unavailable`."""
        ranges = await self._book.read()
        have = await self._store.holdings()
        found = self._judged = judge(ranges, have)
        await self._book.record(found.unrecorded)
        await self._book.release(found.settled + self._old(found.gone))
        await self._adopt(found.foreign)
        begins = await self._begins() if found.lost else {}
        for one in found.lost:
            await self._recall(one, have, begins.get(one.partition, 0))

    async def _recall(self, one: FailoverRange, have: Holdings, begin: int) -> None:
        read = self._reading().get(one.partition)
        missing = left(one, have, read, self._taken.get((one.store, one.partition), ()))
        to_read = subtract(missing, [(0, begin)])
        gone = subtract(missing, to_read)
        if gone:
            self._tell_gone(one, gone)
        if to_read:
            if read is not None and read[1] > to_read[0][0]:
                self._abort(f"the SQLite store {one.store} is lost: {_text(one.partition, to_read)} must be read again")
        elif gone:
            now = int(self._clock.now() * 1_000_000)
            narrow = msgspec.structs.replace(one, start=gone[0][0], end=gone[-1][1], gone_at=now)
            await self._book.record([narrow])
        else:
            await self._book.release([one])
            _logger.warning("read again what a lost SQLite store took", store=one.store, partition=one.partition,
                            start=one.start, end=one.end)  # fmt: skip

    async def _adopt(self, foreign: Sequence[FailoverRange]) -> None:
        """Take over what another machine does not bring back though Postgres is there."""
        now, seen = self._clock.monotonic(), {(one.key, one.end): one for one in foreign}
        self._waiting = {key: self._waiting.get(key, now) for key in seen} if self._reachable() else {}
        late = [seen[key] for key, since in self._waiting.items() if now - since >= ORPHAN_S]
        await self._book.record([msgspec.structs.replace(one, orphan=True) for one in late])

    def _old(self, gone: Sequence[FailoverRange]) -> list[FailoverRange]:
        return [one for one in gone if self._clock.now() - one.gone_at / 1_000_000 >= KEEP_GONE_S]

    def state(self) -> dict[str, Any]:
        """For /ready and /stats: how many ranges are held, which are lost (being read again) and gone for good."""
        found = self._judged
        return {
            "held": len(found.held),
            "foreign": len(found.foreign),
            "lost": [_shown(one) for one in found.lost],
            "gone": [_shown(one) for one in found.gone],
            "last_error": self._error,
        }

    def _tell_gone(self, one: FailoverRange, gone: list[Interval]) -> None:
        if one.key not in self._told:
            self._told.add(one.key)
            _logger.critical(
                f"lost for good: {_text(one.partition, gone)} were in the lost SQLite store {one.store} only, "
                "and the log no longer has them",
                offsets=sum(end - start for start, end in gone),
            )

    def _say(self, error: Exception) -> None:
        """One line for each new reason, not one a second."""
        text = str(error) or repr(error)
        if text != self._error:
            trace = None if isinstance(error, Unavailable) else error
            _logger.warning("cannot compare the SQLite store with the log", error=text, exc_info=trace)
        self._error = text


def _text(partition: int, parts: Sequence[Interval]) -> str:
    return f"offsets {', '.join(f'{start} to {end - 1}' for start, end in parts)} of partition {partition}"


def _shown(one: FailoverRange) -> dict[str, Any]:
    return {"partition": one.partition, "start": one.start, "end": one.end, "store": one.store, "at": one.at}
