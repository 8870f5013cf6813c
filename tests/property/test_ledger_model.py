"""The ledger against the plainest model there is: a set of done offsets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from connectors.transport.ledger import PartitionLedger, Span

widths = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6)), min_size=1, max_size=12)


@given(widths=widths, data=st.data())
def test_position_never_passes_a_record_that_is_not_done(widths: list[tuple[int, int]], data: st.DataObject) -> None:
    """However acks come, everything delivered below the position is done, and the position misses nothing."""
    ledger = PartitionLedger(0)
    spans: list[Span] = []
    at = 0
    for gap, width in widths:
        spans.append(ledger.deliver(at + gap, at + gap + width, count=width))
        at += gap + width
    delivered = [offset for span in spans for offset in range(span.first, span.next)]
    done: set[int] = set()
    for index in data.draw(st.lists(st.integers(0, len(spans) - 1), max_size=40)):
        span = spans[index]
        through = data.draw(st.integers(span.first, span.next))
        span.ack(through)
        done.update(range(span.first, through))
        undone = [offset for offset in delivered if offset not in done]
        below = [offset for offset in delivered if offset < ledger.position]
        assert done.issuperset(below)
        assert not undone or ledger.position <= undone[0]
        assert len(below) == (delivered.index(undone[0]) if undone else len(delivered))
