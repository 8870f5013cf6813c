"""RocksDB under a table: how a database is opened, what its errors mean, and setting a bad one aside."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from rocksdict import BlockBasedOptions, Cache, DbClosedError, DBCompactionStyle, DBCompressionType, Options

from schemas.errors import Unavailable

#: RocksDB's defaults take 2 GiB of cache and 192 MiB of buffers a database; a worker has one database a partition.
BLOCK_CACHE_BYTES = 8 << 20
WRITE_BUFFER_BYTES = 4 << 20
MAX_OPEN_FILES = 128

T = TypeVar("T")


class Corrupt(Exception):
    """The database cannot be opened or read: set it aside (`quarantine`) and restore from the changelog."""


class Locked(Exception):
    """Another process has the database open."""


class Closed(Exception):
    """The store was closed: the partition belongs to somebody else now."""


def quarantine(path: Path) -> Path | None:
    """Set a partition's directory aside as `NAME.corrupt` (one is kept) and return where it is, None if it was gone."""
    aside = path.with_name(path.name + ".corrupt")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        return path.rename(aside)
    except FileNotFoundError:
        return None


def options(cache: Cache) -> Options:
    """Small buffers, one shared cache, Bloom filters."""
    made = Options(raw_mode=True)
    made.create_if_missing(True)
    made.set_max_open_files(MAX_OPEN_FILES)
    made.set_write_buffer_size(WRITE_BUFFER_BYTES)
    made.set_max_write_buffer_number(2)
    made.set_compaction_style(DBCompactionStyle.universal())  # half the rewriting; ids do not compress either
    made.set_compression_type(DBCompressionType.none())
    made.set_keep_log_file_num(2)
    made.set_max_total_wal_size(4 * WRITE_BUFFER_BYTES)
    # Nearly every look-up is a miss: Bloom filters, before the memtable too, answer it without a search.
    made.set_memtable_prefix_bloom_ratio(0.1)
    made.set_memtable_whole_key_filtering(True)
    table = BlockBasedOptions()
    table.set_block_cache(cache)
    table.set_bloom_filter(12, False)
    table.set_format_version(5)
    made.set_block_based_table_factory(table)
    return made


_OUTAGES = ("no space left", "disk quota", "read-only file system", "permission denied", "too many open files")


def guard(call: Callable[[], T]) -> T:
    """Errors of RocksDB by their consequence; it has no classes, only texts."""
    try:
        return call()
    except (Corrupt, Locked, Unavailable):
        raise
    except DbClosedError as error:
        raise Closed(str(error)) from error
    except Exception as error:
        text = str(error).lower()
        if "lock" in text and ("hold by" in text or "while lock file" in text or "lock file" in text):
            raise Locked(str(error)) from error
        if any(outage in text for outage in _OUTAGES):
            raise Unavailable("table store", str(error)) from error
        raise Corrupt(str(error)) from error
