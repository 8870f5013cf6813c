"""What becomes of a record: the table of cases, without a store."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tables.seen import (
    MAX_AHEAD_MS,
    Decision,
    Head,
    Item,
    Pending,
    Retention,
    Verdict,
    decide,
    fold,
    remember,
    rotate,
)

NOW = 1_750_000_000_000
HOUR = 3600
A, B, C = (bytes([n]) * 16 for n in (1, 2, 3))
ONE, TWO = b"1" * 16, b"2" * 16
PASS, MARK, REPLAY, DUPLICATE, CONFLICT, DEAD = Verdict


class Dict:
    """Memory in a dict."""

    def __init__(self, head: Head = Head(), **ids: bytes) -> None:  # noqa: B008 - immutable
        self.head, self.ids, self.buckets = head, {bytes.fromhex(k[1:]): v for k, v in ids.items()}, [0]
        self.seen_recently: dict[bytes, tuple[int, bytes]] = {}

    def recent(self, fingerprint: bytes) -> tuple[int, bytes] | None:
        return self.seen_recently.get(fingerprint)

    def lookup(self, ids: Sequence[bytes]) -> list[bytes | None]:
        return [self.ids.get(key) for key in ids]

    def take(self, decision: Decision) -> None:
        """What a store does with it."""
        self.head = decision.head
        self.ids.update(decision.entries)
        for index, at in decision.fresh:
            self.seen_recently[decision.entries[index][1][8:16]] = (at, decision.entries[index][0])


def item(offset: int, event_id: bytes | None, fingerprint: bytes = ONE, *, fresh: bool = False, at: int = 0) -> Item:
    return Item(offset, NOW + at, event_id, fingerprint, fresh)


def judged(items: Sequence[Item], memory: Dict | None = None) -> Decision:
    return decide(items, memory or Dict(), NOW, Retention())


def knowing(*items: Item) -> Dict:
    memory = Dict()
    memory.take(judged(items, memory))
    return memory


@pytest.mark.parametrize(
    ("now", "verdict"),
    [
        (item(9, A), DUPLICATE),
        (item(9, A, TWO), CONFLICT),
        (item(0, A), REPLAY),
        (item(0, A, TWO), REPLAY),
        (item(9, B), PASS),
        (item(9, None), DEAD),
        (item(9, A, fresh=True), DUPLICATE),
        (item(9, B, fresh=True), PASS),
    ],
)
def test_seen_verdict_on_a_record_when_an_id_is_known(now: Item, verdict: Verdict) -> None:
    """The same place passes again whatever it holds; another place is judged by the fingerprint; a new id passes."""
    assert judged([now], knowing(item(0, A))).verdicts == [verdict]


@pytest.mark.parametrize(("gap", "verdict"), [(0, MARK), (1000, MARK), (1001, PASS), (-1000, MARK), (-1001, PASS)])
def test_seen_fresh_event_with_a_known_body_is_marked_within_one_second(gap: int, verdict: Verdict) -> None:
    """Equal bodies whose ids the server made: never dropped, marked as repeating the earlier one up to 1.0 s apart."""
    decision = judged([item(1, B, fresh=True, at=gap)], knowing(item(0, A, fresh=True)))
    assert decision.verdicts == [verdict]
    assert decision.suspects == ({0: A} if verdict is MARK else {})


def test_seen_body_of_a_client_id_never_makes_another_event_suspect() -> None:
    """Only two ids made by the server can stand for one event."""
    assert judged([item(1, B, fresh=True)], knowing(item(0, A))).verdicts == [PASS]
    assert judged([item(1, B)], knowing(item(0, A, fresh=True))).verdicts == [PASS]


def test_seen_third_of_three_is_marked_by_the_second() -> None:
    """The second counts from the record before it, also inside one chunk."""
    decision = judged([item(n, key, fresh=True, at=n * 900) for n, key in enumerate((A, B, C))])
    assert decision.verdicts == [PASS, MARK, MARK]
    assert decision.suspects == {1: A, 2: B}


def test_seen_replay_of_a_marked_event_is_marked_with_the_same_id() -> None:
    """A replay is produced with equal bytes, even when what made it suspect is forgotten."""
    memory = knowing(item(0, A, fresh=True), item(1, B, fresh=True))
    memory.seen_recently.clear()
    decision = judged([item(1, B, fresh=True)], memory)
    assert (decision.verdicts, decision.suspects) == ([REPLAY], {0: A})


def test_seen_repeats_inside_one_chunk_are_found() -> None:
    """The first of a chunk counts for those behind it."""
    assert judged([item(0, A), item(1, A), item(2, A, TWO), item(3, B)]).verdicts == [PASS, DUPLICATE, CONFLICT, PASS]


def test_seen_counters_are_exact_as_of_next() -> None:
    """Each offset counts once, in one counter; marks are a part of what passed; offsets never read are skipped."""
    items = [item(5, A, fresh=True), item(6, A), item(7, A, TWO), item(8, None), item(9, B, fresh=True), item(12, C)]
    head = judged(items).head
    assert head[:7] == (13, 3, 1, 1, 1, 7, 1)
    assert head.next == head.passed + head.duplicates + head.dead + head.conflicts + head.skipped


def test_seen_replayed_chunk_counts_nothing_and_changes_nothing() -> None:
    """A chunk below `next` leaves the head as it is, so that nothing is written for it."""
    items = [item(0, A), item(1, A), item(2, None)]
    memory = knowing(*items)
    again = judged(items, memory)
    assert again.verdicts == [REPLAY, DUPLICATE, DEAD]
    assert again.head == memory.head
    assert not again.changes(memory.head)


def test_seen_chunk_that_overlaps_what_was_counted_counts_the_rest() -> None:
    """Chunks after a crash need not be those before it; the record of the rest has a name of its own."""
    memory = knowing(item(0, A), item(1, B))
    decision = judged([item(0, A), item(1, B), item(2, C), item(3, A)], memory)
    assert decision.head[:3] == (4, 3, 1)
    assert decision.entries == [(C, remember(2, ONE))]
    assert decision.base == 2


def test_seen_forgotten_id_passes_again_under_a_name_of_its_own() -> None:
    """An id below `next` that is no longer remembered passes (the database judges) and is remembered again."""
    decision = judged([item(3, A)], Dict(Head(next=10, passed=10)))
    assert decision.head.passed == 10
    assert decision.entries
    assert decision.base >= 1 << 63, "must not replace the record of the chunk that began at 3"


def test_seen_clock_follows_the_records_but_not_into_the_future() -> None:
    """One timestamp years ahead must not expire the table; an older one does not turn the clock back."""
    memory = knowing(item(0, A, at=50))
    assert memory.head.clock_ms == NOW + 50
    assert judged([item(1, B, at=-9999)], memory).head.clock_ms == NOW + 50
    assert judged([item(1, B, at=10**12)], memory).head.clock_ms == NOW + MAX_AHEAD_MS


@pytest.mark.parametrize(
    ("buckets", "hours", "expected"),
    [
        ([], 100, (96, 0)),
        ([96], 100, (96, 0)),
        ([48, 64, 80, 96], 111.9, (96, 48)),
        ([48, 64, 80, 96], 112, (112, 64)),
        ([48], 1000, (992, 0)),
        ([48, 992], 1040, (1040, 992)),
        ([96], 50, (96, 0)),
    ],
)
def test_seen_bucket_is_dropped_when_its_successor_is_older_than_the_window(
    buckets: list[int], hours: float, expected: tuple[int, int]
) -> None:
    """48 h window, 16 h buckets: an id is remembered 48 to 64 hours, longer where nothing follows."""
    floor = buckets[0] * HOUR if len(buckets) > 1 else 0
    got = rotate([b * HOUR for b in buckets], floor, int(hours * HOUR * 1000), Retention())
    assert (got[0] // HOUR, got[1] // HOUR) == expected


def test_seen_pending_decisions_count_until_they_are_stored() -> None:
    """The next chunk is judged by what is still on its way to the store, and by the store afterwards."""
    stored = Dict()
    pending = Pending(stored)
    first = decide([item(0, A, fresh=True)], pending, NOW, Retention())
    pending.push(first)
    second = decide([item(1, A), item(2, B, fresh=True)], pending, NOW, Retention())
    assert second.verdicts == [DUPLICATE, MARK]
    assert second.head.next == 3
    pending.push(second)
    for decision in (first, second):
        stored.take(decision)
        pending.pop()
    assert decide([item(3, B)], pending, NOW, Retention()).verdicts == [DUPLICATE]
    assert pending.head == second.head


def test_seen_small_decisions_fold_into_one_record_up_to_a_limit() -> None:
    """The folded record is the later one with the earlier ids in it, under the earlier name."""
    memory = Dict()
    first = decide([item(0, A, fresh=True)], memory, NOW, Retention())
    memory.take(first)
    second = decide([item(1, B, fresh=True, at=500), item(2, A)], memory, NOW, Retention())
    both = fold(first, second, 2)
    assert both is not None
    assert (both.base, both.head, both.entries) == (first.base, second.head, first.entries + second.entries)
    assert both.fresh == [(0, NOW), (1, NOW + 500)]
    assert both.suspects
    assert fold(first, second, 1) is None
    assert fold(first, second._replace(bucket=second.bucket + 1), 2) is None
    assert fold(first, second._replace(base=1 << 63), 2) is None
