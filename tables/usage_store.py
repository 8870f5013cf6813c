"""One partition of the aggregate tables on local disk: a RocksDB of its own, written by applying changelog records.

Keys and values are those of the changelog, which consumers read as well: a JSON array (`tables.usage`) and a JSON
object. Beside them the database holds
    h                     changelog offset applied, newest event time
    d + day + session     that the session had an event on that day: what to look at when sessions expire
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice, takewhile
from pathlib import Path
from typing import Any, Final, cast

import msgspec
import structlog
from rocksdict import Cache, Rdict, WriteBatch

from tables.rocks import BLOCK_CACHE_BYTES, Closed, guard, options
from tables.usage import SECOND, SESSION_KEPT, Key, SessionUse, Value, floors
from tables.usage_codec import NewestTime, mark_of, pack_key, unpack, unpack_value

_HEAD: Final = b"h"
_STATE: Final = struct.Struct(">qq")
_DAY: Final = struct.Struct(">I")
DAY_S: Final = 86_400
_logger = structlog.get_logger("chronicle.usage")


class UsageStore:
    """The values of one partition.

    Methods raise `Corrupt` when the files are bad, `Unavailable` when the disk is full or refuses, and `Closed` after
    `close`. `persisted` is the offset of the last changelog record applied, None for an empty store; `newest` the
    largest event time so far, microseconds.

    Of two values of a key the one that counts further stays, whichever comes last: a worker that was suspended may
    write what it had in hand after another has gone on. `behind` are the keys whose last record is not the one that
    counts: it must be written once more, since compaction keeps the last.
    """

    def __init__(self, path: Path, db: Rdict) -> None:
        self._path = path
        self._db = db
        self._closed = False
        self.persisted: int | None = None
        self.newest = 0
        self.behind: set[bytes] = set()
        if (state := db.get(_HEAD)) is not None:
            self.persisted, self.newest = _STATE.unpack(cast("bytes", state))

    @classmethod
    def open(cls, path: Path, cache: Cache | None = None) -> UsageStore:
        """Open or create. Raises `Corrupt` or `Locked`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        chosen = options(cache or Cache(BLOCK_CACHE_BYTES))
        return guard(lambda: cls(path, Rdict(str(path), chosen)))

    def lookup(self, keys: Sequence[Key]) -> list[Value | None]:
        """The values under these keys, each the caller's own."""
        self._check_open()
        packed: list[Any] = [b"k" + pack_key(key) for key in keys]
        found = guard(lambda: self._db.get(packed)) or []
        return [None if value is None else unpack_value(key, value) for key, value in zip(keys, found, strict=True)]

    def apply(self, records: Iterable[tuple[int, bytes, bytes | None]]) -> None:
        """Apply changelog records (offset, key, value) in order; applying one again changes nothing.

        One that cannot be read is logged and stepped over: raising would leave Faust's recovery in an endless loop.
        """
        self._check_open()
        batch, fresh = WriteBatch(raw_mode=True), dict[bytes, bytes | None]()
        for offset, key, value in records:
            self._add(batch, fresh, offset, key, value)
            self.persisted = offset if self.persisted is None else max(offset, self.persisted)
        if self.persisted is not None:
            batch.put(_HEAD, _STATE.pack(self.persisted, self.newest))
            guard(lambda: self._db.write(batch))

    def packed(self, key: bytes) -> bytes | None:
        """The value under a packed key, as it is written."""
        self._check_open()
        return cast("bytes | None", guard(lambda: self._db.get(b"k" + key)))

    def overtaken(self, limit: int) -> list[tuple[bytes, bytes]]:
        """At most so many of `behind`, each with the value that counts."""
        keys = sorted(self.behind)[:limit]
        return [(key, value) for key in keys if (value := self.packed(key)) is not None]

    def expired(self, newest: int, limit: int) -> list[bytes]:
        """Changelog keys no longer kept when `newest` (µs) is the latest event, at most `limit`: for tombstones."""
        self._check_open()
        return guard(lambda: list(islice(self._expired(newest), limit)))

    def items(self) -> Iterator[tuple[Key, Value]]:
        """Everything, for comparing two stores."""
        for key in self._keys(b"k"):
            named, value = unpack(key[1:], cast("bytes", self._db[key]))
            if not isinstance(value, NewestTime):
                yield named, value

    def close(self) -> None:
        """Release the files now. Never raises: what a bad disk does not take the changelog has."""
        self._closed = True
        try:
            self._db.close()
        except Exception as error:  # see above
            _logger.warning("database closed badly", path=str(self._path), error=str(error))

    # --- inside -----------------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise Closed(str(self._path))

    def _add(
        self, batch: WriteBatch, fresh: dict[bytes, bytes | None], offset: int, key: bytes, value: bytes | None
    ) -> None:
        """`fresh` is what the batch has put so far."""
        if value is None:
            batch.delete(b"k" + key)
            fresh[key] = None
            self.behind.discard(key)
            return
        try:
            named, read = unpack(key, value)
        except (ValueError, msgspec.MsgspecError) as error:
            _logger.error("changelog record stepped over", offset=offset, path=str(self._path), error=str(error))
            return
        if isinstance(read, NewestTime):
            self.newest = max(self.newest, read.newest)
        else:
            before = fresh[key] if key in fresh else self.packed(key)
            if before is not None and read.mark < mark_of(before):
                self.behind.add(key)
                return
            self.behind.discard(key)
            fresh[key] = value
        if isinstance(read, SessionUse):
            batch.put(_day_key(read.last, str(named[1])), b"")
        batch.put(b"k" + key, value)

    def _expired(self, newest: int) -> Iterator[bytes]:
        for (table, grain), floor in floors(newest).items():
            prefix = f'["{table}","{grain}",'.encode()
            end = prefix + b"%d" % max(floor, 0)
            yield from (key[1:] for key in takewhile(partial(_below, end), self._keys(b"k" + prefix)))
        yield from self._expired_sessions(newest)

    def _expired_sessions(self, newest: int) -> Iterator[bytes]:
        floor = (newest // SECOND - SESSION_KEPT) // DAY_S
        for key in self._keys(b"d"):
            (day,) = _DAY.unpack_from(key, 1)
            if day >= floor:
                return
            session = key[1 + _DAY.size :].decode()
            (value,) = self.lookup([("session", session)])
            if isinstance(value, SessionUse) and value.last // SECOND // DAY_S < floor:
                yield pack_key(("session", session))
            else:  # it went on, or is gone
                self._db.delete(key)

    def _keys(self, prefix: bytes) -> Iterator[bytes]:
        keys = cast("Iterator[bytes]", self._db.keys(from_key=prefix))
        return takewhile(lambda key: key.startswith(prefix), keys)


def _below(end: bytes, key: bytes) -> bool:
    """Buckets have ten digits (`tables.usage.FIRST`, `LAST`), so they sort as text."""
    return key[1:] < end


def _day_key(last: int, session: str) -> bytes:
    return b"d" + _DAY.pack(max(0, last // SECOND // DAY_S)) + session.encode()
