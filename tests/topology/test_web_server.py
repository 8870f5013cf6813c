"""The web face over real sockets: clients that are slow, too many, or talk something else than HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from app.lifecycle import web_app
from app.problems import outside, problems
from app.stack.ports import free_port
from app.views.body import SERVER_ARGS
from app.web_server import Limits
from door import Counting
from schemas.clock import SystemClock

#: The ten seconds of a test; HANGS is how long to wait for what should come then.
SHORT = 0.2
HANGS = 10.0
GET = b"GET /here HTTP/1.1\r\nHost: 127.0.0.1\r\n"


class Client:
    """A socket to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def says(self, *parts: bytes) -> None:
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()

    async def hears(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the next answer."""
        async with asyncio.timeout(HANGS):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            return int(head[0].split()[1]), headers, await self.reader.readexactly(int(headers["content-length"]))

    async def problem(self) -> dict[str, Any]:
        """The next answer, which is a problem and the last one on this connection."""
        status, headers, body = await self.hears()
        told: dict[str, Any] = json.loads(body)
        assert headers["content-type"] == "application/problem+json"
        assert told["status"] == status
        assert told["request_id"] == headers["chronicle-request-id"]
        assert await self.closed()
        return told

    async def closed(self) -> bool:
        async with asyncio.timeout(HANGS):
            try:
                return await self.reader.read(1) == b""
            except ConnectionError:
                return True


class Face:
    """The real web app with one route, `/here`, which answers when it `may`."""

    def __init__(self, stack: AsyncExitStack, folder: Path) -> None:
        self._stack, self._folder = stack, folder
        self.metrics, self.port, self.may = Counting(), free_port(), asyncio.Event()
        self.asked = asyncio.Event()
        self.may.set()

    async def start(self, **limits: Any) -> None:
        async def here(request: web.Request) -> web.Response:
            self.asked.set()
            await self.may.wait()
            return web.Response(body=await request.read() or b"here")

        clock = SystemClock()
        options = {"middlewares": [problems(clock, self.metrics)], "handler_args": SERVER_ARGS}
        app = web_app(
            "t-web",
            host="127.0.0.1",
            port=self.port,
            datadir=str(self._folder),
            options=options,
            limits=Limits(**limits),
            answer=outside(clock, self.metrics),
        )
        server: Any = app.web
        server.web_app.router.add_route("*", "/here", here)
        await app.start()
        self._stack.push_async_callback(app.stop)

    async def client(self) -> Client:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._stack.callback(writer.close)
        return Client(reader, writer)

    def counted(self, status: int) -> float:
        return self.metrics.counts.get(
            ("chronicle_http_requests_total", *sorted(("unmatched", "OTHER", str(status)))), 0
        )


@pytest.fixture
async def face(tmp_path: Path) -> AsyncIterator[Face]:
    async with AsyncExitStack() as stack:
        yield Face(stack, tmp_path)


async def drip(client: Client) -> None:
    """A byte now and then, for ever."""
    while True:
        await client.says(b"x")
        await asyncio.sleep(SHORT / 10)


@pytest.mark.parametrize("start", [b"G", GET, GET + b"X-A: "], ids=["one byte", "whole lines", "half a line"])
async def test_headers_that_do_not_end_are_answered_408(face: Face, start: bytes) -> None:
    """A client that begins a request and then is silent."""
    await face.start(header_seconds=SHORT)
    client = await face.client()
    await client.says(start)
    told = await client.problem()
    assert (told["status"], told["code"]) == (408, "header_timeout")
    assert face.counted(408) == 1


async def test_a_byte_now_and_then_wins_no_time(face: Face) -> None:
    """Twenty slowloris clients: each is answered or hung up on, and a good request among them is served."""
    await face.start(header_seconds=SHORT)
    clients = [await face.client() for _ in range(20)]
    dripping = []
    for client in clients:
        await client.says(GET + b"X-A: ")
        dripping.append(asyncio.ensure_future(drip(client)))
    good = await face.client()
    await good.says(GET + b"\r\n")
    assert (await good.hears())[0] == 200
    for client in clients:
        async with asyncio.timeout(HANGS):
            line = await client.reader.readline()
        assert line.startswith(b"HTTP/1.1 408 ")
    for task in dripping:
        task.cancel()
    await asyncio.gather(*dripping, return_exceptions=True)


async def test_the_second_request_of_a_connection_has_the_limit_too(face: Face) -> None:
    """Being served once earns no patience."""
    await face.start(header_seconds=SHORT)
    client = await face.client()
    await client.says(GET + b"\r\n")
    assert (await client.hears())[0] == 200
    await client.says(GET)
    assert (await client.problem())["code"] == "header_timeout"


async def silent(client: Client) -> None:
    """Says nothing."""


async def between_two(client: Client) -> None:
    """One request is served; an empty line after it begins no other."""
    await client.says(GET + b"\r\n")
    assert (await client.hears())[0] == 200
    await client.says(b"\r\n")


async def slow_body(client: Client) -> None:
    """The headers are here, the body comes when it comes."""
    await client.says(b"POST" + GET[3:] + b"Content-Length: 4\r\n\r\n", b"ab")


@pytest.mark.parametrize("wait", [silent, between_two, slow_body])
async def test_only_headers_are_under_this_limit(face: Face, wait: Callable[[Client], Awaitable[None]]) -> None:
    """Who waits otherwise outlives a client whose headers are late, and is served."""
    await face.start(header_seconds=SHORT)
    client, late = await face.client(), await face.client()
    await wait(client)
    await late.says(GET)
    assert (await late.problem())["code"] == "header_timeout"
    await client.says(b"cd" if wait is slow_body else GET + b"\r\n")
    status, _, body = await client.hears()
    assert (status, body) == (200, b"abcd" if wait is slow_body else b"here")


async def test_time_that_a_handler_takes_is_not_the_clients(face: Face) -> None:
    """The next request has begun on the same connection while this one is still being answered: both are served."""
    await face.start(header_seconds=SHORT)
    client, late = await face.client(), await face.client()
    face.may.clear()
    await client.says(GET + b"\r\n" + GET)
    await asyncio.wait_for(face.asked.wait(), HANGS)
    await client.says(b"X-A: b\r\n")
    await late.says(GET)
    assert (await late.problem())["code"] == "header_timeout"
    face.may.set()
    assert (await client.hears())[0] == 200
    await client.says(b"\r\n")
    assert (await client.hears())[0] == 200


@pytest.mark.parametrize(
    ("request_bytes", "code"),
    [
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", "line_too_long"),
        (GET + b"X-A: " + b"x" * 9000 + b"\r\n\r\n", "line_too_long"),
        (GET + b"nonsense\r\n\r\n", "bad_request"),
        (b"\x16\x03\x01\x02 hello\r\n\r\n", "bad_request"),
        (b"POST" + GET[3:] + b"Content-Length: -1\r\n\r\n", "bad_request"),
        (GET + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "bad_request"),
    ],
    ids=["request line", "header", "no colon", "TLS", "length", "two framings"],
)
async def test_what_is_no_request_is_a_problem(face: Face, request_bytes: bytes, code: str) -> None:
    """400 as problem JSON like every other error, with nothing of what was sent in it; counted."""
    await face.start()
    client = await face.client()
    await client.says(request_bytes)
    told = await client.problem()
    assert (told["status"], told["code"]) == (400, code)
    assert "xxx" not in told["detail"]
    assert face.counted(400) == 1


async def test_one_connection_too_many_is_answered_503(face: Face) -> None:
    """Those that are there are served, and who leaves makes room."""
    await face.start(max_connections=2)
    clients = [await face.client() for _ in range(2)]
    for client in clients:  # an answer says that the server has seen it
        await client.says(GET + b"\r\n")
        assert (await client.hears())[0] == 200
    told = await (await face.client()).problem()
    assert (told["status"], told["code"]) == (503, "too_many_connections")
    assert face.counted(503) == 1
    clients[0].writer.close()
    async with asyncio.timeout(HANGS):
        while not await served(face):
            await asyncio.sleep(0)
    await clients[1].says(GET + b"\r\n")
    assert (await clients[1].hears())[0] == 200


async def served(face: Face) -> bool:
    client = await face.client()
    try:
        await client.says(GET + b"\r\n")
        return (await client.hears())[0] == 200
    except ConnectionError:
        return False
