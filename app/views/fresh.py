"""A short memory for answers: a thousand pages that ask the same in one second cost one query.

An answer is kept for SHORT seconds, and for LONG as long as nothing has moved in the stream since it was made. Who asks
while the answer is being made waits for it instead of asking again.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Final

import msgspec

from schemas.clock import Clock

#: Seconds. What moves in the stream is in the database a moment later, so an answer made within SETTLE of the last
#: movement may be behind it and is kept for SHORT only.
SHORT: Final = 1.0
LONG: Final = 5.0
SETTLE: Final = 2.0
#: Answers and bytes that are kept.
MOST, MOST_BYTES = 256, 16 << 20


class Kept(msgspec.Struct, frozen=True):
    """An encoded answer. `settled`: it holds all that has moved so far; `lasting`: it may be kept at all."""

    body: bytes
    headers: tuple[tuple[str, str], ...]
    lasting: bool = True


class _Entry(msgspec.Struct):
    made: float
    moved: Hashable
    settled: bool
    task: asyncio.Future[Kept]


class Fresh:
    """`moved()` is another value once something has moved in the stream."""

    def __init__(self, clock: Clock, moved: Callable[[], Hashable]) -> None:
        self._clock, self._moved = clock, moved
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._mark = moved()
        self._moved_at = clock.monotonic()

    async def get(self, key: Hashable, make: Callable[[], Awaitable[Kept]]) -> Kept:
        """The answer under `key`: one that is kept, or what `make` gives. What it raises is not kept."""
        now = self._look()
        entry = self._entries.get(key)
        if entry is None or not self._holds(entry, now):
            task = asyncio.ensure_future(make())
            entry = _Entry(now, self._mark, now - self._moved_at >= SETTLE, task)
            self._entries[key] = entry
            task.add_done_callback(lambda done: self._made(key, entry))
        self._entries.move_to_end(key)
        return await asyncio.shield(entry.task)

    def _look(self) -> float:
        now, mark = self._clock.monotonic(), self._moved()
        if mark != self._mark:
            self._mark, self._moved_at = mark, now
        return now

    def _holds(self, entry: _Entry, now: float) -> bool:
        age = now - entry.made
        if not entry.task.done():
            return age < LONG
        return age < SHORT or (age < LONG and entry.settled and entry.moved == self._mark)

    def _made(self, key: Hashable, entry: _Entry) -> None:
        if _well(entry.task) and entry.task.result().lasting:
            self._trim()
        elif self._entries.get(key) is entry:
            del self._entries[key]

    def _trim(self) -> None:
        """The ones that were asked for longest ago go first."""
        sizes = {key: len(one.task.result().body) for key, one in self._entries.items() if _well(one.task)}
        total = sum(sizes.values())
        for key in list(self._entries):
            if total <= MOST_BYTES and len(self._entries) <= MOST:
                return
            if key in sizes:
                total -= sizes[key]
                del self._entries[key]


def _well(task: asyncio.Future[Kept]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None
