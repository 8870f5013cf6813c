"""What is asked of the history tables: the right parts, added up over partitions and logs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from connectors import model
from connectors.readers.history import PastTool, PastUsage, tool_points, tools_of, usage_of, usage_points

NOON = 1_763_726_400
DAY = 86_400


def row(bucket: int, partition: int, log_id: str = "x", **fields: Any) -> dict[str, Any]:
    place = {"grain": "day", "dimension": "all", "value": "", "bucket": bucket * 1_000_000, "partition": partition}
    return {**place, "log_id": log_id, "generation": 0, "at": 1, "foreign_at": -1, "updated_at": 0, **fields}


@pytest.fixture
def database() -> Iterator[sa.Connection]:
    """Two days of two partitions, one of them in two logs, and rows that nobody asks for."""
    engine = sa.create_engine("sqlite://")
    tables = [model.usage_history, model.tool_history]
    with engine.begin() as connection:
        model.metadata.create_all(connection, tables=tables)
        counts: dict[str, Any] = {
            "event_count": 3,
            "sessions": 1,
            "sessions_at_least": False,
            "events": {"a": 1, "b": 2},
        }
        rows = [row(NOON, 0, **counts), row(NOON, 1, **counts), row(NOON, 1, "y", **counts)]
        rows.append(row(NOON + DAY, 1, **{**counts, "sessions_at_least": True}))
        rows.append(row(NOON + 2 * DAY, 1, **counts))
        rows.append({**row(NOON, 0, **counts), "dimension": "project", "value": "shop"})
        rows.append({**row(NOON, 0, **counts), "grain": "hour"})
        connection.execute(sa.insert(model.usage_history), rows)
        calls: dict[str, Any] = {"tool": "Bash", "calls": 2, "failures": 1, "durations": {"80": 1}}
        rows = [row(NOON, 0, **calls), row(NOON, 1, **calls), row(NOON, 1, **{**calls, "tool": "Edit"})]
        connection.execute(sa.insert(model.tool_history), rows)
        yield connection
    engine.dispose()


def test_a_series_has_a_point_for_each_bucket_asked_for(database: sa.Connection) -> None:
    """Of this grain, dimension and value, in these times."""
    found = database.execute(usage_of("day", NOON, NOON + 2 * DAY)).mappings()
    today, tomorrow = usage_points([dict(one) for one in found])
    assert today == PastUsage(bucket=NOON, events=today.events, sessions=3)
    assert dict(today.events) == {"a": 3, "b": 6}
    assert (tomorrow.bucket, tomorrow.sessions_at_least, dict(tomorrow.events)) == (NOON + DAY, True, {"a": 1, "b": 2})
    found = database.execute(usage_of("day", NOON, NOON + DAY, "project", "shop")).mappings()
    assert [dict(one.events) for one in usage_points([dict(one) for one in found])] == [{"a": 1, "b": 2}]


def test_tools_are_added_up_with_their_durations(database: sa.Connection) -> None:
    """Percentiles are computed from the sum."""
    bash, edit = tool_points([dict(one) for one in database.execute(tools_of("day", NOON, NOON + DAY)).mappings()])
    assert bash == PastTool(bucket=NOON, tool="Bash", calls=4, failures=2, durations=bash.durations)
    assert dict(bash.durations) == {80: 2}
    assert (edit.tool, edit.calls) == ("Edit", 2)


@pytest.mark.parametrize("ask", [usage_of, tools_of])
def test_the_statements_are_postgres_too(ask: Any) -> None:
    """They compile with its types."""
    dialect: Any = postgresql.asyncpg.dialect
    text = str(ask("day", NOON, NOON + DAY).compile(dialect=dialect()))
    assert "_history.bucket >=" in text
