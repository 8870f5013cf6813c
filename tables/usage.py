"""The aggregate tables as a rule: which keys an event touches, and what it changes under each. Pure.

Keys are tuples that begin with the name of their table; a bucket is the epoch second a minute, hour or day begins at:
    ("usage", grain, bucket, dimension, value)         events by type, and sessions
    ("tools", grain, bucket, dimension, value, tool)   finished calls, failures, durations
    ("session", session_id)                            the roll-up of a session, its open tool calls among it
    ("names", dimension)                               the names told apart (`tables.usage_names`)
An event counts in the buckets of the time it tells, unless its clock is wrong (`counted_at`): a rule of the event
alone, so that no replay and no recount comes to another bucket.
The dimensions are all (with the value ""), project, and for usage machine and agent.
Values are absolute. Each carries `at`, the highest ingest offset applied (a key belongs to one partition), and
`foreign_at`, the same in `chronicle.events` for records that did not come through ingest: an event at or below it has
been counted, so a chunk may come again in whole or in part. Durations need the call's beginning, which the session
remembers until the call ends: the sessions of a chunk must be written after its counts, and its names after both.

An event marked as a suspected duplicate counts nowhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Final

import msgspec

from schemas.event import HookEvent, LoggedEvent
from schemas.facts import CALL_BEGINS, CALL_ENDS, PROMPT, file_of
from tables.histogram import bucket_of, merge
from tables.usage_names import OTHER, Counted, Given, Key, Names, names_of

#: Of `tables.usage_names`, for whoever works with the tables.
__all__ = ["OTHER", "Key", "Names"]

SECOND: Final = 1_000_000
#: Grain -> (seconds of a bucket, seconds a bucket is kept behind the newest event).
GRAINS: Final[Mapping[str, tuple[int, int]]] = {
    "minute": (60, 26 * 3600),
    "hour": (3600, 8 * 86400),
    "day": (86400, 400 * 86400),
}
#: Microseconds that an event may say it was before, and after, the server took it in. What is further off was told by a
#: clock that is wrong: as long as days are kept, and more than any time zone.
EARLIER, LATER = 400 * 86400 * SECOND, 86400 * SECOND
#: Times that are counted at all: ten digits of seconds, so that buckets sort as text (`tables.usage_store`).
FIRST, LAST = (10**9 + 86400) * SECOND, (10**10 - 1) * SECOND
#: Entries of one value that grow with what clients send; what is above counts, and is not named.
MAX_SESSIONS, MAX_TYPES, MAX_TOOLS, MAX_OPEN, MAX_FILES = 5_000, 200, 200, 100, 200
#: Seconds a session is kept after its last event.
SESSION_KEPT: Final = 35 * 86400
#: The dimensions that have counts of their own beside "all"; those of tools are fewer.
DIMENSIONS: Final = ("project", "machine", "agent")
TOOL_DIMENSIONS: Final = ("project",)
#: Tables that are written last, in this order.
_LAST: Final = {"session": 1, "names": 2}


class Usage(Counted, msgspec.Struct, kw_only=True):
    """Events of a bucket by type. `sessions` are marks of those seen in it, `more` says that not all are in there."""

    events: dict[str, int] = {}
    sessions: set[int] = set()
    more: bool = False

    def apply(self, event: HookEvent, milliseconds: float | None) -> None:
        """Count it."""
        self.add(event.event_type, 1, {mark(event.session_id)}, {})

    def add(self, event_type: str, count: int, marks: Set[int], durations: Mapping[int, int]) -> None:
        """Count so many events of a type, of these sessions: all of them must fit, or none does (`room`)."""
        name = _bounded(self.events, event_type, MAX_TYPES)
        self.events[name] = self.events.get(name, 0) + count
        if len(self.sessions) < MAX_SESSIONS:
            self.sessions |= marks
        else:
            self.more |= not marks <= self.sessions

    def room(self, sessions: int) -> bool:
        """Whether it does not matter in which order so many sessions come."""
        return len(self.sessions) >= MAX_SESSIONS or len(self.sessions) + sessions <= MAX_SESSIONS


class ToolUse(Counted, msgspec.Struct, kw_only=True):
    """Finished calls of a tool in a bucket; `durations` (`tables.histogram`) of those whose beginning is known."""

    calls: int = 0
    failures: int = 0
    durations: dict[int, int] = {}

    def apply(self, event: HookEvent, milliseconds: float | None) -> None:
        """Count the end of a call."""
        self.add(event.event_type, 1, set(), {} if milliseconds is None else {bucket_of(milliseconds): 1})

    def add(self, event_type: str, count: int, marks: Set[int], durations: Mapping[int, int]) -> None:
        """Count so many ends of this type."""
        self.calls += count
        self.failures += count * (not CALL_ENDS[event_type])
        merge(self.durations, durations)

    def room(self, sessions: int) -> bool:
        """It names none."""
        return True


class SessionUse(Counted, msgspec.Struct, kw_only=True):
    """Everything of a session so far. `tools`: name -> [calls, failures]; `open`: tool_use_id -> when it began (µs)."""

    first: int = 0
    last: int = 0
    events: dict[str, int] = {}
    prompts: int = 0
    tools: dict[str, list[int]] = {}
    agents: set[str] = set()
    files: set[str] = set()
    open: dict[str, int] = {}

    def apply(self, event: HookEvent, _: float | None) -> None:
        """Count it, and remember or forget the call it begins or ends."""
        at = counted_at(event)
        self.first = min(self.first or at, at)
        self.last = max(self.last, at)
        name = _bounded(self.events, event.event_type, MAX_TYPES)
        self.events[name] = self.events.get(name, 0) + 1
        self.prompts += event.event_type == PROMPT
        if event.agent_id and len(self.agents) < MAX_FILES:
            self.agents.add(event.agent_id)
        if event.event_type in CALL_ENDS:
            self._end(event)
        elif event.event_type == CALL_BEGINS and event.tool_use_id:
            self.open[event.tool_use_id] = at
            if len(self.open) > MAX_OPEN:
                del self.open[next(iter(self.open))]

    def since(self, event: HookEvent) -> float | None:
        """Milliseconds since the call that `event` ends began; None when that is not known."""
        began = self.open.get(event.tool_use_id or "") if event.event_type in CALL_ENDS else None
        return None if began is None else (counted_at(event) - began) / 1000

    def _end(self, event: HookEvent) -> None:
        self.open.pop(event.tool_use_id or "", None)
        name = _bounded(self.tools, event.tool_name or OTHER, MAX_TOOLS)
        calls = self.tools.setdefault(name, [0, 0])
        calls[0] += 1
        calls[1] += not CALL_ENDS[event.event_type]
        if (path := file_of(event)) and len(self.files) < MAX_FILES:
            self.files.add(path)


Count = Usage | ToolUse | SessionUse
Value = Count | Names
_KINDS: Final[Mapping[str, type[Count]]] = {"usage": Usage, "tools": ToolUse, "session": SessionUse}
#: Values of keys, None where there is none; each is ours to change.
Lookup = Callable[[Sequence[Key]], Sequence[Value | None]]


def in_order(values: Mapping[Key, Value]) -> dict[Key, Value]:
    """As they must be written: sessions after counts, names after both."""
    return dict(sorted(values.items(), key=lambda item: _LAST.get(str(item[0][0]), 0)))


def count_of(key: Key, value: Value | None) -> Count:
    """The value under a key of counts; a new one where there is none."""
    assert not isinstance(value, Names)
    return _KINDS[str(key[0])]() if value is None else value


def counted_at(event: HookEvent) -> int:
    """The time (µs) an event counts at: its own, or that of its receipt where its own is no time it can have been."""
    at, received = event.occurred_at, event.received_at
    if not received - EARLIER <= at <= received + LATER:
        at = received
    return at if FIRST <= at <= LAST else min(max(at, FIRST), LAST)


def keys(event: HookEvent, newest: int) -> list[Key]:
    """The keys that an event touches under its own names; that of its session is the last."""
    return [*keys_at(counted_at(event) // SECOND, names_of(event), newest), ("session", event.session_id)]


def keys_at(at: int, names: Given, newest: int) -> list[Key]:
    """The keys of counts that an event of this time (epoch seconds) with these names touches."""
    now = newest // SECOND
    all_ = [("all", ""), *((name, value) for name in DIMENSIONS if (value := getattr(names, name)) is not None)]
    found: list[Key] = []
    for grain, (size, kept) in GRAINS.items():
        bucket = at - at % size
        if bucket <= now - kept - size:
            continue
        found += [("usage", grain, bucket, *dimension) for dimension in all_]
        if names.tool is not None:
            tools = (pair for pair in all_ if pair[0] == "all" or pair[0] in TOOL_DIMENSIONS)
            found += [("tools", grain, bucket, *pair, names.tool) for pair in tools]
    return found


def advance(newest: int, events: Iterable[LoggedEvent], now: int) -> int:
    """The largest time an event counts at, never ahead of the clock: one from tomorrow must not end all buckets."""
    return max(newest, min(max((counted_at(logged.event) for logged in events), default=0), now))


def floors(newest: int) -> dict[tuple[str, str], int]:
    """(table, grain) -> the first bucket that is still kept."""
    now = newest // SECOND
    return {
        (table, grain): now - kept - size + 1 for table in ("usage", "tools") for grain, (size, kept) in GRAINS.items()
    }


def mark(session_id: str) -> int:
    """48 bits that stand for a session: of 100,000 sessions two look alike with a chance of 1 in 56,000."""
    return int.from_bytes(hashlib.blake2b(session_id.encode("utf-8", "replace"), digest_size=6).digest(), "big")


def _bounded(there: Mapping[str, object], name: str, limit: int) -> str:
    return name if name in there or len(there) < limit else OTHER
