"""When is a batch full: by count, bytes, age or a priority event. Pure: records and the time come in.

All partitions share one queue in order of arrival, and a batch is cut from its front. So a priority event takes along
everything that came before it, no partition is ever reordered, and no record is left behind.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec

from connectors.ports import Batch, Span
from schemas.event import DeadLetter, LoggedEvent

Item = LoggedEvent | DeadLetter
Reason = Literal["size", "bytes", "priority", "age", "chunk"]

#: The default of the setting `batching.priority_events`.
PRIORITY_EVENTS = frozenset({"session_start", "error"})


class BatchPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """`max_wait_s` in seconds; `max_bytes` counts the Avro records. `enabled` false: every chunk at once, by itself.

    `backlog` bounds memory: the agent stops reading when `backlog` whole batches wait behind the one that is written.
    """

    enabled: bool = True
    max_size: int = 1000
    max_wait_s: float = 0.1
    max_bytes: int = 8 << 20
    priority_events: frozenset[str] = PRIORITY_EVENTS
    backlog: int = 1


class Slice(msgspec.Struct, frozen=True, kw_only=True):
    """Decoded records of one chunk, in log order: offsets [start, end) of `partition`, whatever was lost in between.

    `chunk` is the chunk they came from; it is carried, not looked at. `generation` is the chunk's.
    """

    partition: int
    start: int
    end: int
    items: Sequence[Item]
    chunk: Any = None
    generation: int = 0


class Cut(msgspec.Struct, frozen=True):
    """One batch to settle: what to write, the dead letters it already has, and the slices to ack, in order."""

    batch: Batch
    letters: Sequence[DeadLetter]
    slices: Sequence[Slice]
    reason: Reason


class _Waiting(msgspec.Struct):
    """A slice in the queue with what the cut needs to know of it."""

    slice: Slice
    added_at: float
    size: int
    urgent: bool


def weight(item: Item) -> int:
    """Bytes of the record an item came from."""
    return len(item.value or b"")


def offset_of(item: Item) -> int:
    """Its offset in the topic the agent reads."""
    return item.events.offset if isinstance(item, LoggedEvent) else item.offset


def spans(slices: Sequence[Slice]) -> list[Span]:
    """What the slices cover, neighbours joined; a gap in the log (a compacted record) parts two spans."""
    joined: list[Span] = []
    last: dict[int, int] = {}
    for part in slices:
        at = last.get(part.partition)
        if at is not None and joined[at].end == part.start:
            joined[at] = Span(part.partition, joined[at].start, part.end)
        else:
            last[part.partition] = len(joined)
            joined.append(Span(part.partition, part.start, part.end))
    return joined


def split(part: Slice, at: int) -> tuple[Slice, Slice]:
    """The slice in two, `at` items in the first; the border is the first record of the second, so no offset is lost."""
    border = offset_of(part.items[at])
    first = msgspec.structs.replace(part, end=border, items=part.items[:at])
    return first, msgspec.structs.replace(part, start=border, items=part.items[at:])


class Batcher:
    """Collects slices and cuts batches from them. Holds no clock: `now` is monotonic seconds and must not step back."""

    def __init__(self, policy: BatchPolicy) -> None:
        self._policy = policy
        self._queue: deque[_Waiting] = deque()
        self._urgent = 0
        self.pending = 0
        self.pending_bytes = 0

    def add(self, part: Slice, now: float) -> None:
        """Take a slice in. It always fits; ask `full` before reading more."""
        self._push(self._waiting(part, now))

    @property
    def full(self) -> bool:
        """As much is waiting as may be held in memory: stop reading until a batch is cut."""
        policy = self._policy
        too_many = self.pending >= policy.max_size * policy.backlog
        return too_many or self.pending_bytes >= policy.max_bytes * policy.backlog

    def due(self, now: float) -> Reason | None:
        """Why a batch should be cut now, or None."""
        policy = self._policy
        if not self._queue:
            return None
        if not policy.enabled:
            return "chunk"
        if self.pending >= policy.max_size:
            return "size"
        if self.pending_bytes >= policy.max_bytes:
            return "bytes"
        if self._urgent:
            return "priority"
        return "age" if now >= self._queue[0].added_at + policy.max_wait_s else None

    def next_deadline(self) -> float | None:
        """When the oldest record will have waited long enough; None while nothing waits."""
        return self._queue[0].added_at + self._policy.max_wait_s if self._queue else None

    def cut(self, reason: Reason) -> Cut:
        """Take the next batch from the front: at most `max_size` records and `max_bytes` (one record at least)."""
        taken = list(self._take())
        items = [item for part in taken for item in part.items]
        events = [item for item in items if isinstance(item, LoggedEvent)]
        letters = [item for item in items if isinstance(item, DeadLetter)]
        return Cut(Batch(events=events, spans=spans(taken)), letters, taken, reason)

    def trim(self, partition: int, start: int) -> int:
        """Forget what waits of `partition` from offset `start` on: after a rebalance it is delivered again from there.

        Returns how many records were forgotten.
        """
        before, waiting = self.pending, list(self._queue)
        self._queue.clear()
        self._urgent = self.pending = self.pending_bytes = 0
        for entry in waiting:
            part = entry.slice
            if part.partition != partition or part.end <= start:
                self._push(entry)
            elif part.start < start:
                kept = [item for item in part.items if offset_of(item) < start]
                self._push(self._waiting(msgspec.structs.replace(part, end=start, items=kept), entry.added_at))
        return before - self.pending

    def _take(self) -> Iterator[Slice]:
        room, space = self._policy.max_size, self._policy.max_bytes
        chunk = self._queue[0].slice.chunk if self._queue else None
        while self._queue and (self._policy.enabled or self._queue[0].slice.chunk is chunk):
            entry = self._pop()
            if len(entry.slice.items) <= room and entry.size <= space:
                room, space = room - len(entry.slice.items), space - entry.size
                yield entry.slice
                continue
            fits = self._fitting(entry.slice.items, room, space, room < self._policy.max_size)
            yield from self._part(entry, fits)
            return

    def _part(self, entry: _Waiting, fits: int) -> Iterator[Slice]:
        """Give `fits` items away and put the rest back in front."""
        if fits == len(entry.slice.items):
            yield entry.slice
        elif fits:
            first, rest = split(entry.slice, fits)
            yield first
            self._push(self._waiting(rest, entry.added_at), front=True)
        else:
            self._push(entry, front=True)

    @staticmethod
    def _fitting(items: Sequence[Item], room: int, space: int, begun: bool) -> int:
        fits = 0
        for item in items[:room]:
            space -= weight(item)
            if space < 0 and (fits or begun):
                break
            fits += 1
        return fits

    def _waiting(self, part: Slice, now: float) -> _Waiting:
        kinds = self._policy.priority_events
        urgent = any(isinstance(item, LoggedEvent) and item.event.event_type in kinds for item in part.items)
        return _Waiting(slice=part, added_at=now, size=sum(map(weight, part.items)), urgent=urgent)

    def _push(self, entry: _Waiting, *, front: bool = False) -> None:
        (self._queue.appendleft if front else self._queue.append)(entry)
        self._count(entry, 1)

    def _pop(self) -> _Waiting:
        entry = self._queue.popleft()
        self._count(entry, -1)
        return entry

    def _count(self, entry: _Waiting, sign: int) -> None:
        self.pending += sign * len(entry.slice.items)
        self.pending_bytes += sign * entry.size
        self._urgent += sign * entry.urgent
