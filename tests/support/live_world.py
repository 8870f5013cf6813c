"""A public stream in memory, the live views over it, and what a browser's EventSource makes of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
from aiohttp.test_utils import TestClient

from agents.broadcast import Hub
from agents.live_tail import LiveTail
from app.views.live import History, LiveViews
from connectors.scan import Stretch
from fakes_persist import CountingMetrics, make_event
from schemas.codec import AvroCodec
from schemas.errors import Unavailable

CODEC = AvroCodec()
TOPIC, PARTITIONS = "t.events", 2


class Row(NamedTuple):
    """A record of the log, as both readers give it."""

    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


class Log:
    """The public stream in memory: followed from its end, and read again."""

    def __init__(self) -> None:
        self.rows: list[list[Row]] = [[] for _ in range(PARTITIONS)]
        self.opened = self.scanned = 0
        self.away = self.unreadable = False
        self._take: Callable[[int, Any], None] | None = None
        self._begin: Callable[[Sequence[int]], None] | None = None
        self._open = False

    def follower(self, take: Callable[[int, Any], None], begin: Callable[[Sequence[int]], None]) -> Log:
        self._take, self._begin = take, begin
        return self

    async def open(self) -> None:
        self.opened += 1
        if not self.away and self._begin is not None:
            self._open = True
            self._begin([len(rows) for rows in self.rows])

    async def close(self) -> None:
        self._open = False

    def forget(self) -> None:
        """It begins at the end each time."""

    async def read(self, topic: str, partition: int, start: int, end: int, most: int) -> Stretch:
        self.scanned += 1
        if self.unreadable:
            raise Unavailable("kafka", "the log cannot be read")
        found = [tuple(row) for row in self.rows[partition][start:end]][:most]
        return Stretch(found, start + len(found))  # type: ignore[arg-type]

    def add(self, partition: int = 0, **fields: Any) -> str:
        """One more event; its id."""
        number = sum(map(len, self.rows))
        event = make_event(number, kind="user_prompt", payload=f'{{\n"n":{number}}}')
        event = msgspec.structs.replace(event, occurred_at=1_000, received_at=1_000, **fields)
        self.add_raw(CODEC.encode(event), partition)
        return str(event.event_id)

    def add_raw(self, value: bytes, partition: int = 0) -> None:
        row = Row(len(self.rows[partition]), b"s", value)
        self.rows[partition].append(row)
        if self._open and self._take is not None:
            self._take(partition, row)


class Plant:
    """The views over that log."""

    def __init__(self) -> None:
        self.log, self.hub = Log(), Hub()
        self.tail = LiveTail(self.hub, CODEC, self.log.follower, linger_s=0.0)
        self.figures: dict[str, Any] | None = None
        self.metrics = CountingMetrics()
        self.views = LiveViews(
            self.tail,
            History(self.log, CODEC, TOPIC),
            partitions=PARTITIONS,
            stats=lambda: self.figures,
            metrics=self.metrics,
            heartbeat_s=0.05,
            gather_s=0.0,
        )
        self.client: TestClient[Any, Any]


class Stream:
    """What a browser's EventSource makes of an answer: messages, and the last id."""

    def __init__(self, answer: Any) -> None:
        self.answer, self.last_id = answer, ""

    async def next(self) -> tuple[str, Any]:
        """(event, data) of the next message with data."""
        async with asyncio.timeout(10):
            while True:
                kind, data = "message", None
                while line := (await self.answer.content.readline()).decode().rstrip("\n"):
                    name, _, value = line.partition(": ")
                    if name == "id":
                        self.last_id = value
                    elif name == "event":
                        kind = value
                    elif name == "data":
                        data = json.loads(value)
                if data is not None:
                    return kind, data

    async def events(self, count: int) -> list[str]:
        """The ids of the next events."""
        found: list[str] = []
        while len(found) < count:
            kind, data = await self.next()
            if kind == "message":
                found.append(data["event_id"])
        return found
