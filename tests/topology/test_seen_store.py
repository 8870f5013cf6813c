"""One partition of `seen` on a real RocksDB: what is written is what is restored, and bad files are noticed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from schemas.errors import Unavailable
from seen_world import T0
from tables.rocks import Closed, Corrupt, Locked, guard, quarantine
from tables.seen import Head, Item, Retention, Verdict, decide, remember
from tables.seen_codec import Undecodable, bucket_of, pack, pack_key, unpack
from tables.seen_store import PartitionStore

RETENTION = Retention(window_s=100, bucket_s=30)


def uid(number: int) -> bytes:
    return number.to_bytes(16, "big")


class Writer:
    """Feeds chunks to a store as the agent does and keeps the changelog."""

    def __init__(self, path: Path) -> None:
        self.store = PartitionStore.open(path)
        self.log: list[tuple[int, bytes, bytes | None]] = []

    def write(self, count: int, at_s: float, *, ids: int | None = None, fresh: bool = False) -> list[Verdict]:
        """A chunk of `count` records with the ids from `ids` on, `at_s` seconds after T0."""
        start = self.store.head.next
        base = start if ids is None else ids
        at = T0 + int(at_s * 1000)
        items = [Item(start + n, at, uid(base + n), b"f" * 8 + bytes(8), fresh) for n in range(count)]
        decision = decide(items, self.store, at, RETENTION)
        for key in self.store.expired_keys(2):
            self._append(key, None)
        self._append(pack_key(decision.bucket, decision.base, 1), pack(decision))
        return decision.verdicts

    def _append(self, key: bytes, value: bytes | None) -> None:
        self.log.append((len(self.log), key, value))
        self.store.apply([self.log[-1]])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database goes."""
    return tmp_path / "0"


@pytest.fixture
def writer(path: Path) -> Iterator[Writer]:
    """A writer on a new store."""
    writer = Writer(path)
    yield writer
    writer.store.close()


def test_seen_store_keeps_everything_over_a_restart(writer: Writer, path: Path) -> None:
    """Head, ids, recent bodies and the changelog offset are there when the store is opened again."""
    writer.write(50, 0)
    writer.write(5, 0.5, fresh=True)
    before = writer.store.dump()
    writer.store.close()
    writer.store = PartitionStore.open(path)
    assert writer.store.dump() == before
    assert writer.store.persisted == 1
    assert len(before["recent"]) == 1
    assert writer.write(1, 1.0, fresh=True) == [Verdict.MARK]
    assert writer.write(1, 1.0, ids=3) == [Verdict.DUPLICATE]


@pytest.mark.parametrize("compacted", [False, True])
def test_seen_store_restored_from_the_changelog_equals_the_lost_one(
    writer: Writer, path: Path, compacted: bool
) -> None:
    """Written live over several buckets, marks and expiry included; lost; restored: equal, compacted log or not."""
    for number in range(40):
        writer.write(20, number * 11, fresh=number % 2 == 0)
    lost = writer.store.dump()
    assert lost["head"].marked
    assert lost["head"].floor
    last = {key: at for at, key, _ in writer.log}
    rows = [row for row in writer.log if not compacted or last[row[1]] == row[0]]
    restored = PartitionStore.open(path.with_name("restored"))
    for start in range(0, len(rows), 7):
        restored.apply(rows[start : start + 7])
    assert restored.dump() == lost
    assert restored.persisted == writer.store.persisted
    restored.close()


def test_seen_store_applies_a_record_twice_without_a_trace(writer: Writer) -> None:
    """Faust reads the last record again when it starts to restore."""
    writer.write(20, 0, fresh=True)
    writer.write(20, 0.2)
    before = writer.store.dump()
    writer.store.apply(writer.log[-1:])
    writer.store.apply(writer.log)
    assert writer.store.dump() == before
    assert writer.store.persisted == 1


def test_seen_store_forgets_after_the_window_and_keeps_the_counters(writer: Writer) -> None:
    """Ids older than the window pass again; their changelog records get tombstones, a few a chunk; counters stay."""
    writer.write(10, 0)
    assert writer.write(10, 90, ids=0) == [Verdict.DUPLICATE] * 10
    for at in (130, 160, 190, 220, 250, 280, 310, 340):
        writer.write(1, at)
    assert writer.write(10, 341, ids=0) == [Verdict.PASS] * 10
    head = writer.store.head
    assert (head.passed, head.duplicates, head.next) == (28, 10, 38)
    gone = {key for _, key, value in writer.log if value is None}
    kept = {key for _, key, value in writer.log if value is not None} - gone
    assert {bucket_of(key) < head.floor for key in gone} == {True}
    assert writer.store.dump()["keys"] == sorted(kept)
    assert {bucket_of(key) < head.floor for key in kept} == {False}
    assert all(bucket >= head.floor for bucket in writer.store.buckets)


def test_seen_store_is_bounded_on_disk(writer: Writer, path: Path) -> None:
    """Ten windows of traffic take no more disk than a few: dropped buckets give their files back."""
    sizes = []
    for number in range(100):
        writer.write(1000, number * 15)
        sizes.append(sum(file.stat().st_size for file in path.iterdir() if file.suffix == ".sst"))
    assert max(sizes[50:]) < 2 * 13 * 1000 * 40, "thirteen chunks fit window and bucket"
    assert len(writer.store.buckets) <= 6


def test_seen_store_steps_over_what_is_no_changelog_record(writer: Writer) -> None:
    """Foreign bytes in the changelog are logged and skipped; the offset moves on, so that restoring can end."""
    writer.write(5, 0)
    before = writer.store.dump()
    good = writer.log[0][2] or b""
    bad = [b"", b"\1", b"\2" + good[1:], good[:-3]]
    writer.store.apply([(7 + n, writer.log[0][1], value) for n, value in enumerate(bad)])
    writer.store.apply([(20, b"short key", good)])
    assert writer.store.dump() == before
    assert writer.store.persisted == 20


def test_seen_store_late_record_of_a_fenced_worker_does_not_turn_the_counters_back(writer: Writer) -> None:
    """A zombie's record arrives after its successor's: its ids count, its older head does not."""
    writer.write(5, 0)
    late = writer.log[0]
    writer.write(5, 1)
    head = writer.store.head
    writer.store.apply([(2, pack_key(bucket_of(late[1]), 0, 99), late[2])])
    assert writer.store.head == head


def test_seen_store_of_a_suspended_worker_reads_what_its_successor_wrote(tmp_path: Path, writer: Writer) -> None:
    """Suspended after offset 0, it writes offset 2 when it wakes; it has to read offset 1, its successor's."""
    writer.write(5, 0)
    writer.write(5, 1)
    suspended = PartitionStore.open(tmp_path / "suspended")
    suspended.apply(writer.log[:1])
    key, value = writer.log[0][1:]
    suspended.apply([(2, pack_key(bucket_of(key), 7, 1), value)], own=True)
    assert suspended.persisted == 0
    suspended.apply([(3, pack_key(bucket_of(key), 8, 1), value)], own=True)
    assert suspended.persisted == 0
    suspended.apply([writer.log[1], (2, pack_key(bucket_of(key), 7, 1), value)])
    assert (suspended.head, suspended.persisted) == (writer.store.head, 2)
    suspended.apply([(3, pack_key(bucket_of(key), 8, 1), value)], own=True)
    assert suspended.persisted == 3
    suspended.close()


def test_seen_store_keeps_that_it_has_read_nothing_yet(path: Path, writer: Writer) -> None:
    """The first record written is not the first of the changelog: a restart begins before it."""
    writer.write(5, 0)
    fresh = PartitionStore.open(path.with_name("fresh"))
    fresh.apply([(9, *writer.log[0][1:])], own=True)
    fresh.close()
    again = PartitionStore.open(path.with_name("fresh"))
    assert (again.persisted, again.head.next) == (-1, 5)
    again.close()


def test_seen_store_tells_a_locked_database_from_a_corrupt_one(writer: Writer, path: Path) -> None:
    """A second opening must wait, not set a good database aside."""
    with pytest.raises(Locked):
        PartitionStore.open(path)


def test_seen_store_frees_the_lock_on_close_and_says_closed_afterwards(writer: Writer, path: Path) -> None:
    """The next owner can open at once (Faust leaves it to the garbage collector); the old handle is of no use."""
    writer.store.close()
    with pytest.raises(Closed):
        writer.store.lookup([uid(1)])
    with pytest.raises(Closed):
        writer.store.apply([])
    writer.store = PartitionStore.open(path)


def spoil(pattern: str) -> Callable[[Path], None]:
    def work(path: Path) -> None:
        files = list(path.glob(pattern))
        assert files, f"no {pattern} to spoil"
        for file in files:
            file.write_bytes(b"\xff" * file.stat().st_size)

    return work


def read_all(path: Path) -> None:
    store = PartitionStore.open(path)
    try:
        store.lookup([uid(number) for number in range(0, 100_000, 50)])
    finally:
        store.close()


def write_many(writer: Writer) -> None:
    for number in range(200):
        writer.write(10, number * 40)  # each new bucket needs a new file


@pytest.mark.parametrize("damage", [spoil("CURRENT"), spoil("MANIFEST-*"), spoil("*.sst")])
def test_seen_store_notices_bad_files_on_opening_or_reading(path: Path, damage: Callable[[Path], None]) -> None:
    """Never a wrong answer: `Corrupt`, at once or when the bad block is read. Set aside, it opens empty."""
    writer = Writer(path)
    for number in range(20):
        writer.write(5000, number)
    writer.store._db.flush()  # the ids must be in table files, not in the write-ahead log
    writer.store._families[writer.store.buckets[0]].flush()
    writer.store.close()
    damage(path)
    with pytest.raises(Corrupt):
        read_all(path)
    assert quarantine(path) == path.with_name("0.corrupt")
    empty = PartitionStore.open(path)
    assert (empty.persisted, empty.head) == (None, Head())
    empty.apply(writer.log)
    assert empty.head.next == 100_000
    empty.close()


def test_seen_store_quarantine_keeps_the_last_bad_directory_only(path: Path) -> None:
    """A disk that goes bad again and again does not fill up."""
    for text in ("first", "second"):
        path.mkdir()
        (path / "CURRENT").write_text(text)
        quarantine(path)
    assert (path.with_name("0.corrupt") / "CURRENT").read_text() == "second"
    assert quarantine(path) is None


def test_seen_store_full_disk_is_an_outage_not_corruption() -> None:
    """What will pass is held and tried again; a good database is not set aside for it."""

    def full() -> None:
        raise Exception("IO error: No space left on device: While appending to file")

    with pytest.raises(Unavailable):
        guard(full)


def test_seen_codec_gives_back_what_was_packed() -> None:
    """Entries, marks and recent bodies survive; the key orders by bucket."""
    items = [Item(n, T0, uid(n // 2), bytes([n // 3]) * 16, True) for n in range(6)]
    store = _Nothing()
    decision = decide(items, store, T0, RETENTION)
    back = unpack(pack(decision))
    assert back.entries == decision.entries
    assert back.entries[1] == (uid(1), remember(2, bytes(16), uid(0)))
    assert back.head == decision.head
    assert [event_id for _, _, event_id in back.fresh] == [uid(0), uid(1), uid(2)]
    assert bucket_of(pack_key(7, 9, 1)) == 7
    assert pack_key(7, 1 << 63, 1) < pack_key(8, 0, 0)


def test_seen_codec_refuses_a_mark_on_nothing() -> None:
    """A record whose parts do not fit together is no record."""
    decision = decide([Item(0, T0, uid(0), bytes(16), True)], _Nothing(), T0, RETENTION)
    with pytest.raises(Undecodable):
        unpack(pack(decision) + b"\0\0\0\7" + bytes(16))


class _Nothing:
    """A memory of nothing."""

    head, buckets = Head(), ()

    def recent(self, fingerprint: bytes) -> None:
        return None

    def lookup(self, ids: list[bytes]) -> list[None]:
        return [None] * len(ids)


def test_seen_store_deleted_while_open_is_noticed(path: Path) -> None:
    """Somebody removes the directory under a running worker: sooner or later `Corrupt`, never silence for ever."""
    writer = Writer(path)
    writer.write(10, 0)
    shutil.rmtree(path)
    with pytest.raises(Corrupt):
        write_many(writer)
    writer.store.close()
