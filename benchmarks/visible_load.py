"""From the 2xx to the row, or to a watcher: `python -m benchmarks.visible_load URL DSN TABLE --rate R --seconds S`.

Posts events at a rate; some of them are probes, whose rows are looked for every few milliseconds from their answer on,
or, with `--live`, whose coming in `GET /sse/events` is waited for. Prints one JSON object: probes, p50_ms, p99_ms.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from typing import Any

import aiohttp
import uvloop

from benchmarks.bulk_load import event, event_id
from benchmarks.running import connect

#: Probes a second, seconds between two looks, seconds that a row may take.
PROBES, LOOK_S, LATE_S = 50, 0.003, 30.0
#: Seconds before the first probe: connections, batches and caches find their size.
WARM_S = 3.0
CONNECTIONS = 8
PROBE = b"probe"
#: What a probe took that was there before its answer had been read: a figure of 0 would look like none.
NOTHING_MS = 0.01


class Probes:
    """Answered probes that are not there yet, and the milliseconds of those that are.

    One may be there before its answer has been read: then it took NOTHING_MS.
    """

    def __init__(self) -> None:
        self.waiting: dict[str, float] = {}
        self.took: list[float] = []
        self._early: set[str] = set()

    def answered(self, id: str) -> None:
        """Its 2xx is here."""
        if id in self._early:
            self.took.append(NOTHING_MS)
        else:
            self.waiting[id] = time.perf_counter()

    async def watch(self, url: str, ready: asyncio.Event) -> None:
        """For ever, one who watches the probes. `ready` is set when the stream has begun."""
        timeout = aiohttp.ClientTimeout(total=None)
        async with (
            aiohttp.ClientSession(timeout=timeout, read_bufsize=1 << 20) as http,
            http.get(f"{url}/sse/events", params={"type": PROBE.decode()}) as answer,
        ):
            async for line in answer.content:
                ready.set()
                if line.startswith(b'data: {"event_id":"'):
                    id = line[19:55].decode()
                    began = self.waiting.pop(id, None)
                    if began is None:
                        self._early.add(id)
                    else:
                        self.took.append((time.perf_counter() - began) * 1000)

    async def look(self, dsn: str, table: str) -> None:
        """For ever."""
        connection: Any = await connect(dsn)
        find = await connection.prepare(f"SELECT event_id::text FROM {table} WHERE event_id = ANY($1::uuid[])")
        while True:
            for (found,) in await find.fetch(list(self.waiting)):
                self.took.append((time.perf_counter() - self.waiting.pop(found)) * 1000)
            await asyncio.sleep(LOOK_S)


async def load(url: str, dsn: str, table: str, rate: float, seconds: float, live: bool, first: int) -> dict[str, float]:
    """Ids are counted from `first` on. Raises RuntimeError at an answer that is not 202 and for a probe that does not
    come."""
    probes, numbers = Probes(), iter(range(int(rate * (WARM_S + seconds))))
    size = max(1, round(rate / 500))
    every = max(1, round(rate / PROBES / size)) * size

    async def post(http: aiohttp.ClientSession) -> None:
        for number in numbers:
            batch = [number, *(next_ for _, next_ in zip(range(size - 1), numbers, strict=False))]
            await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
            probed = number % every == 0 and number >= WARM_S * rate
            kinds = [PROBE if probed else b"tool_pre_use", *[b"tool_pre_use"] * (len(batch) - 1)]
            body = b"[" + b",".join(event(first + one, kind) for one, kind in zip(batch, kinds, strict=True)) + b"]"
            async with http.post(f"{url}/events", data=body, headers={"Content-Type": "application/json"}) as answer:
                if answer.status != 202:
                    raise RuntimeError(f"{answer.status}: {await answer.text()}")
            if probed:
                probes.answered(event_id(first + number))

    ready = asyncio.Event()
    look = asyncio.create_task(probes.watch(url, ready) if live else probes.look(dsn, table))
    if live:
        await asyncio.wait_for(ready.wait(), LATE_S)
    began = time.perf_counter()
    async with aiohttp.ClientSession() as http, asyncio.TaskGroup() as tasks:
        for _ in range(CONNECTIONS):
            tasks.create_task(post(http))
    end = time.perf_counter() + LATE_S
    while probes.waiting and not look.done() and time.perf_counter() < end:
        await asyncio.sleep(LOOK_S)
    if look.done():
        look.result()  # raises why nobody looks any more
    look.cancel()
    if probes.waiting:
        raise RuntimeError(f"{len(probes.waiting)} probes did not come within {LATE_S:g} s")
    if len(probes.took) < PROBES:
        raise RuntimeError(f"there were {len(probes.took)} probes")
    cuts = statistics.quantiles(probes.took, n=100)
    return {"probes": len(probes.took), "p50_ms": cuts[49], "p99_ms": cuts[98]}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Post events at a rate and tell how soon their rows are there.")
    parser.add_argument("url")
    parser.add_argument("dsn")
    parser.add_argument("table")
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--first", type=int, default=0, help="number of the first event: each run has ids of its own")
    parser.add_argument("--live", action="store_true", help="look for them in the live feed, not in the table")
    print(json.dumps(uvloop.run(load(**vars(parser.parse_args())))), flush=True)


if __name__ == "__main__":
    main()
