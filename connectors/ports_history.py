"""The edges that keep and check the aggregate tables, as protocols; `tests/contract` runs one suite over each store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Protocol

import msgspec

from schemas.event import LoggedEvent
from schemas.history import Changes, Written


class HistoryStore(Protocol):
    """Keeps what the aggregate tables counted, by hour and day, for good.

    `write` commits all of `changes` in one transaction or nothing, removals first; when it returns, all of it is
    durable. A row replaces the one at its place only where its mark is higher, so the same changes again, or older
    ones, change nothing. `log_id` names the topic that the values are of: rows of another log are other rows, because
    counting began anew in it. A row that the database refuses for its content is left out (`Written.refused`) and the
    rest commits. Raises `Unavailable` for everything else: an outage, a timeout, tables that are not there yet. Never
    raises for data.
    """

    async def open(self) -> None:
        """Prepare; must not raise when the database is away (it raises `Unavailable` from `write` instead)."""
        ...

    async def write(self, log_id: str, changes: Changes) -> Written: ...

    async def close(self) -> None: ...


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """How far a database has the events. `events`: rows of each partition of chronicle.events; `next`: the offset below
    which it has everything of a partition, but for what a SQLite file still holds.

    `logs` is how many logs rows have come from: with more than one, ingest offsets of some are of a log that is gone.
    """

    next: Mapping[int, int]
    events: Mapping[int, int]
    logs: int


class StoredEvents(Protocol):
    """The events of a database, to be counted again. Both raise `Unavailable`."""

    async def standing(self) -> Standing: ...

    def events(self, partition: int, before: int) -> AsyncIterator[list[LoggedEvent]]:
        """Those of a partition whose offset in chronicle.events is below `before`, by ingest offset, part by part.

        Records of others come last. Only the fields that counting looks at are filled.
        """
        ...


class AggregateLog(Protocol):
    """The live aggregate tables in the log. All raise `Unavailable`."""

    async def values(self, partition: int, told: Callable[[int, int], None]) -> Mapping[bytes, bytes]:
        """The newest value under each key, up to the end there is now; `told` hears (offset, end) on the way."""
        ...

    async def counted(self) -> Mapping[int, int]:
        """Partition of chronicle.events -> the offset below which all is counted; absent where nobody has counted."""
        ...

    async def end(self, partition: int) -> int:
        """The offset that the next record of a partition of chronicle.events gets, as of now."""
        ...

    async def members(self) -> int:
        """How many processes count just now, or ended so short ago that the broker still waits for them."""
        ...
