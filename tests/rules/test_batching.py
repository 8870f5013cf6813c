"""When a batch is due, and what is in it."""

from __future__ import annotations

import pytest

from agents.batching import Batcher, BatchPolicy, Slice, spans
from connectors.ports import Span
from fakes_persist import letter, logged

POLICY = BatchPolicy(max_size=10, max_wait_s=0.1, max_bytes=1 << 20, backlog=2)


def part(start: int, count: int, *, partition: int = 0, kind: str = "tool_pre_use", chunk: object = None) -> Slice:
    """Events start … start + count - 1."""
    items = [logged(number, partition=partition, kind=kind) for number in range(start, start + count)]
    return Slice(partition=partition, start=start, end=start + count, items=items, chunk=chunk)


def ids(batcher: Batcher) -> list[int]:
    """Cut a batch; the offsets in it."""
    return [item.events.offset for item in batcher.cut("size").batch.events]


def test_nothing_waits_nothing_is_due() -> None:
    """An empty batcher has no reason and no deadline."""
    batcher = Batcher(POLICY)
    assert (batcher.due(1e9), batcher.next_deadline(), batcher.full) == (None, None, False)


def test_due_by_size() -> None:
    """A full batch does not wait for its time."""
    batcher = Batcher(POLICY)
    batcher.add(part(0, 9), 0.0)
    assert batcher.due(0.0) is None
    batcher.add(part(9, 1), 0.0)
    assert batcher.due(0.0) == "size"


def test_due_by_bytes() -> None:
    """Few large events make a batch as well."""
    size = len(logged(0).value)
    batcher = Batcher(BatchPolicy(max_size=10, max_bytes=3 * size))
    batcher.add(part(0, 3), 0.0)
    assert batcher.due(0.0) == "bytes"


def test_due_by_age_of_the_oldest() -> None:
    """A lone event leaves after max_wait_s, whatever came later."""
    batcher = Batcher(POLICY)
    batcher.add(part(0, 1), 5.0)
    batcher.add(part(1, 1), 5.09)
    assert batcher.due(5.099) is None
    assert batcher.next_deadline() == pytest.approx(5.1)
    assert batcher.due(5.1) == "age"


def test_priority_flushes_at_once_and_in_order() -> None:
    """A session_start takes along everything that came before it."""
    batcher = Batcher(POLICY)
    batcher.add(part(0, 3), 0.0)
    batcher.add(part(0, 2, partition=1), 0.0)
    assert batcher.due(0.0) is None
    batcher.add(part(3, 1, kind="session_start"), 0.0)
    assert batcher.due(0.0) == "priority"
    cut = batcher.cut("priority")
    assert [item.events.offset for item in cut.batch.events if item.events.partition == 0] == [0, 1, 2, 3]
    assert batcher.due(0.0) is None


def test_priority_event_behind_more_than_a_batch_stays_urgent() -> None:
    """When it does not fit into the next batch, the one after it is due at once too."""
    batcher = Batcher(POLICY)
    batcher.add(part(0, 12), 0.0)
    batcher.add(part(12, 1, kind="error"), 0.0)
    batcher.cut("size")
    assert batcher.due(0.0) == "priority"
    assert ids(batcher) == [10, 11, 12]


def test_a_large_chunk_is_split_without_a_hole() -> None:
    """A chunk larger than a batch makes several, whose spans join on."""
    batcher = Batcher(POLICY)
    batcher.add(part(100, 25), 0.0)
    cuts = [batcher.cut("size") for _ in range(3)]
    assert [len(cut.batch.events) for cut in cuts] == [10, 10, 5]
    assert [cut.batch.spans for cut in cuts] == [[Span(0, 100, 110)], [Span(0, 110, 120)], [Span(0, 120, 125)]]


def test_one_event_larger_than_a_batch_goes_alone() -> None:
    """The byte limit never blocks: what is too large for a batch is a batch."""
    batcher = Batcher(BatchPolicy(max_size=10, max_bytes=1))
    batcher.add(part(0, 2), 0.0)
    assert (ids(batcher), ids(batcher), batcher.due(1e9)) == ([0], [1], None)


def test_dead_records_are_covered_by_the_span() -> None:
    """Progress has no hole where a record could not be decoded."""
    batcher = Batcher(POLICY)
    batcher.add(Slice(partition=0, start=0, end=3, items=[logged(0), letter(1), logged(2)]), 0.0)
    cut = batcher.cut("age")
    assert (len(cut.batch.events), cut.batch.spans, [dead.offset for dead in cut.letters]) == (2, [Span(0, 0, 3)], [1])


def test_off_means_every_chunk_by_itself() -> None:
    """With batching off nothing waits, and two chunks never share a batch."""
    batcher = Batcher(BatchPolicy(enabled=False, max_size=10))
    batcher.add(part(0, 2, chunk="a"), 0.0)
    batcher.add(part(2, 2, chunk="b"), 0.0)
    assert batcher.due(0.0) == "chunk"
    assert (ids(batcher), ids(batcher), batcher.due(0.0)) == ([0, 1], [2, 3], None)


def test_full_asks_to_stop_reading() -> None:
    """Memory is bounded by `backlog` batches; a cut makes room."""
    batcher = Batcher(POLICY)
    batcher.add(part(0, 20), 0.0)
    assert batcher.full
    batcher.cut("size")
    assert not batcher.full


def test_trim_forgets_what_is_delivered_again() -> None:
    """After a rebalance what comes again is dropped, what does not is kept, other partitions are left alone."""
    batcher = Batcher(POLICY)
    batcher.add(part(0, 4), 0.0)
    batcher.add(part(4, 2, kind="session_start"), 0.0)
    batcher.add(part(0, 2, partition=1), 0.0)
    assert batcher.trim(0, 2) == 4
    assert batcher.due(0.0) is None
    cut = batcher.cut("age")
    assert [(item.events.partition, item.events.offset) for item in cut.batch.events] == [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
    ]
    assert cut.batch.spans == [Span(0, 0, 2), Span(1, 0, 2)]


def test_spans_join_neighbours_only() -> None:
    """A gap in the log parts two spans; partitions do not mix."""
    parts = [part(0, 2), part(0, 1, partition=1), part(2, 1), part(7, 1)]
    assert spans(parts) == [Span(0, 0, 3), Span(1, 0, 1), Span(0, 7, 8)]
