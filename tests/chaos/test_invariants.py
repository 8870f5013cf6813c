"""The checker is checked: each invariant holds for a whole house, and is named as soon as it is broken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from chaos.evidence_values import Local, Sample
from chaos.invariants import Context, examine
from chaos.invariants_running import refused_spans
from chaos.ledger_sum import Summary, digest_of, key_of
from chaos.model import Expected, Outcome
from chaos.reader import Reading
from drill_world import COUNT, World, id_of, letter, row, sent, sha, window


@pytest.fixture
def world() -> World:
    return World()


def test_a_whole_house_passes_every_invariant(world: World) -> None:
    """All seventeen, in order."""
    assert list(world.verdicts()) == [f"I{number}" for number in range(1, 18)]
    assert world.broken() == set()


def lose(world: World) -> None:
    del world.rows[3]


def bury(world: World) -> None:
    del world.rows[3]
    world.letters = [letter(3, "refused_by_database")]


def double(world: World) -> None:
    world.rows.append(row(3))


def double_by_content(world: World) -> None:
    world.rows.append(row(3, key=key_of(id_of(77))))


def invalid_index(world: World) -> None:
    world.store["indexes"]["pk_events"].valid = False


def no_index(world: World) -> None:
    world.store["indexes"] = {}


def made_up(world: World) -> None:
    world.rows.append(row(77))


def refused_and_stored(world: World) -> None:
    world.lines[3] = sent(3, Outcome.FAIL, kind="bad", status=422)


def bad_and_accepted(world: World) -> None:
    world.lines[3] = sent(3, kind="bad")
    del world.rows[3]


def change(world: World) -> None:
    world.rows[3] = row(3, digest=digest_of(sha(4)))


def other_session(world: World) -> None:
    world.rows[3] = row(3, session="another")


def two_homes(world: World) -> None:
    world.letters = [letter(3, "refused_by_database")]


def false_conflict(world: World) -> None:
    world.letters = [letter(3, "conflict")]


def not_mirrored(world: World) -> None:
    world.topic_letters = [letter(77, "undecodable")]


def swap(world: World) -> None:
    world.rows[3], world.rows[4] = row(3, ingest_offset=4), row(4, ingest_offset=3)


def other_partition(world: World) -> None:
    world.rows[3] = row(3, ingest_partition=1)


def wrong_session(world: World) -> None:
    world.store["wrong_sessions"] = ["s: rows 6, roll-up 7"]


def not_durable(world: World) -> None:
    world.committed["persist"] = {0: COUNT + 1}


def lagging(world: World) -> None:
    world.committed["dedupe"] = {0: 6}


def no_balance(world: World) -> None:
    world.ledger["accepted"] = 8


def fewer_taken_than_acked(world: World) -> None:
    world.ledger |= {"accepted": 6, "duplicates": 0}


def miscounted(world: World) -> None:
    world.ledger |= {"stored": 5, "duplicates": 2}


def mismatch(world: World) -> None:
    world.metrics["chronicle_sync_mismatches_total"] = 1.0


def unverified(world: World) -> None:
    world.store["unverified_syncs"] = 1


def hang(world: World) -> None:
    world.lines[3] = sent(3, took=3.5)


def error_500(world: World) -> None:
    world.lines.append(sent(5, Outcome.UNKNOWN, at=99.0, status=500))
    world.told(windows=[window(90.0, 101.0)])


def refused_in_peace(world: World) -> None:
    world.lines.append(sent(5, Outcome.UNKNOWN, at=99.0, status=503))


def refused_too_long(world: World) -> None:
    world.lines.append(sent(5, Outcome.UNKNOWN, at=93.0, status=503))
    world.told(windows=[window(90.0, 101.0)])


def valid_refused(world: World) -> None:
    world.lines.append(sent(6, Outcome.FAIL, status=422))


def unreadable(world: World) -> None:
    reading = Reading()
    reading.violated("gone")
    world.told(reading=reading)


def fat(world: World) -> None:
    world.samples.append(Sample("stream", 7, 2.0, 501 << 20, 10, 5))


def leaking(world: World) -> None:
    world.samples = [Sample("ingest", 7, 10.0 * n, 1 << 20, 10 + 20 * n, 5) for n in range(15)]


def swelling(world: World) -> None:
    """Two processes, each exchanged half way: only their sum over the soak shows it."""
    world.told(flat=True)
    world.samples = [
        Sample("stream", 100 * (n // 30) + twin, 10.0 * n, (50 + n) << 20, 10, 5) for n in range(60) for twin in (1, 2)
    ]


def restarting(world: World) -> None:
    world.told(restarts=3)


def talking(world: World) -> None:
    world.told(logs={"up": "started\nbody chaosmark-1-p0-3\n"})


def waiting(world: World) -> None:
    world.local = Local(count=1, pending=[id_of(3)])


def open_range(world: World) -> None:
    world.local = Local(ranges=[(0, 3, 5)])


def hole(world: World) -> None:
    world.passed.append(row(77))


def other_state(world: World) -> None:
    world.told(restored={"seen-deleted": ["an event came twice"], "sqlite-deleted": []})


def little(world: World) -> None:
    world.told(least_acked=COUNT + 1)


def no_hits(world: World) -> None:
    world.told(mid_batch_hits=2)


def blind(world: World) -> None:
    world.told(self_test={"bug": False})


@pytest.mark.parametrize(
    ("hurt", "named"),
    [
        (lose, {"I1", "I8", "I13"}),
        (bury, {"I1", "I8"}),
        (double, {"I2", "I8"}),
        (double_by_content, {"I2", "I8"}),
        (invalid_index, {"I2"}),
        (no_index, {"I2"}),
        (made_up, {"I3", "I8"}),
        (refused_and_stored, {"I3", "I15"}),
        (bad_and_accepted, {"I3", "I8", "I10", "I13", "I15"}),
        (change, {"I4"}),
        (other_session, {"I4"}),
        (two_homes, {"I5"}),
        (false_conflict, {"I5"}),
        (not_mirrored, {"I5"}),
        (swap, {"I6"}),
        (other_partition, {"I6"}),
        (wrong_session, {"I7"}),
        (not_durable, {"I8"}),
        (lagging, {"I8"}),
        (no_balance, {"I8"}),
        (fewer_taken_than_acked, {"I8", "I9"}),
        (miscounted, {"I8"}),
        (mismatch, {"I9"}),
        (unverified, {"I9"}),
        (hang, {"I10"}),
        (error_500, {"I10"}),
        (refused_in_peace, {"I10"}),
        (refused_too_long, {"I10"}),
        (valid_refused, {"I10"}),
        (unreadable, {"I10"}),
        (fat, {"I11"}),
        (leaking, {"I11"}),
        (swelling, {"I11"}),
        (restarting, {"I11"}),
        (talking, {"I12"}),
        (waiting, {"I13"}),
        (open_range, {"I13"}),
        (hole, {"I13"}),
        (other_state, {"I14"}),
        (little, {"I15"}),
        (no_hits, {"I15"}),
        (blind, {"I16"}),
    ],
)
def test_each_break_is_named_and_nothing_else(hurt: Callable[[World], None], named: set[str], world: World) -> None:
    """The invariants that tell of it are exactly these."""
    hurt(world)
    assert world.broken() == named


def test_an_event_of_unknown_fate_may_be_stored_or_not(world: World) -> None:
    """Nothing was promised, nothing was forbidden."""
    world.lines[3] = sent(3, Outcome.UNKNOWN, status=503)
    world.told(windows=[window(90.0, 120.0)], least_acked=5)
    assert world.broken() == set()
    lose(world)
    assert "I1" not in world.broken()


def test_a_hook_without_an_id_is_known_by_its_content_once(world: World) -> None:
    """Its row is no phantom; a second one is a duplicate."""
    world.lines[3] = sent(3, Outcome.UNKNOWN, event_id="fresh:p0:3", status=None)
    world.told(windows=[window(90.0, 120.0)], least_acked=5)
    assert world.broken() == set()
    world.rows.append(row(3, key=key_of(id_of(88)), ingest_offset=9))
    assert {"I2"} <= world.broken()
    assert "I3" not in world.broken()


def test_a_conflict_on_purpose_is_well_and_the_first_payload_stays(world: World) -> None:
    """The ledger sent two payloads under one id."""
    world.lines.append(replace(sent(3, at=111.0, repeat=True), sha256=sha(99)))
    world.letters = world.topic_letters = [letter(3, "conflict")]
    world.ledger |= {"accepted": 8, "rejected": 1}
    world.told(log_whole=False)
    assert world.broken() == {"I6", "I17"}  # not judged: what was sent later may stand at the beginning of another log
    world.rows[3] = row(3, digest=digest_of(sha(99)))
    assert "I4" in world.broken()


def test_a_lost_table_takes_its_counts_along_and_nothing_else(world: World) -> None:
    """The sum cannot be right then; what is pending still must be 0."""
    miscounted(world)
    world.ledger["duplicates"] = 0
    world.told(counts_whole=False)
    world.ledger["stored"] = 6
    assert world.broken() == {"I17"}  # not judged: what came again was counted again
    world.ledger["pending"] = 2
    assert world.broken() == {"I8", "I17"}


def test_events_of_a_fault_are_no_phantoms(world: World) -> None:
    """They say so by their session."""
    world.rows.append(row(77, session="fault-storm"))
    world.ledger |= {"accepted": 8, "stored": 7}
    assert world.broken() == set()


def test_before_all_is_home_what_waits_is_not_lost(world: World) -> None:
    """In SQLite, or in the stream behind the commit; neither is, once it must rest."""
    waiting(world)
    lose(world)
    world.told(resting=False)
    assert not {"I1", "I13"} & world.broken()
    world.local = Local()
    assert "I1" in world.broken()
    world.committed["persist"] = {0: 3}
    assert "I1" not in world.broken()
    world.told(resting=True)
    assert {"I1", "I13"} <= world.broken()


def test_losses_are_attributed_to_the_fault_in_which_they_were_acked(world: World) -> None:
    """By the time of the first ok; what was in none is outside."""
    del world.rows[1], world.rows[3]
    world.told(windows=[window(103.5, 120.0)])
    counts = examine(Summary(world.lines), world.evidence(), world.context).counts
    assert (counts.lost, counts.duplicated, counts.phantom) == (2, 0, 0)
    assert counts.lost_by_fault == {"outside": 1, "outage": 1}


def test_a_record_that_became_a_dead_letter_leaves_no_hole(world: World) -> None:
    """It is known by its place, whatever id it carries; the same record without a letter is a hole."""
    world.passed.append(row(77, events_offset=50))
    assert "I13" in world.broken()
    world.letters.append(letter(78, "conflict"))
    assert "I13" not in world.broken()


def test_what_was_unknown_and_found_is_resolved(world: World) -> None:
    """Either by an ok later on or by its row."""
    world.lines[3] = sent(3, Outcome.UNKNOWN)
    world.lines.insert(0, sent(0, Outcome.UNKNOWN, at=99.0))
    counts = examine(Summary(world.lines), world.evidence(), world.context).counts
    assert (counts.acked, counts.unknown, counts.unknown_resolved) == (5, 2, 2)


def test_a_fault_may_cost_what_it_says(world: World) -> None:
    """Longer limits for its window only."""
    refused_too_long(world)
    world.told(limits={"outage": Expected(refused_s=60.0, answered_s=20.0)})
    assert world.broken() == set()


def test_a_span_without_service_ends_with_the_first_ok_of_anybody() -> None:
    """A bad event's 4xx ends nothing; one that is still open ends with the last answer."""
    lines = [
        sent(1, Outcome.UNKNOWN, at=10.0, took=1.0, status=503),
        sent(2, Outcome.FAIL, at=11.0, status=422, kind="bad"),
        sent(1, at=12.0),
        sent(3, Outcome.UNKNOWN, at=20.0, took=2.0, status=None),
        sent(3, Outcome.UNKNOWN, at=25.0, status=503),
    ]
    assert refused_spans(Summary(lines)) == [(9.0, 12.0), (18.0, 25.0)]


def test_a_verdict_names_at_most_ten(world: World) -> None:
    """And says how many there were."""
    world.lines += [sent(number) for number in range(20, 50)]
    lost = world.verdicts()["I1"]
    assert len(lost.examples) == 10
    assert lost.why.startswith("30")


def test_what_nobody_told_is_not_judged() -> None:
    """Neither good nor bad; but a run whose hits nobody counted is empty."""
    world = World(context=Context(least_acked=COUNT), samples=[])
    unjudged = {name for name, verdict in world.verdicts().items() if verdict.ok is None}
    assert unjudged == {"I11", "I12", "I14", "I16"}
    assert world.verdicts()["I15"].ok is False


def test_logs_may_be_files(world: World, tmp_path: Path) -> None:
    """Read line by line."""
    (tmp_path / "up.log").write_text("one\ntwo chaosmark-1\n")
    world.told(logs={"up": tmp_path / "up.log"})
    assert world.verdicts()["I12"].examples == ("up, line 2: chaosmark",)
