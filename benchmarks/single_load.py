"""Post one event a request on some connections.

`python -m benchmarks.single_load URL --connections N --seconds S [--rate R]`

Bare sockets, requests cut from a template: beside it the server must be what is slow. Each connection sends its next
request when the answer to the last is whole; with a rate it waits until its turn, and a request that is late counts
from when its turn was. Prints one JSON object: requests, seconds, p50_ms, p99_ms; any answer but
202 fails it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
import uuid
from itertools import count
from typing import cast
from urllib.parse import urlsplit

import uvloop

from benchmarks.bulk_load import event

#: Seconds before what is measured: connections open, the batches find their size.
WARM_S = 1.0
#: Where to begin counting, at random: each run sends ids of its own. Larger ones would be no UUIDs any more.
FIRST = 1 << 46


class Caller(asyncio.Protocol):
    """One connection. `took` are milliseconds of the answered requests, `bad` the answers that were not 202.

    `gap`: seconds between two requests; 0 for as many as are answered.
    """

    def __init__(self, numbers: count[int], head: bytes, gap: float) -> None:
        self.took: list[float] = []
        self.bad: list[bytes] = []
        self._numbers, self._head, self._gap = numbers, head, gap
        self._answer = b""
        self._began = 0.0
        self._transport: asyncio.Transport | None = None
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one without being a subclass
        self._send(time.perf_counter())

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, _, body = self._answer.partition(b"\r\n\r\n")
        at = head.lower().find(b"content-length:")
        if at < 0 or len(body) < int(head[at + 15 :].split(b"\r\n", 1)[0]):
            return
        self.took.append((time.perf_counter() - self._began) * 1000)
        if b" 202 " not in head[:16]:
            self.bad.append(self._answer[:300])
        self._answer = b""
        self._next()

    def end(self) -> None:
        """No more."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def _next(self) -> None:
        now = time.perf_counter()
        turn = self._began + self._gap if self._gap else now
        if turn <= now:
            self._send(turn)
        else:
            asyncio.get_running_loop().call_later(turn - now, self._send, turn)

    def _send(self, turn: float) -> None:
        if self._transport is None:
            return
        body = event(next(self._numbers))
        self._began = turn if self._gap else time.perf_counter()
        self._transport.write(self._head % len(body) + body)


async def load(url: str, connections: int, seconds: float, rate: float = 0.0) -> dict[str, float]:
    """Everything that was answered in `seconds`, after WARM_S, at `rate` (requests/s) or at what goes.

    Raises RuntimeError when a connection was lost.
    """
    where = urlsplit(url)
    head = (
        f"POST /events HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    ).encode()
    numbers = count(uuid.uuid4().int % FIRST)
    loop = asyncio.get_running_loop()
    gap, callers = connections / rate if rate else 0.0, list[Caller]()
    for _ in range(connections):
        _, caller = await loop.create_connection(
            lambda: Caller(numbers, head, gap), str(where.hostname), where.port or 80
        )
        callers.append(caller)
        await asyncio.sleep(gap / connections)
    await asyncio.sleep(WARM_S)
    for caller in callers:
        caller.took.clear()
    began = time.perf_counter()
    await asyncio.sleep(seconds)
    took = [one for caller in callers for one in caller.took]
    spent = time.perf_counter() - began
    if any(caller.lost for caller in callers):
        raise RuntimeError("a connection was lost")
    for caller in callers:
        caller.end()
    errors = [one for caller in callers for one in caller.bad]
    if len(took) < 2:
        raise RuntimeError(f"{len(took)} requests were answered")
    cuts = statistics.quantiles(took, n=100)
    if errors:
        raise RuntimeError(f"{len(errors)} answers were not 202, e.g. {errors[0]!r}")
    return {"requests": len(took), "seconds": spent, "p50_ms": cuts[49], "p99_ms": cuts[98]}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Post one event a request and tell how it went.")
    parser.add_argument("url")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=0.0)
    given = parser.parse_args()
    print(json.dumps(uvloop.run(load(given.url, given.connections, given.seconds, given.rate))), flush=True)


if __name__ == "__main__":
    main()
