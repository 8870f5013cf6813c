"""A sink in memory, for tests and examples: the contract in plain Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from connectors.ports import Batch, Receipt
from connectors.rollup import Delta, fold, merge
from connectors.rows import clean, judge, known, progress_rows
from schemas.errors import Unavailable
from schemas.event import DeadLetter, LoggedEvent, Position


class MemorySink:
    """Everything it took is there to look at. Set `down` to an error and it raises that instead of writing.

    `refuses(event)` may tell why a row is refused. Nothing here outlives the process, so nothing is durable.
    """

    name = "memory"

    def __init__(self) -> None:
        self.rows: dict[UUID, LoggedEvent] = {}
        self.sessions: dict[str, Delta] = {}
        self.stored: dict[int, int] = {}
        self.duplicates: dict[Position, UUID] = {}
        self.letters: dict[tuple[str, int, int], DeadLetter] = {}
        self.down: Unavailable | None = None
        self._progress: dict[int, int] = {}

    def refuses(self, logged: LoggedEvent) -> str | None:
        """What every real database refuses: U+0000 or a lone surrogate in text, a number beyond 64 bits."""
        texts = (logged.event.session_id, logged.event.event_type, logged.event.source, logged.event.tool_name)
        if any(text and clean(text) != text for text in texts):
            return "text that cannot be stored"
        return "a number beyond 64 bits" if logged.event.occurred_at.bit_length() > 63 else None

    async def open(self) -> None:
        """Nothing to do."""

    async def write(self, batch: Batch) -> Receipt:
        """See the contract."""
        self._raise_if_down()
        fresh: list[LoggedEvent] = []
        conflicts: list[LoggedEvent] = []
        refused: list[tuple[LoggedEvent, str]] = []
        counts = {"replays": 0, "duplicates": 0}
        for logged in batch.events:
            there = self.rows.get(logged.event.event_id)
            if there is None:
                reason = self.refuses(logged)
                if reason:
                    refused.append((logged, reason))
                else:
                    self.rows[logged.event.event_id] = logged
                    fresh.append(logged)
                continue
            verdict = judge(logged, known(there))
            if verdict == "conflict":
                conflicts.append(logged)
            elif verdict == "duplicate" and logged.ingest not in self.duplicates:
                self.duplicates[logged.ingest] = logged.event.event_id
                counts["duplicates"] += 1
            else:
                counts["replays"] += 1
        self._roll_up(fresh)
        for partition, end, stored in progress_rows(batch.spans, fresh):
            self._progress[partition] = max(end, self._progress.get(partition, 0))
            self.stored[partition] = stored + self.stored.get(partition, 0)
        return Receipt(
            sink="memory",
            stored=len(fresh),
            replays=counts["replays"],
            duplicates=counts["duplicates"],
            conflicts=conflicts,
            refused=refused,
        )

    async def write_dead_letters(self, letters: Sequence[DeadLetter]) -> int:
        """See the contract."""
        self._raise_if_down()
        before = len(self.letters)
        for letter in letters:
            self.letters.setdefault((letter.topic, letter.partition, letter.offset), letter)
        return len(self.letters) - before

    async def progress(self) -> Mapping[int, int]:
        """See the contract."""
        self._raise_if_down()
        return {partition: end for partition, end in self._progress.items() if end}

    async def probe(self) -> None:
        """See the contract."""
        self._raise_if_down()

    async def close(self) -> None:
        """Nothing to do."""

    def _roll_up(self, fresh: Sequence[LoggedEvent]) -> None:
        for delta in fold(fresh):
            old = self.sessions.get(delta.session_id)
            self.sessions[delta.session_id] = merge(old, delta) if old else delta

    def _raise_if_down(self) -> None:
        if self.down is not None:
            raise self.down
