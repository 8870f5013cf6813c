"""Many rows in one step of SQLite.

Python's module gives the interpreter's lock away at each step of a statement, and `executemany` makes a step of each
row. A thread beside a busy one waits up to 5 ms until it has the lock again (`sys.setswitchinterval`): a batch of 500
rows took over a second of which SQLite worked three milliseconds. So rows go in by `VALUES (…), (…), …`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, Final

#: Rows of a statement, the larger ones first. Three of them, since each statement is kept ready by the connection.
ROWS: Final = (256, 32, 1)


def insert(connection: sqlite3.Connection, into: str, rows: Sequence[Sequence[Any]]) -> int:
    """`into` ("INSERT INTO t (a, b)") with these rows, all of one length, in their order; how many it were.

    Raises what SQLite raises; earlier rows are in then, and the transaction is the caller's.
    """
    if not rows:
        return 0
    width = len(rows[0])
    most = connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER) // width
    at = inserted = 0
    for count in ROWS:
        while count <= most and len(rows) - at >= count:
            values = tuple(chain.from_iterable(rows[at : at + count]))
            inserted += connection.execute(_statement(into, width, count), values).rowcount
            at += count
    return inserted


@lru_cache(64)
def _statement(into: str, width: int, count: int) -> str:
    row = f"({', '.join('?' * width)})"
    return f"{into} VALUES {', '.join([row] * count)}"
