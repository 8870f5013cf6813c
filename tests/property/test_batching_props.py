"""The batcher under any adds, cuts and rebalances: nothing lost, nothing twice, nothing out of order, nothing late."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agents.batching import Batcher, BatchPolicy, Item, Slice, offset_of
from fakes_persist import letter, logged

PARTITIONS = 3
POLICY = BatchPolicy(max_size=7, max_wait_s=1.0, max_bytes=600, backlog=3)


class BatcherMachine(RuleBasedStateMachine):
    """A clock, three partitions that are read, and a writer that follows `due`."""

    def __init__(self) -> None:
        super().__init__()
        self.batcher = Batcher(POLICY)
        self.now = 0.0
        self.read = dict.fromkeys(range(PARTITIONS), 0)
        self.written: dict[int, list[int]] = {partition: [] for partition in range(PARTITIONS)}
        self.acked = dict.fromkeys(range(PARTITIONS), 0)
        self.added_at: dict[tuple[int, int], float] = {}

    @rule(
        partition=st.integers(0, PARTITIONS - 1),
        kinds=st.lists(st.sampled_from(["tool_pre_use", "session_start", "dead", "gap"]), max_size=20),
    )
    def add(self, partition: int, kinds: list[str]) -> None:
        """A chunk arrives, with broken records and gaps in it."""
        start = at = self.read[partition]
        items: list[Item] = []
        for kind in kinds:
            if kind == "dead":
                items.append(letter(at))
            elif kind != "gap":
                items.append(logged(at, partition=partition, kind=kind))
            if kind != "gap":
                self.added_at[partition, at] = self.now
            at += 1
        self.read[partition] = at
        if at > start:
            self.batcher.add(
                Slice(partition=partition, start=start, end=at, items=items, chunk=(partition, start)), self.now
            )

    @rule(seconds=st.floats(0.0, 0.6))
    def time_passes(self, seconds: float) -> None:
        """The writer wakes at the deadline, however far the clock goes."""
        end = self.now + seconds
        while (deadline := self.batcher.next_deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            assert self.batcher.due(self.now) is not None
            self._cut()
        self.now = end

    @precondition(lambda self: self.batcher.due(self.now))
    @rule()
    def writer_is_free(self) -> None:
        """What is due is cut."""
        self._cut()

    @rule(partition=st.integers(0, PARTITIONS - 1))
    def rebalance(self, partition: int) -> None:
        """The partition is delivered again from the last ack on."""
        first = self.acked[partition]
        self.batcher.trim(partition, first)
        self.read[partition] = first

    def _cut(self) -> None:
        reason = self.batcher.due(self.now)
        assert reason is not None
        before = self.batcher.pending
        cut = self.batcher.cut(reason)
        records = len(cut.batch.events) + len(cut.letters)
        assert records == before - self.batcher.pending
        assert records <= POLICY.max_size
        size = sum(len(item.value or b"") for part in cut.slices for item in part.items)
        assert size <= POLICY.max_bytes or records == 1
        for span in cut.batch.spans:
            assert span.start == self.acked[span.partition]
            self.acked[span.partition] = span.end
        for part in cut.slices:
            for item in part.items:
                offset = offset_of(item)
                assert part.start <= offset < part.end
                assert self.now - self.added_at.get((part.partition, offset), self.now) <= POLICY.max_wait_s + 1e-9
                self.written[part.partition].append(offset)

    @invariant()
    def written_once_and_in_order(self) -> None:
        """Per partition exactly the records below the ack were written, each once, ascending."""
        for partition, offsets in self.written.items():
            known = sorted(at for (part, at) in self.added_at if part == partition and at < self.acked[partition])
            kept = [at for at in offsets if at in set(known)]
            assert kept == offsets == sorted(set(offsets))

    @invariant()
    def deadline_only_while_something_waits(self) -> None:
        """No timer runs for nothing, and nothing waits without one."""
        waiting = any(self.acked[partition] < self.read[partition] for partition in range(PARTITIONS))
        assert (self.batcher.next_deadline() is not None) == waiting

    def teardown(self) -> None:
        """In the end everything comes out."""
        while self.batcher.next_deadline() is not None:
            self.now = max(self.now, self.batcher.next_deadline() or 0.0)
            self._cut()
        assert self.acked == self.read
        assert (self.batcher.pending, self.batcher.pending_bytes, self.batcher.due(1e9)) == (0, 0, None)


TestBatcher = BatcherMachine.TestCase
