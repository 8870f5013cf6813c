"""Which offsets of one partition are done: pure bookkeeping, no Kafka in here.

Kafka keeps a single number per partition: "everything below is done". The ledger makes that number true. Spans of
offsets are delivered in log order; each is acked by whoever works on it, in any order and by parts; the position moves
only along the contiguous head. An ack behind a gap is kept until the gap closes. Offsets that were never delivered
(compacted away, transaction markers) lie between two spans and are skipped with them.

Stock Faust gets this wrong in four ways: L4, L5, L6 and S3 in `docs/decisions/0002-chunk-transport.md`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

#: Nothing listens.
_SILENT: Final[Callable[[], None]] = lambda: None  # noqa: E731


class Span:
    """Offsets [first, next) of one partition, delivered together. `done` is how far they have been acked.

    `count` and `size` (bytes) are what it holds in memory until it is done. `tag` is the deliverer's own note.
    """

    __slots__ = ("_ledger", "count", "done", "first", "next", "size", "tag")

    def __init__(self, ledger: PartitionLedger, first: int, next: int, count: int, size: int) -> None:
        self._ledger = ledger
        self.first = first
        self.next = next
        self.count = count
        self.size = size
        self.done = first
        self.tag: object = None

    @property
    def live(self) -> bool:
        """Whether an ack still counts: the assignment this span was delivered under is still ours."""
        return not self._ledger.closed

    @property
    def is_done(self) -> bool:
        return self.done >= self.next

    @property
    def generation(self) -> int:
        return self._ledger.generation

    def ack(self, through: int) -> None:
        """Everything below `through` is done; a lower value than before changes nothing.

        Raises ValueError when it lies outside [first, next].
        """
        if not self.first <= through <= self.next:
            raise ValueError(f"ack through {through} is outside the span [{self.first}, {self.next})")
        if self.live and through > self.done:
            self.done = through
            self._ledger._advance()


class PartitionLedger:
    """The ack ledger of one partition for one assignment; it is closed when the assignment ends and never reused.

    `start` is the offset reading began at; `committed` is the offset the group has stored, None when there is none.
    `on_progress` is called after each move of the position.
    """

    def __init__(
        self,
        start: int,
        *,
        generation: int = 0,
        committed: int | None = None,
        on_progress: Callable[[], None] = _SILENT,
    ) -> None:
        self.start = start
        self.generation = generation
        self.committed = committed
        self.position = start  # everything below is done
        self.delivered = start  # everything below has been handed out
        self.closed = False
        self.records = 0  # handed out and not done
        self.bytes = 0
        self._spans: deque[Span] = deque()
        self._by_first: dict[int, Span] = {}
        self._on_progress = on_progress

    def deliver(self, first: int, next: int, *, count: int = 1, size: int = 0) -> Span:
        """Hand out offsets [first, next). ValueError when empty or below what was handed out before."""
        if self.closed or first < self.delivered or next <= first:
            raise ValueError(f"cannot deliver [{first}, {next}): {'closed' if self.closed else self.delivered}")
        span = Span(self, first, next, count, size)
        self._spans.append(span)
        self._by_first[first] = span
        self.delivered = next
        self.records += count
        self.bytes += size
        return span

    def ack_offset(self, offset: int) -> None:
        """Ack the span that begins at `offset`; unknown ones (of an older assignment) are ignored."""
        span = self._by_first.get(offset)
        if span is not None:
            span.ack(span.next)

    def committable(self) -> int | None:
        """The offset to commit, None when the group has it already or nothing was acked since the start.

        It may be lower than `committed`: after a resume below the group offset the lower one is the truth.
        """
        if self.position in (self.start, self.committed):
            return None
        return self.position

    def outstanding(self) -> tuple[Span, ...]:
        """What was handed out and is not done, in log order."""
        return tuple(self._spans)

    def close(self) -> None:
        """The assignment ended: later acks are ignored."""
        self.closed = True
        for span in self._spans:
            span.tag = None
        self._spans.clear()
        self._by_first.clear()
        self.records = self.bytes = 0

    def _advance(self) -> None:
        before = self.position
        spans = self._spans
        while spans and spans[0].is_done:
            self._forget(spans.popleft())
        if spans and spans[0].done > spans[0].first:
            self.position = spans[0].done
        if self.position != before:
            self._on_progress()

    def _forget(self, span: Span) -> None:
        self.position = span.next
        self.records -= span.count
        self.bytes -= span.size
        span.tag = None
        del self._by_first[span.first]
