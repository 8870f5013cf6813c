"""Faust as its documentation shows it: a tumbling table on RocksDB with a changelog, a key for session and tool.

python faust_windows.py worker
"""

from __future__ import annotations

from typing import Any

import faust
import mode.loop
from common import FAUST, TOPIC, Counted, decode, minute

mode.loop.use("uvloop")

app = faust.App("peer", store="rocksdb://", producer_linger=0.02, web_enabled=False, **FAUST)
source = app.topic(TOPIC, value_type=bytes, value_serializer="raw", key_serializer="raw")
counts = app.Table("counts", default=int, partitions=4, key_type=str, value_type=int).tumbling(60.0, expires=7200.0)
counted = Counted()


@app.timer(0.5)
async def tell() -> None:
    counted.tell()


@app.agent(source)
async def count(stream: Any) -> None:
    async for value in stream:
        record = decode(value)
        key = f"{record['session_id']}|{record['tool_name']}"
        counts[key] += 1
        counted.put((key, minute(record)), counts[key].current())


if __name__ == "__main__":
    app.main()
