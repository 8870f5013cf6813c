"""Checking and mending the aggregate tables: the live values beside what the stored events make of them.

What can be compared is what both sides have. Live, everything below the group's committed offset is counted; Postgres
has everything below its progress, but for what still waits in SQLite. Values that count later events
(`Compared.ahead`) say nothing yet, unless the stream stands still and Postgres has all of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from connectors.ports import EventLog, FailoverRange, Record
from connectors.ports_history import AggregateLog, StoredEvents
from schemas.clock import Clock
from schemas.errors import ChronicleError
from schemas.history import REBUILD_HEADER
from tables.usage import Key, Value
from tables.usage_codec import CLOCK, NewestTime, pack, pack_key, unpack
from tables.usage_compare import Compared, Difference, Recount, compare, mended

#: Records of one produce, and seconds for its acks.
PIECE, SEND_S = 500, 30.0
#: Told what is going on, for which partition, how far of how much.
Told = Callable[[str, int, int, int], None]


class CannotCompare(ChronicleError):
    """The two sides cannot be held against each other; `str()` says why and what to do."""


class Parts(NamedTuple):
    """What is asked. `ranges` tells what SQLite files hold for Postgres."""

    log: AggregateLog
    stored: StoredEvents
    ranges: Callable[[], Awaitable[Sequence[FailoverRange]]]
    clock: Clock


class Stand(msgspec.Struct, frozen=True):
    """How far one partition of chronicle.events is counted live (None: nobody knows) and stored, and how many rows."""

    partition: int
    counted: int | None
    stored: int
    rows: int

    @property
    def both(self) -> int:
        """Up to here both sides have everything."""
        return min(self.counted or 0, self.stored)

    @property
    def behind(self) -> bool:
        """Postgres lacks events that are counted."""
        return self.stored < (self.counted or 0)


class Checked(msgspec.Struct, frozen=True):
    """One partition, compared."""

    stand: Stand
    events: int
    newest: int
    compared: Compared


async def stands(parts: Parts, partitions: int) -> list[Stand]:
    """Where each partition stands. Raises `CannotCompare` after a log was lost, `Unavailable`."""
    counted, standing = await parts.log.counted(), await parts.stored.standing()
    if standing.logs > 1:
        raise CannotCompare(
            "Postgres holds events of a log that is gone, whose places are given anew: they cannot be told apart. "
            "The live tables began anew with the new log; the history tables keep what the old one counted."
        )
    waiting = stored_below(standing.next, await parts.ranges())
    return [
        Stand(number, counted.get(number), waiting.get(number, 0), standing.events.get(number, 0))
        for number in range(partitions)
    ]


def stored_below(progress: Mapping[int, int], ranges: Sequence[FailoverRange]) -> dict[int, int]:
    """Partition -> the offset below which Postgres has everything: not above what a SQLite file still holds."""
    found = dict(progress)
    for one in ranges:
        if not one.gone_at:  # nobody has these any more; waiting would not help
            found[one.partition] = min(found.get(one.partition, 0), one.start)
    return found


async def check(parts: Parts, stand: Stand, told: Told) -> Checked:
    """Compare a partition as far as both sides go. Raises `Unavailable`."""
    number = stand.partition
    live, newest = await _live(parts, number, told)
    end = await parts.log.end(number)  # after the values: what came since would be among them
    whole = stand.counted is not None and stand.both == stand.counted == end
    recount = await _recount(parts, stand, stand.both, newest, told)
    return Checked(stand, recount.events, recount.newest, compare(number, live, recount, whole=whole))


async def check_stopped(parts: Parts, stand: Stand, told: Told) -> Checked:
    """Compare a partition that nobody counts, with all that Postgres has. Raises `CannotCompare`, `Unavailable`."""
    if stand.behind:
        raise CannotCompare(
            f"Partition {stand.partition} is counted up to {stand.counted}, Postgres has it up to {stand.stored}: what "
            "is missing would be lost from the counts. Wait until chronicle_sync_pending is 0 and nothing is pending."
        )
    live, newest = await _live(parts, stand.partition, told)
    recount = await _recount(parts, stand, stand.stored, newest, told)
    compared = compare(stand.partition, live, recount, whole=True)
    return Checked(stand, recount.events, recount.newest, compared)


async def nobody_counts(log: AggregateLog) -> None:
    """Raises `CannotCompare` while a worker counts: it would write its own values over the new ones."""
    members = await log.members()
    if members:
        raise CannotCompare(
            f"{members} stream workers count just now: stop those with the role aggregate, wait for the 10 s until the "
            "broker has let go of them, and call this again."
        )


async def write(log: EventLog, topic: str, checked: Checked, generation: int, told: Told) -> int:
    """Produce what was counted again, keys to end first; returns the number of records. Raises `Unavailable`."""
    gone, values = mended(checked.compared.differences, generation)
    made = records(checked.stand.partition, gone, values, checked.newest, generation)
    for at in range(0, len(made), PIECE):
        await log.send(topic, made[at : at + PIECE], timeout=SEND_S)
        told("writing", checked.stand.partition, min(at + PIECE, len(made)), len(made))
    return len(made)


def records(
    partition: int, gone: Sequence[Key], values: Mapping[Key, Value], newest: int, generation: int
) -> list[Record]:
    """The changelog records of a rebuild. Its tombstones say so: they take the row out of the history, too."""
    if not gone and not values:
        return []
    header = ((REBUILD_HEADER, str(generation).encode()),)
    ended = [Record(pack_key(key), None, header, partition) for key in gone]
    clock = Record(pack_key(CLOCK), pack(NewestTime(newest)), (), partition)
    return [*ended, clock, *(Record(pack_key(key), pack(value), (), partition) for key, value in values.items())]


async def _live(parts: Parts, partition: int, told: Told) -> tuple[dict[Key, Value], int]:
    """The values of a partition, and its newest event time (now, where nothing tells it)."""
    raw = await parts.log.values(partition, lambda at, end: told("reading", partition, at, end))
    found: dict[Key, Value] = {}
    newest = 0
    for key, value in raw.items():
        try:
            named, read = unpack(key, value)
        except (ValueError, msgspec.MsgspecError):  # not ours: workers step over it as well
            continue
        if isinstance(read, NewestTime):
            newest = read.newest
        else:
            found[named] = read
    return found, newest or int(parts.clock.now() * 1_000_000)


async def _recount(parts: Parts, stand: Stand, before: int, newest: int, told: Told) -> Recount:
    recount = Recount(newest)
    async for events in parts.stored.events(stand.partition, before):
        recount.take(events)
        told("counting", stand.partition, recount.events, stand.rows)
    return recount


# --- for people and programs -----------------------------------------------------------------------------------------

#: Differences that are told one by one; all of them are counted.
NAMED: Final = 10_000


def report(checked: Sequence[Checked]) -> dict[str, object]:
    """As JSON: the verdict, each partition, each difference (at most `NAMED`)."""
    differences = [one for found in checked for one in found.compared.differences]
    return {
        "verdict": verdict(checked),
        "partitions": [
            {
                **msgspec.to_builtins(found.stand),
                "behind": found.stand.behind,
                "events": found.events,
                "keys": found.compared.keys,
                "ahead": found.compared.ahead,
                "differences": len(found.compared.differences),
            }
            for found in checked
        ],
        "differences": [_told(one) for one in differences[:NAMED]],
        "more": max(0, len(differences) - NAMED),
    }


def verdict(checked: Sequence[Checked]) -> str:
    """equal, different, or unknown: there are live values, and none of them could be compared."""
    if any(found.compared.differences for found in checked):
        return "different"
    compared, ahead = (sum(getattr(found.compared, name) for found in checked) for name in ("keys", "ahead"))
    return "unknown" if ahead and not compared else "equal"


def _told(one: Difference) -> dict[str, object]:
    def value(found: Value | None) -> object:
        return None if found is None else msgspec.json.decode(pack(found))

    return {
        "partition": one.partition,
        "key": list(one.key),
        "live": value(one.live),
        "recounted": value(one.recounted),
    }
