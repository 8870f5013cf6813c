"""Rows of the history tables: what one partition counted in an hour or a day, kept when the live tables let go of it.

A row is known by its place (partition, grain, bucket, dimension, value and, of a tool, its name). Values are absolute,
so a row replaces the one before it where its `Mark` is higher; whoever reads adds the partitions up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

#: Grains that have a history; minutes stay in the live tables.
GRAINS: Final = ("hour", "day")
#: On a tombstone of `chronicle.aggregates`: a rebuild (its generation, decimal) found that the key should not be there.
REBUILD_HEADER: Final = "chronicle-rebuild"


class Mark(msgspec.Struct, frozen=True, order=True):
    """How new a value is: the rebuild that wrote it (epoch seconds, 0 for none), then the positions it counts up to."""

    generation: int
    at: int
    foreign_at: int


class Place(msgspec.Struct, frozen=True, order=True):
    """What a row is about. `bucket` is the epoch second it begins at; `tool` None in the table of usage."""

    grain: str
    dimension: str
    value: str
    bucket: int
    partition: int
    tool: str | None = None


class UsageRow(msgspec.Struct, frozen=True, kw_only=True):
    """Events by type. `sessions` of one partition are in no other; `sessions_at_least`: there were more."""

    place: Place
    mark: Mark
    events: dict[str, int]
    sessions: int
    sessions_at_least: bool = False


class ToolRow(msgspec.Struct, frozen=True, kw_only=True):
    """Finished calls of a tool; `durations` is a histogram as `tables.histogram` has it."""

    place: Place
    mark: Mark
    calls: int
    failures: int
    durations: dict[int, int]


class Removed(msgspec.Struct, frozen=True):
    """A row that a rebuild of this generation found to be wrong as a whole; rows of that generation or later stay."""

    place: Place
    generation: int


Row = UsageRow | ToolRow


class Changes(msgspec.Struct, frozen=True):
    """What is written in one transaction: first what goes, then what comes. Each place at most once in each part."""

    removed: Sequence[Removed] = ()
    rows: Sequence[Row] = ()


class Written(msgspec.Struct, frozen=True):
    """What became of it: rows that were written, rows that are there as new or newer, rows taken out, rows refused."""

    written: int = 0
    older: int = 0
    removed: int = 0
    refused: int = 0
