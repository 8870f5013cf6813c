"""The drill's TCP proxy, on real sockets and a server that echoes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from app.stack.ports import free_port
from chaos.proxy import TcpProxy

LIMIT_S = 20.0


class Echo:
    """Answers every byte, and remembers all."""

    def __init__(self) -> None:
        self.heard = b""
        self.ended = asyncio.Event()
        self.port = free_port()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                self.heard += data
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()
            self.ended.set()


@pytest_asyncio.fixture
async def echo() -> AsyncIterator[Echo]:
    made = Echo()
    server = await asyncio.start_server(made.serve, "127.0.0.1", made.port)
    yield made
    server.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[TcpProxy]:
    made = TcpProxy(echo.port)
    made.start()
    yield made
    made.stop()


async def connect(proxy: TcpProxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", proxy.port)


async def say(line: tuple[asyncio.StreamReader, asyncio.StreamWriter], data: bytes) -> bytes:
    """What comes back, all of it."""
    line[1].write(data)
    async with asyncio.timeout(LIMIT_S):
        return await line[0].readexactly(len(data))


async def first_byte(proxy: TcpProxy) -> bytes:
    """Of a new connection."""
    reader, _ = await connect(proxy)
    return await asyncio.wait_for(reader.read(1), LIMIT_S)


async def change(call: object, *args: object, **kwargs: object) -> None:
    """The proxy's methods block; the echo server lives in this loop."""
    await asyncio.to_thread(call, *args, **kwargs)  # type: ignore[arg-type]


async def test_everything_passes_both_ways(proxy: TcpProxy) -> None:
    """A megabyte goes and comes back unchanged on several connections."""
    data = bytes(range(256)) * 4096
    lines = [await connect(proxy) for _ in range(3)]
    assert await asyncio.gather(*(say(line, data) for line in lines)) == [data] * 3


async def test_the_end_of_a_connection_is_passed_on(proxy: TcpProxy, echo: Echo) -> None:
    """When the client hangs up the server sees it, and the proxy forgets the line."""
    line = await connect(proxy)
    assert await say(line, b"x") == b"x"
    line[1].close()
    async with asyncio.timeout(LIMIT_S):
        await echo.ended.wait()
        while proxy.connections:
            await asyncio.sleep(0.01)


async def test_latency_delays_each_way_and_heal_ends_it(proxy: TcpProxy) -> None:
    """0.2 s each way is 0.4 s a round trip, on a connection that was open before."""
    line = await connect(proxy)
    await say(line, b"warm")
    await change(proxy.slow, latency_s=0.2)
    began = time.monotonic()
    assert await say(line, b"late") == b"late"
    assert time.monotonic() - began >= 0.4
    await change(proxy.heal)
    assert await say(line, b"soon") == b"soon"


async def test_bandwidth_is_shared_by_all_connections(proxy: TcpProxy) -> None:
    """Two connections with 50 kB each over 100 kB/s take a second."""
    lines = [await connect(proxy), await connect(proxy)]
    await change(proxy.slow, bytes_per_s=100_000)
    began = time.monotonic()
    await asyncio.gather(*(say(line, b"x" * 50_000) for line in lines))
    assert time.monotonic() - began >= 0.9


async def test_cut_resets_open_connections_and_refuses_new_ones_until_healed(proxy: TcpProxy) -> None:
    """RST for the old, refusal for the new; after `heal` the same port works."""
    line = await connect(proxy)
    await say(line, b"x")
    await change(proxy.cut)
    with pytest.raises(ConnectionResetError):
        await line[0].read(1)
    with pytest.raises(ConnectionRefusedError):
        await connect(proxy)
    await change(proxy.heal)
    assert await say(await connect(proxy), b"again") == b"again"


async def test_half_open_tells_nobody(proxy: TcpProxy, echo: Echo) -> None:
    """Old and new connections stay open and silent, the server hears nothing; `heal` resets them, new ones work."""
    old = await connect(proxy)
    await say(old, b"before")
    await change(proxy.half_open)
    new = await connect(proxy)
    for line in (old, new):
        line[1].write(b"lost")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(line[0].read(1), 0.2)
    assert echo.heard == b"before"
    await change(proxy.heal)
    for line in (old, new):
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(line[0].read(1), LIMIT_S)
    assert await say(await connect(proxy), b"after") == b"after"


async def test_reset_once_is_for_the_open_connections_only(proxy: TcpProxy) -> None:
    """The open one is reset, the next one works without healing."""
    line = await connect(proxy)
    await say(line, b"x")
    await change(proxy.reset_once)
    with pytest.raises(ConnectionResetError):
        await line[0].read(1)
    assert await say(await connect(proxy), b"next") == b"next"


async def test_cut_after_passes_the_marker_on_and_keeps_the_answer(proxy: TcpProxy, echo: Echo) -> None:
    """Also when the marker comes in two pieces: the server has it, the client is reset without a byte; once."""
    line = await connect(proxy)
    await change(proxy.cut_after, b"COMMIT")
    assert await say(line, b"INSERT COM") == b"INSERT COM"
    line[1].write(b"MIT;")
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(line[0].read(1), LIMIT_S)
    assert echo.heard == b"INSERT COMMIT;"
    assert proxy.cuts == 1
    assert await say(await connect(proxy), b"COMMIT") == b"COMMIT"


async def test_a_server_that_is_away_is_a_reset(echo: Echo) -> None:
    """Nothing listens behind the proxy: the client is told at once."""
    proxy = TcpProxy(free_port(avoid=frozenset({echo.port})))
    proxy.start()
    try:
        with pytest.raises(ConnectionResetError):  # while connecting, or at the first read
            await first_byte(proxy)
    finally:
        await change(proxy.stop)
