"""One writer for all who keep up: the same bytes for who wants the same, and nobody waits for who is slow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio

from agents.broadcast import Hub, Watcher
from app.views import live, live_faces
from app.views.live_faces import WRITE_BYTES, Sse
from app.views.live_pump import SLICE, SLICE_S, WRITES_PER_S, Carried, Pump
from fakes_persist import make_event
from live_world import Plant
from reading import serving
from schemas.live import LiveEvent, LiveFilter, Marks

ALL = LiveFilter()


class Wire(asyncio.WriteTransport):
    """A connection: what was written, and what its system has not taken yet."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.left, self.closed = 0, False

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        return self.left

    def is_closing(self) -> bool:
        return self.closed


class Answer:
    """A prepared response."""

    def __init__(self, chunked: bool) -> None:
        self.headers = {"Transfer-Encoding": "chunked"} if chunked else {}


class House:
    """A hub, a pump and those it carries."""

    def __init__(self, figures: bytes | None = None, heartbeat_s: float = 60.0) -> None:
        self.hub = Hub()
        self.hub.begin(Marks((0,)))
        self.slept: list[float] = []
        self.pump = Pump(lambda now: figures, gather_s=0.0, heartbeat_s=heartbeat_s, sleep=self.sleep)
        self.tasks: list[asyncio.Task[None]] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)

    def enter(self, wanted: LiveFilter = ALL, *, chunked: bool = True) -> tuple[Wire, Watcher, asyncio.Task[None]]:
        wire, watcher = Wire(), self.hub.watch(wanted)
        face = Sse(Answer(chunked), wire)  # type: ignore[arg-type]
        one = Carried(face, watcher, asyncio.get_running_loop().time())
        self.tasks.append(asyncio.create_task(self.pump.carry(self.hub, one)))
        return wire, watcher, self.tasks[-1]

    def publish(self, payload: str = "{}", **fields: Any) -> LiveEvent:
        assert self.hub.marks is not None
        offset = self.hub.marks.next[0]
        made = LiveEvent(make_event(offset, payload=payload, **fields), 0, offset, Marks((offset + 1,)))
        self.hub.publish(made)
        return made


@asynccontextmanager
async def house(figures: bytes | None = None, heartbeat_s: float = 60.0) -> AsyncIterator[House]:
    made = House(figures, heartbeat_s)
    try:
        yield made
    finally:
        for task in made.tasks:
            task.cancel()
        await asyncio.gather(*made.tasks, return_exceptions=True)


async def written(wire: Wire, number: int = 1) -> list[bytes]:
    async with asyncio.timeout(10):
        while len(wire.writes) < number:
            await asyncio.sleep(0)
    return wire.writes


def framed(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


async def test_all_who_want_the_same_get_the_same() -> None:
    """More than one slice of them; and only what they want."""
    async with house() as here:
        many = [here.enter(LiveFilter(session="a"))[0] for _ in range(60)]
        other, *_ = here.enter(LiveFilter(session="b"))
        wanted = [here.publish(session="a") for _ in range(3)]
        unlike = here.publish(session="b")
        data = framed(b"".join(one.sse for one in wanted))
        assert [await written(wire) for wire in many] == [[data]] * 60
        assert await written(other) == [framed(unlike.sse)]


async def test_many_are_told_less_often() -> None:
    """The pause after a pass is in proportion to what was written; others have their turn in between as well."""
    async with house() as here:
        many = [here.enter()[0] for _ in range(60)]
        here.publish()
        for wire in many:
            await written(wire)
        async with asyncio.timeout(10):
            while 60 / WRITES_PER_S not in here.slept:
                await asyncio.sleep(0)
        assert here.slept.count(SLICE_S) == 60 // SLICE


async def test_without_chunks_the_body_is_plain() -> None:
    """HTTP/1.0 knows none; beside others who do."""
    async with house(b"{}") as here:
        new, old = here.enter()[0], here.enter(chunked=False)[0]
        one = here.publish()
        figures = b"event: stats\ndata: {}\n\n"
        assert b"".join(await written(old)) == one.sse + figures
        assert await written(new) == [framed(one.sse + figures)]


async def test_the_place_is_told_when_nothing_comes() -> None:
    """So that no proxy takes the silence for an end."""
    async with house(heartbeat_s=0.0) as here:
        wire, *_ = here.enter(LiveFilter(session="another"))
        here.publish()
        async with asyncio.timeout(10):
            while framed(b"id: 1\n\n") not in wire.writes:
                await asyncio.sleep(0)


@pytest.mark.parametrize("why", ["left", "missed", "much"])
async def test_who_does_not_keep_up_is_handed_back_with_all_that_waits(
    why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nobody else notices."""
    if why == "missed":
        monkeypatch.setattr("agents.broadcast.QUEUE_EVENTS", 2)
    async with house() as here:
        wire, watcher, task = here.enter()
        wire.left = 1 if why == "left" else 0
        for _ in range(3):
            here.publish(payload=f'"{"x" * (WRITE_BYTES if why == "much" else 1)}"')
        quick, *_ = here.enter()
        async with asyncio.timeout(10):
            await task
        assert wire.writes == []
        assert len(watcher.take_now()) == 3
        later = here.publish(payload="1")
        assert await written(quick) == [framed(later.sse)]


async def test_who_is_gone_is_told() -> None:
    """To its own task, which ends."""
    async with house() as here:
        wire, _, task = here.enter()
        wire.closed = True
        here.publish()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(task, 10)


async def test_a_fault_of_the_writer_ends_all_it_carries(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would wait for ever otherwise."""
    async with house() as here:
        _, _, task = here.enter()
        monkeypatch.setattr(Wire, "write", lambda *_: 1 / 0)
        here.publish()
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(task, 10)


@pytest_asyncio.fixture
async def plant() -> AsyncIterator[Plant]:
    made = Plant()
    yield made
    await made.tail.close()


async def drain(reader: asyncio.StreamReader) -> None:
    """Read until the connection ends."""
    while await reader.read(1 << 20):
        pass


async def test_who_reads_nothing_is_hung_up_on_and_the_others_are_not(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real connection with a small window, beside one that reads."""
    monkeypatch.setattr(live_faces, "STUCK_S", 0.3)
    async with serving(live.routes(plant.views)) as client:
        host, port = client.server.host, client.server.port
        reader, writer = await asyncio.open_connection(host, port, limit=1024)
        stuck, closer = await asyncio.open_connection(host, port, limit=1024)
        for one in (writer, closer):
            one.write(b"GET /sse/events HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"event: hello")
        await stuck.readuntil(b"event: hello")
        reading = asyncio.create_task(drain(reader))
        async with asyncio.timeout(30):
            while len(plant.hub) == 2:
                plant.log.add(payload=f'"{"x" * 500_000}"')
                await asyncio.sleep(0.01)
        assert (len(plant.hub), reading.done()) == (1, False)
        for one in (writer, closer):
            one.close()
        await asyncio.wait_for(reading, 10)
