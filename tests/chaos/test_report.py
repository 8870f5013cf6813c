"""The report: its keys, its verdict, its table."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from chaos.measure import Cost
from chaos.report import BugRow, FaultRow, InvariantRow, Report, show, write

KEYS = {"acked", "lost", "duplicated", "phantom", "faults", "invariants", "seeded_bugs_caught", "vacuous"}


def report(**changes: Any) -> Report:
    given: dict[str, Any] = {
        "command": "python -m chaos drill",
        "seed": 7,
        "date": "2026-01-01",
        "machine": "m",
        "commit": "abc1234",
        "versions": {},
        "seconds": 60.0,
        "acked": 10_000,
        "lost": 0,
        "duplicated": 0,
        "phantom": 0,
        "vacuous": False,
        "faults": [FaultRow("worker-kill", ("F1",), "kills", hits=3, cost=Cost(9, 2, 1, 0.5, 0.7, 0.02), ready_s=3.0)],
        "invariants": [InvariantRow("I1", True)],
        "bugs": [BugRow("stock-take", True, ("I1",))],
    }
    return Report(**{**given, **changes})


def test_the_file_has_the_promised_keys(tmp_path: Path) -> None:
    """By name, in the forms others rely on."""
    body = json.loads(write(report(), tmp_path).read_text())
    assert body.keys() >= KEYS
    assert body["ok"] is True
    assert body["invariants"] == {"I1": True}
    assert body["seeded_bugs_caught"] == 1
    fault = body["faults"][0]
    assert (fault["name"], fault["hits"], fault["ok"]) == ("worker-kill", 3, True)


@pytest.mark.parametrize(
    "changes",
    [
        {"lost": 1},
        {"duplicated": 1},
        {"phantom": 1},
        {"vacuous": True},
        {"faults": [FaultRow("kill", (), "", hits=3, broken=["kill: getting ready took 20 s"])]},
        {"invariants": [InvariantRow("I6", False, "order", ("a",))]},
        {"bugs": [BugRow("do-update", False)]},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_one_violation_makes_it_red(changes: dict[str, Any]) -> None:
    """Whatever it is; and the page says so."""
    broken = report(**changes)
    assert not broken.ok
    out = io.StringIO()
    show(broken, Console(file=out, width=200))
    assert "RED" in out.getvalue()


def test_what_was_not_judged_breaks_nothing_and_does_not_pass_for_whole(tmp_path: Path) -> None:
    """The file says which and why; a person reads neither holds nor broken."""
    one = report(invariants=[InvariantRow("I1", True), InvariantRow("I17", True, "Kafka lost its log", judged=False)])
    body = json.loads(write(one, tmp_path).read_text())
    assert (body["ok"], body["violations"]) == (True, [])
    assert body["not_judged"] == {"I17": "Kafka lost its log"}
    out = io.StringIO()
    show(one, Console(file=out, width=200))
    assert "I17  open  Kafka lost its log" in out.getvalue()
    assert "I1   holds" in out.getvalue()


def test_a_person_sees_every_fault_and_the_verdict() -> None:
    """With its figures, what was left out and why, and the seed to run it again."""
    skipped = FaultRow("kafka-disk-full", ("F11",), "", skipped="it needs root")
    out = io.StringIO()
    show(report(faults=[*report().faults, skipped]), Console(file=out, width=200))
    shown = out.getvalue()
    for text in ("worker-kill", "1/2", "20.0", "skipped kafka-disk-full: it needs root", "green", "seed 7"):
        assert text in shown
