"""Lanes: an agent handles the chunks of a partition in order, and those of several partitions beside each other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import structlog

from agents.hold import Stale

#: Bytes of records from which a batch is large enough: thousands of events of 900 KiB would be gigabytes.
MOST_BYTES: Final = 2 << 20
#: Bytes of a partition that are handed out and not acked where a lane lingers. Twice a batch: the next one comes while
#: the last is worked on, and no batch waits for records that may not come before it is acked.
UNACKED_BYTES: Final = 2 * MOST_BYTES
#: Parts of a circle between the batches of two partitions that follow each other: so any number of them lie evenly.
GOLDEN: Final = 0.618034
_logger = structlog.get_logger("chronicle.lanes")


class Lane(Protocol):
    """The chunks of one partition, in order. Never raises."""

    async def put(self, chunk: Any) -> None:
        """Take it in; waits while the lane is full."""
        ...

    async def close(self) -> None:
        """Stop where it stands; what is not acked comes again."""
        ...


def attach(app: Any, name: str, *, chunks: Any, lane: Callable[[int], Lane]) -> Any:
    """The agent `name` on `chunks` (raw bytes, delivered as chunks), `lane` making one for each partition it meets."""

    async def agent(stream: Any) -> None:
        lanes: dict[int, Lane] = {}
        try:
            async for chunk in stream.noack():
                found = lanes.get(chunk.partition)
                if found is None:
                    found = lanes[chunk.partition] = lane(chunk.partition)
                await found.put(chunk)
        finally:
            await asyncio.gather(*(one.close() for one in lanes.values()))

    return app.agent(chunks, name=name, concurrency=1)(agent)


class Lingering:
    """A lane that works off together what came within `linger_s` seconds (`end_of`), at most about `most` records or
    MOST_BYTES.

    A subclass says how (`work`), what leaves a batch to the next owner of the partition (`left`), and what is done
    about a bug (`failed`): the agent's loop must not step over a record.
    """

    left: tuple[type[Exception], ...] = (Stale,)

    def __init__(self, partition: int, *, most: int, linger_s: float) -> None:
        self._partition = partition
        self._most, self._linger_s = most, linger_s
        self._inbox: asyncio.Queue[Any] = asyncio.Queue(8)
        self._task = asyncio.ensure_future(self._run())

    async def put(self, chunk: Any) -> None:
        """See `Lane`."""
        await self._inbox.put(chunk)

    async def close(self) -> None:
        """See `Lane`."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def work(self, chunks: Sequence[Any]) -> None:
        """Do it, and ack them."""
        raise NotImplementedError

    def failed(self, error: Exception) -> None:
        """Nothing goes on in this lane; say so to whoever ends the process."""
        raise NotImplementedError

    async def _run(self) -> None:
        try:
            while True:
                chunks = [chunk for chunk in await self._collect() if chunk.live]
                try:
                    if chunks:
                        await self.work(chunks)
                except self.left:
                    _logger.info("batch left to its next owner", partition=self._partition, first=chunks[0].first)
        except Exception as error:
            self.failed(error)

    async def _collect(self) -> list[Any]:
        """The next chunk and those that come within the linger, as long as they are no more than a batch."""
        chunks = [await self._inbox.get()]
        records, size = len(chunks[0].records), _size(chunks[0])
        end = end_of(self._partition, asyncio.get_running_loop().time(), self._linger_s)
        try:
            async with asyncio.timeout_at(end):
                while records < self._most and size < MOST_BYTES:
                    chunks.append(await self._inbox.get())
                    records, size = records + len(chunks[-1].records), size + _size(chunks[-1])
        except TimeoutError:
            pass
        return chunks


def end_of(partition: int, now: float, linger_s: float) -> float:
    """When a batch that begins `now` ends: after more than half of `linger_s`, and no more than the whole.

    Each partition ends its own at other moments: in the same one, together, they would keep the loop from all else.
    """
    half = linger_s / 2
    return now + linger_s - (now - half * (partition * GOLDEN % 1.0)) % half if half else now


def _size(chunk: Any) -> int:
    return sum(len(record.value or b"") for record in chunk.records)
