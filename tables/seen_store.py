"""One partition of `seen` on local disk: a RocksDB of its own, written only by applying changelog records.

Live writing and restoring call the same `apply`, so a restored store equals the one that was lost. Ids live in one
column family a bucket: a bucket expires by dropping its family, at no cost for the rest. The default family holds
    h              packed head and persisted changelog offset (one write batch with the ids they stand for)
    k + key        every changelog record not yet tombstoned
    r + key        fresh events of the last second of stream time, per record
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice, takewhile
from pathlib import Path
from typing import Any, cast

import structlog
from rocksdict import Cache, ColumnFamily, Rdict, WriteBatch

from tables.rocks import BLOCK_CACHE_BYTES, Closed, guard, options
from tables.seen import SUSPECT_MS, Head
from tables.seen_codec import Remembered, Undecodable, bucket_of, unpack

#: Ids in one write batch while restoring: bounds memory and the time the loop is not served.
BATCH_IDS = 10_000

_HEAD = b"h"
_RECENT_LIMIT = 4096
_STATE = struct.Struct(">9qq")
_FRESH = struct.Struct(">8sq16s")

_logger = structlog.get_logger("chronicle.seen")


class PartitionStore:
    """The memory of one partition (`seen.Memory`).

    Methods raise `Corrupt` when the files are bad, `Unavailable` when the disk is full or refuses, and `Closed` after
    `close` (the partition was taken away). `persisted` is the offset of the last changelog record applied, None for an
    empty store.
    """

    def __init__(self, path: Path, db: Rdict, families: dict[int, Rdict], cache: Cache) -> None:
        self._path = path
        self._db = db
        self._families = families
        self._cache = cache
        self._buckets = sorted(families)
        self._handles = {bucket: db.get_column_family_handle(_family(bucket)) for bucket in families}
        self._recent: dict[bytes, tuple[int, bytes]] = {}
        self._recent_keys: deque[tuple[int, bytes]] = deque()
        self._recent_limit = _RECENT_LIMIT
        self._sweeping = True  # until a look finds nothing: the last run may have left some
        self._head = Head()
        self._closed = False
        self._gap_told = False
        self.persisted: int | None = None
        self._load()

    @classmethod
    def open(cls, path: Path, cache: Cache | None = None) -> PartitionStore:
        """Open or create. Raises `Corrupt` or `Locked`."""
        cache = cache or Cache(BLOCK_CACHE_BYTES)
        path.parent.mkdir(parents=True, exist_ok=True)
        return guard(lambda: cls(path, *_open(path, cache), cache))

    @property
    def head(self) -> Head:
        return self._head

    @property
    def buckets(self) -> Sequence[int]:
        return self._buckets

    def recent(self, fingerprint: bytes) -> tuple[int, bytes] | None:
        return self._recent.get(fingerprint)

    def lookup(self, ids: Sequence[bytes]) -> list[bytes | None]:
        """What is remembered of each id, newest bucket first."""
        self._check_open()
        found: list[bytes | None] = [None] * len(ids)
        wanted = list(range(len(ids)))
        for bucket in reversed(self._buckets):
            if not wanted:
                break
            values = guard(partial(self._families[bucket].get, [ids[index] for index in wanted]))
            for index, value in zip(wanted, values or (), strict=True):
                found[index] = value
            if any(value is not None for value in found):
                wanted = [index for index in wanted if found[index] is None]
        return found

    def apply(self, records: Iterable[tuple[int, bytes, bytes | None]], *, own: bool = False) -> None:
        """Apply changelog records (offset, key, value) in order. Applying one again changes nothing.

        `own`: this worker wrote them, it did not read them. What lies between them and `persisted` then is of another
        worker (this one was suspended, and had a successor meanwhile) or a send of ours whose ack was lost:
        `persisted` stays, so that the next restore reads it. Going on over it would forget what the successor did.

        A record that cannot be read is logged and stepped over: the ids in it may come twice, and the database's key
        judges them. Raising would leave Faust's recovery in an endless loop.
        """
        self._check_open()
        batch, ids = WriteBatch(raw_mode=True), 0
        for offset, key, value in records:
            try:
                bucket = bucket_of(key)
                remembered = None if value is None else unpack(value)
            except Undecodable as error:
                _logger.error("changelog record stepped over", offset=offset, path=str(self._path), error=str(error))
            else:
                ids += self._add(batch, bucket, key, remembered)
            self.persisted = self._read_to(offset, own)
            if ids >= BATCH_IDS:
                self._commit(batch)
                batch, ids = WriteBatch(raw_mode=True), 0
        self._commit(batch)

    def expired_keys(self, limit: int) -> list[bytes]:
        """Changelog keys whose bucket is gone, at most `limit`: they want a tombstone."""
        self._check_open()
        return guard(partial(self._expired_keys, limit))

    def dump(self) -> dict[str, Any]:
        """Everything remembered, for comparing two stores: head, ids, recent, changelog keys."""
        horizon = self._head.clock_ms - SUSPECT_MS
        return {
            "head": self._head,
            "ids": {
                (bucket, key): value
                for bucket in self._buckets
                for key, value in cast("list[Any]", guard(partial(list, self._families[bucket].items())))
            },
            "recent": {key: seen for key, seen in self._recent.items() if seen[0] >= horizon},
            "keys": guard(self._changelog_keys),
        }

    def close(self) -> None:
        """Release the files now, not when the garbage collector comes by: the lock must be free for the next owner.

        Never raises: RocksDB flushes here, and what a bad disk does not take the changelog has.
        """
        self._closed = True
        self._handles.clear()
        for database in (*self._families.values(), self._db):
            try:
                database.close()
            except Exception as error:  # see above
                _logger.warning("database closed badly", path=str(self._path), error=str(error))
        self._families.clear()

    # --- inside -----------------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise Closed(str(self._path))

    def _load(self) -> None:
        state = self._db.get(_HEAD)
        if state is not None:
            *head, persisted = _STATE.unpack(state)
            self._head, self.persisted = Head(*head), persisted
        for key in list(self._keys(b"r")):
            self._remember_fresh(key, list(_FRESH.iter_unpack(cast("bytes", self._db[key]))))
        self._drop_below(self._head.floor)  # a crash came between the write that raised the floor and the drop

    def _add(self, batch: WriteBatch, bucket: int, key: bytes, remembered: Remembered | None) -> int:
        """Put one record into the batch; returns how many ids it has."""
        if remembered is None:
            batch.delete(b"k" + key)
            return 0
        self._advance(remembered.head)
        batch.put(b"k" + key, b"")
        if bucket < self._head.floor:
            return 0
        batch.set_default_column_family(self._handle(bucket))
        put = batch.put
        for event_id, value in remembered.entries:
            put(event_id, value)
        batch.set_default_column_family(None)
        if remembered.fresh:
            batch.put(b"r" + key, b"".join([_FRESH.pack(*fresh) for fresh in remembered.fresh]))
            self._remember_fresh(b"r" + key, remembered.fresh)
        self._forget_fresh(batch)
        return len(remembered.entries)

    def _read_to(self, offset: int, own: bool) -> int:
        last = -1 if self.persisted is None else self.persisted
        if not own or offset <= last + 1:
            return max(offset, last)
        if not self._gap_told:
            self._gap_told = True
            told = "the changelog has records that were not read here; the next restore begins before them"
            _logger.warning(told, path=str(self._path), after=last)
        return last

    def _advance(self, head: Head) -> None:
        """A fenced worker's late record may be older than its successor's: what it counted is in there already."""
        if head.next >= self._head.next:
            floor, clock_ms = max(head.floor, self._head.floor), max(head.clock_ms, self._head.clock_ms)
            self._head = head._replace(floor=floor, clock_ms=clock_ms)

    def _remember_fresh(self, key: bytes, fresh: Sequence[tuple[bytes, int, bytes]]) -> None:
        for fingerprint, at, event_id in fresh:
            self._recent[fingerprint] = (at, event_id)
        if self._recent_keys and self._recent_keys[-1][1] == key:  # the last record again, with more in it
            self._recent_keys.pop()
        self._recent_keys.append((max(at for _, at, _ in fresh), key))

    def _forget_fresh(self, batch: WriteBatch) -> None:
        horizon = self._head.clock_ms - SUSPECT_MS
        while self._recent_keys and self._recent_keys[0][0] < horizon:
            batch.delete(self._recent_keys.popleft()[1])
        if len(self._recent) > self._recent_limit:
            self._recent = {key: seen for key, seen in self._recent.items() if seen[0] >= horizon}
            self._recent_limit = max(_RECENT_LIMIT, 2 * len(self._recent))

    def _commit(self, batch: WriteBatch) -> None:
        if self.persisted is None:
            return
        batch.put(_HEAD, _STATE.pack(*self._head, self.persisted))
        guard(lambda: self._db.write(batch))
        guard(lambda: self._drop_below(self._head.floor))

    def _handle(self, bucket: int) -> ColumnFamily:
        handle = self._handles.get(bucket)
        if handle is None:
            guard(lambda: self._create(bucket))
            handle = self._handles[bucket]
        return handle

    def _create(self, bucket: int) -> None:
        self._families[bucket] = self._db.create_column_family(_family(bucket), options(self._cache))
        self._handles[bucket] = self._db.get_column_family_handle(_family(bucket))
        self._buckets = sorted(self._families)

    def _drop_below(self, floor: int) -> None:
        for bucket in [bucket for bucket in self._buckets if bucket < floor]:
            self._handles.pop(bucket)
            self._families.pop(bucket).close()
            self._db.drop_column_family(_family(bucket))
            self._buckets.remove(bucket)
            self._sweeping = True

    def _expired_keys(self, limit: int) -> list[bytes]:
        if not self._sweeping:
            return []
        end = b"k" + self._head.floor.to_bytes(4, "big")
        expired = [key[1:] for key in islice(takewhile(lambda key: key < end, self._keys(b"k")), limit)]
        self._sweeping = bool(expired)
        return expired

    def _changelog_keys(self) -> list[bytes]:
        return [key[1:] for key in self._keys(b"k")]

    def _keys(self, prefix: bytes) -> Iterator[bytes]:
        keys = cast("Iterator[bytes]", self._db.keys(from_key=prefix))
        return takewhile(lambda key: key.startswith(prefix), keys)


def _open(path: Path, cache: Cache) -> tuple[Rdict, dict[int, Rdict]]:
    chosen = options(cache)
    names = Rdict.list_cf(str(path), chosen) if (path / "CURRENT").exists() else []
    buckets = [int(name[1:]) for name in names if name.startswith("b")]
    db = Rdict(str(path), chosen, {_family(bucket): options(cache) for bucket in buckets})
    return db, {bucket: db.get_column_family(_family(bucket)) for bucket in buckets}


def _family(bucket: int) -> str:
    return f"b{bucket:010d}"
