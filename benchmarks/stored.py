"""Fill a database with stored events, by SQL on the server: millions in minutes, of the size all figures are given for.

A session has a thousand events over about an hour: prompts, and tool calls with both their ends. The newest event is of
now, the others lie a tenth of a second apart, so ten millions reach back eleven days. Ids are those of
`benchmarks.bulk_load`, which goes on behind them (`--first`): new ids are the largest, as those of clients are.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from benchmarks.bulk_load import TEXT
from benchmarks.running import connect
from connectors.migrate import upgrade

#: Rows of one statement: each commits, so that the log of Postgres stays small.
PIECE: Final = 200_000
EVENTS_OF_A_SESSION: Final = 1_000
PROJECTS: Final = 40
#: Eight of them: the query counts on it.
WORDS: Final = ("parser", "cart", "invoice", "login", "cache", "index", "colour", "deploy")


def prompt(number: int) -> tuple[str, int]:
    """The word and the number in the prompt with this number, of those that `store` makes: one event in twenty."""
    return WORDS[number % len(WORDS)], number * 20


_EVENTS: Final = f"""
INSERT INTO events (event_id, session_id, event_type, hook_event_name, occurred_at, received_at, source, tool_name,
                    tool_use_id, cwd, id_origin, flags, payload, metadata, fingerprint, ingest_partition,
                    ingest_offset, events_offset)
SELECT (lpad(to_hex(n >> 16), 8, '0') || '-' || lpad(to_hex(n & 65535), 4, '0') || '-7000-8000-'
        || lpad(to_hex(n), 12, '0'))::uuid,
       'session-' || n / {EVENTS_OF_A_SESSION}, kind.type, NULL, at, at, 'claude-code',
       CASE WHEN kind.type <> 'user_prompt' THEN (ARRAY['Bash', 'Read', 'Edit', 'Grep'])[(1 + n / 2 % 4)::int] END,
       CASE WHEN kind.type <> 'user_prompt' THEN 'toolu_' || n / 2 END,
       '/home/dev/project-' || n / {EVENTS_OF_A_SESSION} % {PROJECTS}, 0, 0,
       CASE WHEN kind.type = 'user_prompt'
            THEN jsonb_build_object('prompt', 'please mend the ' || words[(1 + n / 20 % 8)::int] || ' of step ' || n)
            ELSE jsonb_build_object('tool_input', jsonb_build_object('command', repeat('x', {TEXT - 60}))) END,
       '{{}}', decode(lpad(to_hex(n), 32, '0'), 'hex'), n % 4, n / 4, n / 4
FROM generate_series($1::bigint, $2::bigint - 1) AS n,
     LATERAL (SELECT CASE WHEN n % 20 = 0 THEN 'user_prompt' WHEN n % 2 = 0 THEN 'tool_pre_use'
                          WHEN n % 50 = 49 THEN 'post_tool_use_failure' ELSE 'tool_post_use' END AS type) AS kind,
     LATERAL (SELECT now() - ($3::bigint - n) * interval '100 milliseconds' AS at) AS time,
     (SELECT $4::text[] AS words) AS given
ON CONFLICT DO NOTHING
"""
_SESSIONS: Final = """
INSERT INTO sessions (session_id, source, project, cwd, cwd_at, status, first_event_at, last_event_at, last_active_at,
                      event_count, last_partition, last_offset, updated_at)
SELECT session_id, 'claude-code', max(split_part(cwd, '/', 4)), max(cwd), min(occurred_at), 'active', min(occurred_at),
       max(occurred_at), max(occurred_at), count(*), max(ingest_partition), max(ingest_offset), now()
FROM events GROUP BY session_id ON CONFLICT DO NOTHING
"""


def store(dsn: str, events: int) -> None:
    """Migrate, fill, and let Postgres look at what it has. Raises RuntimeError when rows are missing."""

    async def work() -> None:
        await upgrade(dsn)
        connection: Any = await connect(dsn)
        try:
            for first in range(0, events, PIECE):
                last = min(first + PIECE, events)
                await connection.execute(_EVENTS, first, last, events, list(WORDS), timeout=600)
            await connection.execute(_SESSIONS, timeout=3600)
            await connection.execute("VACUUM (ANALYZE) events", timeout=3600)
            await connection.execute("ANALYZE sessions", timeout=600)
            if (found := await connection.fetchval("SELECT count(*) FROM events", timeout=600)) < events:
                raise RuntimeError(f"{found} of {events} events were stored")
        finally:
            await connection.close()

    asyncio.run(work())
