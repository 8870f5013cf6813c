"""The report of a drill: `report.json` for programs, a table for people, one verdict."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from chaos.measure import Cost

#: Of the table, after the fault's name. `unknown` reads resolved/all.
COLUMNS = ("hits", "acked", "lost", "dup", "unknown", "refused s", "p99 ms", "slowest s", "ready s", "lag 0 s", "MB")


@dataclass
class FaultRow:
    """All rounds of one fault. Times are the worst of them, in seconds; `skipped` says why it was not done here."""

    name: str
    rows: tuple[str, ...]
    what: str
    hits: int = 0
    rounds: int = 0
    lost: int = 0
    duplicated: int = 0
    cost: Cost | None = None
    ready_s: float | None = None
    lag_zero_s: float | None = None
    rss_peak_mb: float | None = None
    times: dict[str, float] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    skipped: str | None = None

    @property
    def ok(self) -> bool:
        """Nothing lost, nothing doubled, no promise broken, and hit as often as it must be."""
        return self.skipped is not None or not (self.lost or self.duplicated or self.broken)


@dataclass
class InvariantRow:
    """One of I1…I17. `judged` False: nothing could be said, and `why` says why not; that breaks no run."""

    id: str
    ok: bool
    why: str = ""
    examples: Sequence[str] = ()
    judged: bool = True


@dataclass
class BugRow:
    """A planted bug and which invariants told of it."""

    name: str
    caught: bool
    by: Sequence[str] = ()


@dataclass
class Report:
    """Everything a run found out."""

    command: str
    seed: int
    date: str
    machine: str
    commit: str
    versions: Mapping[str, str]
    seconds: float
    acked: int
    lost: int
    duplicated: int
    phantom: int
    vacuous: bool
    faults: list[FaultRow]
    invariants: list[InvariantRow]
    bugs: list[BugRow]
    outside: Cost | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """The overall verdict."""
        return (
            not (self.lost or self.duplicated or self.phantom or self.vacuous)
            and all(row.ok for row in self.faults)
            and all(row.ok for row in self.invariants)
            and all(row.caught for row in self.bugs)
        )

    def as_json(self) -> dict[str, Any]:
        """The form of `report.json`; its keys are a promise to whoever reads it."""
        return {
            "ok": self.ok,
            "command": self.command,
            "seed": self.seed,
            "date": self.date,
            "machine": self.machine,
            "commit": self.commit,
            "versions": dict(self.versions),
            "seconds": round(self.seconds, 1),
            "acked": self.acked,
            "lost": self.lost,
            "duplicated": self.duplicated,
            "phantom": self.phantom,
            "vacuous": self.vacuous,
            "faults": [{**asdict(row), "ok": row.ok} for row in self.faults],
            "invariants": {row.id: row.ok for row in self.invariants},
            "not_judged": {row.id: row.why for row in self.invariants if not row.judged},
            "violations": [asdict(row) for row in self.invariants if not row.ok],
            "seeded_bugs_caught": sum(row.caught for row in self.bugs),
            "seeded_bugs": [asdict(row) for row in self.bugs],
            "outside": asdict(self.outside) if self.outside else None,
            "notes": self.notes,
        }


def write(report: Report, folder: Path) -> Path:
    """`folder/report.json`; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "report.json"
    path.write_text(json.dumps(report.as_json(), indent=2) + "\n")
    return path


def show(report: Report, console: Console) -> None:
    """The table, then whatever went wrong in sentences, then the verdict."""
    console.print(_table(report))
    for row in report.faults:
        if row.skipped:
            console.print(f"[yellow]skipped[/yellow] {row.name}: {row.skipped}")
        for sentence in row.broken:
            console.print(f"[red]broken[/red] {sentence}")
    for verdict in report.invariants:
        mark = "[green]holds[/green]" if verdict.ok else "[red]BROKEN[/red]"
        mark = mark if verdict.judged else "[yellow]open [/yellow]"
        console.print(f"{verdict.id:<4} {mark} {verdict.why} {' '.join(verdict.examples)}".rstrip())
    for bug in report.bugs:
        mark = f"[green]caught[/green] by {', '.join(bug.by)}" if bug.caught else "[red]NOT CAUGHT[/red]"
        console.print(f"planted bug {bug.name}: {mark}")
    for note in report.notes:
        console.print(f"[yellow]note[/yellow] {note}")
    verdict_text = "[bold green]green[/bold green]" if report.ok else "[bold red]RED[/bold red]"
    console.print(
        f"{verdict_text}: acked {report.acked}, lost {report.lost}, duplicated {report.duplicated}, "
        f"phantom {report.phantom}, seed {report.seed}, {report.seconds / 60:.1f} min"
    )


def _table(report: Report) -> Table:
    table = Table(title="The drill")
    table.add_column("fault")
    for name in COLUMNS:
        table.add_column(name, justify="right")
    for row in report.faults:
        if row.skipped:
            continue
        mark = "" if row.ok else "[red]✗[/red] "
        table.add_row(f"{mark}{row.name}", *_cells(row))
    if report.outside:
        table.add_section()
        table.add_row("outside", *_cells(FaultRow("outside", (), "", cost=report.outside)))
    return table


def _cells(row: FaultRow) -> list[str]:
    cost = row.cost or Cost(0, 0, 0, 0.0, 0.0, None)
    return [
        str(row.hits),
        str(cost.acked),
        str(row.lost),
        str(row.duplicated),
        f"{cost.unknown_resolved}/{cost.unknown}",
        _number(cost.longest_refusal_s),
        _number(None if cost.ack_p99_s is None else cost.ack_p99_s * 1000),
        _number(cost.slowest_s),
        _number(row.ready_s),
        _number(row.lag_zero_s),
        "" if row.rss_peak_mb is None else f"{row.rss_peak_mb:.0f}",
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
