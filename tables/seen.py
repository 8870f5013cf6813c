"""The rule of the table `seen`: each event id passes once. Pure: memory, records and time come in.

What is remembered of an id is the place of its first occurrence in `chronicle.ingest` and its fingerprint. The same
place again is a replay and passes again; another place is a duplicate (equal fingerprint) or a conflict. The table can
be wrong, lost or stale and that costs work, never data: the database's primary key is the judge.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Mapping, Sequence
from enum import IntEnum
from itertools import pairwise
from typing import NamedTuple, Protocol

import msgspec

#: Two equal bodies without a natural id this close together are suspected to be one event (a double install posts its
#: pairs 20 ms to 1 s apart). Milliseconds between record timestamps.
SUSPECT_MS = 1000
#: The stream clock never runs further ahead of the wall clock than this: one bad timestamp must not expire the table.
MAX_AHEAD_MS = 5 * 60 * 1000
#: Bytes of the fingerprint that are kept: enough to tell a retry from another payload under the same id.
KEPT_FINGERPRINT = 8

_VALUE = struct.Struct(">Q")


class Verdict(IntEnum):
    """What happens to one record. PASS, MARK and REPLAY go to `chronicle.events`; CONFLICT and DEAD are set aside."""

    PASS = 0
    MARK = 1
    REPLAY = 2
    DUPLICATE = 3
    CONFLICT = 4
    DEAD = 5


class Item(msgspec.Struct, frozen=True, gc=False):
    """One record as the rule sees it. `event_id` is None when the record could not be read.

    `fresh`: the server made the id, so two equal events cannot be told from one event sent twice.
    """

    offset: int
    timestamp_ms: int
    event_id: bytes | None
    fingerprint: bytes
    fresh: bool


class Head(NamedTuple):
    """Where a partition stands, exactly as of `next`: every offset below it is counted in one of the first five.

    `next` = passed + duplicates + dead + conflicts + skipped. `marked` is a part of `passed`. `skipped` are offsets
    never read here: deleted by retention before, or counted by a table that was lost. `clock_ms` is the stream clock
    (the newest record timestamp, kept from running ahead), `floor` the first bucket still remembered.
    """

    next: int = 0
    passed: int = 0
    duplicates: int = 0
    dead: int = 0
    conflicts: int = 0
    skipped: int = 0
    marked: int = 0
    clock_ms: int = 0
    floor: int = 0


class Retention(NamedTuple):
    """How long an id is remembered: at least `window_s`, at most `window_s + bucket_s` seconds of stream time.

    Ids are kept in buckets of `bucket_s`; a bucket is dropped as a whole. Each bucket is one more place to look an id
    up in, so few large ones: the default of a third of 48 hours makes four.
    """

    window_s: int = 48 * 3600
    bucket_s: int = 16 * 3600


class Memory(Protocol):
    """What is remembered of one partition."""

    @property
    def head(self) -> Head: ...

    @property
    def buckets(self) -> Sequence[int]:
        """Live buckets by their start in epoch seconds, ascending."""
        ...

    def recent(self, fingerprint: bytes) -> tuple[int, bytes] | None:
        """The last fresh event with this kept fingerprint, if within the last second: (timestamp in ms, event id)."""
        ...

    def lookup(self, ids: Sequence[bytes]) -> Sequence[bytes | None]:
        """What `remember` made for each id, or None."""
        ...


class Decision(NamedTuple):
    """What becomes of a chunk and what is remembered of it.

    `verdicts` are in the order of the items. `suspects`: item index -> id of the event it probably repeats, for MARK
    and for the replay of a marked one. `entries` are new ids with what is remembered; `fresh` are (index in entries,
    timestamp in ms) of those that can still make a later one suspect. `base` names the changelog record: no two
    records that add something have the same.
    """

    verdicts: list[Verdict]
    suspects: dict[int, bytes]
    entries: list[tuple[bytes, bytes]]
    fresh: list[tuple[int, int]]
    head: Head
    bucket: int
    base: int

    def changes(self, before: Head) -> bool:
        """False when the whole chunk was a replay: there is nothing to write down."""
        return bool(self.entries) or self.head.next != before.next


def remember(offset: int, fingerprint: bytes, suspect: bytes = b"") -> bytes:
    """16 bytes for an id: offset and kept fingerprint; a marked one has the suspected id behind, 32 bytes."""
    return _VALUE.pack(offset) + fingerprint[:KEPT_FINGERPRINT] + suspect


def first_offset(value: bytes) -> int:
    """Where the id of this memory was first seen."""
    offset: int = _VALUE.unpack_from(value)[0]
    return offset


def advance(clock_ms: int, items: Sequence[Item], now_ms: int) -> int:
    """The stream clock after these items: the newest timestamp, but never far ahead of the wall clock, never back."""
    newest = max((item.timestamp_ms for item in items), default=0)
    return max(clock_ms, min(newest, now_ms + MAX_AHEAD_MS))


def rotate(buckets: Sequence[int], floor: int, clock_ms: int, retention: Retention) -> tuple[int, int]:
    """The bucket new ids go to and the new floor.

    A bucket may go when its successor is itself older than the window. That needs no bucket size, so `bucket_s` can be
    changed between two runs.
    """
    clock_s = clock_ms // 1000
    newest = buckets[-1] if buckets else 0
    bucket = max(newest, floor, clock_s - clock_s % retention.bucket_s)
    for _, successor in pairwise((*buckets, bucket)):
        if successor <= clock_s - retention.window_s:
            floor = max(floor, successor)
    return bucket, floor


def judge(offset: int, fingerprint: bytes, known: bytes) -> Verdict:
    """What a record is whose id is known. One rule for ids of every origin: an id names one event."""
    if first_offset(known) == offset:
        return Verdict.REPLAY
    same = known[8:16] == fingerprint[:KEPT_FINGERPRINT]
    return Verdict.DUPLICATE if same else Verdict.CONFLICT


def decide(items: Sequence[Item], memory: Memory, now_ms: int, retention: Retention) -> Decision:
    """The verdicts on the items of one chunk (ascending offsets, at least one), repeats inside the chunk included.

    Reads memory, changes nothing. A fresh event is never dropped for its fingerprint: it is marked.
    """
    before = memory.head
    known_before = memory.lookup([item.event_id for item in items if item.event_id is not None])
    looked = iter(known_before)
    chunk = _Chunk(memory)
    verdicts = [
        Verdict.DEAD if item.event_id is None else chunk.verdict(index, item, next(looked))
        for index, item in enumerate(items)
    ]
    clock_ms = advance(before.clock_ms, items, now_ms)
    bucket, floor = rotate(memory.buckets, before.floor, clock_ms, retention)
    head = count(before, items, verdicts, chunk.suspects)._replace(clock_ms=clock_ms, floor=floor)
    horizon = clock_ms - SUSPECT_MS
    fresh = [(entry, at) for entry, at in chunk.fresh if at >= horizon]
    base = before.next if head.next > before.next else _REPEAT | items[0].offset
    return Decision(verdicts, chunk.suspects, chunk.entries, fresh, head, bucket, base)


#: Set in `base` when a chunk below `next` still adds ids (their buckets were dropped meanwhile).
_REPEAT = 1 << 63


def count(head: Head, items: Sequence[Item], verdicts: Sequence[Verdict], suspects: Mapping[int, bytes]) -> Head:
    """The head after these verdicts. Only offsets at or above `next` count: a replay counts nothing twice."""
    tally = [0] * len(Verdict)
    marked = 0
    start = head.next
    for index, item in enumerate(items):
        if item.offset >= start:
            tally[verdicts[index]] += 1
            marked += index in suspects
    after = max(start, items[-1].offset + 1)
    return head._replace(
        next=after,
        passed=head.passed + tally[Verdict.PASS] + tally[Verdict.MARK] + tally[Verdict.REPLAY],
        duplicates=head.duplicates + tally[Verdict.DUPLICATE],
        dead=head.dead + tally[Verdict.DEAD],
        conflicts=head.conflicts + tally[Verdict.CONFLICT],
        skipped=head.skipped + after - start - sum(tally),
        marked=head.marked + marked,
    )


def fold(last: Decision, decision: Decision, limit: int) -> Decision | None:
    """Both as one changelog record under the name of `last`, or None when that would be more than `limit` ids.

    Chunks of single events would otherwise leave as many records as events, and a restore reads them one by one.
    Compaction keeps the newest record of a name, and that one holds everything the older ones did.
    """
    entries = [*last.entries, *decision.entries]
    if len(entries) > limit or last.bucket != decision.bucket or max(last.base, decision.base) >= _REPEAT:
        return None
    shift, horizon = len(last.entries), decision.head.clock_ms - SUSPECT_MS
    fresh = [(index, at) for index, at in last.fresh if at >= horizon]
    fresh += [(index + shift, at) for index, at in decision.fresh]
    return decision._replace(
        entries=entries, fresh=fresh, suspects={**last.suspects, **decision.suspects}, base=last.base
    )


class _Chunk:
    """The memory while a chunk is being judged: what the chunk itself adds lies on top."""

    def __init__(self, memory: Memory) -> None:
        self._recent = memory.recent
        self._own: dict[bytes, bytes] = {}
        self._own_recent: dict[bytes, tuple[int, bytes]] = {}
        self.entries: list[tuple[bytes, bytes]] = []
        self.fresh: list[tuple[int, int]] = []
        self.suspects: dict[int, bytes] = {}

    def verdict(self, index: int, item: Item, known: bytes | None) -> Verdict:
        event_id, fingerprint = item.event_id, item.fingerprint
        assert event_id is not None  # the caller's condition, said for the type checker
        known = known or self._own.get(event_id)
        if known is not None:
            verdict = judge(item.offset, fingerprint, known)
            if verdict is Verdict.REPLAY and len(known) > 16:
                self.suspects[index] = known[16:]
            return verdict
        kept = fingerprint[:KEPT_FINGERPRINT]
        suspect = self._suspect(kept, item.timestamp_ms, event_id) if item.fresh else b""
        value = remember(item.offset, fingerprint, suspect)
        self._own[event_id] = value
        self.entries.append((event_id, value))
        if not suspect:
            return Verdict.PASS
        self.suspects[index] = suspect
        return Verdict.MARK

    def _suspect(self, fingerprint: bytes, timestamp_ms: int, event_id: bytes) -> bytes:
        """The earlier event with the same fingerprint within `SUSPECT_MS`, or nothing; remembers this one."""
        earlier = self._own_recent.get(fingerprint) or self._recent(fingerprint)
        self._own_recent[fingerprint] = (timestamp_ms, event_id)
        self.fresh.append((len(self.entries), timestamp_ms))
        if earlier is None or abs(timestamp_ms - earlier[0]) > SUSPECT_MS:
            return b""
        return earlier[1]


class Pending:
    """A memory with decisions on top that are not stored yet, oldest first: the next chunk is judged meanwhile."""

    def __init__(self, stored: Memory) -> None:
        self._stored = stored
        self._decisions: deque[Decision] = deque()
        self._ids: dict[bytes, bytes] = {}
        self._recent: dict[bytes, tuple[int, bytes]] = {}

    @property
    def head(self) -> Head:
        return self._decisions[-1].head if self._decisions else self._stored.head

    @property
    def buckets(self) -> Sequence[int]:
        buckets = {*self._stored.buckets, *(decision.bucket for decision in self._decisions)}
        return sorted(bucket for bucket in buckets if bucket >= self.head.floor)

    def recent(self, fingerprint: bytes) -> tuple[int, bytes] | None:
        return self._recent.get(fingerprint) or self._stored.recent(fingerprint)

    def lookup(self, ids: Sequence[bytes]) -> Sequence[bytes | None]:
        stored = self._stored.lookup(ids)
        if not self._ids:
            return stored
        get = self._ids.get
        return [value or get(key) for key, value in zip(ids, stored, strict=True)]

    def push(self, decision: Decision) -> None:
        """Remember a decision that is on its way to the store."""
        self._decisions.append(decision)
        self._ids.update(decision.entries)
        for index, at in decision.fresh:
            event_id, value = decision.entries[index]
            self._recent[value[8:16]] = (at, event_id)

    def pop(self) -> None:
        """The oldest decision is in the store now."""
        for key, _ in self._decisions.popleft().entries:
            del self._ids[key]
        if not self._decisions:
            self._recent.clear()
