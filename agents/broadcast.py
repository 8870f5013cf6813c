"""Broadcast: what flows through `chronicle.events`, to everybody who watches. One hub a process.

Each watcher has a queue of its own with a bound: one who is slow misses events and is told how many and from where, and
slows nobody down. The hub keeps the latest events in a ring, so that whoever was away for a moment goes on from there
without asking the log.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator

from schemas.live import LiveEvent, LiveFilter, Marks

#: Events and bytes of the ring, and of one watcher's queue. What has waited for a worker that was killed comes at once:
#: thousands within the moment in which the events for a watcher are gathered are no sign that it is slow.
RING_EVENTS, RING_BYTES = 10_000, 32 << 20
QUEUE_EVENTS, QUEUE_BYTES = 5_000, 4 << 20


class Missed:
    """Events that a watcher was too slow for: how many of those it asked for, and the marks to fetch them from."""

    __slots__ = ("after", "count")

    def __init__(self, count: int, after: Marks) -> None:
        self.count, self.after = count, after


class Watcher:
    """One who watches, made by `Hub.watch`."""

    def __init__(self, hub: Hub, wanted: LiveFilter, marks: Marks) -> None:
        self._hub, self._filter = hub, wanted
        #: Where it stands when everything taken so far has been sent.
        self.marks = marks
        self.missed = 0
        self._missed_after: Marks | None = None
        self._queue: deque[LiveEvent] = deque()
        self._bytes = 0
        self._there = asyncio.Event()

    @property
    def filter(self) -> LiveFilter:
        """What it wants. It may be changed while it goes on, and holds for what comes from then on."""
        return self._filter

    @filter.setter
    def filter(self, wanted: LiveFilter) -> None:
        self._hub.regroup(self, self._filter, wanted)
        self._filter = wanted

    @property
    def bytes(self) -> int:
        """What waits for it, about."""
        return self._bytes

    def offer(self, live: LiveEvent) -> None:
        """Queue what it wants; when the queue is full the oldest go."""
        self._queue.append(live)
        self._bytes += live.size
        while len(self._queue) > QUEUE_EVENTS or (self._bytes > QUEUE_BYTES and len(self._queue) > 1):
            self._drop()
        self._there.set()

    async def take(self, timeout: float) -> list[LiveEvent | Missed]:
        """What is there, after `timeout` seconds at the latest; `marks` moves also when nothing came."""
        if not self._queue:
            self._there.clear()
            try:
                async with asyncio.timeout(timeout):
                    await self._there.wait()
            except TimeoutError:
                pass
        return self.take_now()

    def take_now(self) -> list[LiveEvent | Missed]:
        """What is there; how many were missed comes first."""
        found: list[LiveEvent | Missed] = []
        if self.missed and self._missed_after is not None:
            found.append(Missed(self.missed, self._missed_after))
            self.missed, self._missed_after = 0, None
        found += self._queue
        self._queue.clear()
        self._bytes = 0
        self.marks = self._hub.seen or self.marks
        return found

    def _drop(self) -> None:
        gone = self._queue.popleft()
        self._bytes -= gone.size
        self.missed += 1
        self._missed_after = self._missed_after or self.marks


class Hub:
    """Everybody who watches. `marks`: where the stream stands; None until it is known.

    Those who want the same are a group: an event is held against each filter once, not once for each of a thousand.
    """

    def __init__(self) -> None:
        self.marks: Marks | None = None
        #: Set with each event; whoever waits for it clears it.
        self.fed = asyncio.Event()
        #: Where one stands who has seen all that was published since `begin`; None when nothing was.
        self.seen: Marks | None = None
        self._ring: deque[LiveEvent] = deque()
        self._bytes = 0
        self._from: Marks | None = None  # the ring has everything from here on
        self._groups: dict[LiveFilter, set[Watcher]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._groups.values()))

    def begin(self, marks: Marks) -> None:
        """The stream is read from here on; what the ring had before is forgotten."""
        self.marks = self._from = marks
        self.seen = None
        self._ring.clear()
        self._bytes = 0

    def publish(self, live: LiveEvent) -> None:
        """To all who want it."""
        self.marks = self.seen = live.marks
        self._ring.append(live)
        self._bytes += live.size
        while len(self._ring) > RING_EVENTS or (self._bytes > RING_BYTES and len(self._ring) > 1):
            gone = self._ring.popleft()
            self._bytes -= gone.size
            self._from = gone.marks
        for wanted, group in self._groups.items():
            if wanted.matches(live):
                for watcher in group:
                    watcher.offer(live)
        self.fed.set()

    def watch(self, wanted: LiveFilter) -> Watcher:
        """From now on. Raises `RuntimeError` before `begin`."""
        if self.marks is None:
            raise RuntimeError("the stream is not read yet")
        watcher = Watcher(self, wanted, self.marks)
        self._groups.setdefault(wanted, set()).add(watcher)
        return watcher

    def leave(self, watcher: Watcher) -> None:
        """It watches no more."""
        self._take_out(watcher, watcher.filter)

    def regroup(self, watcher: Watcher, before: LiveFilter, now: LiveFilter) -> None:
        """It wants something else; nothing when it watches no more."""
        if self._take_out(watcher, before):
            self._groups.setdefault(now, set()).add(watcher)

    def _take_out(self, watcher: Watcher, wanted: LiveFilter) -> bool:
        group = self._groups.get(wanted, set())
        if watcher not in group:
            return False
        group.remove(watcher)
        if not group:
            del self._groups[wanted]
        return True

    def since(self, after: Marks) -> Iterator[LiveEvent] | None:
        """Everything behind `after` that the ring has; None when it does not go back that far."""
        if self._from is None or any(mine < first for mine, first in zip(after.next, self._from.next, strict=True)):
            return None
        return (live for live in list(self._ring) if live.offset >= after.next[live.partition])
