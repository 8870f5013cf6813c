"""Watch the live feed over and over: `python -m benchmarks.watchers URL FILE --clients N [--project P]`.

Each client is a socket that reads and counts. Writes one JSON object into FILE each half second: clients, events.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import uvloop

#: Connections that are opened at once.
STEP = 50


class Client(asyncio.Protocol):
    """Counts the messages of its stream."""

    def __init__(self, request: bytes) -> None:
        self.events = 0
        self.began = self.lost = False
        self._request = request

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.WriteTransport, transport).write(self._request)  # uvloop's is one without being a subclass

    def data_received(self, data: bytes) -> None:
        self.began = True
        self.events += data.count(b'\ndata: {"event_id"') + data.startswith(b'data: {"event_id"')

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True


async def watch(url: str, file: Path, number: int, project: str) -> None:
    """For ever. Raises RuntimeError when a client was hung up on."""
    where, loop = urlsplit(url), asyncio.get_running_loop()
    request = f"GET /sse/events?project={project} HTTP/1.1\r\nHost: {where.netloc}\r\n\r\n".encode()
    clients: list[Client] = []
    while True:
        for _ in range(min(STEP, number - len(clients))):
            _, client = await loop.create_connection(lambda: Client(request), str(where.hostname), where.port or 80)
            clients.append(client)
        if any(client.lost for client in clients):
            raise RuntimeError("a client was hung up on")
        told = {"clients": sum(one.began for one in clients), "events": sum(one.events for one in clients)}
        new = file.with_suffix(".new")
        new.write_text(json.dumps(told))
        new.replace(file)
        await asyncio.sleep(0.05 if len(clients) < number else 0.5)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Watch the live feed with many clients.")
    parser.add_argument("url")
    parser.add_argument("file", type=Path)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--project", default="watched")
    given = parser.parse_args()
    uvloop.run(watch(given.url, given.file, given.clients, given.project))


if __name__ == "__main__":
    main()
