"""The table `seen` of a Faust app: `tables.seen_store` under `tables.changelogged`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from schemas.topics import TopicSpec
from tables import changelogged
from tables.changelogged import Abort, Change, ChangelogTable
from tables.seen import Retention
from tables.seen_store import PartitionStore


class SeenTable(ChangelogTable[PartitionStore]):
    """The table `seen` of an app; made by `declare`."""

    def __init__(self, app: Any, *, retention: Retention, **kwargs: Any) -> None:
        super().__init__(app, open_=PartitionStore.open, **kwargs)
        self.retention = retention

    def apply(self, partition: int, records: Iterable[Change]) -> None:
        """Write down changelog records of our own that were acked. Raises `Closed`, `Corrupt` or `Unavailable`."""
        self.store.partition(partition).apply(records, own=True)

    def counters(self) -> dict[int, dict[str, int]]:
        """Partition -> next, passed, duplicates, dead, conflicts, skipped, marked, exactly as of `next`."""
        names = ("next", "passed", "duplicates", "dead", "conflicts", "skipped", "marked")
        return {
            partition: {name: getattr(store.head, name) for name in names}
            for partition, store in sorted(self.store.partitions.items())
        }

    def status(self) -> Mapping[str, Any]:
        """The part `dedupe` of a worker's status."""
        return {"partitions": {str(key): row for key, row in self.counters().items()}, "recovered": self.recovered()}


def declare(
    app: Any, spec: TopicSpec, directory: Path, *, abort: Abort, retention: Retention | None = None
) -> SeenTable:
    """As `changelogged.declare`."""
    return changelogged.declare(
        SeenTable, app, spec, "seen", directory=directory, abort=abort, retention=retention or Retention()
    )
