"""A TCP proxy that cuts the line right after a given word was sent on, before its answer comes back."""

from __future__ import annotations

import asyncio


class CuttingProxy:
    """Forwards to 127.0.0.1:`port`. While `word` is set, the first packet that holds it is the last one."""

    def __init__(self, port: int) -> None:
        self.word: bytes | None = None
        self.cuts = 0
        self._target = port
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back_reader, back_writer = await asyncio.open_connection("127.0.0.1", self._target)
        answers = asyncio.create_task(self._pump(back_reader, writer))
        self._tasks.add(answers)
        while data := await reader.read(65536):
            last = self.word is not None and self.word in data
            if last:
                answers.cancel()  # the answer must not come through
                await asyncio.wait([answers])
                self.word, self.cuts = None, self.cuts + 1
            back_writer.write(data)
            await back_writer.drain()
            if last:
                await back_reader.read(1)  # the server has answered: it is done
                break
        back_writer.close()
        writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()
