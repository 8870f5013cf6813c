"""What the local store still owes to Postgres."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from chaos.evidence_values import Local

#: Ids that are kept by name.
EXAMPLES = 10_000


def read_local(path: Path) -> Local:
    """Read-only. A file that is not there owes nothing; one that cannot be read says so in `trouble`."""
    if not path.exists():
        return Local()
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as database:
            return _read(database)
    except sqlite3.Error as error:
        return Local(trouble=f"{type(error).__name__}: {error}")


def _read(database: sqlite3.Connection) -> Local:
    waiting = "FROM outbox WHERE state = 'pending'"
    ranges = 'SELECT "partition", start, "end" FROM failover_range WHERE state = \'pending\' ORDER BY 1, 2'
    return Local(
        count=database.execute(f"SELECT count(*) {waiting}").fetchone()[0],
        pending=[row[0] for row in database.execute(f"SELECT event_id {waiting} ORDER BY seq LIMIT {EXAMPLES}")],
        ranges=[(row[0], row[1], row[2]) for row in database.execute(ranges)],
        letters=database.execute("SELECT count(*) FROM dead_letter_outbox").fetchone()[0],
    )
