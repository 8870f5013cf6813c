"""The peer that the product's first papers propose: FastAPI, pydantic, asyncpg, batches of 100 or 100 ms, no log.

    DURABLE=1 DSN=postgresql://… uvicorn fastapi_app:app --workers 1

DURABLE=1 answers when the rows are committed (the durability that Chronicle gives); DURABLE=0 when they are in memory,
as those papers have it. Run in an environment of its own; nothing of it is a dependency of Chronicle.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import asyncpg
import orjson
from fastapi import FastAPI
from pydantic import BaseModel, Field

SIZE, AGE_S = 100, 0.1
DURABLE = os.environ.get("DURABLE") == "1"
TABLE = """
CREATE TABLE IF NOT EXISTS peer_events (
    event_id uuid PRIMARY KEY, session_id text NOT NULL, event_type text NOT NULL, occurred_at timestamptz NOT NULL,
    payload jsonb NOT NULL, metadata jsonb NOT NULL);
CREATE INDEX IF NOT EXISTS peer_events_session ON peer_events (session_id, occurred_at);
CREATE INDEX IF NOT EXISTS peer_events_type ON peer_events (event_type, occurred_at);
"""
INSERT = "INSERT INTO peer_events VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (event_id) DO NOTHING"


class Event(BaseModel):
    event_id: uuid.UUID = Field(default_factory=uuid.uuid4)
    session_id: str = Field(max_length=255)
    event_type: str
    timestamp: datetime
    payload: dict[str, Any]
    metadata: dict[str, Any] = Field(default_factory=dict)

    def row(self) -> tuple[Any, ...]:
        parts = (orjson.dumps(self.payload).decode(), orjson.dumps(self.metadata).decode())
        return (self.event_id, self.session_id, self.event_type, self.timestamp, *parts)


class Batcher:
    """Rows wait here until they are 100 or 100 ms old."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._waiting: list[tuple[Any, ...]] = []
        self._told: list[asyncio.Future[None]] = []
        self._full = asyncio.Event()
        self._writing: set[asyncio.Task[None]] = set()

    def add(self, rows: list[tuple[Any, ...]]) -> asyncio.Future[None]:
        done = asyncio.get_running_loop().create_future()
        self._waiting += rows
        self._told.append(done)
        if len(self._waiting) >= SIZE:
            self._full.set()
        return done

    async def run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(AGE_S):
                    await self._full.wait()
            except TimeoutError:
                pass
            self._full.clear()
            if self._waiting:
                rows, told, self._waiting, self._told = self._waiting, self._told, [], []
                task = asyncio.create_task(self._write(rows, told))
                self._writing.add(task)
                task.add_done_callback(self._writing.discard)

    async def _write(self, rows: list[tuple[Any, ...]], told: list[asyncio.Future[None]]) -> None:
        async with self._pool.acquire() as connection:
            await connection.executemany(INSERT, rows)
        for done in told:
            if not done.done():
                done.set_result(None)


@asynccontextmanager
async def lifespan(app: FastAPI):  # type: ignore[no-untyped-def]
    async with asyncpg.create_pool(os.environ["DSN"], min_size=10, max_size=10) as pool:
        await pool.execute(TABLE)
        app.state.batcher = Batcher(pool)
        task = asyncio.create_task(app.state.batcher.run())
        yield
        task.cancel()


app = FastAPI(lifespan=lifespan)


@app.post("/events", status_code=202)
async def events(body: list[Event] | Event) -> dict[str, int]:
    found = body if isinstance(body, list) else [body]
    done = app.state.batcher.add([event.row() for event in found])
    if DURABLE:
        await done
    return {"accepted": len(found)}


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}
