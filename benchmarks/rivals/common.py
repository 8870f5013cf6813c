"""What the stream peers share: where things are (environment), the record as they get it, the table they fill.

BROKER host:port · TOPIC · DSN postgresql://… · STATE a directory of their own · SCHEMA the Avro schema's file
"""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastavro import parse_schema, schemaless_reader

BROKER, TOPIC, DSN = os.environ["BROKER"], os.environ["TOPIC"], os.environ["DSN"]
STATE = os.environ["STATE"]
#: Bytes before the Avro body: 0x00 and the schema id.
FRAME = 5
COLUMNS = ("event_id", "session_id", "event_type", "occurred_at", "tool_name", "payload", "metadata")
#: Fewer columns and indexes than ours: what a user would make for the same questions.
TABLE = """
CREATE TABLE IF NOT EXISTS peer_events (
    event_id uuid PRIMARY KEY, session_id text NOT NULL, event_type text NOT NULL, occurred_at timestamptz NOT NULL,
    tool_name text, payload jsonb NOT NULL, metadata jsonb NOT NULL);
CREATE INDEX IF NOT EXISTS peer_events_session ON peer_events (session_id, occurred_at);
CREATE INDEX IF NOT EXISTS peer_events_type ON peer_events (event_type, occurred_at);
"""
#: For asyncpg: a batch of rows by columns, repeats left to the primary key.
INSERT = f"""
INSERT INTO peer_events ({", ".join(COLUMNS)})
SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[], $5::text[], $6::jsonb[], $7::jsonb[])
ON CONFLICT (event_id) DO NOTHING
"""
#: What every program of a peer is set to; its own settings stand in the program.
FAUST: dict[str, Any] = {
    "broker": f"kafka://{BROKER}",
    "datadir": STATE,
    "topic_partitions": 4,
    "consumer_auto_offset_reset": "earliest",
    "producer_max_batch_size": 1 << 17,
    "stream_wait_empty": False,
}
QUIX: dict[str, Any] = {
    "broker_address": BROKER,
    "consumer_group": "peer",
    "auto_offset_reset": "earliest",
    "state_dir": STATE,
    "commit_interval": 1.0,
    "loglevel": "WARNING",
}
_schema = parse_schema(json.loads(Path(os.environ["SCHEMA"]).read_text()))


def decode(value: bytes) -> dict[str, Any]:
    """The columns of a record, by fastavro."""
    body = BytesIO(value)
    body.seek(FRAME)
    record: dict[str, Any] = schemaless_reader(body, _schema)
    return {name: _plain(record[name]) for name in COLUMNS}


def minute(record: dict[str, Any]) -> int:
    """Epoch seconds of the minute it happened in."""
    at: datetime = record["occurred_at"]
    return int(at.timestamp()) // 60 * 60


def database() -> dict[str, Any]:
    """DSN as psycopg2 wants it."""
    parts = urlsplit(DSN)
    return {
        "host": parts.hostname,
        "port": parts.port,
        "dbname": parts.path.lstrip("/"),
        "user": parts.username or "",
        "password": parts.password or "",
    }


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return str(uuid.UUID(bytes=value))
    return str(value) if isinstance(value, uuid.UUID) else value


class Counted:
    """The last count under each key; their sum is in the file `STATE/counted` about twice a second, for the harness."""

    def __init__(self) -> None:
        self._counts: dict[Any, int] = {}
        self._sum = 0
        self._next = 0.0

    def put(self, key: Any, count: int) -> None:
        """A key has this count now."""
        self._sum += count - self._counts.get(key, 0)
        self._counts[key] = count
        if time.monotonic() >= self._next:
            self.tell()

    def tell(self) -> None:
        """Write the sum down."""
        self._next = time.monotonic() + 0.5
        new = Path(STATE) / f"counted.{threading.get_ident()}"  # two threads may tell at once
        new.write_text(str(self._sum))
        new.replace(new.with_suffix(""))
