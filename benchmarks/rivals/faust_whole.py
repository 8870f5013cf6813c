"""Faust as its documentation shows it, from HTTP to the database: a web view sends to a topic and answers after the ack
of the broker, an agent takes batches and inserts them. Repeats are left to the primary key.

python faust_whole.py worker --web-port 6066
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

import asyncpg
import faust
import mode.loop
import orjson
from common import DSN, FAUST, INSERT, TABLE, TOPIC
from faust.web import View

mode.loop.use("uvloop")

app = faust.App("peer", store="memory://", producer_linger=0.005, **FAUST)
events = app.topic(TOPIC, value_type=bytes, value_serializer="raw", key_serializer="raw")


@app.page("/events")
class Events(View):
    async def post(self, request: Any) -> Any:
        found = orjson.loads(await request.read())
        found = found if isinstance(found, list) else [found]
        sent = [await events.send(key=one["session_id"].encode(), value=orjson.dumps(one)) for one in found]
        await asyncio.gather(*sent)
        return self.json({"accepted": len(found)}, status=202)


@app.page("/health")
class Health(View):
    async def get(self, request: Any) -> Any:
        return self.json({"status": "ok"})


def row(value: bytes) -> tuple[Any, ...]:
    one = orjson.loads(value)
    at = datetime.fromisoformat(one["timestamp"].replace("Z", "+00:00"))
    payload, metadata = (orjson.dumps(one.get(name, {})).decode() for name in ("payload", "metadata"))
    tool = one["payload"].get("tool_name")
    return one["event_id"], one["session_id"], one["event_type"], at, tool, payload, metadata


@app.agent(events)
async def persist(stream: Any) -> None:
    connection = await asyncpg.connect(DSN)
    await connection.execute(TABLE)
    async for values in stream.take(1000, within=0.1):
        await connection.execute(INSERT, *(list(column) for column in zip(*map(row, values), strict=True)))


if __name__ == "__main__":
    app.main()
