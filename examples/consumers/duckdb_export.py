"""Ask questions of an export of events with DuckDB.

    pip install duckdb
    python duckdb_export.py events.jsonl
    python duckdb_export.py 'http://127.0.0.1:8000/events?since=2026-01-31T00:00:00Z' --query tools --json

The source is a file, or an address that answers with JSON lines: an event of Chronicle's API in each. No server is
needed afterwards: with `--database events.duckdb` the table stays, for `duckdb events.duckdb` and for notebooks.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

#: Field of an event -> type. What is not named here is left out.
COLUMNS = {
    "event_id": "UUID",
    "session_id": "VARCHAR",
    "event_type": "VARCHAR",
    "hook_event_name": "VARCHAR",
    "occurred_at": "TIMESTAMP",
    "received_at": "TIMESTAMP",
    "stored_at": "TIMESTAMP",
    "source": "VARCHAR",
    "tool_name": "VARCHAR",
    "tool_use_id": "VARCHAR",
    "agent_id": "VARCHAR",
    "agent_type": "VARCHAR",
    "prompt_id": "VARCHAR",
    "cwd": "VARCHAR",
    "id_origin": "VARCHAR",
    "suspected_duplicate_of": "UUID",
    "flags": "VARCHAR[]",
    "position": 'STRUCT("partition" INTEGER, "offset" BIGINT)',
    "payload": "JSON",
    "metadata": "JSON",
}

#: Times are UTC. A suspected duplicate is stored, and counts nowhere in Chronicle's own figures; nor does it here.
QUERIES = {
    "tools": """
        SELECT tool_name AS tool,
               count(*) AS calls,
               count(*) FILTER (WHERE event_type = 'post_tool_use_failure') AS failures,
               round(100.0 * avg(CASE WHEN event_type = 'post_tool_use_failure' THEN 1 ELSE 0 END), 1) AS failed_percent
        FROM events
        WHERE event_type IN ('tool_post_use', 'post_tool_use_failure') AND suspected_duplicate_of IS NULL
        GROUP BY tool_name
        ORDER BY failed_percent DESC, calls DESC, tool
    """,
    "hours": """
        SELECT date_trunc('hour', occurred_at) AS hour, count(*) AS events, count(DISTINCT session_id) AS sessions
        FROM events
        WHERE suspected_duplicate_of IS NULL
        GROUP BY hour
        ORDER BY hour
    """,
    "projects": r"""
        SELECT coalesce(nullif(regexp_extract(replace(cwd, '\', '/'), '([^/]+)/*$', 1), ''), '(none)') AS project,
               count(DISTINCT session_id) AS sessions,
               count(*) AS events
        FROM events
        WHERE suspected_duplicate_of IS NULL
        GROUP BY project
        ORDER BY sessions DESC, project
    """,
}


def local_file(source: str, folder: Path) -> Path:
    """The source as a file; an address is fetched into `folder`. Exits when it answers with something else."""
    if not source.startswith(("http://", "https://")):
        return Path(source)
    request = urllib.request.Request(source, headers={"Accept": "application/x-ndjson"})
    with urllib.request.urlopen(request) as answer:
        kind = answer.headers.get_content_type()
        if kind not in ("application/x-ndjson", "application/jsonl", "application/x-jsonlines"):
            sys.exit(f"{source} answers with {kind}, not with JSON lines; give an export.")
        target = folder / "events.jsonl"
        with target.open("wb") as file:
            shutil.copyfileobj(answer, file)
    return target


def load(file: Path, database: str = ":memory:") -> Any:
    """A connection with the table `events`. Exits when a line is no event."""
    import duckdb  # here: who only wants the queries needs no DuckDB

    connection = duckdb.connect(database)
    columns = ", ".join(f"'{name}': {_quoted(kind)}" for name, kind in COLUMNS.items())
    connection.execute(
        f"CREATE OR REPLACE TABLE events AS SELECT * FROM read_json({_quoted(str(file))}, "
        f"format = 'newline_delimited', columns = {{{columns}}})"
    )
    strange = connection.execute("SELECT count(*) FROM events WHERE event_id IS NULL").fetchone()[0]
    if strange:
        sys.exit(f"{strange} lines are no events of Chronicle: they have no event_id.")
    return connection


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def ask(connection: Any, query: str) -> list[dict[str, Any]]:
    """The rows of one of `QUERIES`, by column."""
    cursor = connection.execute(QUERIES[query])
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def show(query: str, rows: list[dict[str, Any]]) -> None:
    """As a table of plain text."""
    print(f"\n{query}")
    table = [list(rows[0]) if rows else ["nothing"], *([str(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        print("  ".join(value.ljust(width) for value, width in zip(line, widths, strict=True)).rstrip())


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Ask questions of an export of events.")
    parser.add_argument("source", help="a file of JSON lines, or the address of an export")
    parser.add_argument("--query", choices=[*QUERIES], action="append", help="only these; all when absent")
    parser.add_argument("--json", action="store_true", help="one JSON object: query -> rows")
    parser.add_argument("--database", default=":memory:", help="a file that keeps the table `events`")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        connection = load(local_file(arguments.source, Path(folder)), arguments.database)
    found = {query: ask(connection, query) for query in arguments.query or QUERIES}
    connection.close()
    if arguments.json:
        print(json.dumps(found, default=str))
        return
    for query, rows in found.items():
        show(query, rows)


if __name__ == "__main__":
    main()
