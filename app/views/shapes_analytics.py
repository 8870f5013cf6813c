"""The answers about what the stream counts, as types (`app.views.shapes` has the others)."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from app.views.shapes import Instant


class Series(msgspec.Struct):
    """One line of a chart: a value for each bucket. `total` adds them up."""

    name: str
    values: list[int]
    total: int


class UsageSeries(msgspec.Struct):
    """`buckets` are the instants the values belong to; `others` is what names beyond the first twenty have together."""

    metric: Literal["events", "sessions", "prompts"]
    group_by: Literal["none", "type", "project", "machine", "agent"]
    interval: Literal["minute", "hour", "day"]
    since: Instant
    until: Instant
    buckets: list[Instant]
    series: list[Series]
    others: int


class ValueRow(msgspec.Struct):
    """A project, machine or kind of sub-agent. `sessions_at_least`: there were more than could be told apart."""

    name: str
    events: int
    prompts: int
    sessions: int
    sessions_at_least: bool


class Values(msgspec.Struct):
    """The busiest first."""

    dimension: Literal["project", "machine", "agent"]
    interval: Literal["minute", "hour", "day"]
    since: Instant
    until: Instant
    items: list[ValueRow]


class ToolRow(msgspec.Struct):
    """Calls that ended; times in milliseconds, within 4.5 %, null where no beginning is known."""

    name: str
    calls: int
    failures: int
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


class ToolPage(msgspec.Struct):
    """The most used first."""

    interval: Literal["minute", "hour", "day"]
    since: Instant
    until: Instant
    items: list[ToolRow]


class ToolPoint(ToolRow):
    """A tool in a bucket."""

    bucket: Instant


class ToolSeries(ToolRow):
    """A tool, and each bucket of the time asked for."""

    interval: Literal["minute", "hour", "day"]
    since: Instant
    until: Instant
    points: list[ToolPoint]


class Table(msgspec.Struct):
    """An aggregate table; `keys` of all partitions."""

    name: Literal["usage", "tools", "sessions"]
    about: str
    keys: int


class Tables(msgspec.Struct):
    """All there are."""

    items: list[Table]


class TableRows(msgspec.Struct):
    """The latest first. What a row holds depends on the table (docs/api.md); `next` goes into `cursor`."""

    table: Literal["usage", "tools", "sessions"]
    interval: Literal["minute", "hour", "day"]
    since: Instant
    until: Instant
    items: list[dict[str, Any]]
    next: str | None
