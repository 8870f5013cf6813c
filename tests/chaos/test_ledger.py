"""The ledger of the load: what is on disk can be read again, torn or not, and sums up by event."""

from __future__ import annotations

import uuid
from pathlib import Path

from chaos.ledger import Ledger, Tail, decode, encode, read
from chaos.ledger_sum import Request, Summary
from chaos.model import Outcome, Sent

A, B = str(uuid.UUID(int=10)), str(uuid.UUID(int=11))


def sent(
    event_id: str = A,
    outcome: Outcome = Outcome.OK,
    at: float = 100.0,
    *,
    seq: int = 0,
    sha: str = "aa",
    **more: object,
) -> Sent:
    fields: dict[str, object] = {"took": 0.5, "status": 202, "durability": "log", **more}
    return Sent("p0", seq, event_id, "s", sha * 32, at, outcome=outcome, **fields)  # type: ignore[arg-type]


def test_a_line_is_read_as_it_was_written(tmp_path: Path) -> None:
    """All fields, from all files."""
    lines = [sent(), sent(B, Outcome.UNKNOWN, status=None, durability=None, repeat=True, kind="bulk")]
    for number, line in enumerate(lines):
        ledger = Ledger(tmp_path / f"p{number}.jsonl")
        ledger.append([line])
        ledger.close()
    assert list(read(tmp_path)) == lines


def test_a_torn_last_line_is_passed_over_and_does_not_spoil_the_next(tmp_path: Path) -> None:
    """A crash in the middle of a write costs that line only."""
    path = tmp_path / "p0.jsonl"
    path.write_bytes(encode(sent()) + encode(sent(B))[:30])
    assert list(read(tmp_path)) == [sent()]
    ledger = Ledger(path)
    ledger.append([sent(B, at=101.0)])
    ledger.close()
    assert list(read(tmp_path)) == [sent(), sent(B, at=101.0)]


def test_a_tail_gives_each_whole_line_once(tmp_path: Path) -> None:
    """A line under way comes when it is whole."""
    path, tail = tmp_path / "p0.jsonl", Tail(tmp_path)
    assert list(tail.new()) == []
    path.write_bytes(encode(sent()) + encode(sent(B))[:30])
    assert list(tail.new()) == [sent()]
    path.write_bytes(encode(sent()) + encode(sent(B)))
    assert list(tail.new()) == [sent(B)]
    assert list(tail.new()) == []


def test_what_is_no_line_is_none() -> None:
    """Also JSON that is something else."""
    assert decode(b'{"producer": "p0"}\n') is None
    assert decode(b"[1]\n") is None
    assert decode(encode(sent()).replace(b'"ok"', b'"perhaps"')) is None


def test_one_ok_makes_an_event_ok_whatever_came_before_and_after() -> None:
    """ok beats unknown beats fail, over all tries of an id."""
    for tries, final in (
        ((Outcome.UNKNOWN, Outcome.OK, Outcome.FAIL), Outcome.OK),
        ((Outcome.FAIL, Outcome.UNKNOWN), Outcome.UNKNOWN),
        ((Outcome.FAIL, Outcome.FAIL), Outcome.FAIL),
    ):
        summary = Summary(sent(outcome=outcome, at=100.0 + n) for n, outcome in enumerate(tries))
        assert len(summary) == 1
        assert summary.entry(0).outcome is final
        assert summary.entry(0).was_unknown is (Outcome.UNKNOWN in tries)


def test_the_first_payload_and_the_first_ok_count() -> None:
    """A second payload under the id is noted as a conflict."""
    lines = [sent(outcome=Outcome.UNKNOWN), sent(at=101.0), sent(at=102.0, sha="bb", repeat=True)]
    summary = Summary(lines)
    assert summary.digest(0) == b"\xaa" * 16
    assert summary.entry(0).ok_at == 101.0
    assert summary.entry(0).conflicting
    assert summary.ok_repeats == 1
    assert summary.tries == {Outcome.OK: 2, Outcome.UNKNOWN: 1, Outcome.FAIL: 0}


def test_the_lines_of_a_bulk_are_one_request() -> None:
    """They share producer and time; bad ones beside good ones do not make it a bad request."""
    lines = [sent(kind="bulk"), sent(B, Outcome.FAIL, kind="bad", seq=1), sent(A, at=101.0, status=None, took=0.25)]
    assert list(Summary(lines).requests) == [
        Request(100.0, 0.5, 202, True, False),
        Request(101.0, 0.25, 0, True, False),
    ]


def test_an_id_that_only_the_server_knows_keeps_its_name() -> None:
    """Its slot says so."""
    summary = Summary([sent("fresh:12345-p0:7", Outcome.UNKNOWN), sent("fresh:1-p0:1234", Outcome.UNKNOWN, seq=1)])
    assert [summary.entry(slot).event_id for slot in (0, 1)] == ["fresh:12345-p0:7", "fresh:1-p0:1234"]
    assert summary.nameless(0)
