"""What a chunk of events makes of the values under their keys. Pure.

The rule is that of one event after the other (`_one_by_one`): each value counts an event if it is new to it. Nearly
always every event of a chunk is new to every value; then events of one minute, type and set of names, which touch the
same keys, are added up first and go into each value at once (`_at_once`). Both ways give the same, which a test holds
them to: a chunk may be cut otherwise when it comes again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from schemas.event import HookEvent, LoggedEvent
from tables.histogram import add
from tables.usage import SECOND, Count, Lookup, SessionUse, Value, count_of, counted_at, in_order, keys_at, mark
from tables.usage_names import LIMITS, Given, Key, Names, Naming, named, names_key

#: Microseconds of the shortest bucket: within it an instant makes no difference.
MINUTE = 60 * SECOND
Named = Sequence[tuple[LoggedEvent, Given]]


def apply(
    events: Iterable[LoggedEvent], lookup: Lookup, newest: int, limits: Mapping[str, int] = LIMITS
) -> dict[Key, Value]:
    """What the events of one partition, in log order, make of the values under their keys; only what changed.

    `newest`: the largest time of an event so far (µs, `advance`); older buckets than are kept are passed over.
    `limits`: how many names of a dimension are told apart. The order is the one they must be written in.
    """
    counting = [logged for logged in events if not logged.event.suspected_duplicate_of]
    ordered = _ordered(counting)
    values = lookup([names_key(dimension) for dimension in Given._fields]) if counting else ()
    pairs = zip(Given._fields, values, strict=bool(counting))
    naming = Naming({d: v if isinstance(v, Names) else Names() for d, v in pairs}, limits)
    found = list(named(counting, naming, ordered=ordered))
    return in_order({**_counted(found, lookup, newest, ordered), **naming.changed})


def _ordered(events: Sequence[LoggedEvent]) -> bool:
    """Whether each came through ingest, and behind the one before."""
    mine = all(logged.ingest.partition >= 0 for logged in events)
    return mine and all(one.ingest.offset < other.ingest.offset for one, other in pairwise(events))


def _counted(found: Named, lookup: Lookup, newest: int, ordered: bool) -> dict[Key, Count]:
    tallies = _tallies(found)
    touched = {place: keys_at(place[0] * 60, place[1], newest) for place in {key[:2] for key in tallies}}
    sessions = list(dict.fromkeys(logged.event.session_id for logged, _ in found))
    wanted = [*dict.fromkeys(key for keys in touched.values() for key in keys), *(("session", one) for one in sessions)]
    values = {key: count_of(key, value) for key, value in zip(wanted, lookup(wanted), strict=True)}
    if ordered and found and _all_new(values.values(), found[0][0].ingest.offset, len(sessions)):
        return _at_once(found, tallies, touched, values)
    return _one_by_one(found, touched, values)


def _all_new(values: Iterable[Count], first: int, sessions: int) -> bool:
    """Whether every value counts nothing of the chunk yet, and takes its sessions in any order."""
    return all(value.at < first and (isinstance(value, SessionUse) or value.room(sessions)) for value in values)


class _Tally:
    """Events of one minute, names and type."""

    __slots__ = ("count", "durations", "last", "sessions")

    def __init__(self) -> None:
        self.count = 0
        self.last = -1
        self.sessions: set[str] = set()
        self.durations: dict[int, int] = {}


#: (minute, names) say which keys; with the type they are what is added up.
_Place = tuple[int, Given]
_Tallies = dict[tuple[int, Given, str], _Tally]


def _tallies(found: Named) -> _Tallies:
    """In the order in which each was met first: where types are more than can be named, the first are."""
    tallies: _Tallies = {}
    for logged, names in found:
        event = logged.event
        key = (counted_at(event) // MINUTE, names, event.event_type)
        tally = tallies.get(key)
        if tally is None:
            tally = tallies[key] = _Tally()
        tally.count += 1
        tally.last = logged.ingest.offset
        tally.sessions.add(event.session_id)
    return tallies


def _at_once(
    found: Named, tallies: _Tallies, touched: Mapping[_Place, list[Key]], values: dict[Key, Count]
) -> dict[Key, Count]:
    for logged, names in found:
        event, session = logged.event, _session(values, logged.event)
        milliseconds = session.since(event)
        if milliseconds is not None:
            add(tallies[counted_at(event) // MINUTE, names, event.event_type].durations, milliseconds)
        session.at = logged.ingest.offset
        session.apply(event, None)
    marks = {name: mark(name) for tally in tallies.values() for name in tally.sessions}
    for (minute, names, event_type), tally in tallies.items():
        seen = {marks[name] for name in tally.sessions}
        for key in touched[minute, names]:
            value = values[key]
            assert not isinstance(value, SessionUse)
            value.add(event_type, tally.count, seen, tally.durations)
            value.at = max(value.at, tally.last)
    return values


def _one_by_one(found: Named, touched: Mapping[_Place, list[Key]], values: dict[Key, Count]) -> dict[Key, Count]:
    changed: dict[Key, Count] = {}
    for logged, names in found:
        event = logged.event
        milliseconds = _session(values, event).since(event)
        for key in (*touched[counted_at(event) // MINUTE, names], ("session", event.session_id)):
            value = values[key]
            if value.is_new(logged.ingest):
                value.move(logged.ingest)
                value.apply(event, milliseconds)
                changed[key] = value
    return changed


def _session(values: Mapping[Key, Count], event: HookEvent) -> SessionUse:
    session = values["session", event.session_id]
    assert isinstance(session, SessionUse)
    return session
