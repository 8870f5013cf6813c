"""The ledger held against what is stored, once, row by row: who is missing, who is double, who was never sent."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chaos.evidence_values import Evidence, Row
from chaos.ledger_sum import Summary, key_of, text_of
from chaos.measure import Window
from chaos.mix_payloads import MARKER
from chaos.model import Expected, Outcome
from chaos.reader import Reading


@dataclass(frozen=True)
class Context:
    """What the checker must be told of the run.

    `foreign_sessions`: faults that send events of their own use sessions with these prefixes. `log_whole`: no fault
    took records out of the topics. `counts_whole`: no fault took the counters of the dedup table away. `resting`:
    everything is back in Postgres; False while SQLite may still hold some. `restored`: the faults that destroyed state
    of ours, each with what it then found wrong. `flat`: memory must not grow, in a soak.
    What is None cannot be judged.
    """

    windows: Sequence[Window] = ()
    limits: Mapping[str, Expected] = field(default_factory=dict)
    foreign_sessions: tuple[str, ...] = ("fault-",)
    log_whole: bool = True
    counts_whole: bool = True
    resting: bool = True
    reading: Reading | None = None
    restarts: int | None = None
    kills: int | None = None
    logs: Mapping[str, str | Path] = field(default_factory=dict)
    markers: tuple[str, ...] = (MARKER,)
    restored: Mapping[str, Sequence[str]] | None = None
    mid_batch_hits: int | None = None
    self_test: Mapping[str, bool] | None = None
    flat: bool = False
    least_acked: int = 10_000
    least_hits: int = 3

    def during(self, start: float, end: float) -> list[Window]:
        """The windows that a span of time touches."""
        return [window for window in self.windows if window.start <= end and start <= window.end]

    def expected(self, window: Window) -> Expected:
        """What the window's fault may cost."""
        return self.limits.get(window.fault, Expected())


class Comparison:
    """The result. Slots are numbers of events in the ledger; texts are for people."""

    def __init__(self, ledger: Summary, evidence: Evidence, context: Context) -> None:
        self._ledger, self._context = ledger, context
        self.lost: list[int] = []
        self.dead: list[int] = []
        self.duplicated: list[tuple[str, int | None]] = []
        self.phantoms: list[str] = []
        self.changed: list[str] = []
        self.partition = array("l", [-1]) * len(ledger)
        self.offset = array("q", [-1]) * len(ledger)
        #: Ids in Postgres that the ledger does not name: of faults, and those that only the server knew.
        self.others: set[bytes] = set()
        self._stored = bytearray(len(ledger))
        self._nameless = self._waiting_by_content()
        self._digests: dict[bytes, int] | None = None
        for row in evidence.postgres.rows:
            self._take(row)
        self._find_lost(evidence)

    def stored(self, slot: int) -> bool:
        """Whether Postgres has it."""
        return bool(self._stored[slot])

    # --- a row -------------------------------------------------------------------------------------------------------

    def _take(self, row: Row) -> None:
        slot = self._ledger.slots.get(row.key)
        if slot is None:
            self._take_unnamed(row)
            return
        if self._stored[slot]:
            self.duplicated.append((f"{text_of(row.key)} has more than one row", slot))
        self._keep(slot, row)
        self._compare(slot, row)
        if self._ledger.rank(slot) is Outcome.FAIL or self._ledger.bad(slot):
            self.phantoms.append(
                f"{text_of(row.key)} was {'bad' if self._ledger.bad(slot) else 'refused'} and is stored"
            )

    def _keep(self, slot: int, row: Row) -> None:
        self._stored[slot] = 1
        self.partition[slot], self.offset[slot] = row.ingest_partition, row.ingest_offset

    def _compare(self, slot: int, row: Row) -> None:
        if row.digest != self._ledger.digest(slot):
            self.changed.append(f"{text_of(row.key)}: another payload than was sent")
        elif row.session != self._ledger.session(slot):
            self.changed.append(f"{text_of(row.key)}: session {row.session}, sent in {self._ledger.session(slot)}")

    def _take_unnamed(self, row: Row) -> None:
        """A row with an id that nobody was told: known by its content, or of a fault, or a phantom."""
        if row.key in self.others:
            self.duplicated.append((f"{text_of(row.key)} has more than one row", None))
        self.others.add(row.key)
        if (slot := self._nameless.get(row.digest)) is not None and row.session == self._ledger.session(slot):
            if self._stored[slot]:
                self.duplicated.append((f"{text_of(row.key)}: sent once without an id, stored twice", slot))
            self._keep(slot, row)
        elif not row.session.startswith(self._context.foreign_sessions):
            self._unknown_row(row)

    def _unknown_row(self, row: Row) -> None:
        if (slot := self._by_digest().get(row.digest)) is not None:
            known = self._ledger.entry(slot).event_id
            self.duplicated.append((f"{text_of(row.key)} has the content of {known}", slot))
        else:
            self.phantoms.append(f"{text_of(row.key)} was never sent")

    def _waiting_by_content(self) -> dict[bytes, int]:
        slots = range(len(self._ledger))
        return {self._ledger.digest(slot): slot for slot in slots if self._ledger.nameless(slot)}

    def _by_digest(self) -> dict[bytes, int]:
        """Made only when there is a phantom: it costs as much as the ledger."""
        if self._digests is None:
            self._digests = {self._ledger.digest(slot): slot for slot in range(len(self._ledger))}
        return self._digests

    # --- what is not there -------------------------------------------------------------------------------------------

    def _find_lost(self, evidence: Evidence) -> None:
        buried = {key_of(letter.event_id) for letter in evidence.postgres.letters if letter.event_id}
        buried |= {key_of(letter.event_id) for letter in evidence.log.letters if letter.event_id}
        dead = {self._ledger.slots[key] for key in buried if key in self._ledger.slots}
        waiting = set() if self._context.resting else {self._ledger.slots.get(key) for key in _waiting(evidence)}
        for slot in range(len(self._ledger)):
            if self._stored[slot] or self._ledger.rank(slot) is not Outcome.OK or self._ledger.bad(slot):
                continue
            if slot in dead:
                self.dead.append(slot)
            elif slot not in waiting:
                self.lost.append(slot)


def _waiting(evidence: Evidence) -> Iterable[bytes]:
    """What has not come to Postgres yet and is on its way."""
    yield from (key_of(event_id) for event_id in evidence.sqlite.pending)
    committed = evidence.log.committed.get("persist", {})
    for row in evidence.log.passed:
        if row.events_offset >= committed.get(row.ingest_partition, 0):
            yield row.key
