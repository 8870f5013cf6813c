"""One writer for all who keep up: what many watch is made once and written to each without waking a task.

A thousand tasks that wake for each event take nearly half of the speed from the process in which events are taken in
(`live.clients` of the benchmark); plain writes take much less. Who has something left in its buffer, was too slow or
gets much at once is handed back to its own task, which waits for it and for nobody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from agents.broadcast import Hub, Watcher
from app.views.live_faces import WRITE_BYTES, Sse, place, together
from schemas.live import LiveEvent, LiveFilter

#: Who is written to before the rest of the process has its turn: no request waits for a thousand writes.
SLICE: Final = 25
SLICE_S: Final = 0.001
#: Writes a second to all of them together. So a thousand who watch a busy stream are told less often, not less, and
#: what they cost those who send has a bound.
WRITES_PER_S: Final = 2_500
#: Seconds between two pushes of figures, and between two looks for who is gone.
STATS_S: Final = 1.0

_Key = tuple[LiveFilter, LiveEvent | None, int, bool, bool]


class Carried:
    """A client that keeps up. `done` ends it: a result for who does not any more, an error for who is gone."""

    __slots__ = ("done", "face", "figured", "told", "watcher")

    def __init__(self, face: Sse, watcher: Watcher, now: float) -> None:
        self.face, self.watcher = face, watcher
        self.told, self.figured = now, float("-inf")
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Pump:
    """Writes while it carries somebody. `figures` gives what is pushed once a second, None for nothing."""

    def __init__(
        self,
        figures: Callable[[float], bytes | None],
        *,
        gather_s: float,
        heartbeat_s: float,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._figures, self._sleep = figures, sleep
        self._gather_s, self._heartbeat_s = gather_s, heartbeat_s
        self._carried: dict[Carried, None] = {}
        self._running: asyncio.Task[None] | None = None

    async def carry(self, hub: Hub, one: Carried) -> None:
        """Write what comes, until the client does not keep up. Raises `ConnectionError` when it is gone."""
        one.done = asyncio.get_running_loop().create_future()
        self._carried[one] = None
        hub.fed.set()  # what has come already is written at once
        if self._running is None or self._running.done():
            self._running = asyncio.get_running_loop().create_task(self._run(hub))
        try:
            await one.done
        finally:
            self._carried.pop(one, None)
            if not self._carried:
                hub.fed.set()  # nothing is left to wait for

    async def _run(self, hub: Hub) -> None:
        try:
            while self._carried:
                await _fed(hub)
                written = await self._pass()
                await self._sleep(max(self._gather_s, written / WRITES_PER_S))
        except Exception as error:  # a fault of ours: each client's own task tells it
            for one in self._carried:
                _end(one, error)

    async def _pass(self) -> int:
        """Once to everybody for whom there is something; how many that were."""
        now = asyncio.get_running_loop().time()
        figures, made, written = self._figures(now), dict[_Key, bytes](), 0
        for one in list(self._carried):
            if not one.done.done() and self._serve(one, now, figures, made):
                written += 1
                if written % SLICE == 0:
                    await self._sleep(SLICE_S)
        return written

    def _serve(self, one: Carried, now: float, figures: bytes | None, made: dict[_Key, bytes]) -> bool:
        face, watcher = one.face, one.watcher
        if face.gone:
            _end(one, ConnectionResetError("the client is gone"))
            return False
        if face.left or watcher.missed or watcher.bytes > WRITE_BYTES:
            _end(one, None)
            return False
        told = figures if now - one.figured >= STATS_S else None
        written = self._write(one, told, made)
        one.figured = one.figured if told is None else now
        if now - one.told >= self._heartbeat_s:
            one.told = now
            face.write_now(face.framed(place(watcher.marks)))
        return written

    def _write(self, one: Carried, figures: bytes | None, made: dict[_Key, bytes]) -> bool:
        found = one.watcher.take_now()
        if not found and figures is None:
            return False
        first = found[0] if found else None
        assert first is None or isinstance(first, LiveEvent)  # who missed something is not written to here
        key = (one.watcher.filter, first, len(found), figures is not None, one.face.chunked)
        if (data := made.get(key)) is None:
            data = made[key] = one.face.framed(together(found, figures))
        one.face.write_now(data)
        return True


async def _fed(hub: Hub) -> None:
    """Until something came, for a second at most."""
    try:
        async with asyncio.timeout(STATS_S):
            await hub.fed.wait()
    except TimeoutError:
        pass
    hub.fed.clear()


def _end(one: Carried, error: Exception | None) -> None:
    if one.done.done():
        return
    if error is None:
        one.done.set_result(None)
    else:
        one.done.set_exception(error)
