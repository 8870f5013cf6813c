"""The tail of `chronicle.events` for the hub: read while somebody watches, and a little longer.

A process in which nobody watches does not read the stream at all.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol

import structlog

from agents.broadcast import Hub
from agents.quarantine import position_of
from connectors.ports import Codec
from schemas.errors import Poison, Unavailable
from schemas.live import LiveEvent, Marks

#: Seconds the stream is read on after the last watcher has left: a page that is loaded again goes on from the ring.
LINGER_S = 60.0
#: Seconds that the broker may take to tell where the stream ends.
BEGIN_S = 5.0

_logger = structlog.get_logger("chronicle.live")


class Follower(Protocol):
    """Reads a topic from its end while it is open (`connectors.follow.TopicFollower`)."""

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    def forget(self) -> None: ...


#: Makes a follower out of what it tells records to and what it tells the ends to.
Make = Callable[[Callable[[int, Any], None], Callable[[Sequence[int]], None]], Follower]


class LiveTail:
    """Feeds a hub. `watching()` keeps it reading."""

    def __init__(self, hub: Hub, codec: Codec, make: Make, *, linger_s: float = LINGER_S) -> None:
        self._hub, self._codec, self._linger_s = hub, codec, linger_s
        self._follower = make(self.take, self.begin)
        self._watchers = 0
        self._open = False
        self._ends = asyncio.Event()
        self._closing: asyncio.TimerHandle | None = None
        self._ending: asyncio.Task[None] | None = None
        self._ingested: dict[int, int] = {}

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[Hub]:
        """The hub, fed as long as the context is open. Raises `Unavailable` when the broker does not answer."""
        self._watchers += 1
        try:
            await self._ensure()
            yield self._hub
        finally:
            self._watchers -= 1
            if not self._watchers:
                self._closing = asyncio.get_running_loop().call_later(self._linger_s, self._end)

    def begin(self, ends: Sequence[int]) -> None:
        """The stream is read from here on."""
        self._ingested.clear()
        self._hub.begin(Marks(tuple(ends)))
        self._ends.set()

    def take(self, partition: int, record: Any) -> None:
        """A record. What cannot be decoded, and what dedup produced again after a crash, is passed over."""
        if self._hub.marks is None:  # of a log that is forgotten
            return
        marks = self._hub.marks.after(partition, record.offset)
        place = position_of(record.headers)
        if place is not None:
            if place.offset <= self._ingested.get(partition, -1):
                return
            self._ingested[partition] = place.offset
        try:
            event = self._codec.decode(record.value)
        except Poison as poison:
            _logger.debug("passed over", partition=partition, offset=record.offset, cause=poison.cause)
            return
        self._hub.publish(LiveEvent(event, partition, record.offset, marks))

    def forget(self) -> None:
        """The log is another one: what is read from now on has other places."""
        self._ends.clear()
        self._hub.marks = None
        self._follower.forget()

    async def open(self) -> None:
        """Nothing: it opens when somebody watches."""

    async def close(self) -> None:
        """Stop reading."""
        if self._closing is not None:
            self._closing.cancel()
        if self._open:
            self._open = False
            await self._follower.close()

    async def _ensure(self) -> None:
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
        if self._ending is not None:
            await asyncio.shield(self._ending)
        if not self._open:
            self._open = True
            await self._follower.open()
        try:
            async with asyncio.timeout(BEGIN_S):
                await self._ends.wait()
        except TimeoutError as error:
            raise Unavailable("kafka", "the live stream cannot be read: the broker does not answer") from error

    def _end(self) -> None:
        """Nobody came back: stop reading, and forget where, since whoever comes next begins at the end."""
        if self._watchers or not self._open:
            return
        self._open = False
        self._ending = asyncio.get_running_loop().create_task(self._stop())

    async def _stop(self) -> None:
        await self._follower.close()
        self.forget()
