"""The tables of docs/reliability.md: made of reports, the worst of several; the page has the form they are made in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from chaos.__main__ import main
from chaos.figures import UNMEASURED, faults, markdown, promises, runs
from chaos.measure import Cost
from chaos.report import BugRow, FaultRow, InvariantRow, Report
from repository import DOCS

PAGE = (DOCS / "reliability.md").read_text()
COST = Cost(acked=9, unknown=2, unknown_resolved=1, longest_refusal_s=0.5, slowest_s=0.7, ack_p99_s=0.0204)


def fault(name: str, **changes: Any) -> FaultRow:
    return FaultRow(name, ("F1",), "", **{"hits": 3, "rounds": 3, "cost": COST, **changes})


def report(*rows: FaultRow, **changes: Any) -> dict[str, Any]:
    """As it is in the file."""
    given: dict[str, Any] = {
        "command": "c",
        "seed": 7,
        "date": "2026-01-02T03:04:05+00:00",
        "machine": "m",
        "commit": "abc1234",
        "versions": {},
        "seconds": 600.0,
        "acked": 12_345,
        "lost": 0,
        "duplicated": 0,
        "phantom": 0,
        "vacuous": False,
        "faults": list(rows),
        "invariants": [InvariantRow("I1", True), InvariantRow("I2", True)],
        "bugs": [BugRow("stock-take", True, ("I1",))],
    }
    made: dict[str, Any] = json.loads(json.dumps(Report(**{**given, **changes}).as_json()))
    return made


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def worst_of(*reports: dict[str, Any]) -> dict[str, str]:
    """Promise -> worst."""
    return {found[0]: found[2] for found in map(cells, promises(reports)[2:])}


def test_a_run_is_a_line() -> None:
    """With everything it is judged by; a fault that was skipped was not done."""
    one = report(fault("worker-kill"), fault("kafka-kill", hits=2), fault("kafka-disk-full", hits=0, skipped="no root"))
    told = "| 2026-01-02, seed 7, abc1234 | 12,345 | 0 | 0 | 0 | 2, 5 | 2 of 2 hold | 1 of 1 | 10 |"
    assert runs([one])[2:] == [told]


def test_what_is_broken_or_was_not_judged_does_not_hold() -> None:
    """The latter by name; a report that does not tell of it is older."""
    broken = report(invariants=[InvariantRow("I1", False), InvariantRow("I2", True)])
    assert cells(runs([broken])[2])[6] == "1 of 2 hold"
    open_ = report(invariants=[InvariantRow("I1", True), InvariantRow("I17", True, "no", judged=False)])
    assert cells(runs([open_])[2])[6] == "1 of 2 hold; not judged: I17"
    del open_["not_judged"]
    assert cells(runs([open_])[2])[6] == "2 of 2 hold"


def test_a_fault_is_a_line_with_the_worst_of_all_reports() -> None:
    """Hits add up; what nobody measured is empty."""
    first = report(fault("worker-kill", ready_s=3.0, rss_peak_mb=99.6), fault("poison", cost=None))
    second = report(fault("worker-kill", ready_s=2.0, lag_zero_s=4.0), fault("conflict"))
    assert faults([first, second])[2:] == [
        "| worker-kill | 6 | 0.5 | 20 | 0.7 | 3.0 | 4.0 | 100 |",
        "| poison | 3 |  |  |  |  |  |  |",
        "| conflict | 3 | 0.5 | 20 | 0.7 |  |  |  |",
    ]


def test_a_promise_has_the_worst_that_was_measured_for_it() -> None:
    """Only by the faults that try it: a Postgres that hangs is slower than one that is gone."""
    one = report(
        fault("worker-kill", ready_s=5.9, lag_zero_s=7.3, rss_peak_mb=300.0),
        fault("worker-kill-storm", ready_s=20.0, lag_zero_s=25.0),
        fault("postgres-stop", times={"first_sqlite_commit": 0.5, "sync_start": 1.9}),
        fault("postgres-pause", times={"first_sqlite_commit": 4.1}),
        fault("kafka-pause", cost=Cost(1, 0, 0, 0.0, 2.1, 0.1)),
        fault("overload", cost=Cost(1, 0, 0, 0.0, 4.0, 0.1)),
    )
    assert list(worst_of(one).values()) == [
        "5.9 s; 7.3 s",
        "0.5 s when it refuses, 4.1 s when it is silent, locked or full",
        "1.9 s",
        "2.1 s",
        "300 MB",
    ]


def test_a_promise_that_was_not_tried_says_so() -> None:
    """An empty cell would read as kept."""
    assert all(UNMEASURED in worst for worst in worst_of(report()).values())


def test_the_page_has_the_tables_of_the_command() -> None:
    """Names of columns, promises and their limits; it says how they are made."""
    assert "python -m chaos figures" in PAGE
    lines = PAGE.splitlines()
    for table in (runs([]), promises([]), faults([])):
        assert all(line in lines for line in table[:2])
    told = [cells(line)[:2] for line in lines if line.startswith("| ")]
    assert all(cells(line)[:2] in told for line in promises([])[2:])


def test_the_command_prints_the_tables_of_several_reports(tmp_path: Path) -> None:
    """And refuses what is no report."""
    one, two, other = (tmp_path / f"{name}.json" for name in ("one", "two", "other"))
    one.write_text(json.dumps(report(fault("worker-kill"))))
    two.write_text(json.dumps(report(fault("worker-kill"), seed=8)))
    other.write_text("[]")
    told = CliRunner().invoke(main, ["figures", str(one), str(two)])
    assert told.exit_code == 0
    assert told.output == markdown([json.loads(one.read_text()), json.loads(two.read_text())])
    assert "seed 7" in told.output
    assert "seed 8" in told.output
    refused = CliRunner().invoke(main, ["figures", str(one), str(other)])
    assert refused.exit_code == 2
    assert "no report of a drill" in refused.output
