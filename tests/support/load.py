"""A load with a ledger: producers write down what they sent and what they were told. It knows nothing of Chronicle."""

from __future__ import annotations

import asyncio
import json
import uuid
from dataclasses import dataclass, field
from typing import Any

import aiohttp


@dataclass
class Sent:
    """What became of every event: told ok, told no, or not told."""

    ok: dict[str, dict[str, Any]] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)
    durability: set[str] = field(default_factory=set)
    order: dict[str, list[str]] = field(default_factory=dict)
    slowest: float = 0.0


class Load:
    """`producers` sessions post events one after the other until told to stop; unknown outcomes are sent again."""

    def __init__(self, url: str, *, producers: int = 4, pause: float = 0.005) -> None:
        self._url = url
        self._pause = pause
        self._producers = producers
        self._stop = asyncio.Event()
        self.sent = Sent()

    async def __aenter__(self) -> Load:
        self._tasks = [asyncio.create_task(self._produce(number)) for number in range(self._producers)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)

    async def accepted(self, more: int) -> None:
        """Wait until so many more were accepted."""
        goal = len(self.sent.ok) + more
        async with asyncio.timeout(60):
            while len(self.sent.ok) < goal:
                await asyncio.sleep(0.02)

    async def _produce(self, number: int) -> None:
        session = f"load-{number}-{uuid.uuid4()}"
        order = self.sent.order.setdefault(session, [])
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as http:
            sequence = 0
            while not self._stop.is_set():
                event_id = str(uuid.uuid4())
                envelope = {
                    "event_id": event_id,
                    "session_id": session,
                    "event_type": "tool_pre_use" if sequence % 50 else "session_start",
                    "timestamp": "2026-01-01T00:00:00Z",
                    "payload": {"sequence": sequence, "tool_name": "Bash", "text": "x" * (sequence % 700)},
                }
                if await self._send(http, event_id, envelope):
                    order.append(event_id)
                sequence += 1
                await asyncio.sleep(self._pause)

    async def _send(self, http: aiohttp.ClientSession, event_id: str, envelope: dict[str, Any]) -> bool:
        loop = asyncio.get_running_loop()
        while True:
            begin = loop.time()
            try:
                async with http.post(f"{self._url}/events", json=envelope) as answer:
                    body = json.loads(await answer.read())
                    status = answer.status
            except (aiohttp.ClientError, TimeoutError) as error:
                self.sent.unknown[event_id] = repr(error)
                await asyncio.sleep(0.2)
                continue
            finally:
                self.sent.slowest = max(self.sent.slowest, loop.time() - begin)
            if status == 202:
                self.sent.ok[event_id] = envelope
                self.sent.unknown.pop(event_id, None)
                self.sent.durability.add(body["durability"])
                return True
            if status != 503:
                self.sent.refused[event_id] = status
                return False
            self.sent.unknown[event_id] = "503"
            await asyncio.sleep(0.2)
