"""What a live stream looks like on the wire: Server-Sent Events, or messages of a WebSocket."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
from aiohttp import web
from aiohttp.web import StreamResponse

from agents.broadcast import Missed, Watcher
from schemas.live import LiveEvent, LiveFilter, Marks

#: Seconds that one write may take; who does not read for so long is hung up on.
STUCK_S: Final = 30.0
#: Bytes of events in one write: what lies in memory for each who does not read.
WRITE_BYTES: Final = 64 * 1024
#: Seconds between two looks whether a slow client has read what was written.
LOOK_S: Final = 0.1


class Sse:
    """Server-Sent Events (WHATWG HTML, section 9.2). Writes raise `TimeoutError` when nobody reads.

    `transport` is what the prepared `response` writes to: `write_now` uses it without a task.
    """

    name = "sse"

    def __init__(self, response: StreamResponse, transport: asyncio.WriteTransport | None = None) -> None:
        self.filter = LiveFilter()
        self.watcher: Watcher | None = None
        self._response, self._transport = response, transport

    @property
    def chunked(self) -> bool:
        """Whether the body is framed as RFC 9112, section 7.1 has it: always, but for HTTP/1.0."""
        return self._response.headers.get("Transfer-Encoding") == "chunked"

    @property
    def gone(self) -> bool:
        """The connection is closed."""
        return self._transport is None or self._transport.is_closing()

    @property
    def left(self) -> int:
        """Bytes written that the client's system has not taken yet."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def framed(self, data: bytes) -> bytes:
        """As `write_now` wants it. It is the same for all that are `chunked` alike."""
        return b"%x\r\n%s\r\n" % (len(data), data) if self.chunked else data

    def write_now(self, framed: bytes) -> None:
        """Without waiting for anything: only for who has nothing `left`, and little at once."""
        if self._transport is not None:
            self._transport.write(framed)

    async def caught_up(self) -> None:
        """Wait until nothing is `left`."""
        async with asyncio.timeout(STUCK_S):
            while self.left and not self.gone:
                await asyncio.sleep(LOOK_S)

    async def hello(self, marks: Marks) -> None:
        await self._write(f"retry: 2000\nid: {marks.encode()}\nevent: hello\ndata: {{}}\n\n".encode())

    async def send(self, one: LiveEvent | Missed) -> None:
        await self._write(_message(one))

    async def send_all(self, several: Sequence[LiveEvent | Missed]) -> None:
        """In as few writes as their sizes allow."""
        for together in _gathered(several):
            await self._write(together)

    async def stats(self, figures: bytes) -> None:
        """`figures` is a JSON object: it is the same for all who watch."""
        await self._write(_stats(figures))

    async def place(self, marks: Marks) -> None:
        await self._write(place(marks))

    async def _write(self, data: bytes) -> None:
        async with asyncio.timeout(STUCK_S):
            await self._response.write(data)


class Ws:
    """One JSON object a message; `type` says what it is. Writes raise `TimeoutError` when nobody reads."""

    name = "ws"

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self.filter = LiveFilter()
        self.watcher: Watcher | None = None
        self._socket = socket

    def change(self, wanted: LiveFilter) -> None:
        """From now on."""
        self.filter = wanted
        if self.watcher is not None:
            self.watcher.filter = wanted

    async def hello(self, marks: Marks) -> None:
        await self.put({"type": "hello", "id": marks.encode(), "filter": msgspec.to_builtins(self.filter)})

    async def send(self, one: LiveEvent | Missed) -> None:
        if isinstance(one, LiveEvent):
            await self.put({"type": "event", "id": one.marks.encode(), "event": msgspec.Raw(one.json)})
        else:
            await self.put({"type": "missed", **_missed(one)})

    async def send_all(self, several: Sequence[LiveEvent | Missed]) -> None:
        """One after the other."""
        for one in several:
            await self.send(one)

    async def stats(self, figures: bytes) -> None:
        """`figures` is a JSON object that has members."""
        await self._send_text(b'{"type":"stats",' + figures[1:])

    async def place(self, marks: Marks) -> None:
        await self.put({"type": "place", "id": marks.encode()})

    async def put(self, message: Mapping[str, Any]) -> None:
        await self._send_text(_encode(message))

    async def _send_text(self, text: bytes) -> None:
        async with asyncio.timeout(STUCK_S):
            await self._socket.send_str(text.decode())


_encode = msgspec.json.Encoder().encode


def together(several: Sequence[LiveEvent | Missed], figures: bytes | None) -> bytes:
    """Server-Sent Events in one piece, `figures` last."""
    return b"".join(map(_message, several)) + (b"" if figures is None else _stats(figures))


def place(marks: Marks) -> bytes:
    """A Server-Sent Event without data: nothing is dispatched, and the place is remembered all the same."""
    return f"id: {marks.encode()}\n\n".encode()


def _stats(figures: bytes) -> bytes:
    return b"event: stats\ndata: %s\n\n" % figures


def _gathered(several: Sequence[LiveEvent | Missed]) -> Iterator[bytes]:
    parts: list[bytes] = []
    size = 0
    for one in several:
        part = _message(one)
        if parts and size + len(part) > WRITE_BYTES:
            yield b"".join(parts)
            parts, size = [], 0
        parts.append(part)
        size += len(part)
    if parts:
        yield b"".join(parts)


def _message(one: LiveEvent | Missed) -> bytes:
    return one.sse if isinstance(one, LiveEvent) else b"event: missed\ndata: %s\n\n" % _encode(_missed(one))


def _missed(one: Missed) -> dict[str, Any]:
    return {"count": one.count, "after": one.after.encode()}
