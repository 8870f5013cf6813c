"""Are the aggregate tables what the events make of them? Counting again by the same rule, and what differs. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from schemas.event import LoggedEvent
from tables.usage import SECOND, SESSION_KEPT, Key, SessionUse, Value, advance, floors, in_order
from tables.usage_apply import apply

#: Events between two looks for sessions that are too old to be kept: what is held stays what the live tables hold.
SWEEP: Final = 200_000
_DAY: Final = 86_400


class Difference(msgspec.Struct, frozen=True):
    """A key with two values. None: it is not there. Both have the generation that they were written with."""

    partition: int
    key: Key
    live: Value | None
    recounted: Value | None


class Compared(msgspec.Struct, frozen=True):
    """Of one partition: keys that were compared, keys that count events nobody could count again yet, differences."""

    keys: int
    ahead: int
    differences: Sequence[Difference]


class Recount:
    """The tables of one partition made anew. `newest` is that of the live tables, µs: it says what is still kept.

    `take` gets all events of the partition in order of their ingest offset. A session that went on after it was too old
    to be kept may come out with other totals than live.
    """

    def __init__(self, newest: int) -> None:
        self.values: dict[Key, Value] = {}
        self.newest = newest
        self.events = 0
        #: Highest offsets seen, in chronicle.ingest and, for records of others, in chronicle.events.
        self.at = self.foreign_at = -1
        self._running = 0
        self._swept = 0

    def take(self, events: Sequence[LoggedEvent]) -> None:
        """Count these, too."""
        self.values.update(apply(events, self._lookup, self.newest))
        self.events += len(events)
        for logged in events:
            if logged.ingest.partition < 0:
                self.foreign_at = max(self.foreign_at, logged.ingest.offset)
            else:
                self.at = max(self.at, logged.ingest.offset)
        self._running = advance(self._running, events, self.newest)
        if self.events - self._swept >= SWEEP:
            self._swept = self.events
            self.values = {key: value for key, value in self.values.items() if is_kept(key, value, self._running)}

    def _lookup(self, keys: Sequence[Key]) -> list[Value | None]:
        return [self.values.get(key) for key in keys]


def is_kept(key: Key, value: Value, newest: int) -> bool:
    """Whether the live tables still hold such a key when `newest` (µs) is the latest event."""
    if isinstance(value, SessionUse):
        return value.last // SECOND // _DAY >= (newest // SECOND - SESSION_KEPT) // _DAY
    floor = floors(newest).get((str(key[0]), str(key[1])))
    return floor is None or int(key[2]) >= floor


def compare(partition: int, live: Mapping[Key, Value], recount: Recount, *, whole: bool) -> Compared:
    """What differs among the keys that are still kept.

    `whole`: all that is counted live was counted again. Otherwise a live value that counts up to a later event than
    was found says nothing, and is told as ahead.
    """
    keys = ahead = 0
    differences: list[Difference] = []
    for key in in_order({**recount.values, **live}):
        one, other = live.get(key), recount.values.get(key)
        if not any(value is not None and is_kept(key, value, recount.newest) for value in (one, other)):
            continue
        if not whole and one is not None and (one.at > recount.at or one.foreign_at > recount.foreign_at):
            ahead += 1
            continue
        keys += 1
        if not same(one, other):
            differences.append(Difference(partition, key, one, other))
    return Compared(keys, ahead, differences)


def same(one: Value | None, other: Value | None) -> bool:
    """Equal in all but the generation."""
    if one is None or other is None:
        return one is other
    return msgspec.structs.replace(one, generation=0) == msgspec.structs.replace(other, generation=0)


def mended(differences: Iterable[Difference], generation: int) -> tuple[list[Key], dict[Key, Value]]:
    """The keys to end, and the values to write in this order, each with the generation of the rebuild."""
    differences = list(differences)
    gone = [one.key for one in differences if one.recounted is None]
    values = {
        one.key: msgspec.structs.replace(one.recounted, generation=generation)
        for one in differences
        if one.recounted is not None
    }
    return gone, in_order(values)
