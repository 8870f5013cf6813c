"""The SQL of the Postgres sink, as constants. No value ever goes into a text: names are ours, values are parameters."""

from __future__ import annotations

from typing import Final

from connectors.rollup import SESSION_TYPES
from connectors.rows import EVENT_COLUMNS, EVENT_TYPES, LETTER_COLUMNS, LETTER_TYPES

STAGE: Final = "chronicle_stage"
#: Said, because a role may have another default; read-only is not overruled: whoever set it meant it.
BEGIN: Final = "BEGIN ISOLATION LEVEL READ COMMITTED"
_COLUMNS = ", ".join(EVENT_COLUMNS)

#: One for each connection. EXTERNAL: what is big is compressed once, on its way into `events`, not twice.
MAKE_STAGE: Final = (
    f"CREATE TEMP TABLE IF NOT EXISTS {STAGE} ("
    + ", ".join(f"{name} {kind}" for name, kind in EVENT_TYPES.items())
    + ") ON COMMIT DELETE ROWS; "
    + f"ALTER TABLE {STAGE} "
    + ", ".join(f"ALTER COLUMN {name} SET STORAGE EXTERNAL" for name in ("payload", "payload_raw", "metadata"))
)
CLEAR_STAGE: Final = f"TRUNCATE {STAGE}"

#: In order of event_id, so that two writers never wait for each other crosswise. Answers with the ids that were there.
STORE: Final = f"""
WITH fresh AS (
    INSERT INTO events ({_COLUMNS}) SELECT {_COLUMNS} FROM {STAGE} ORDER BY event_id
    ON CONFLICT (event_id) DO NOTHING RETURNING event_id
)
SELECT event_id FROM {STAGE} AS staged WHERE NOT EXISTS (SELECT FROM fresh WHERE fresh.event_id = staged.event_id)
"""

KNOWN: Final = """
SELECT event_id, ingest_partition, ingest_offset, fingerprint FROM events WHERE event_id = ANY($1::uuid[])
"""

DUPLICATES: Final = """
INSERT INTO duplicates (ingest_partition, ingest_offset, event_id, recorded_at)
SELECT p, o, id, now() FROM unnest($1::integer[], $2::bigint[], $3::uuid[]) AS t (p, o, id) ORDER BY p, o
ON CONFLICT DO NOTHING RETURNING 1
"""

PROGRESS: Final = """
INSERT INTO sink_progress AS p (partition, next_offset, stored, updated_at)
SELECT part, next, n, now() FROM unnest($1::integer[], $2::bigint[], $3::bigint[]) AS t (part, next, n) ORDER BY part
ON CONFLICT (partition) DO UPDATE SET
    next_offset = greatest(p.next_offset, excluded.next_offset),
    stored = p.stored + excluded.stored,
    updated_at = excluded.updated_at
"""

_NAMES = ", ".join(SESSION_TYPES)
_ARRAYS = ", ".join(f"${n}::{kind}[]" for n, kind in enumerate(SESSION_TYPES.values(), 1))


def _pair(row: str, at: str, *texts: str, never: str) -> str:
    """(time, text…) of a row, comparable: nulls filled, texts compared by code point as Python does."""
    filled = [f"coalesce({row}.{at}, '{never}')"] + [f"coalesce({row}.{text}, '') COLLATE \"C\"" for text in texts]
    return f"({', '.join(filled)})"


def _earlier(at: str, text: str) -> str:
    new, old = _pair("excluded", at, text, never="infinity"), _pair("s", at, text, never="infinity")
    return f"{new} < {old}"


def _later(at: str, *texts: str) -> str:
    new, old = _pair("excluded", at, *texts, never="-infinity"), _pair("s", at, *texts, never="-infinity")
    return f"{new} > {old}"


def _choose(condition: str, *columns: str) -> str:
    return ", ".join(f"{name} = CASE WHEN {condition} THEN excluded.{name} ELSE s.{name} END" for name in columns)


_END_AT = "greatest(s.last_end_at, excluded.last_end_at)"
_OVER = f"{_END_AT} >= coalesce(greatest(s.last_active_at, excluded.last_active_at), '-infinity')"
_END_STATUS = (
    f"CASE WHEN {_later('last_end_at', 'last_end_status')} THEN excluded.last_end_status ELSE s.last_end_status END"
)

#: `connectors.rollup.merge` in SQL (one suite holds them together). Rows are locked in order of session_id.
SESSIONS: Final = f"""
INSERT INTO sessions AS s ({_NAMES}, updated_at)
SELECT {_NAMES}, now() FROM unnest({_ARRAYS}) AS t ({_NAMES}) ORDER BY session_id
ON CONFLICT (session_id) DO UPDATE SET
    {_choose(_earlier("first_event_at", "source"), "source")},
    {_choose(_earlier("cwd_at", "cwd"), "cwd", "cwd_at", "project")},
    {_choose(_earlier("machine_at", "machine"), "machine", "machine_at")},
    {_choose(_later("git_at", "git_branch", "git_commit"), "git_branch", "git_commit", "git_at")},
    {_choose(_later("last_end_at", "last_end_status"), "last_end_status")},
    {
    _choose(
        "(excluded.last_partition, excluded.last_offset) > (s.last_partition, s.last_offset)",
        "last_partition",
        "last_offset",
    )
},
    status = CASE WHEN {_OVER} THEN coalesce({_END_STATUS}, 'completed') ELSE 'active' END,
    ended_at = CASE WHEN {_OVER} THEN {_END_AT} END,
    first_event_at = least(s.first_event_at, excluded.first_event_at),
    last_event_at = greatest(s.last_event_at, excluded.last_event_at),
    started_at = least(s.started_at, excluded.started_at),
    last_active_at = greatest(s.last_active_at, excluded.last_active_at),
    last_end_at = {_END_AT},
    event_count = s.event_count + excluded.event_count,
    updated_at = excluded.updated_at
"""

_LETTER_NAMES = ", ".join(f'"{name}"' for name in LETTER_COLUMNS)
_LETTER_ARRAYS = ", ".join(f"${n}::{kind}[]" for n, kind in enumerate(LETTER_TYPES.values(), 1))
LETTERS: Final = f"""
INSERT INTO dead_letters ({_LETTER_NAMES})
SELECT {_LETTER_NAMES} FROM unnest({_LETTER_ARRAYS}) AS t ({_LETTER_NAMES}) ORDER BY "topic", "partition", "offset"
ON CONFLICT DO NOTHING RETURNING 1
"""

#: Answers with a row when this log is new here and another was before it: `earlier` counts what the ledger counts.
BEGIN_LOG: Final = """
INSERT INTO logs (log_id, began_at, earlier)
SELECT $1, now(), CASE WHEN EXISTS (SELECT FROM logs) THEN $2::bigint
    + (SELECT coalesce(sum(stored), 0) FROM sink_progress) + (SELECT count(*) FROM duplicates)
    + (SELECT count(*) FROM dead_letters WHERE stage = 'persist' AND ingest_partition IS NOT NULL
       AND (resolved_at IS NULL OR cause = 'conflict')) ELSE 0 END
ON CONFLICT DO NOTHING RETURNING earlier, (SELECT count(*) FROM logs) > 0 AS another
"""
FORGET_PROGRESS: Final = "UPDATE sink_progress SET next_offset = 0"
#: Letters are known by their place, and the places begin anew: those of the lost log keep theirs under another name.
MOVE_LETTERS: Final = tuple(
    f"UPDATE {table} SET topic = topic || $1 WHERE position('@' in topic) = 0"
    for table in ("dead_letters", "conflict_resolutions")
)

READ_PROGRESS: Final = "SELECT partition, next_offset FROM sink_progress WHERE next_offset > 0"

PROBE: Final = """
INSERT INTO sink_probes (worker, at) VALUES ($1, now()) ON CONFLICT (worker) DO UPDATE SET at = excluded.at
"""

SYNC_RUN: Final = """
INSERT INTO sync_runs (worker, started_at, finished_at, first_seq, last_seq, rows, stored, verified,
                       expected_count, expected_hash, found_count, found_hash)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
"""

#: A role or database may be set to lose the last commits in a crash; the promise forbids it. Stronger settings stay.
DURABLE: Final = """
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'
"""
