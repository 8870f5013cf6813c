"""One `chronicle worker` with all roles, as its users run it: started, asked, told to end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp

from app.stack.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
ROLES = "ingest,api,dedupe,persist,aggregate,history"
Ask = Callable[[dict[str, Any]], bool]


class OneWorker:
    """Over `broker` and `dsn`, under a topic prefix of its own. `folder` is its state directory."""

    def __init__(self, folder: Path, *, broker: str, dsn: str, prefix: str) -> None:
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        self.folder = folder
        self._env = {
            "CHRONICLE_KAFKA__BROKERS": broker,
            "CHRONICLE_KAFKA__PREFIX": prefix,
            "CHRONICLE_KAFKA__PARTITIONS": "2",
            "CHRONICLE_DATABASE__URL": dsn,
            "CHRONICLE_STATE_DIR": str(folder),
            "CHRONICLE_SERVER__PORT": str(port),
        }
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Run it; returns at once."""
        log = (self.folder.parent / "worker.log").open("ab")
        command = (sys.executable, "-m", "chronicle", "worker", "--roles", ROLES, "--name", "one")
        self._process = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, env=os.environ | self._env, stdout=log, stderr=log
        )
        log.close()

    async def ended(self, seconds: float = 60.0) -> int:
        """Its exit code, once it has ended."""
        assert self._process is not None
        async with asyncio.timeout(seconds):
            return await self._process.wait()

    def ask_to_stop(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def post(self, count: int, **payload: Any) -> None:
        """So many new events; each is accepted."""
        events = [
            {"event_id": str(uuid.uuid4()), "session_id": f"s-{n}", "event_type": "x", "payload": {"n": n, **payload}}
            for n in range(count)
        ]
        async with aiohttp.ClientSession() as http, http.post(f"{self.url}/events", json={"events": events}) as answer:
            assert answer.status == 202, await answer.text()

    async def until(self, path: str, good: Ask, seconds: float = 60.0) -> dict[str, Any]:
        """GET `path` until its body is good; fails with the last body when the time is over."""
        end, body = time.monotonic() + seconds, {}
        async with aiohttp.ClientSession() as http:
            while time.monotonic() < end:
                try:
                    async with http.get(f"{self.url}{path}") as answer:
                        body = await answer.json()
                    if good(body):
                        return body
                except (aiohttp.ClientError, OSError):
                    pass
                await asyncio.sleep(0.1)
        raise AssertionError(f"{path}: {body}")
