"""A Faust table whose store is ours: Faust assigns its partitions with those of the stream, restores it and closes it.

Faust's own way of writing a table does not wait for the changelog (decision 0003 tells what that loses). So nobody
writes here by key: an agent sends the changelog record itself, waits for the broker, and then calls
`ChangelogTable.apply`, which is also what restoring calls.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, cast

import faust
import structlog
from faust.stores.base import Store
from faust.types import TP
from rocksdict import Cache

from schemas.topics import TopicSpec
from tables.rocks import BLOCK_CACHE_BYTES, Closed, Corrupt, Locked, quarantine

#: Messages applied at once while restoring. Each may hold a whole chunk; the loop is not served meanwhile.
RECOVERY_BUFFER = 32
#: How long to wait for another process to let a database go (a worker that is still shutting down).
LOCK_TRIES, LOCK_DELAY = 40, 0.25
#: Small segments: the cleaner only compacts closed ones.
SEGMENT_BYTES = 32 << 20

_logger = structlog.get_logger("chronicle.tables")
Abort = Callable[[str], None]
#: A changelog record: its offset, key and value.
Change = tuple[int, bytes, bytes | None]


class Partition(Protocol):
    """One partition of a table on local disk.

    `persisted` is the offset of the last changelog record applied, None for an empty one. `apply` takes records in
    order, live ones and restored ones alike; applying one again changes nothing. Raises `Corrupt`, `Closed` or
    `Unavailable`.
    """

    @property
    def persisted(self) -> int | None: ...

    def apply(self, records: Iterable[Change]) -> None: ...

    def close(self) -> None: ...


P = TypeVar("P", bound=Partition)
#: Opens or makes a partition in a directory; raises `Corrupt` or `Locked`.
Open = Callable[[Path, Cache], P]


class ChangelogStore(Store[bytes, bytes], Generic[P]):
    """One database a partition, in `directory`/`partition`. Block cache is shared by all of them.

    A database that cannot be read is set aside, so that it is restored from the changelog: at once when it is found on
    opening, by way of `abort` (the process ends, its supervisor restarts it) when it is found while running.
    """

    def __init__(self, table: ChangelogTable[P], directory: Path, abort: Abort, open_: Open[P]) -> None:
        super().__init__(f"{table.name}:", table.app, table, key_serializer="raw", value_serializer="raw")
        self.data: dict[bytes, bytes] = {}  # for whoever asks Faust for the table's items: there are none to give
        self.partitions: dict[int, P] = {}
        #: Where each partition's changelog ended when it was assigned last.
        self.ends: dict[int, int] = {}
        self._directory = directory
        self._abort = abort
        self._open_one = open_
        self._cache = Cache(BLOCK_CACHE_BYTES)

    def path(self, partition: int) -> Path:
        return self._directory / str(partition)

    # --- what Faust calls -------------------------------------------------------------------------------------------

    def persisted_offset(self, tp: TP) -> int | None:
        """Offset of the last changelog record applied; None restores from the beginning."""
        store = self.partitions.get(tp.partition)
        return None if store is None else store.persisted

    def set_persisted_offset(self, tp: TP, offset: int) -> None:
        """Nothing: the offset is written in one batch with what it stands for."""

    async def on_rebalance(
        self, assigned: set[TP], revoked: set[TP], newly_assigned: set[TP], generation_id: int = 0
    ) -> None:
        """Close what is no longer ours, open what is, and compare it with the changelog."""
        topic = self.table.changelog_topic.get_topic_name()
        ours = {tp for tp in assigned if tp.topic == topic}
        for partition in set(self.partitions) - {tp.partition for tp in ours}:
            self.partitions.pop(partition).close()
        for tp in ours:
            if tp.partition not in self.partitions:
                self.partitions[tp.partition] = await self._open(tp.partition)
        await self._check_ends(ours)

    def apply_changelog_batch(self, batch: Iterable[Any], to_key: Any, to_value: Any) -> None:
        """Restore. Must not raise: Faust's recovery would log it and go on for ever with a growing buffer."""
        records: dict[int, list[Change]] = {}
        for event in batch:
            message = event.message
            records.setdefault(message.partition, []).append((message.offset, message.key or b"", message.value))
        for partition, applied in records.items():
            if partition in self.partitions:
                self._restore(partition, applied)

    async def on_stop(self) -> None:
        for store in self.partitions.values():
            store.close()
        self.partitions.clear()

    # --- what the agent calls ---------------------------------------------------------------------------------------

    def partition(self, partition: int) -> P:
        """Raises `Closed` when the partition is not ours."""
        try:
            return self.partitions[partition]
        except KeyError as error:
            raise Closed(str(partition)) from error

    def set_aside(self, partition: int, reason: str) -> None:
        """Quarantine the partition's directory; the next opening finds none and restores."""
        store = self.partitions.pop(partition, None)
        if store is not None:
            store.close()
        where = quarantine(self.path(partition))
        _logger.error(
            "database set aside, restoring from changelog",
            table=self.table.name,
            partition=partition,
            reason=reason,
            kept=where,
        )

    def reset_state(self) -> None:
        """Forget everything on disk (`faust reset`)."""
        shutil.rmtree(self._directory, ignore_errors=True)

    async def backup_partition(self, tp: Any, flush: bool = True, purge: bool = False, keep: int = 1) -> None:
        """Not offered: the changelog is the backup."""
        raise NotImplementedError

    def restore_backup(self, tp: Any, latest: bool = True, backup_id: int = 0) -> None:
        """Not offered: the changelog is the backup."""
        raise NotImplementedError

    # --- inside -----------------------------------------------------------------------------------------------------

    def _restore(self, partition: int, records: list[Change]) -> None:
        try:
            self.partitions[partition].apply(records)
        except Exception as error:  # nothing may get out, see apply_changelog_batch
            if isinstance(error, Corrupt):
                self.set_aside(partition, str(error))
            _logger.exception("restoring stopped", table=self.table.name, partition=partition)
            self._abort(f"{self.table.name}: restoring partition {partition}: {error!r}")

    async def _open(self, partition: int) -> P:
        for _ in range(LOCK_TRIES):
            try:
                return self._open_one(self.path(partition), self._cache)
            except Locked as error:
                _logger.warning(
                    "database is locked, waiting", table=self.table.name, partition=partition, error=str(error)
                )
                await asyncio.sleep(LOCK_DELAY)
            except Corrupt as error:
                self.set_aside(partition, str(error))
        return self._open_one(self.path(partition), self._cache)

    async def _check_ends(self, tps: set[TP]) -> None:
        """A store that is ahead of its changelog belongs to a log that is gone: Faust would crash over it for ever."""
        try:
            ends = await self.app.consumer.highwaters(*tps) if tps else {}
        except Exception as error:  # the broker is away: Faust's recovery asks again and waits
            _logger.warning("cannot ask for the ends of the changelog", error=str(error))
            return
        for tp, end in ends.items():
            self.ends[tp.partition] = end or 0
            persisted = self.partitions[tp.partition].persisted
            if persisted is not None and persisted >= (end or 0):
                self.set_aside(tp.partition, f"it has changelog offset {persisted}, the changelog ends at {end}")
                self.partitions[tp.partition] = await self._open(tp.partition)


class ChangelogTable(faust.Table[bytes, bytes], Generic[P]):
    """A table of an app over partitions of one kind; made by `declare`."""

    def __init__(self, app: Any, *, directory: Path, abort: Abort, open_: Open[P], **kwargs: Any) -> None:
        super().__init__(app, key_type=bytes, value_type=bytes, recovery_buffer_size=RECOVERY_BUFFER, **kwargs)
        self.changelog = kwargs["changelog_topic"].get_topic_name()
        self._directory = directory
        self._abort = abort
        self._open_one = open_

    def _new_store(self) -> ChangelogStore[P]:
        return ChangelogStore(self, self._directory, self._abort, self._open_one)

    @property
    def store(self) -> ChangelogStore[P]:
        return cast("ChangelogStore[P]", self.data)

    def partition(self, partition: int) -> P:
        """The memory of one partition. Raises `Closed` when it is not ours."""
        return self.store.partition(partition)

    def known(self, partition: int) -> int:
        """The changelog offset below which everything has been applied, or was compacted away. Raises `Closed`."""
        persisted = self.store.partition(partition).persisted
        return max(0 if persisted is None else persisted + 1, self.store.ends.get(partition, 0))

    def apply(self, partition: int, records: Iterable[Change]) -> None:
        """Write down acked changelog records. Raises `Closed`, `Corrupt` or `Unavailable`."""
        self.store.partition(partition).apply(records)

    def set_aside(self, partition: int, reason: str) -> None:
        """Quarantine a partition found corrupt; call it once, then end the process: the restart restores."""
        self.store.set_aside(partition, reason)

    def recovered(self) -> bool:
        """Whether the assigned partitions are restored and being worked on. False before the first assignment."""
        return bool(self.app.tables.actives_ready) and not self.app.rebalancing and not self.app.in_recovery


T = TypeVar("T", bound=ChangelogTable[Any])


def declare(kind: type[T], app: Any, spec: TopicSpec, name: str, **given: Any) -> T:
    """Declare the table `name` on `app` with the changelog topic `spec` (as many partitions as the stream's topic).

    `given` is what `kind` wants: `directory` (of this worker alone: one subdirectory a partition), `abort(reason)`,
    which ends the process, and its own.
    """
    changelog = app.topic(
        spec.name,
        key_type=bytes,
        value_type=bytes,
        key_serializer="raw",
        value_serializer="raw",
        partitions=spec.partitions,
        compacting=True,
        deleting=False,
        internal=True,
        acks=False,  # its offsets are never committed
        allow_empty=True,
        config={"segment.bytes": SEGMENT_BYTES},
    )
    table = kind(
        app, name=name, partitions=spec.partitions, changelog_topic=changelog, beacon=app.tables.beacon, **given
    )
    app.tables.add(table)
    return table
