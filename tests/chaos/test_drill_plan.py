"""What a drill plans, and how several campaigns become one page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from chaos.__main__ import main
from chaos.campaign import Outcome, Terms
from chaos.drill import Plan, full_plan, merged, reported, short_plan
from chaos.faults import catalogue, chosen
from chaos.invariants import Counts, Examination, Verdict
from chaos.measure import Costs
from chaos.report import BugRow, FaultRow
from chaos.seeded import BUGS
from chaos.selftest import SCENARIOS
from chaos.soak import FAULTS as SOAKED


def outcome(*verdicts: Verdict, acked: int = 10, lost: int = 0, fault: str = "worker-kill") -> Outcome:
    counts = Counts(acked, lost, 0, 0, 0, 0)
    return Outcome([FaultRow(fault, (), "", lost=lost)], Examination(list(verdicts), counts), Costs())


def plan(**changes: Any) -> Plan:
    given: dict[str, Any] = {"command": "c", "folder": Path("out"), "faults": [], "terms": Terms(7)}
    return Plan(**{**given, **changes})


def test_the_full_plan_holds_every_fault_and_every_planted_bug() -> None:
    """And the short one those marked so, once each, and two of the bugs, the same for the same seed."""
    full, short = full_plan("c", Path("out"), 7), short_plan("c", Path("out"), 7)
    assert {kind.name for kind in full.faults} == set(catalogue())
    assert set(full.bugs) == set(BUGS) == set(SCENARIOS)
    assert short.faults == [kind for kind in full.faults if kind.short]
    assert (short.terms.hits, len(short.bugs)) == (1, 2)
    assert short.bugs == short_plan("c", Path("out"), 7).bugs


def test_a_soak_does_faults_that_can_be_judged_together() -> None:
    """And that are over within a minute."""
    for kind in chosen(only=SOAKED):
        assert not kind.alone(), kind
        assert kind.hold_s <= 20, kind


def test_faults_that_would_hide_what_others_do_are_alone() -> None:
    """The log and the counters of the dedup table: without them a campaign cannot be judged as a whole."""
    alone = {name for name, kind in catalogue().items() if kind.alone()}
    assert alone == {"kafka-wiped", "changelog-truncated", "postgres-restored"}


def test_every_fault_says_what_it_does_and_is_done_often_enough() -> None:
    """At least three times, with a sentence and with its rows."""
    for kind in catalogue().values():
        assert kind.what, kind
        assert kind.hits >= 3, kind
        assert all(row.startswith("F") for row in kind.rows), kind
        assert kind.rows, kind


def test_a_fault_that_is_not_there_is_said_with_those_that_are() -> None:
    """By the chooser and by the command."""
    with pytest.raises(KeyError, match="there is no fault nonsense"):
        chosen(only=("nonsense",))
    result = CliRunner().invoke(main, ["run", "--only", "nonsense"])
    assert result.exit_code == 2
    assert "worker-kill" in result.output


def test_an_invariant_broken_in_one_campaign_is_broken() -> None:
    """Whichever it was; what was not judged is no fault, and a verdict is better than none."""
    whole = outcome(Verdict("I1", True, "stored"), Verdict("I14", None, "not judged"))
    hurt = outcome(Verdict("I1", False, "2: lost", ("a", "b")), Verdict("I14", None, "not judged"))
    for order in ((whole, hurt), (hurt, whole)):
        rows = {row.id: row for row in merged(order)}
        assert (rows["I1"].ok, rows["I1"].why, rows["I1"].examples) == (False, "2: lost", ["a", "b"])
        assert rows["I14"].ok


def test_a_verdict_is_better_than_none() -> None:
    """Whichever campaign judged it; where none did, the page says so."""
    judged, open_ = outcome(Verdict("I17", True, "equal")), outcome(Verdict("I17", None, "not judged"))
    for order in ((judged, open_), (open_, judged)):
        (row,) = merged(order)
        assert (row.ok, row.judged, row.why) == (True, True, "equal")
    (row,) = merged([open_, open_])
    assert (row.ok, row.judged, row.why) == (True, False, "not judged")


def test_campaigns_add_up_on_one_page() -> None:
    """Their counts, their faults, their notes."""
    first, second = outcome(acked=10), outcome(acked=5, lost=1, fault="kafka-wiped")
    second.notes.append("not at rest")
    report = reported(plan(), [first, second], [BugRow("do-update", True, ("I7",))], 60.0)
    assert (report.acked, report.lost, report.ok) == (15, 1, False)
    assert [row.name for row in report.faults] == ["worker-kill", "kafka-wiped"]
    assert report.notes == ["not at rest"]


def test_a_run_that_did_nothing_is_vacuous() -> None:
    """Planted bugs alone are something: they try the checker."""
    assert reported(plan(), [], [], 1.0).vacuous
    assert not reported(plan(), [], [BugRow("do-update", True)], 1.0).vacuous


def test_too_little_makes_the_page_vacuous() -> None:
    """I15 says so."""
    little = outcome(Verdict("I15", False, "1: too little"))
    assert reported(plan(), [little], [], 1.0).vacuous
