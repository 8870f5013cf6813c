"""The load of a drill: producers that send a realistic mix and write down what they were told. A program of its own.

    python -m chaos.load --url URL --ledger DIR --seed N --producers 4 --rate 250 [--bulky] [--duration S]

A producer sends one request at a time and, like a hook's own retry, sends the same again until it is told ok or fail:
so the order within a session is the order of `seq`. SIGTERM ends it after the open requests.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import sys
import time
from pathlib import Path

import aiohttp

from chaos.ledger import Ledger
from chaos.load_send import TIMEOUT_S, lines_of, post
from chaos.mix import Mix, Request
from chaos.model import Outcome, Sent

#: Seconds after which an event of unknown fate is given up.
GIVE_UP_S = 60.0
#: Seconds between two tries: the first and the longest.
BACKOFF_S, LONGEST_BACKOFF_S = 0.2, 1.0
#: Seconds of load that are made up for after an outage; what is beyond is not sent.
BEHIND_S = 5.0


class Pace:
    """Open loop: requests are due by the clock, not by the answers, up to a bound."""

    def __init__(self, rate: float) -> None:
        self._rate, self._due = rate, time.monotonic()

    def wait_s(self, events: int) -> float:
        """Seconds until the next request, which holds `events` events, is due."""
        now = time.monotonic()
        self._due = max(self._due, now - BEHIND_S)
        due, self._due = self._due, self._due + events / self._rate
        return max(0.0, due - now)


class Producer:
    """One sender with sessions and a ledger of its own."""

    def __init__(
        self, url: str, name: str, mix: Mix, ledger: Ledger, rate: float, stop: asyncio.Event, give_up_s: float
    ) -> None:
        self._url, self.name, self._mix, self._ledger = url, name, mix, ledger
        self._pace, self._stop, self._give_up_s = Pace(rate), stop, give_up_s
        self.counts: dict[Outcome, int] = dict.fromkeys(Outcome, 0)

    async def run(self) -> None:
        """Send until stopped. Raises OSError when the ledger cannot be written: nothing may be sent then."""
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as http:
            while not self._stop.is_set():
                request = self._mix.next(time.time())
                if not await self._stopped_within(self._pace.wait_s(len(request.items))):
                    await self._deliver(http, request)

    async def _deliver(self, http: aiohttp.ClientSession, request: Request) -> None:
        """Until every event of it is ok or fail, or given up, or must not be sent twice."""
        give_up, backoff = time.monotonic() + self._give_up_s, BACKOFF_S
        while True:
            lines = lines_of(self.name, request, await post(http, self._url, request))
            await self._note(lines)
            if all(line.outcome is Outcome.OK for line in lines):
                self._mix.landed(request)
            unknown = any(line.outcome is Outcome.UNKNOWN for line in lines)
            if not unknown or not request.safe or time.monotonic() > give_up:
                return
            if await self._stopped_within(backoff):
                return
            backoff = min(backoff * 2, LONGEST_BACKOFF_S)

    async def _note(self, lines: list[Sent]) -> None:
        # In a thread: the disk of one producer must not show in the times of the others.
        await asyncio.to_thread(self._ledger.append, lines)
        for line in lines:
            self.counts[line.outcome] += 1

    async def _stopped_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)
        return self._stop.is_set()


async def run(
    url: str,
    folder: Path,
    *,
    seed: int,
    producers: int = 4,
    rate: float = 250.0,
    bulky: bool = False,
    stop: asyncio.Event,
    give_up_s: float = GIVE_UP_S,
) -> dict[str, int]:
    """Send until `stop` is set; `rate` is events a second of all producers together. Returns lines by outcome.

    Raises FileExistsError when this seed has sent into this folder before: its ids would come again.
    """
    made: list[Producer] = []
    for number in range(producers):
        name = f"s{seed}-p{number}"
        path = folder / f"{name}.jsonl"
        if path.exists():
            raise FileExistsError(f"{path} is there: take another seed or another folder")
        made.append(Producer(url, name, Mix(seed, name, bulky=bulky), Ledger(path), rate / producers, stop, give_up_s))
    async with asyncio.TaskGroup() as tasks:
        for producer in made:
            tasks.create_task(producer.run())
    return {outcome.value: sum(producer.counts[outcome] for producer in made) for outcome in Outcome}


async def _main(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if options.duration:
        loop.call_later(options.duration, stop.set)
    counts = await run(
        options.url,
        options.ledger,
        seed=options.seed,
        producers=options.producers,
        rate=options.rate,
        bulky=options.bulky,
        stop=stop,
    )
    print(json.dumps(counts), flush=True)


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line, read."""
    parser = argparse.ArgumentParser(prog="python -m chaos.load", description="Send a mix of events and keep a ledger.")
    parser.add_argument("--url", required=True, help="of the ingest process")
    parser.add_argument("--ledger", required=True, type=Path, help="folder, one file a producer")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--producers", type=int, default=4)
    parser.add_argument("--rate", type=float, default=250.0, help="events a second, all producers together")
    parser.add_argument("--bulky", action="store_true", help="half of the requests are bulks of many small events")
    parser.add_argument("--duration", type=float, default=0.0, help="seconds; until SIGTERM unless given")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    try:
        asyncio.run(_main(options_of()))
    except FileExistsError as error:
        sys.exit(str(error))
