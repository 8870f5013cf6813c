"""Post events in bulks as fast as they are taken, or at a rate. `python -m benchmarks.bulk_load URL --events N`.

A program of its own, so that it costs each side the same. Bodies are cut from a template: what making them costs must
not be what is measured. Prints one JSON object: accepted, began, ended (epoch seconds), p50_ms, p99_ms.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import aiohttp
import uvloop

#: Characters of the payload's text: with it an event has the size all figures are given for.
TEXT = 640
SESSIONS = 500
#: Events are of now: of old ones the aggregate tables would keep less, and cost less.
AT = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z").encode()


def bodies(events: int, size: int, first: int = 0) -> Iterator[bytes]:
    """JSON arrays of `size` events, all different, numbered from `first` on."""
    for made in range(first, first + events, size):
        numbers = range(made, min(made + size, first + events))
        yield b"[" + b",".join(map(event, numbers)) + b"]"


def event_id(number: int) -> str:
    """A UUID for each number, in order as those of clients are (version 7): random ones would punish every index."""
    return f"{number >> 16:08x}-{number & 0xFFFF:04x}-7000-8000-{number & 0xFFFFFFFFFFFF:012x}"


def event(number: int, kind: bytes = b"tool_pre_use") -> bytes:
    """One event as JSON; the same number gives the same event in one run."""
    return (
        b'{"event_id":"%s","session_id":"session-%d","event_type":"%s",'
        b'"timestamp":"%s","payload":{"tool_name":"Bash","command":"%s"},'
        b'"metadata":{"hook_version":"1.0.0"}}'
    ) % (event_id(number).encode(), number % SESSIONS, kind, AT, b"x" * TEXT)


async def load(url: str, events: int, *, size: int, connections: int, rate: float, first: int) -> dict[str, float]:
    """Everything posted and answered with 202. Raises RuntimeError at any other answer."""
    waiting, took, accepted = bodies(events, size, first), [], 0
    began = time.time()
    due = time.monotonic()

    async def one(http: aiohttp.ClientSession) -> None:
        nonlocal accepted, due
        for body in waiting:
            due += size / rate if rate else 0.0
            await asyncio.sleep(max(0.0, due - time.monotonic()) if rate else 0.0)
            start = time.perf_counter()
            async with http.post(f"{url}/events", data=body, headers={"Content-Type": "application/json"}) as answer:
                told = await answer.json()
                if answer.status != 202:
                    raise RuntimeError(f"{answer.status}: {told}")
            took.append((time.perf_counter() - start) * 1000)
            accepted += told["accepted"]

    connector = aiohttp.TCPConnector(limit=connections)
    async with aiohttp.ClientSession(connector=connector) as http, asyncio.TaskGroup() as tasks:
        for _ in range(connections):
            tasks.create_task(one(http))
    cuts = statistics.quantiles(took, n=100) if len(took) > 1 else [took[0]] * 99
    return {"accepted": accepted, "began": began, "ended": time.time(), "p50_ms": cuts[49], "p99_ms": cuts[98]}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Post events in bulks and tell how it went.")
    parser.add_argument("url")
    parser.add_argument("--events", type=int, required=True)
    parser.add_argument("--size", type=int, default=100, help="events a POST")
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument(
        "--rate", type=float, default=0.0, help="events a second; as fast as they are taken unless given"
    )
    parser.add_argument("--first", type=int, default=0, help="number of the first event: what is below is there")
    given = vars(parser.parse_args())
    print(json.dumps(uvloop.run(load(given.pop("url"), given.pop("events"), **given))), flush=True)


if __name__ == "__main__":
    main()
