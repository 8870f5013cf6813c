"""The aggregate tables of a Faust app: `tables.usage_store` under `tables.changelogged`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from schemas.topics import TopicSpec
from tables import changelogged
from tables.changelogged import Abort, ChangelogTable
from tables.usage_store import UsageStore


class UsageTable(ChangelogTable[UsageStore]):
    """The table `usage` of an app; made by `declare`."""

    def __init__(self, app: Any, **kwargs: Any) -> None:
        super().__init__(app, open_=UsageStore.open, **kwargs)

    def status(self) -> Mapping[str, Any]:
        """The part `aggregate` of a worker's status."""
        partitions = {str(number): {"newest": store.newest} for number, store in sorted(self.store.partitions.items())}
        return {"partitions": partitions, "recovered": self.recovered()}


def declare(app: Any, spec: TopicSpec, directory: Path, *, abort: Abort) -> UsageTable:
    """As `changelogged.declare`; the changelog `spec` is the public topic `chronicle.aggregates`."""
    return changelogged.declare(UsageTable, app, spec, "usage", directory=directory, abort=abort)
