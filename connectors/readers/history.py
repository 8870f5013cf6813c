"""Asking the history tables: statements for both dialects, and the partitions added up. Pure.

Times are epoch seconds, as in `tables.usage_view`; a bucket is in [since, until). Rows are what `Reader.rows` gives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import sqlalchemy as sa

from connectors.model import tool_history, usage_history

_SECOND = 1_000_000


class PastUsage(msgspec.Struct, kw_only=True):
    """A bucket of a series, all partitions added up. `sessions_at_least`: there were more."""

    bucket: int
    events: Counter[str] = msgspec.field(default_factory=Counter)
    sessions: int = 0
    sessions_at_least: bool = False


class PastTool(msgspec.Struct, kw_only=True):
    """Calls of a tool in a bucket, all partitions added up; `durations` as in `tables.histogram`."""

    bucket: int
    tool: str
    calls: int = 0
    failures: int = 0
    durations: Counter[int] = msgspec.field(default_factory=Counter)


def usage_of(grain: str, since: int, until: int, dimension: str = "all", value: str = "") -> sa.Select[Any]:
    """The parts of one series, by bucket; `usage_points` adds them up."""
    table = usage_history.c
    columns = (table.bucket, table.events, table.sessions, table.sessions_at_least)
    return sa.select(*columns).where(*_about(table, grain, since, until, dimension, value)).order_by(table.bucket)


def tools_of(grain: str, since: int, until: int, dimension: str = "all", value: str = "") -> sa.Select[Any]:
    """The parts of every tool, by bucket and name; `tool_points` adds them up."""
    table = tool_history.c
    columns = (table.bucket, table.tool, table.calls, table.failures, table.durations)
    about = _about(table, grain, since, until, dimension, value)
    return sa.select(*columns).where(*about).order_by(table.bucket, table.tool)


def usage_points(rows: Iterable[Mapping[str, Any]]) -> list[PastUsage]:
    """One for each bucket that has anything."""
    found: dict[int, PastUsage] = {}
    for row in rows:
        bucket = row["bucket"] // _SECOND
        point = found.setdefault(bucket, PastUsage(bucket=bucket))
        point.events.update(row["events"])
        point.sessions += row["sessions"]
        point.sessions_at_least |= row["sessions_at_least"]
    return list(found.values())


def tool_points(rows: Iterable[Mapping[str, Any]]) -> list[PastTool]:
    """One for each bucket and tool that has anything."""
    found: dict[tuple[int, str], PastTool] = {}
    for row in rows:
        bucket, tool = row["bucket"] // _SECOND, row["tool"]
        point = found.setdefault((bucket, tool), PastTool(bucket=bucket, tool=tool))
        point.calls += row["calls"]
        point.failures += row["failures"]
        point.durations.update({int(place): count for place, count in row["durations"].items()})
    return list(found.values())


def _about(
    table: Any, grain: str, since: int, until: int, dimension: str, value: str
) -> tuple[sa.ColumnElement[bool], ...]:
    times = (table.bucket >= since * _SECOND, table.bucket < until * _SECOND)
    return (table.grain == grain, table.dimension == dimension, table.value == value, *times)
