"""Rows a second of the sinks, by batch size: `python -m benchmarks.sinks --database postgresql://… `.

One connection, one batch at a time, every batch new: COPY, insert under all indexes, session roll-up, progress, COMMIT
(Postgres), or rows, outbox, roll-up, range and an fsynced COMMIT (SQLite). Sizes take turns in each round; the median
of the rounds counts. The database must be empty; the tables are made, and `--drop` drops them afterwards. Fails when
what was counted in the end is not what was written.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import uuid_utils.compat

from benchmarks.result import keep, told
from connectors import migrate
from connectors.pglink import connect
from connectors.ports import Batch, Sink, Span
from connectors.postgres import PostgresSink
from connectors.sqlite import SqliteSink
from schemas.codec import AvroCodec
from schemas.event import HookEvent, IdOrigin, LoggedEvent, Position

SIZES = {"postgres": (100, 1000, 5000), "sqlite": (100, 1000)}
TYPES = ("tool_pre_use", "tool_post_use", "user_prompt", "session_stop", "notification")
INPUT = {"command": "git diff --stat HEAD~3 -- " + "src/module/part " * 14, "description": "Show what has changed"}


def batches(size: int, count: int, start: int) -> Iterator[Batch]:
    """Events of ~700 bytes of payload, 50 sessions at a time, ids ordered by time (UUIDv7) as clients send them."""
    encode = AvroCodec().encode
    for first in range(start, start + size * count, size):
        rows = [_event(n) for n in range(first, first + size)]
        logged = [
            LoggedEvent(event=row, ingest=Position(0, n), events=Position(0, n), value=encode(row))
            for n, row in enumerate(rows, first)
        ]
        yield Batch(logged, [Span(0, first, first + size)])


def _event(n: int) -> HookEvent:
    session = f"5f3f0e6a-0b1c-4a55-9d3e-{n % 50:012d}"
    now = int(time.time() * 1_000_000)
    payload = {
        "session_id": session,
        "hook_event_name": "PreToolUse",
        "tool_name": "Bash",
        "tool_input": INPUT,
        "tool_use_id": f"toolu_{n:020d}",
        "cwd": "/home/ann/work/shop",
        "permission_mode": "default",
    }
    return HookEvent(
        event_id=UUID(bytes=uuid_utils.compat.uuid7().bytes),
        fingerprint=n.to_bytes(16),
        id_origin=IdOrigin.CLIENT,
        session_id=session,
        event_type=TYPES[n % len(TYPES)],
        hook_event_name="PreToolUse",
        tool_name="Bash" if n % 2 else None,
        tool_use_id=f"toolu_{n:020d}",
        cwd="/home/ann/work/shop",
        occurred_at=now,
        received_at=now,
        source="claude-code",
        payload=json.dumps(payload),
    )


async def measure(sink: Sink, sizes: tuple[int, ...], rounds: int, rows: int) -> list[dict[str, Any]]:
    """Median rows a second and client CPU a row, for each batch size."""
    wall: dict[int, list[float]] = {size: [] for size in sizes}
    cpu: dict[int, list[float]] = {size: [] for size in sizes}
    start = 0
    for turn in range(rounds + 1):
        for size in sizes if turn % 2 else sizes[::-1]:
            count = max(rows // size, 1)
            prepared = list(batches(size, count, start))
            start += size * count
            began, used = time.perf_counter(), time.process_time()
            stored = sum([(await sink.write(batch)).stored for batch in prepared])
            if stored != size * count:
                raise SystemExit(f"{sink.name} stored {stored} of {size * count}: this measured nothing")
            if turn:  # the first round warms up
                wall[size].append(stored / (time.perf_counter() - began))
                cpu[size].append((time.process_time() - used) / stored * 1e6)
    return [
        {
            "sink": sink.name,
            "batch": size,
            "rows_per_s": round(statistics.median(wall[size])),
            "rounds": [round(one) for one in wall[size]],
            "client_cpu_us_per_row": round(statistics.median(cpu[size]), 2),
        }
        for size in sizes
    ]


async def postgres(dsn: str, rounds: int, rows: int, drop: bool) -> list[dict[str, Any]]:
    """On a database of the caller's."""
    await migrate.upgrade(dsn)
    sink = PostgresSink(dsn, worker="benchmark", timeout_s=60)
    try:
        return await measure(sink, SIZES["postgres"], rounds, rows)
    finally:
        await sink.close()
        if drop:
            connection = await connect(dsn)
            names = "events, sessions, sink_progress, duplicates, dead_letters, sync_runs, sink_probes, alembic_version"
            await connection.execute(f"DROP TABLE {names}")
            await connection.close()


async def sqlite(rounds: int, rows: int) -> list[dict[str, Any]]:
    """In a temporary directory; TMPDIR decides which disk."""
    with tempfile.TemporaryDirectory() as directory:
        sink = SqliteSink(Path(directory) / "bench.db")
        await sink.open()
        try:
            return await measure(sink, SIZES["sqlite"], rounds, rows)
        finally:
            await sink.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--database", help="an empty Postgres; without it only SQLite is measured")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=10_000, help="rows a size and round")
    parser.add_argument("--drop", action="store_true", help="drop the tables afterwards")
    options = parser.parse_args()
    results = asyncio.run(sqlite(options.rounds, options.rows))
    if options.database:
        results += asyncio.run(postgres(options.database, options.rounds, options.rows, options.drop))
    for row in results:
        speed, cpu = f"{row['rows_per_s']:8,} rows/s", f"{row['client_cpu_us_per_row']:5} µs client CPU a row"
        print(f"{row['sink']:9} batch {row['batch']:5} {speed} {cpu}")
    keep(told("sinks", {"results": results}, packages=("asyncpg", "aiosqlite")))


if __name__ == "__main__":
    main()
