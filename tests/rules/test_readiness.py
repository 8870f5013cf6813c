"""/ready: red until everything has proved itself once; then red only when events cannot be taken."""

from __future__ import annotations

from typing import Any

import pytest

from app.readiness import REQUIRED, Observed, judge, look

ALL = frozenset(REQUIRED)


def status(**persist: Any) -> dict[str, Any]:
    """A stream worker that holds both partitions and writes to Postgres."""
    sink = {"sink": "postgres", "breaker": "closed", "proven": True, "sqlite_pending": 0, "last_error": None}
    return {
        "dedupe": {"partitions": {"0": {}, "1": {}}, "recovered": True},
        "persist": {"partitions": {"0": {}, "1": {}}} | sink | persist,
    }


def seen(**changes: Any) -> Observed:
    """Everything in order."""
    given: dict[str, Any] = {
        "now": 100.0,
        "round_trip_at": 99.0,
        "partitions": 2,
        "found": 2,
        "intake": {"mode": "log", "pending": 0, "bytes": 0},
        "statuses": {"w": status()},
    }
    return Observed(**given | changes)


SPOOLING = {"mode": "spool", "pending": 7, "bytes": 700}
HELD = {"w": status(sink="none", proven=False, last_error="both away")}
FAILOVER = {"w": status(sink="sqlite", breaker="open", sqlite_pending=12)}

TABLE = [
    # what is seen, what was proven before, status, http, strict, the checks that fail
    ({}, ALL, "ready", 200, 200, set()),
    ({}, frozenset(), "ready", 200, 200, set()),
    ({"log_missing": True}, ALL, "degraded", 200, 503, {"topics"}),
    ({"log": "Kafka has another log than before."}, ALL, "ready", 200, 200, set()),
    ({"round_trip_at": None, "found": None, "statuses": {}}, frozenset(), "starting", 503, 503, None),
    ({"statuses": {}}, frozenset({"broker", "topics"}), "starting", 503, 503, {"dedupe", "sink", "database"}),
    ({"statuses": HELD}, frozenset({"broker", "topics", "dedupe"}), "starting", 503, 503, {"sink", "database"}),
    ({"statuses": FAILOVER}, ALL, "degraded", 200, 503, {"database"}),
    ({"statuses": FAILOVER}, frozenset(), "degraded", 200, 503, {"database"}),
    ({"statuses": {"w": status(sqlite_pending=3)}}, ALL, "degraded", 200, 503, {"database"}),
    ({"statuses": HELD}, ALL, "down", 503, 503, {"sink", "database"}),
    ({"statuses": HELD | {"other": status()}}, ALL, "degraded", 200, 503, {"sink", "database"}),
    ({"statuses": {}}, ALL, "degraded", 200, 503, {"dedupe", "sink", "database"}),
    ({"round_trip_at": 80.0, "intake": SPOOLING}, ALL, "degraded", 200, 503, {"broker"}),
    ({"round_trip_at": 80.0, "intake": SPOOLING, "spool_limit": 1000}, ALL, "down", 503, 503, {"broker", "intake"}),
    ({"intake": SPOOLING | {"full": True}}, ALL, "down", 503, 503, {"intake"}),
    ({"found": 1}, ALL, "degraded", 200, 503, {"topics"}),
]


@pytest.mark.parametrize(("changes", "proven", "state", "http", "strict", "failing"), TABLE)
def test_the_table_of_states(
    changes: dict[str, Any], proven: frozenset[str], state: str, http: int, strict: int, failing: set[str] | None
) -> None:
    """Each row is a promise of docs/api.md."""
    answer = judge(seen(**changes), proven)
    assert (answer.status, answer.http_status(), answer.http_status(strict=True)) == (state, http, strict)
    if failing is not None:
        assert {check.name for check in answer.checks if not check.ok} == failing


def test_a_failed_check_says_what_to_do() -> None:
    """Every check that fails has a detail and a remedy."""
    bad = (
        seen(round_trip_at=None, found=None, statuses={}, intake={"full": True}),
        seen(statuses=HELD),
        seen(statuses=FAILOVER, found=1, round_trip_at=1.0),
    )
    failed = [check for observed in bad for check in look(observed) if not check.ok]
    assert len(failed) >= 9
    assert all(check.detail and check.remedy for check in failed)


def test_a_partition_nobody_holds_is_named() -> None:
    """Recovered on some partitions is not recovered."""
    half = status()
    half["dedupe"]["partitions"] = {"0": {}}
    check = {check.name: check for check in look(seen(statuses={"w": half}))}["dedupe"]
    assert not check.ok
    assert "1" in check.detail


def test_two_workers_hold_the_partitions_together() -> None:
    """Each with its share is as good as one with all."""
    shares = {}
    for partition in ("0", "1"):
        shares[partition] = status()
        for role in ("dedupe", "persist"):
            shares[partition][role]["partitions"] = {partition: {}}
    assert judge(seen(statuses=shares), frozenset()).status == "ready"


def test_one_worker_in_recovery_is_seen() -> None:
    """A table that is being restored is no proven table."""
    late = status()
    late["dedupe"]["recovered"] = False
    assert judge(seen(statuses={"a": status(), "b": late}), frozenset()).status == "starting"
