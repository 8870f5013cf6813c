"""A small made-up run of the drill in which every invariant holds: what was sent, and what was found."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field, replace
from typing import Any

from chaos.evidence_values import Evidence, Index, Letter, Local, Log, Offsets, Recounted, Row, Sample, Store
from chaos.invariants import Context, Verdict, check
from chaos.ledger_sum import Summary, digest_of, key_of
from chaos.measure import Window
from chaos.model import Outcome, Sent
from chaos.reader import Reading

COUNT = 6


def id_of(number: int) -> str:
    return str(uuid.UUID(int=1000 + number))


def sha(number: int) -> str:
    return f"{number:02x}" * 32


def sent(number: int, outcome: Outcome = Outcome.OK, **more: Any) -> Sent:
    fields = {"at": 100.0 + number, "took": 0.01, "status": 202, **more}
    event_id = fields.pop("event_id", id_of(number))
    return Sent("p0", number, event_id, "s", sha(number), outcome=outcome, **fields)


def row(number: int, **more: Any) -> Row:
    return Row(key_of(id_of(number)), digest_of(sha(number)), "s", 0, number, number)._replace(**more)


@dataclass
class World:
    """A small house that is whole: six events, one of them sent twice; break what you like."""

    lines: list[Sent] = field(default_factory=lambda: [*map(sent, range(COUNT)), sent(2, at=110.0, repeat=True)])
    rows: list[Row] = field(default_factory=lambda: [row(number) for number in range(COUNT)])
    letters: list[Letter] = field(default_factory=list)
    topic_letters: list[Letter] = field(default_factory=list)
    passed: list[Row] = field(default_factory=lambda: [row(number) for number in range(COUNT)])
    store: dict[str, Any] = field(default_factory=lambda: {"indexes": {"pk_events": Index("events", True, True)}})
    local: Local = field(default_factory=Local)
    ledger: dict[str, int] = field(
        default_factory=lambda: {
            "accepted": 7, "stored": COUNT, "duplicates": 1, "rejected": 0, "dead": 0, "pending": 0, "difference": 0,
        }
    )  # fmt: skip
    parts: dict[str, dict[str, int]] = field(default_factory=lambda: {"dead": {"spool": 0}})
    committed: dict[str, Offsets] = field(
        default_factory=lambda: {"dedupe": {0: 7}, "persist": {0: COUNT}, "aggregate": {0: COUNT}, "history": {0: 9}}
    )
    recounted: Recounted | None = field(default_factory=lambda: recounted())  # noqa: PLW0108  # made further down
    metrics: dict[str, float] = field(default_factory=lambda: {"chronicle_sync_mismatches_total": 0.0})
    samples: list[Sample] = field(default_factory=lambda: [Sample("stream", 7, 1.0, 1 << 20, 10, 5)])
    context: Context = field(
        default_factory=lambda: Context(
            least_acked=COUNT, mid_batch_hits=3, restarts=2, kills=2, logs={"up": "started"}, self_test={"bug": True},
            restored={"seen-deleted": []}, reading=Reading(),
        )
    )  # fmt: skip

    def told(self, **changes: Any) -> None:
        """Tell the checker something else of the run."""
        self.context = replace(self.context, **changes)

    def evidence(self) -> Evidence:
        store = Store(letters=self.letters, progress={0: (COUNT, COUNT)}, **self.store)
        ends: dict[str, Offsets] = {"ingest": {0: 7}, "events": {0: COUNT}, "aggregates": {0: 9}}
        log = Log(ends, self.committed, self.topic_letters, passed_read=True)
        for one in self.rows:
            store.rows.add(one)
        for one in self.passed:
            log.passed.add(one)
        stats = {"ledger": self.ledger, "parts": self.parts}
        recount = self.recounted and counting(self.recounted, len(self.rows))
        return Evidence(store, self.local, log, stats, {}, self.metrics, self.samples, recount)

    def verdicts(self) -> dict[str, Verdict]:
        found = check(Summary(self.lines), self.evidence(), self.context)
        return {verdict.id: verdict for verdict in found}

    def broken(self) -> set[str]:
        return {name for name, verdict in self.verdicts().items() if not verdict.ok}


def counting(found: Recounted, rows: int) -> Recounted:
    """It counts whatever is stored, unless it was told otherwise."""
    lines = [{"events": rows, **line} for line in found.report.get("partitions", ())]
    return replace(found, report={**found.report, "partitions": lines} if lines else found.report)


def recounted(*differences: dict[str, Any], **part: Any) -> Recounted:
    """What `chronicle aggregates verify --json` says of one partition; `part` changes its line."""
    line = {"partition": 0, "counted": COUNT, "stored": COUNT, "keys": 8, "ahead": 0, "differences": len(differences)}
    report = {"partitions": [{**line, **part}], "differences": list(differences), "more": 0}
    return Recounted(1 if differences else 0, report)


def letter(number: int, cause: str, **more: Any) -> Letter:
    return Letter("t.events", 0, 50, cause, id_of(number), "s", **more)


def window(start: float, end: float) -> Window:
    return Window("outage", start, end, end, True, 1.0, 1.0)
