"""Faust as its documentation shows it: an agent, a RocksDB table with a changelog, rows inserted by batches.

python faust_dedup.py worker

One event at a time, because a table is looked up in the partition of the event at hand: `take()` would look in that of
the last one. An event counts as done when its row waits for the next insert, so a crash may lose rows: less than the
other sides promise, and quicker.
"""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import faust
import mode.loop
from common import COLUMNS, DSN, FAUST, INSERT, TABLE, TOPIC, decode

mode.loop.use("uvloop")

SIZE = 1000
app = faust.App("peer", store="rocksdb://", producer_linger=0.02, web_enabled=False, **FAUST)
source = app.topic(TOPIC, value_type=bytes, value_serializer="raw", key_serializer="raw")
seen = app.Table("seen", default=int, partitions=4, key_type=str, value_type=int)


class Rows:
    """What waits for the next insert."""

    def __init__(self) -> None:
        self.waiting: list[dict[str, Any]] = []
        self._connection: Any = None
        self._one = asyncio.Lock()

    async def insert(self) -> None:
        async with self._one:  # the agent and the timer
            rows, self.waiting = self.waiting, []
            if rows:
                await (await self._open()).execute(INSERT, *([row[name] for row in rows] for name in COLUMNS))

    async def _open(self) -> Any:
        if self._connection is None:
            self._connection = await asyncpg.connect(DSN)
            await self._connection.execute(TABLE)
        return self._connection


rows = Rows()


@app.agent(source)
async def dedup(stream: Any) -> None:
    async for value in stream:
        record = decode(value)
        if record["event_id"] not in seen:
            seen[record["event_id"]] = 1
            rows.waiting.append(record)
            if len(rows.waiting) >= SIZE:
                await rows.insert()


@app.timer(0.1)
async def rest() -> None:
    await rows.insert()


if __name__ == "__main__":
    app.main()
