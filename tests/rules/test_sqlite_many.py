"""Rows that go into SQLite many at a time, in memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest

from connectors.sqlite_many import ROWS, insert

INTO = "INSERT OR IGNORE INTO t (a, b)"


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    made = sqlite3.connect(":memory:", isolation_level=None)
    made.execute("CREATE TABLE t (a INTEGER UNIQUE, b TEXT NOT NULL)")
    yield made
    made.close()


@pytest.mark.parametrize("count", [0, 1, ROWS[1] - 1, ROWS[1], ROWS[0], ROWS[0] + 1, 2 * ROWS[0] + ROWS[1] + 3])
@pytest.mark.parametrize("variables", [3, 100, 10_000])
def test_all_rows_are_in_and_in_their_order(connection: sqlite3.Connection, count: int, variables: int) -> None:
    """However many fit one statement, also for a SQLite that takes few parameters."""
    connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, variables)
    rows = [(-number, f"{number}") for number in range(count)]
    assert insert(connection, INTO, rows) == count
    assert connection.execute("SELECT a, b FROM t ORDER BY rowid").fetchall() == rows


def test_rows_that_are_there_are_not_counted(connection: sqlite3.Connection) -> None:
    """As SQLite counts: what was ignored has not been inserted."""
    insert(connection, INTO, [(1, "a")])
    assert insert(connection, INTO, [(0, "x"), (1, "y"), (2, "z")]) == 2


def test_a_row_that_cannot_be_in_says_so(connection: sqlite3.Connection) -> None:
    """What SQLite raises comes through, whichever row it was about."""
    with pytest.raises(sqlite3.IntegrityError):
        insert(connection, "INSERT INTO t (a, b)", [*((number, "b") for number in range(300)), (7, None)])


def test_a_batch_takes_few_steps(connection: sqlite3.Connection) -> None:
    """Each gives the interpreter's lock away: a step a row took a second beside a busy thread."""
    said: list[str] = []
    connection.set_trace_callback(said.append)
    insert(connection, INTO, [(number, "b") for number in range(2 * ROWS[0] + 2 * ROWS[1] + 5)])
    assert len(said) == 9
