"""A reader that runs beside the faults: what was readable once must stay readable.

It follows the ledger, reads acked events by id until each is there, and reads those again, at random, for as long as
it runs. 200 and the same payload is well; so is an honest 503, and nobody listening. A 404 after a 200 is not.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from chaos.ledger import Tail
from chaos.mix_payloads import sha256
from chaos.model import Outcome

TIMEOUT_S = 10.0
#: Ids that are kept to be read again, and those that are waited for.
KNOWN, AWAITED = 20_000, 2_000
#: Seconds between two looks at the ledger.
FOLLOW_S = 0.5
#: Violations that are kept word by word.
EXAMPLES = 50


@dataclass
class Reading:
    """Counts of one reader. `violations` are sentences; `broken` is how many there were."""

    reads: int = 0
    readable: int = 0
    not_yet: int = 0
    away: int = 0
    silent: int = 0
    broken: int = 0
    violations: list[str] = field(default_factory=list)

    def violated(self, sentence: str) -> None:
        """Count one and keep it while there is room."""
        self.broken += 1
        if len(self.violations) < EXAMPLES:
            self.violations.append(sentence)


class Reader:
    """`run` until `stop` is set; `reading` may be looked at all the while."""

    def __init__(self, url: str, ledger: Path, *, seed: int, rate: float = 20.0) -> None:
        self._url, self._tail, self._every = url, Tail(ledger), 1 / rate
        self._chance = random.Random(f"reader/{seed}")
        self._awaited: deque[tuple[str, str]] = deque(maxlen=AWAITED)
        self._known: list[tuple[str, str]] = []
        self._followed = 0.0
        self.reading = Reading()

    async def run(self, stop: asyncio.Event) -> Reading:
        """Read at the rate given; never raises for what the server does."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as http:
            while not stop.is_set():
                await self._follow()
                await self._one(http)
                await asyncio.sleep(self._every)
        return self.reading

    async def _follow(self) -> None:
        now = time.monotonic()
        if now - self._followed < FOLLOW_S:
            return
        self._followed = now
        for line in await asyncio.to_thread(lambda: list(self._tail.new())):
            if line.outcome is Outcome.OK and not line.repeat:
                self._awaited.append((line.event_id, line.sha256))

    async def _one(self, http: aiohttp.ClientSession) -> None:
        """A known one and a new one by turns, as far as there are both."""
        if self._known and (not self._awaited or self._chance.random() < 0.7):
            await self._again(http, *self._chance.choice(self._known))
        elif self._awaited:
            await self._first(http, *self._awaited.popleft())

    async def _first(self, http: aiohttp.ClientSession, event_id: str, digest: str) -> None:
        status, found = await self._get(http, event_id)
        if status == 200:
            self._compare(event_id, digest, found)
            self._learn(event_id, digest)
            return
        self.reading.not_yet += status == 404
        self._awaited.append((event_id, digest))

    async def _again(self, http: aiohttp.ClientSession, event_id: str, digest: str) -> None:
        status, found = await self._get(http, event_id)
        if status == 200:
            self._compare(event_id, digest, found)
        elif status == 404:
            self.reading.violated(f"{event_id} was readable and is gone: 404 at {time.time():.3f}")

    def _compare(self, event_id: str, digest: str, found: str | None) -> None:
        self.reading.readable += 1
        if found != digest:
            self.reading.violated(f"{event_id} reads as another payload at {time.time():.3f}")

    def _learn(self, event_id: str, digest: str) -> None:
        if len(self._known) < KNOWN:
            self._known.append((event_id, digest))
        else:
            self._known[self._chance.randrange(KNOWN)] = (event_id, digest)

    async def _get(self, http: aiohttp.ClientSession, event_id: str) -> tuple[int | None, str | None]:
        """(status, digest of the payload); (None, None) when nobody answers."""
        self.reading.reads += 1
        try:
            async with http.get(f"{self._url}/events/{event_id}") as answer:
                body = await answer.read()
        except TimeoutError:
            self.reading.silent += 1
            return None, None
        except (aiohttp.ClientError, OSError):
            self.reading.away += 1
            return None, None
        if answer.status == 200:
            return 200, _payload_digest(body)
        self.reading.away += answer.status == 503
        if answer.status not in (404, 503):
            self.reading.violated(f"{event_id} was answered with {answer.status} at {time.time():.3f}")
        return answer.status, None


def _payload_digest(body: bytes) -> str | None:
    try:
        return sha256(json.loads(body)["payload"])
    except (ValueError, KeyError, TypeError):
        return None
