"""The SQL of the SQLite sink, as constants."""

from __future__ import annotations

from typing import Final

from connectors.rollup import SESSION_TYPES
from connectors.rows import EVENT_COLUMNS, LETTER_COLUMNS


def _marks(count: int) -> str:
    return ", ".join("?" * count)


def quoted(names: tuple[str, ...]) -> str:
    """A column list; `offset`, `key` and `end` are words of SQL."""
    return ", ".join(f'"{name}"' for name in names)


SESSION_COLUMNS: Final = tuple(SESSION_TYPES)

#: For `sqlite_many.insert`: rows in the order of their columns.
ADD_EVENTS: Final = f"INSERT INTO events ({quoted(EVENT_COLUMNS)}, stored_at)"
ADD_OUTBOX: Final = """
INSERT OR IGNORE INTO outbox (event_id, fingerprint, "partition", "offset", ingest_partition, ingest_offset, value)
"""
PUT_SESSIONS: Final = f"INSERT OR REPLACE INTO sessions ({quoted(SESSION_COLUMNS)}, updated_at)"
#: With one parameter, a JSON array of ids.
KNOWN: Final = """
SELECT event_id, ingest_partition, ingest_offset, fingerprint FROM events
WHERE event_id IN (SELECT value FROM json_each(?))
"""
#: All in one row of JSON, as `PEEK`.
READ_SESSIONS: Final = f"""
SELECT json_group_array(json_array({quoted(SESSION_COLUMNS)})) FROM sessions
WHERE session_id IN (SELECT value FROM json_each(?))
"""
PROGRESS: Final = """
INSERT INTO sink_progress ("partition", next_offset, stored, updated_at) VALUES (?, ?, ?, ?)
ON CONFLICT ("partition") DO UPDATE SET next_offset = max(next_offset, excluded.next_offset),
    stored = stored + excluded.stored, updated_at = excluded.updated_at
"""
READ_PROGRESS: Final = 'SELECT "partition", next_offset FROM sink_progress WHERE next_offset > 0'

LAST_SEQ: Final = "SELECT coalesce(max(seq), 0) FROM outbox"
EXTEND_RANGE: Final = """
UPDATE failover_range SET "end" = max("end", ?), last_seq = ? WHERE id = (
    SELECT id FROM failover_range WHERE "partition" = ? AND state = 'pending' AND start <= ? AND "end" >= ? LIMIT 1)
RETURNING id, "partition", start, "end", at
"""
ADD_RANGE: Final = """
INSERT INTO failover_range ("partition", start, "end", at, last_seq) VALUES (?, ?, ?, ?, ?)
RETURNING id, "partition", start, "end", at
"""
ALL_RANGES: Final = """
SELECT id, "partition", start, "end", at, state = 'synced' FROM failover_range ORDER BY "partition", start
"""
#: A range without events (replays, dead letters only) has nothing that sync-back could mark.
CLOSE_EMPTY_RANGES: Final = """
UPDATE failover_range SET state = 'synced' WHERE state = 'pending' AND NOT EXISTS (
    SELECT 1 FROM outbox WHERE outbox.state = 'pending' AND outbox.seq <= failover_range.last_seq)
"""
OPEN_RANGES: Final = """
SELECT "partition", start, "end" FROM failover_range WHERE state = 'pending' ORDER BY "partition", start
"""

PENDING: Final = "SELECT count(*) FROM outbox WHERE state = 'pending'"
#: At most so many rows, and none behind so many bytes of values. All in one row of JSON: each step of a query gives the
#: interpreter's lock away, and a thread beside a busy one waits up to 5 ms until it has it again.
PEEK: Final = """
SELECT json_group_array(json_array(
    seq, "partition", "offset", ingest_partition, ingest_offset, hex(value), event_id, hex(fingerprint)))
FROM (SELECT *, sum(length(value)) OVER (ORDER BY seq) - length(value) AS before
    FROM (SELECT * FROM outbox WHERE state = 'pending' AND seq > ? ORDER BY seq LIMIT ?))
WHERE before < ?
"""
MARK_SYNCED: Final = "UPDATE outbox SET state = 'synced', synced_at = ? WHERE state = 'pending' AND seq <= ?"
CLOSE_RANGES: Final = "UPDATE failover_range SET state = 'synced' WHERE state = 'pending' AND last_seq <= ?"
FORGET_OUTBOX: Final = "DELETE FROM outbox WHERE state = 'synced' AND synced_at < ?"
#: Keeps the newest, and everything from the oldest on that Postgres does not have yet: one look-up, however many wait.
TRIM_EVENTS: Final = """
DELETE FROM events WHERE rowid <= min(
  (SELECT max(rowid) FROM events) - ?,
  coalesce((SELECT rowid FROM events WHERE event_id = (
    SELECT event_id FROM outbox WHERE state = 'pending' ORDER BY seq LIMIT 1)), 9223372036854775807) - 1)
"""

ADD_LETTER: Final = (
    f"INSERT OR IGNORE INTO dead_letters ({quoted(LETTER_COLUMNS)}, stored_at) "
    f"VALUES ({_marks(len(LETTER_COLUMNS) + 1)})"
)
QUEUE_LETTER: Final = 'INSERT OR IGNORE INTO dead_letter_outbox (topic, "partition", "offset") VALUES (?, ?, ?)'
PEEK_LETTERS: Final = (
    f"SELECT {quoted(LETTER_COLUMNS)} FROM dead_letters "
    'JOIN dead_letter_outbox USING (topic, "partition", "offset") ORDER BY failed_at LIMIT ?'
)
LETTER_SYNCED: Final = 'DELETE FROM dead_letter_outbox WHERE topic = ? AND "partition" = ? AND "offset" = ?'

BEGIN_LOG: Final = "INSERT OR IGNORE INTO logs (log_id, began_at, earlier) VALUES (?, ?, 0)"
ANOTHER_LOG: Final = "SELECT 1 FROM logs WHERE log_id <> ? LIMIT 1"
FORGET_PROGRESS: Final = "UPDATE sink_progress SET next_offset = 0"
MOVE_LETTERS: Final = tuple(
    f"UPDATE {table} SET topic = topic || ? WHERE instr(topic, '@') = 0"
    for table in ("dead_letters", "dead_letter_outbox")
)

PROBE: Final = "INSERT OR REPLACE INTO sink_probes (worker, at) VALUES (?, ?)"
