"""The aggregate tables as a reader sees them: all partitions added up, gaps filled with zeros. Pure; holds values only.

Whoever reads the changelog puts each record in; later ones replace earlier ones. What may be asked for is what is kept:
minutes of the last day, hours of the last week, days of the last year.
"""

from __future__ import annotations

import sys
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple, Protocol

import msgspec

from tables.histogram import merge, quantile
from tables.usage import GRAINS, Key, SessionUse, ToolUse, Usage, Value


class Marked(Protocol):
    """What says how far it counts (`Counted.mark`)."""

    @property
    def mark(self) -> tuple[int, int, int]: ...


#: (grain, dimension, value): what a series is about.
Subject = tuple[str, str, str]
#: Points of a series: a day of minutes, and something to spare.
MAX_POINTS: Final = 1_600


class Point(msgspec.Struct, frozen=True):
    """A bucket. `bucket` is the epoch second it begins at; `at_least`: more sessions than could be told apart."""

    bucket: int
    events: dict[str, int]
    sessions: int
    at_least: bool = False


class ToolRow(msgspec.Struct, frozen=True):
    """Finished calls of a tool; times are milliseconds, None where no duration is known."""

    tool: str
    calls: int
    failures: int
    p50: float | None
    p95: float | None
    p99: float | None


class _Session(NamedTuple):
    """A session in the form that takes the least memory: there may be a hundred thousand."""

    mark: tuple[int, int, int]
    last: int
    packed: bytes


class _Usage(NamedTuple):
    """`Usage`, the same: its names are shared, its marks are numbers side by side."""

    mark: tuple[int, int, int]
    events: dict[str, int]
    sessions: array[int]
    more: bool


def _kept(value: Usage) -> _Usage:
    events = {sys.intern(name): count for name, count in value.events.items()}
    return _Usage(value.mark, events, array("Q", value.sessions), value.more)


_encode = msgspec.json.Encoder().encode
_decode_session = msgspec.json.Decoder(SessionUse).decode


class Figures:
    """The tables of all partitions. `newest` is the latest event time, µs.

    It may be asked in another thread than the one that calls `put`.
    """

    def __init__(self) -> None:
        self.newest = 0
        self._sessions: dict[str, _Session] = {}
        self._usage: dict[Subject, dict[int, dict[int, _Usage]]] = defaultdict(lambda: defaultdict(dict))
        self._tools: dict[Subject, dict[int, dict[tuple[str, int], ToolUse]]] = defaultdict(lambda: defaultdict(dict))

    def clear(self) -> None:
        """Forget everything: the log is another one."""
        self.newest = 0
        self._sessions.clear()
        self._usage.clear()
        self._tools.clear()

    def put(self, partition: int, key: Key, value: Value | None) -> None:
        """Take in a record; None ends its key. Of two values the one that counts further stays."""
        table = key[0]
        if table == "session":
            self._session(str(key[1]), value)
            return
        if table == "names":  # for whoever counts
            return
        grain, bucket, dimension, name = str(key[1]), int(key[2]), str(key[3]), str(key[4])
        if table == "usage":
            assert value is None or isinstance(value, Usage)
            kept = None if value is None else _kept(value)
            _put(self._usage, (grain, dimension, name), bucket, partition, kept)
        elif table == "tools":
            _put(self._tools, (grain, dimension, name), bucket, (str(key[5]), partition), value)

    def series(self, grain: str, since: int, until: int, dimension: str = "all", value: str = "") -> list[Point]:
        """One point for each bucket that begins in [since, until), epoch seconds. Raises `ValueError` for too many."""
        found = self._usage.get((grain, dimension, value), {})
        return [_point(bucket, dict(found.get(bucket, {}))) for bucket in buckets(grain, since, until)]

    def totals(self, grain: str, since: int, until: int, dimension: str = "all", value: str = "") -> Point:
        """All these buckets as one; a session in several of them counts once."""
        found = self._usage.get((grain, dimension, value), {})
        wanted = _present(found, buckets(grain, since, until))
        every = [one for bucket in wanted for one in list(found.get(bucket, {}).values())]
        return _point(since, dict(enumerate(every)))

    def values(self, grain: str, since: int, until: int, dimension: str) -> dict[str, Point]:
        """Each value of a dimension that had events in these buckets, with its totals; the busiest first."""
        names = [name for (of, what, name) in list(self._usage) if (of, what) == (grain, dimension)]
        found = {name: self.totals(grain, since, until, dimension, name) for name in names}
        busy = {name: point for name, point in found.items() if point.events}
        return dict(sorted(busy.items(), key=lambda item: (-sum(item[1].events.values()), item[0])))

    def tools(self, grain: str, since: int, until: int, dimension: str = "all", value: str = "") -> list[ToolRow]:
        """Each tool with calls that ended in these buckets, the most used first."""
        found = self._tools.get((grain, dimension, value), {})
        wanted = _present(found, buckets(grain, since, until))
        rows = _tool_rows(*(dict(found.get(bucket, {})) for bucket in wanted))
        return sorted(rows, key=lambda row: (-row.calls, row.tool))

    def tool_series(
        self, tool: str, grain: str, since: int, until: int, dimension: str = "all", value: str = ""
    ) -> list[tuple[int, ToolRow]]:
        """(bucket, row) of one tool for each bucket in [since, until)."""
        found = self._tools.get((grain, dimension, value), {})
        rows = []
        for bucket in buckets(grain, since, until):
            use = ToolUse()
            for (name, _), one in list(found.get(bucket, {}).items()):
                if name == tool:
                    _merge(use, one)
            rows.append((bucket, _row(tool, use)))
        return rows

    def usage_rows(self, grain: str, since: int, until: int) -> Iterator[tuple[int, str, str, Point]]:
        """(bucket, dimension, value, point) of each that had events in [since, until), in no order."""
        wanted = buckets(grain, since, until)
        for (of, dimension, value), found in list(self._usage.items()):
            for bucket in _present(found, wanted) if of == grain else ():
                yield bucket, dimension, value, _point(bucket, dict(found.get(bucket, {})))

    def tool_rows(self, grain: str, since: int, until: int) -> Iterator[tuple[int, str, str, ToolRow]]:
        """(bucket, dimension, value, row) of each tool with calls that ended in [since, until), in no order."""
        wanted = buckets(grain, since, until)
        for (of, dimension, value), found in list(self._tools.items()):
            for bucket in _present(found, wanted) if of == grain else ():
                for row in _tool_rows(dict(found.get(bucket, {}))):
                    yield bucket, dimension, value, row

    def session(self, session_id: str) -> SessionUse | None:
        """Everything of a session; None for one that is not known, or was forgotten."""
        found = self._sessions.get(session_id)
        return None if found is None else _decode_session(found.packed)

    def active(self, since: int, until: int) -> Iterator[tuple[int, str]]:
        """(time of the last event, session) of those whose last event is in [since, until), µs, in no order."""
        return ((one.last, name) for name, one in list(self._sessions.items()) if since <= one.last < until)

    def counts(self) -> dict[str, int]:
        """Keys of each table."""
        usage = sum(len(parts) for found in self._usage.values() for parts in found.values())
        tools = sum(len(parts) for found in self._tools.values() for parts in found.values())
        return {"usage": usage, "tools": tools, "sessions": len(self._sessions)}

    def size(self) -> int:
        """How many keys are held."""
        return sum(self.counts().values())

    def _session(self, session_id: str, value: Value | None) -> None:
        if not isinstance(value, SessionUse):
            self._sessions.pop(session_id, None)
        elif not _counts_less(value, self._sessions.get(session_id)):
            self._sessions[session_id] = _Session(value.mark, value.last, _encode(value))


def buckets(grain: str, since: int, until: int) -> range:
    """The buckets of a grain that begin in [since, until). Raises `ValueError`: an unknown grain, too many points."""
    if grain not in GRAINS:
        raise ValueError(f"interval must be one of {', '.join(GRAINS)}")
    size = GRAINS[grain][0]
    found = range(since + -since % size, until, size)
    if len(found) > MAX_POINTS:
        raise ValueError(f"{len(found)} points are more than {MAX_POINTS}: ask for a shorter time or a longer interval")
    return found


def _counts_less(value: Marked, before: Marked | None) -> bool:
    """Whether it is of a worker that did not know it had lost the partition."""
    return before is not None and value.mark < before.mark


def _put(tables: dict, subject: Subject, bucket: int, place: object, value: Marked | None) -> None:  # type: ignore[type-arg]
    if value is not None:
        if not _counts_less(value, tables[subject][bucket].get(place)):
            tables[subject][bucket][place] = value
        return
    found = tables.get(subject, {})
    places = found.get(bucket, {})
    places.pop(place, None)
    if not places:  # nothing empty stays behind: years of buckets go by
        found.pop(bucket, None)
    if not found:
        tables.pop(subject, None)


def _point(bucket: int, parts: dict[int, _Usage]) -> Point:
    events: Counter[str] = Counter()
    sessions: set[int] = set()
    for part in parts.values():
        events.update(part.events)
        sessions.update(part.sessions)
    return Point(bucket, dict(events), len(sessions), any(part.more for part in parts.values()))


def _present(found: Mapping[int, object], wanted: range) -> list[int]:
    """The buckets that are there, by the shorter way of looking."""
    shorter, longer = (wanted, found) if len(wanted) < len(found) else (list(found), wanted)
    return [bucket for bucket in shorter if bucket in longer]


def _tool_rows(*buckets: Mapping[tuple[str, int], ToolUse]) -> list[ToolRow]:
    merged: dict[str, ToolUse] = defaultdict(ToolUse)
    for parts in buckets:
        for (tool, _), use in parts.items():
            _merge(merged[tool], use)
    return [_row(tool, use) for tool, use in merged.items()]


def _merge(into: ToolUse, other: ToolUse) -> None:
    into.calls += other.calls
    into.failures += other.failures
    merge(into.durations, other.durations)


def _row(tool: str, use: ToolUse) -> ToolRow:
    p50, p95, p99 = (quantile(use.durations, q) for q in (0.5, 0.95, 0.99))
    return ToolRow(tool, use.calls, use.failures, p50, p95, p99)
