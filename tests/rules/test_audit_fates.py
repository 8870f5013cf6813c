"""What became of a record, from what the databases know; and the audit page of a log that is told."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from all_routes import all_routes
from app.audit import FATES, Look, count, fates
from app.cli.audit import UNKNOWN, WRONG, verdict
from connectors.scan import partition_of
from reading import serving
from schemas.event import Position
from schemas.query import Witnesses

ME, OTHER = UUID(int=1), UUID(int=2)
HERE, ELSEWHERE = Position(0, 5), Position(0, 2)
RECORD = Look(HERE, ME, b"f")


@pytest.mark.parametrize(
    ("stored", "letters", "pending_from", "fate"),
    [
        ({ME: (HERE, b"f")}, [], 99, "stored"),
        ({ME: (HERE, b"f")}, [], 0, "stored"),
        ({ME: (ELSEWHERE, b"f")}, [], 99, "duplicates"),
        ({ME: (ELSEWHERE, b"g")}, [(ME, HERE, "conflict")], 99, "rejected"),
        ({}, [(ME, HERE, "refused_by_database")], 99, "dead"),
        ({}, [(None, HERE, "undecodable")], 99, "dead"),
        ({}, [(ME, ELSEWHERE, "refused_by_database")], 99, "duplicates"),
        ({}, [], 5, "pending"),
        ({}, [], 6, "missing"),
        ({OTHER: (ELSEWHERE, b"f")}, [(OTHER, ELSEWHERE, "conflict")], 99, "missing"),
        ({ME: (ELSEWHERE, b"g")}, [], 99, "missing"),
    ],
)
def test_each_record_has_one_fate(stored: Any, letters: Any, pending_from: int, fate: str) -> None:
    """Its own row, its letter, the row of its id, on its way, nowhere: in this order."""
    assert fates([RECORD], [Witnesses(stored, letters)], pending_from) == [(RECORD, fate)]


def test_what_sqlite_holds_is_stored_and_postgres_has_the_last_word() -> None:
    """Two databases are one memory."""
    sqlite, postgres = Witnesses({ME: (HERE, b"f")}, []), Witnesses({ME: (ELSEWHERE, b"f")}, [])
    assert fates([RECORD], [Witnesses({}, []), sqlite], 99)[0][1] == "stored"
    assert fates([RECORD], [postgres, sqlite], 99)[0][1] == "duplicates"
    assert count([(RECORD, "dead")]) == dict.fromkeys(FATES, 0) | {"dead": 1}


@pytest.mark.parametrize(
    ("balanced", "missing", "session", "code"),
    [(True, None, None, 0), (False, None, None, WRONG), (None, None, None, UNKNOWN), (True, 1, None, WRONG),
     (False, 0, None, WRONG), (None, 0, "s", 0), (True, 1, "s", WRONG)],
)  # fmt: skip
def test_the_exit_code_says_whether_it_adds_up(
    balanced: bool | None, missing: int | None, session: str | None, code: int
) -> None:
    """Something missing is wrong whatever the sums say; of a session only its own records count."""
    found: dict[str, Any] = {"ledger": {"balanced": balanced}, "session_id": session}
    if missing is not None:
        found["records"] = {"missing_count": missing}
    assert verdict(found) == code


def test_a_key_goes_where_the_java_client_puts_it() -> None:
    """Values from Kafka's own test of the rule (murmur2), made positive, modulo partitions."""
    hashes = {b"21": -973932308, b"foobar": -790332482, b"a-little-bit-long-string": -985981536}
    for key, hashed in hashes.items():
        assert partition_of(key, 7) == (hashed & 0x7FFFFFFF) % 7


async def test_the_audit_refuses_what_is_not_there() -> None:
    """A partition that is not there is 404; a bad offset has a pointer; a session is in one partition."""
    async with serving(all_routes()) as client:
        async with client.get("/audit/9") as answer:
            assert answer.status == 404
        async with client.get("/audit/0?start=x") as answer:
            assert (answer.status, (await answer.json())["pointer"]) == (422, "/start")
        async with client.get("/audit?session_id=s-1") as answer:
            assert len((await answer.json())["log"]) == 1
