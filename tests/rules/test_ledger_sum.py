"""The loss ledger adds up, and only a lost event can make it claim a loss."""

from __future__ import annotations

from typing import Any

import pytest

from app.ledger import DedupeCount, Inputs, StoreCount, add_up, dedupe_counts, highest, persist_progress


def inputs(**changes: Any) -> Inputs:
    """100 in the log: 90 passed (70 in Postgres, 10 in SQLite, 3 repeats, 2 set aside, 5 on the way), 10 dropped."""
    given: dict[str, Any] = {
        "spool": 4,
        "ingest_end": {0: 60, 1: 40},
        "dedupe": {0: DedupeCount(60, 55, 3, 1, 1), 1: DedupeCount(40, 35, 4, 0, 1)},
        "events_end": {0: 55, 1: 35},
        "persist_next": {0: 50},
        "sqlite": StoreCount(stored=10, next={1: 35}),
        "postgres": StoreCount(stored=70, duplicates=3, rejected=1, dead=1, next={0: 50, 1: 25}),
    }
    return Inputs(**given | changes)


def test_every_accepted_event_is_in_exactly_one_part() -> None:
    """The sum of all parts is what was accepted."""
    ledger = add_up(inputs())
    assert (ledger.accepted, ledger.stored, ledger.duplicates) == (104, 80, 10)
    assert (ledger.rejected, ledger.dead, ledger.pending) == (3, 2, 9)
    assert (ledger.difference, ledger.balanced) == (0, True)
    assert ledger.parts["pending"] == {"spool": 4, "ingest": 0, "events": 5}
    assert ledger.parts["stored"] == {"postgres": 70, "sqlite": 10}


def test_a_row_that_vanished_shows_as_a_difference() -> None:
    """A loss is seen: pending comes from the logs and is no remainder."""
    ledger = add_up(inputs(postgres=StoreCount(stored=69, duplicates=3, rejected=1, dead=1, next={0: 50})))
    assert (ledger.difference, ledger.balanced) == (1, False)


def test_an_event_seen_twice_on_its_way_never_looks_like_a_loss() -> None:
    """Counters of dedup a second old: their records count as ingest lag and as stored."""
    old = {0: DedupeCount(50, 45, 3, 1, 1), 1: DedupeCount(40, 35, 4, 0, 1)}
    assert add_up(inputs(dedupe=old)).difference < 0
    newer = StoreCount(stored=75, duplicates=3, rejected=1, dead=1, next={0: 50, 1: 25})
    assert add_up(inputs(postgres=newer)).difference < 0


def test_an_old_reading_of_the_topic_end_hides_no_passed_event() -> None:
    """What dedup has passed is pending until it is stored, even when the end of the topic was read earlier."""
    assert add_up(inputs(events_end={0: 40, 1: 20})).difference == 0


def test_nothing_is_claimed_while_a_part_is_stale() -> None:
    """With an old value the difference proves nothing, so `balanced` is null."""
    assert add_up(inputs(stale=("postgres",))).balanced is None


def test_a_reader_ahead_of_the_end_owes_nothing() -> None:
    """Lag is never negative."""
    assert add_up(inputs(persist_next={0: 99, 1: 99})).parts["pending"]["events"] == 0


def test_records_the_log_can_never_take_are_dead_not_lost() -> None:
    """The spool accepted them, so they are in the sum on both sides."""
    ledger = add_up(inputs(refused=2))
    assert (ledger.accepted, ledger.dead, ledger.difference) == (106, 4, 0)


@pytest.mark.parametrize("order", [("old", "new"), ("new", "old")])
def test_the_newest_counters_of_a_partition_win(order: tuple[str, str]) -> None:
    """After a rebalance the old owner's status still lies there, behind."""
    told = {
        "old": {"dedupe": {"partitions": {"0": {"next": 10, "passed": 9, "duplicates": 1}}}},
        "new": {"dedupe": {"partitions": {"0": {"next": 12, "passed": 10, "duplicates": 2}}}},
    }
    counts = dedupe_counts({name: told[name] for name in order})
    assert counts == {0: DedupeCount(12, 10, 2, 0, 0)}


def test_a_worker_without_a_role_has_nothing_to_tell() -> None:
    """Statuses of ingest workers, and null sections, are passed over."""
    statuses = {"i": {"roles": ["ingest"]}, "p": {"dedupe": None, "persist": {"partitions": {"1": {"next": 7}}}}}
    assert dedupe_counts(statuses) == {}
    assert persist_progress(statuses) == {1: 7}


def test_progress_is_the_furthest_of_all_sinks() -> None:
    """During a failover SQLite is ahead of Postgres."""
    assert highest(({0: 5, 1: 1}, {1: 9}, {})) == {0: 5, 1: 9}
