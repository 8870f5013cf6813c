"""The loss ledger: accepted = stored + duplicates + rejected + dead + pending, with every part.

Pure arithmetic. Every term comes from a place of its own (log ends, counters of the dedup table, rows in databases), so
that `difference` is a check and not a definition. The parts are read while events walk on; whoever fills `Inputs` reads
from the front of the walk to its end, so that a moving event is counted twice rather than not at all: `difference` may
dip below zero under load. Above zero it means loss, but for the moment between a dead letter and its row in the table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec


class DedupeCount(msgspec.Struct, frozen=True):
    """Counters of the dedup table for one partition, exactly as of `next` (the next ingest offset).

    `skipped` offsets were never seen by this table: retention was quicker, or it was lost with its changelog.
    """

    next: int = 0
    passed: int = 0
    duplicates: int = 0
    dead: int = 0
    conflicts: int = 0
    skipped: int = 0


class StoreCount(msgspec.Struct, frozen=True, kw_only=True):
    """What one database holds. For SQLite: only what Postgres does not have yet.

    `next` is the durable progress: partition of `chronicle.events` -> next offset. `earlier`: how many came from logs
    that are gone; no end of a topic counts them any more.
    """

    stored: int = 0
    duplicates: int = 0
    rejected: int = 0
    dead: int = 0
    earlier: int = 0
    next: Mapping[int, int] = msgspec.field(default_factory=dict)


class Inputs(msgspec.Struct, frozen=True, kw_only=True):
    """One reading of everything the ledger needs. `stale` names what is older than this reading or not known.

    `refused` are records the spool set aside because the log can never take them.
    """

    spool: int
    refused: int = 0
    ingest_end: Mapping[int, int]
    dedupe: Mapping[int, DedupeCount]
    events_end: Mapping[int, int]
    persist_next: Mapping[int, int]
    sqlite: StoreCount
    postgres: StoreCount
    stale: tuple[str, ...] = ()


class Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """`balanced` is None while a part is stale: then `difference` proves nothing."""

    accepted: int
    stored: int
    duplicates: int
    rejected: int
    dead: int
    pending: int
    difference: int
    balanced: bool | None
    parts: dict[str, dict[str, int]]


def add_up(inputs: Inputs) -> Ledger:
    """The ledger of one reading."""
    parts = _parts(inputs)
    sums = {name: sum(detail.values()) for name, detail in parts.items()}
    difference = sums["accepted"] - sum(value for name, value in sums.items() if name != "accepted")
    balanced = None if inputs.stale else difference == 0
    return Ledger(**sums, difference=difference, balanced=balanced, parts=parts)


def _parts(inputs: Inputs) -> dict[str, dict[str, int]]:
    counts = list(inputs.dedupe.values())
    next_ingest = {partition: count.next for partition, count in inputs.dedupe.items()}
    done = highest((inputs.postgres.next, inputs.sqlite.next, inputs.persist_next))
    # What dedup has counted as passed is in the topic: this covers a reading of the ends that is a second old.
    ends = highest((inputs.events_end, {partition: count.passed for partition, count in inputs.dedupe.items()}))
    return {
        "accepted": {"log": sum(inputs.ingest_end.values()), "spool": inputs.spool + inputs.refused}
        | ({"earlier": inputs.postgres.earlier} if inputs.postgres.earlier else {}),
        "stored": {"postgres": inputs.postgres.stored, "sqlite": inputs.sqlite.stored},
        "duplicates": {
            "dedupe": sum(count.duplicates for count in counts),
            "database": inputs.postgres.duplicates + inputs.sqlite.duplicates,
        },
        "rejected": {
            "dedupe": sum(count.conflicts for count in counts),
            "database": inputs.postgres.rejected + inputs.sqlite.rejected,
        },
        "dead": {
            "spool": inputs.refused,
            "dedupe": sum(count.dead for count in counts),
            "database": inputs.postgres.dead + inputs.sqlite.dead,
        },
        "pending": {
            "spool": inputs.spool,
            "ingest": lag(inputs.ingest_end, next_ingest),
            "events": lag(ends, done),
        },
    }


def lag(ends: Mapping[int, int], done: Mapping[int, int]) -> int:
    """Records not yet worked off; a reader ahead of an older reading of the end owes nothing."""
    return sum(max(0, end - done.get(partition, 0)) for partition, end in ends.items())


def highest(maps: Iterable[Mapping[int, int]]) -> dict[int, int]:
    """Per partition the furthest progress: during a failover it is SQLite's, afterwards Postgres' again."""
    best: dict[int, int] = {}
    for one in maps:
        for partition, offset in one.items():
            best[partition] = max(offset, best.get(partition, 0))
    return best


def dedupe_counts(statuses: Mapping[str, Mapping[str, Any]]) -> dict[int, DedupeCount]:
    """The newest counters per partition: after a rebalance the old owner's status lives on for a while, behind."""
    best: dict[int, DedupeCount] = {}
    for partition, row in _partitions(statuses, "dedupe"):
        count = DedupeCount(**{name: int(row.get(name, 0)) for name in DedupeCount.__struct_fields__})
        if partition not in best or count.next > best[partition].next:
            best[partition] = count
    return best


def persist_progress(statuses: Mapping[str, Mapping[str, Any]]) -> dict[int, int]:
    """Per partition of `chronicle.events` the furthest offset a worker says is durable."""
    return highest({partition: int(row.get("next", 0))} for partition, row in _partitions(statuses, "persist"))


def _partitions(statuses: Mapping[str, Mapping[str, Any]], role: str) -> Iterable[tuple[int, Mapping[str, Any]]]:
    for status in statuses.values():
        for partition, row in ((status.get(role) or {}).get("partitions") or {}).items():
            yield int(partition), row
