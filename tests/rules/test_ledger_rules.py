"""The ack ledger and the start rule: pure, no broker, no Faust."""

from __future__ import annotations

import pytest

from connectors.transport.flow import Start, start_offset
from connectors.transport.ledger import PartitionLedger


def test_position_moves_to_the_end_of_an_acked_span() -> None:
    """A span that is done moves the position to the offset after it."""
    ledger = PartitionLedger(0)
    ledger.deliver(0, 5).ack(5)
    assert (ledger.position, ledger.committable()) == (5, 5)


def test_position_moves_inside_a_span_that_is_acked_by_parts() -> None:
    """Acks with rising values move the position through the head span."""
    ledger = PartitionLedger(0)
    span = ledger.deliver(0, 10)
    span.ack(4)
    assert ledger.position == 4
    span.ack(7)
    assert ledger.position == 7


def test_lower_ack_changes_nothing() -> None:
    """Acking less than before neither fails nor moves back."""
    ledger = PartitionLedger(0)
    span = ledger.deliver(0, 10)
    span.ack(7)
    span.ack(3)
    assert ledger.position == 7


def test_ack_behind_a_gap_is_kept_until_the_gap_closes() -> None:
    """A later span acked first counts only after the earlier one."""
    ledger = PartitionLedger(0)
    early, late = ledger.deliver(0, 5), ledger.deliver(5, 9)
    late.ack(9)
    assert ledger.committable() is None
    early.ack(2)
    assert ledger.position == 2
    early.ack(5)
    assert ledger.position == 9


def test_offsets_that_were_never_delivered_are_skipped_with_their_neighbours() -> None:
    """Compacted or transactional gaps between spans do not hold the position."""
    ledger = PartitionLedger(0)
    one, two = ledger.deliver(0, 11), ledger.deliver(15, 17)
    one.ack(11)
    assert ledger.position == 11
    two.ack(16)
    assert ledger.position == 16


def test_gap_at_the_head_does_not_hold_the_position() -> None:
    """The first record may lie above the start, when the log's beginning was compacted."""
    ledger = PartitionLedger(3)
    ledger.deliver(40, 42).ack(41)
    assert ledger.committable() == 41


def test_nothing_to_commit_before_the_first_ack() -> None:
    """Delivered is not done."""
    ledger = PartitionLedger(7)
    ledger.deliver(7, 9)
    assert ledger.committable() is None


def test_committed_offset_is_not_committed_again() -> None:
    """What the group has needs no second commit."""
    ledger = PartitionLedger(0)
    ledger.deliver(0, 5).ack(5)
    ledger.committed = 5
    assert ledger.committable() is None


def test_position_below_the_group_offset_is_committed() -> None:
    """After a resume at the lower durable progress the lower offset is the truth."""
    ledger = PartitionLedger(50, committed=100)
    ledger.deliver(50, 60).ack(60)
    assert ledger.committable() == 60


@pytest.mark.parametrize("through", [4, 11])
def test_ack_outside_its_span_is_an_error(through: int) -> None:
    """An ack can only speak of its own records."""
    span = PartitionLedger(5).deliver(5, 10)
    with pytest.raises(ValueError):
        span.ack(through)


@pytest.mark.parametrize(("first", "next"), [(4, 8), (6, 6)])
def test_delivering_twice_or_nothing_is_an_error(first: int, next: int) -> None:
    """Spans are ascending and never empty."""
    ledger = PartitionLedger(0)
    ledger.deliver(0, 6)
    with pytest.raises(ValueError):
        ledger.deliver(first, next)


def test_acks_of_a_closed_ledger_are_ignored() -> None:
    """A former assignment moves nothing and says that it is over."""
    ledger = PartitionLedger(0)
    span = ledger.deliver(0, 5)
    ledger.close()
    span.ack(5)
    assert not span.live
    assert ledger.committable() is None


def test_memory_is_given_back_as_spans_are_done() -> None:
    """Counts and bytes are of what is handed out and not done."""
    ledger = PartitionLedger(0)
    one, two = ledger.deliver(0, 5, count=5, size=500), ledger.deliver(5, 9, count=4, size=40)
    two.ack(9)
    assert (ledger.records, ledger.bytes) == (9, 540)
    one.ack(5)
    assert (ledger.records, ledger.bytes, ledger.outstanding()) == (0, 0, ())


def test_ack_by_offset_finds_its_span_and_ignores_strangers() -> None:
    """Single messages are acked by their offset; one of an older assignment is unknown."""
    ledger = PartitionLedger(0)
    ledger.deliver(0, 1)
    ledger.ack_offset(7)
    ledger.ack_offset(0)
    assert ledger.position == 1


@pytest.mark.parametrize(
    ("committed", "durable", "expected"),
    [
        (None, None, Start(10)),
        (30, None, Start(30)),
        (None, 25, Start(25)),
        (30, 25, Start(25)),
        (30, 35, Start(30)),
        (100, None, Start(100)),
        (101, None, Start(10, clamped_from=101)),
        (9, None, Start(10, clamped_from=9)),
        (50, 3, Start(10, clamped_from=3)),
    ],
)
def test_reading_begins_at_the_smaller_known_offset_inside_the_log(
    committed: int | None, durable: int | None, expected: Start
) -> None:
    """The log has offsets 10 to 100; what lies outside begins at the oldest."""
    assert start_offset(committed=committed, durable=durable, begin=10, end=100) == expected


def test_group_that_wants_the_latest_begins_at_the_end() -> None:
    """A live hub has no past."""
    assert start_offset(committed=None, durable=None, begin=10, end=100, reset="latest") == Start(100)
