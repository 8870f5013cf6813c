"""People who watch: connections that never read beside some that do."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from urllib.parse import urlsplit

import aiohttp

from chaos.faults.looking import under_way
from chaos.faults.own import Own, until
from chaos.model import Expected, Fault, Place

#: Connections that ask for everything and never read, and those that read.
STUCK, READERS = 200, 3
#: Events of our own that each reader must see, and the seconds they have for it.
PROBES, SEEN_S = 40, 10.0
#: Bytes that the kernel keeps for one who does not read, asked for.
WINDOW = 4096


class LiveClientsStuck(Fault):
    """A reader that misses events, or a sender that waits, would pay for those that do not read."""

    name = "live-clients-stuck"
    rows = ("F39",)
    what = (
        f"{STUCK} connections watch everything and never read; {READERS} beside them must see each event, nobody waits."
    )
    hold_s = 15.0
    expected = Expected()

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        self.own = Own(self.name, chance)
        self._sockets: list[socket.socket] = []
        self._readers: list[asyncio.Task[None]] = []
        self._seen: list[set[str]] = []
        self._begun = 0

    async def inject(self, place: Place) -> bool:
        self._sockets = [await asyncio.to_thread(stuck, place.url) for _ in range(STUCK)]
        self._seen = [set() for _ in range(READERS)]
        self._readers = [asyncio.create_task(self._read(place.url, seen)) for seen in self._seen]
        if not await until(lambda: self._begun == READERS, SEEN_S):
            self.found.broken.append(f"{self.name}: only {self._begun} of {READERS} could begin to watch")
        return await under_way(place)

    async def during(self, place: Place) -> None:
        events = self.own.events(PROBES)
        for at in range(0, PROBES, 4):
            await self.own.send(place.url, events[at : at + 4])
        if not await until(lambda: all(seen >= self.own.acked.keys() for seen in self._seen), SEEN_S):
            lacking = [len(self.own.acked.keys() - seen) for seen in self._seen]
            self.found.broken.append(f"{self.name}: readers lack {lacking} of {len(self.own.acked)} events")

    async def heal(self, place: Place) -> None:
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)
        for one in self._sockets:
            one.close()

    async def verify(self, place: Place) -> None:
        if not await self.own.send_again(place.url):
            self.found.broken.append(f"{len(self.own.open)} events were refused")
        self.found.broken += await self.own.broken(place.dsn)

    async def _read(self, url: str, seen: set[str]) -> None:
        timeout = aiohttp.ClientTimeout(total=None, sock_read=60)
        async with (
            aiohttp.ClientSession(timeout=timeout, read_bufsize=1 << 21) as http,
            http.get(f"{url}/sse/events", params={"session": self.own.session}) as answer,
        ):
            async for line in answer.content:
                if line.startswith(b"event: hello"):
                    self._begun += 1
                elif line.startswith(b"data: ") and b"event_id" in line:
                    seen.add(json.loads(line[6:])["event_id"])


def stuck(url: str) -> socket.socket:
    """A connection that has asked for everything and will not read. Raises OSError."""
    where = urlsplit(url)
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, WINDOW)
    made.settimeout(10)
    made.connect((where.hostname, where.port))
    made.sendall(f"GET /sse/events HTTP/1.1\r\nHost: {where.netloc}\r\n\r\n".encode())
    return made
