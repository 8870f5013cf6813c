"""A TCP proxy of the drill's own: slow, cut, half-open, or cut right after a word was sent.

It runs in a thread with an event loop of its own: a fault that blocks the drill's loop does not stop the traffic.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from enum import Enum
from typing import Final, TypeVar

from app.stack.ports import claim, free_port

T = TypeVar("T")
CHUNK: Final = 64 << 10
#: Chunks on their way in one direction of one connection; beyond that the sender is held, as by a full pipe.
IN_FLIGHT: Final = 64
#: The server has this long to answer what is cut off from its client: then it has surely done it.
ANSWER_S: Final = 2.0
HOST: Final = "127.0.0.1"
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: closing sends RST


class _Mode(Enum):
    PASS = "pass"
    CUT = "cut"
    HALF_OPEN = "half_open"


class _Pipe:
    """One direction of the cable between both ends; all connections share its bandwidth."""

    def __init__(self) -> None:
        self.latency_s = 0.0
        self.bytes_per_s: float | None = None
        self._free_at = 0.0

    async def carry(self, size: int, sent_at: float) -> None:
        """Returns when `size` bytes that were sent at `sent_at` (loop time) come out at the other end."""
        loop = asyncio.get_running_loop()
        due = sent_at + self.latency_s
        if self.bytes_per_s:
            self._free_at = max(self._free_at, loop.time()) + size / self.bytes_per_s
            due = max(due, self._free_at)
        if (wait := due - loop.time()) > 0:
            await asyncio.sleep(wait)


class _Line:
    """One client's connection. `lost`: bytes were swallowed, so it can never be used again."""

    def __init__(self, client: asyncio.StreamWriter) -> None:
        self.client = client
        self.server: asyncio.StreamWriter | None = None
        self.lost = False
        self.muted = False
        self.answered = asyncio.Event()
        self.tasks: set[asyncio.Task[None]] = set()

    def reset(self) -> None:
        """RST to both ends."""
        for end in (self.client, self.server):
            if end is not None:
                _reset(end)
        for task in self.tasks:
            task.cancel()


class TcpProxy:
    """Forwards 127.0.0.1:`port` to 127.0.0.1:`target`; a `chaos.model.Proxy`. `start` it, `stop` it.

    All methods may be called from any thread but its own; each returns when the setting is in effect. `latency_s` is
    added in each direction; `bytes_per_s` is for all connections together, in each direction. What was swallowed is
    gone: `heal` resets the connections that lost bytes. `cuts` counts what `cut_after` did.
    """

    def __init__(self, target: int, *, port: int | None = None) -> None:
        self.port = port or free_port(avoid=frozenset({target}))
        claim(self.port)
        self.cuts = 0
        self._target = target
        self._mode = _Mode.PASS
        self._marker: bytes | None = None
        self._up, self._down = _Pipe(), _Pipe()
        self._lines: set[_Line] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy-{self.port}", daemon=True)

    # --- the Proxy ----------------------------------------------------------------------------------------------------

    def slow(self, *, latency_s: float = 0.0, bytes_per_s: float | None = None) -> None:
        """See the contract."""
        self._do(lambda: self._slow(latency_s, bytes_per_s))

    def cut(self) -> None:
        """See the contract."""
        self._do(self._cut)

    def half_open(self) -> None:
        """See the contract."""
        self._do(lambda: self._set(_Mode.HALF_OPEN))

    def reset_once(self) -> None:
        """See the contract."""
        self._do(self._reset_all)

    def cut_after(self, marker: bytes) -> None:
        """See the contract. The server is given time to answer first, so what was sent has been done."""
        self._do(lambda: self._mark(marker))

    def heal(self) -> None:
        """See the contract."""
        self._do(self._heal)
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)

    @property
    def connections(self) -> int:
        """Open now."""
        return len(self._lines)

    @property
    def running(self) -> bool:
        """Started and not stopped."""
        return self._thread.is_alive()

    # --- its life -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Listen. Raises OSError when the port is taken."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)

    def stop(self) -> None:
        """Reset everything and end the thread."""
        if not self._thread.is_alive():
            return
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def _do(self, change: Callable[[], None]) -> None:
        """Run `change` in the proxy's thread and wait for it."""

        async def run() -> None:
            change()

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)

    # --- in its thread ------------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, HOST, self.port, backlog=512)

    async def _end(self) -> None:
        self._cut()
        if others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others, timeout=2)

    def _set(self, mode: _Mode) -> None:
        self._mode = mode

    def _slow(self, latency_s: float, bytes_per_s: float | None) -> None:
        for pipe in (self._up, self._down):
            pipe.latency_s, pipe.bytes_per_s = latency_s, bytes_per_s

    def _mark(self, marker: bytes | None) -> None:
        self._marker = marker

    def _cut(self) -> None:
        self._set(_Mode.CUT)
        if self._server is not None:
            self._server.close()
            self._server = None
        self._reset_all()

    def _reset_all(self) -> None:
        for line in list(self._lines):
            line.reset()

    def _heal(self) -> None:
        self._slow(0.0, None)
        self._mark(None)
        self._set(_Mode.PASS)
        for line in list(self._lines):
            if line.lost:
                line.reset()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = _Line(writer)
        self._lines.add(line)
        try:
            if self._mode is _Mode.HALF_OPEN:
                line.lost = True
                await self._swallow(line, reader)
                return
            try:
                back, line.server = await asyncio.open_connection(HOST, self._target)
            except OSError:
                return
            if self._mode is _Mode.CUT:
                return
            await self._both(line, reader, back)
        except (OSError, asyncio.CancelledError):
            pass  # an end is gone, or we reset it: the line is over either way
        finally:
            line.reset()
            self._lines.discard(line)

    async def _swallow(self, line: _Line, reader: asyncio.StreamReader) -> None:
        line.tasks = {asyncio.ensure_future(self._drain(reader))}
        await asyncio.wait(line.tasks)

    async def _drain(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            while await reader.read(CHUNK):
                pass
        await asyncio.Event().wait()  # its end is not told either; `heal` resets the line

    async def _both(self, line: _Line, reader: asyncio.StreamReader, back: asyncio.StreamReader) -> None:
        assert line.server is not None
        line.tasks = {
            asyncio.ensure_future(self._pump(line, reader, line.server, self._up, client=True)),
            asyncio.ensure_future(self._pump(line, back, line.client, self._down, client=False)),
        }
        for done in asyncio.as_completed(line.tasks):
            await done

    async def _pump(
        self,
        line: _Line,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        pipe: _Pipe,
        *,
        client: bool,
    ) -> None:
        """One direction until its end; what is read waits in a queue, so that latency does not cost bandwidth."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(IN_FLIGHT)
        reading = asyncio.ensure_future(_read(source, queue, pipe))
        tail = b""
        try:
            while (item := await queue.get())[1]:
                at, data = item
                await pipe.carry(len(data), at)
                if self._mode is _Mode.HALF_OPEN or line.lost:
                    line.lost = True
                elif client:
                    tail = await self._to_server(line, sink, tail, data)
                elif line.muted:
                    line.answered.set()
                else:
                    sink.write(data)
                    await sink.drain()
            if self._mode is _Mode.HALF_OPEN or line.lost:
                line.lost = True
                await asyncio.Event().wait()
            line.answered.set()
            if not line.muted:
                sink.close()
        finally:
            reading.cancel()

    async def _to_server(self, line: _Line, sink: asyncio.StreamWriter, tail: bytes, data: bytes) -> bytes:
        """Pass on; after the marker wait for the server's answer, keep it, and reset. Returns what the next needs."""
        marker = self._marker
        found = marker is not None and marker in tail + data
        if found:
            self._marker, line.muted = None, True
        sink.write(data)
        await sink.drain()
        if found:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(line.answered.wait(), ANSWER_S)
            self.cuts += 1
            _reset(line.client)
            sink.close()  # in order: what was sent is not taken back
            raise ConnectionResetError
        return (tail + data)[-(len(marker) - 1) :] if marker and len(marker) > 1 else b""


async def _read(source: asyncio.StreamReader, queue: asyncio.Queue[tuple[float, bytes]], pipe: _Pipe) -> None:
    """Put what comes into the queue with its time; b"" is the end."""
    loop = asyncio.get_running_loop()
    try:
        while data := await source.read(CHUNK if pipe.bytes_per_s is None else CHUNK // 16):
            await queue.put((loop.time(), data))
    except OSError:
        pass
    await queue.put((loop.time(), b""))


def _reset(end: asyncio.StreamWriter) -> None:
    found: socket.socket | None = end.get_extra_info("socket")
    if found is not None and found.fileno() >= 0 and not end.transport.is_closing():
        with contextlib.suppress(OSError):
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    end.transport.abort()
