"""The names that become parts of keys: how many of each kind are told apart, and which make room. Pure.

Projects, machines, sub-agent types and tools are named by clients, so there may be any number of them. Each partition
keeps, under the key ("names", dimension), those it tells apart, each with the day it was last seen; when they are at
the limit, what is new counts as "other" until a name that nobody has used for `NAMES_KEPT` days makes room.

Which name an event counts under depends on those before it, so a replay must find the names as they were. Hence names
are written after everything else of a chunk, and `at` is the position of their last change:
    at or below it   the chunk of this event was written down whole: the event is passed over
    above it         no name has changed since: the event gets the name it had before, and each value knows it already
Days are those of `received_at`, which our own clocks give: an event from next year makes no room.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

import msgspec

from schemas.event import HookEvent, LoggedEvent, Position
from schemas.facts import CALL_ENDS, machine_of, project_of

#: What counts without a name of its own.
OTHER: Final = "other"
#: Names of a partition that are told apart, by dimension.
MAX_PROJECTS, MAX_MACHINES, MAX_AGENTS, MAX_TOOL_NAMES = 500, 500, 200, 500
LIMITS: Final[Mapping[str, int]] = {
    "project": MAX_PROJECTS,
    "machine": MAX_MACHINES,
    "agent": MAX_AGENTS,
    "tool": MAX_TOOL_NAMES,
}
#: Days after which a name that nobody has used makes room: as long as days are kept.
NAMES_KEPT: Final = 400
_DAY: Final = 86_400 * 1_000_000

Key = tuple[str | int, ...]


class Counted(msgspec.Struct, kw_only=True):
    """What every value carries: the positions it counts up to, and which rebuild wrote it (epoch seconds; 0: none)."""

    at: int = -1
    foreign_at: int = -1
    generation: int = 0

    @property
    def mark(self) -> tuple[int, int, int]:
        """Of two values of a key the one with the higher mark counts further."""
        return self.generation, self.at, self.foreign_at

    def is_new(self, ingest: Position) -> bool:
        """Whether an event from there is not counted yet."""
        return ingest.offset > (self.foreign_at if ingest.partition < 0 else self.at)

    def move(self, ingest: Position) -> None:
        """It is counted now. A negative partition is a record of somebody else (`agents.persist.decode`)."""
        if ingest.partition < 0:
            self.foreign_at = max(self.foreign_at, ingest.offset)
        else:
            self.at = max(self.at, ingest.offset)


class Names(Counted, kw_only=True):
    """Names of one dimension -> the day they were last seen on (days since the epoch)."""

    names: dict[str, int] = {}


class Given(NamedTuple):
    """The names of an event, one a dimension; None where it gives none. A tool only where a call ends."""

    project: str | None
    machine: str | None
    agent: str | None
    tool: str | None


def names_of(event: HookEvent) -> Given:
    """As the event gives them."""
    tool = event.tool_name or OTHER if event.event_type in CALL_ENDS else None
    return Given(project_of(event.cwd), machine_of(event), event.agent_type or None, tool)


def names_key(dimension: str) -> Key:
    """Where the names of a dimension are kept."""
    return ("names", dimension)


class Naming:
    """Names the events of one chunk, in log order. `changed` is what must be written, after all else."""

    def __init__(self, values: Mapping[str, Names], limits: Mapping[str, int] = LIMITS) -> None:
        self._values, self._limits = values, limits
        self._full: dict[str, int] = {}
        self.changed: dict[Key, Names] = {}
        #: How often names have made room.
        self.cleared = 0

    def name(self, logged: LoggedEvent, given: Given) -> Given | None:
        """What the names of the event count under; None when the event has been counted and written down.

        Then the names of another dimension may be lacking still: a crash came between one write of names and the next.
        """
        found: dict[str, str] = {}
        counted = False
        for dimension, name in zip(Given._fields, given, strict=True):
            if name is None:
                continue
            if self._values[dimension].is_new(logged.ingest):
                found[dimension] = self._one(dimension, name, logged)
            else:
                counted = True
        return None if counted else given._replace(**found)

    def _one(self, dimension: str, name: str, logged: LoggedEvent) -> str:
        value, day = self._values[dimension], logged.event.received_at // _DAY
        seen = value.names.get(name)
        if name == OTHER or (seen is not None and seen >= day):
            return name
        if seen is None and not self._has_room(dimension, day):
            return OTHER
        value.names[name] = day
        value.move(logged.ingest)
        self.changed[names_key(dimension)] = value
        return name

    def _has_room(self, dimension: str, day: int) -> bool:
        """Whether there is room for one more; old names go for it, all at once."""
        names, limit = self._values[dimension].names, self._limits[dimension]
        if len(names) < limit:
            return True
        if day <= self._full.get(dimension, day - 1):  # looked already: nothing gets older by being seen again
            return False
        for old in [name for name, seen in names.items() if seen < day - NAMES_KEPT]:
            del names[old]
            self.cleared += 1
        if len(names) >= limit:
            self._full[dimension] = day
        return len(names) < limit


def named(events: Iterable[LoggedEvent], naming: Naming, *, ordered: bool) -> Iterator[tuple[LoggedEvent, Given]]:
    """Each event that counts, with what its names count under.

    `ordered`: each comes from behind the one before, so that what was found for the same names on the same day holds
    for the events that follow, until names make room.
    """
    facts: dict[tuple[str | None, ...], Given] = {}
    settled: set[tuple[Given, int]] = set()
    for logged in events:
        event = logged.event
        tool = event.tool_name or OTHER if event.event_type in CALL_ENDS else None
        told = (event.cwd, event.metadata, event.agent_type, tool)
        given = facts.get(told)
        if given is None:
            given = facts[told] = names_of(event)
        today = (given, event.received_at // _DAY)
        if ordered and today in settled:
            yield logged, given
            continue
        cleared = naming.cleared
        found = naming.name(logged, given)
        if naming.cleared != cleared:
            settled.clear()
        if found is not None:
            if found == given:
                settled.add(today)
            yield logged, found
