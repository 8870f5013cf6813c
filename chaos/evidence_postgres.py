"""What Postgres holds, read row by row in one snapshot; payloads are hashed here and not kept."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any
from uuid import UUID

import asyncpg

from chaos.evidence_values import Index, Letter, Row, Rows, Store
from chaos.ledger_sum import DIGEST
from chaos.mix_payloads import canonical

#: As sent where the JSON column holds a changed copy.
EVENTS = """
SELECT event_id, session_id, coalesce(payload_raw, payload::text) AS payload,
       ingest_partition, ingest_offset, events_offset FROM events
"""
LETTERS = """
SELECT topic, partition, "offset", cause, event_id, session_id, resolved_at IS NOT NULL AS resolved,
       value IS NOT NULL AS has_bytes FROM dead_letters ORDER BY 1, 2, 3
"""
#: Computed anew from the events, beside what the roll-up says.
WRONG_SESSIONS = """
WITH counted AS (
    SELECT session_id, count(*) AS n, min(occurred_at) AS first, max(occurred_at) AS last,
           min(occurred_at) FILTER (WHERE event_type = 'session_start') AS started
    FROM events GROUP BY session_id
)
SELECT coalesce(c.session_id, s.session_id) AS session_id, c.n, s.event_count FROM counted c
FULL JOIN sessions s ON s.session_id = c.session_id
WHERE (c.n, c.first, c.last) IS DISTINCT FROM (s.event_count, s.first_event_at, s.last_event_at)
   OR c.started IS DISTINCT FROM s.started_at
LIMIT 1000
"""
INDEXES = """
SELECT c.relname AS name, t.relname AS of, i.indisunique AS is_unique, i.indisvalid AND i.indisready AS valid
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
JOIN pg_namespace n ON n.oid = t.relnamespace WHERE n.nspname = 'public'
"""
#: By the partition of the public stream, which for a record that did not come through ingest is written as -1 - it.
REPEATS = """
SELECT greatest(d.ingest_partition, -1 - d.ingest_partition) AS partition, e.session_id
FROM duplicates d JOIN events e ON e.event_id = d.event_id
"""
SYNC_RUNS = "SELECT count(*) AS n, count(*) FILTER (WHERE NOT verified) AS unverified FROM sync_runs"
_FETCH = 500


async def read_store(dsn: str) -> Store:
    """All of it, as of one moment. Raises what asyncpg raises: without the database there is no verdict."""
    connection: Any = await asyncpg.connect(dsn, timeout=10)  # type: ignore[no-untyped-call]
    try:
        # An index that lies must not hide a row: the table itself is read.
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            await connection.execute("SET LOCAL enable_indexonlyscan = off")
            return await _read(connection)
    finally:
        await connection.close()


async def _read(connection: Any) -> Store:
    runs = await connection.fetchrow(SYNC_RUNS)
    progress = await connection.fetch("SELECT partition, next_offset, stored FROM sink_progress")
    wrong = await connection.fetch(WRONG_SESSIONS)
    indexes = await connection.fetch(INDEXES)
    return Store(
        rows=await _rows(connection),
        letters=[_letter(row) async for row in connection.cursor(LETTERS, prefetch=_FETCH)],
        duplicates=await connection.fetchval("SELECT count(*) FROM duplicates"),
        repeats=[(row["partition"], row["session_id"]) async for row in connection.cursor(REPEATS, prefetch=_FETCH)],
        progress={row["partition"]: (row["next_offset"], row["stored"]) for row in progress},
        wrong_sessions=[f"{row['session_id']}: rows {row['n']}, roll-up {row['event_count']}" for row in wrong],
        sync_runs=runs["n"],
        unverified_syncs=runs["unverified"],
        indexes={row["name"]: Index(row["of"], row["is_unique"], row["valid"]) for row in indexes},
    )


async def _rows(connection: Any) -> Rows:
    rows = Rows()
    async for row in connection.cursor(EVENTS, prefetch=_FETCH):
        rows.add(
            Row(
                UUID(bytes=row["event_id"].bytes).bytes,
                payload_digest(row["payload"]),
                row["session_id"],
                row["ingest_partition"],
                row["ingest_offset"],
                row["events_offset"],
            )
        )
    return rows


def payload_digest(text: str) -> bytes:
    """The ledger's digest of a payload read back as JSON text."""
    return sha256(canonical(json.loads(text))).digest()[:DIGEST]


def _letter(row: Any) -> Letter:
    return Letter(
        row["topic"],
        row["partition"],
        row["offset"],
        row["cause"],
        str(row["event_id"] or ""),
        row["session_id"] or "",
        row["resolved"],
        row["has_bytes"],
    )
