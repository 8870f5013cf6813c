"""A TCP proxy in front of a server that can be made to hang (nothing passes) or to be away (connections are cut)."""

from __future__ import annotations

import asyncio


class FreezingProxy:
    """Forwards to 127.0.0.1:`port` while `open` is set."""

    def __init__(self, port: int) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self._target = port
        self._server: asyncio.Server | None = None
        self._lines: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> int:
        """The port to connect to."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def freeze(self) -> None:
        """From now on nothing passes and nobody is told."""
        self.open.clear()

    def thaw(self) -> None:
        """Everything that waited passes."""
        self.open.set()

    def cut(self) -> None:
        """Break all connections; new ones are served."""
        for line in self._lines:
            line.transport.abort()

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back_reader, back_writer = await asyncio.open_connection("127.0.0.1", self._target)
        self._lines |= {writer, back_writer}
        for source, sink in ((reader, back_writer), (back_reader, writer)):
            task = asyncio.create_task(self._pump(source, sink))
            self._tasks.add(task)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                await self.open.wait()
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            sink.close()
