"""Dead letters as records: nothing of a letter is lost on its way."""

from __future__ import annotations

from agents.quarantine import GROUP_BYTES, GROUP_LETTERS, decode, encode, grouped, of_event, read
from fakes_persist import TOPICS, KafkaRecord, letter, logged
from schemas.event import Position


def test_a_letter_comes_back_as_it_was() -> None:
    """Bytes that are no text, an id, a position: all survive the JSON."""
    dead = of_event(logged(7), topic=TOPICS.events.name, cause="conflict", detail="two", failed_at=9)
    assert decode(encode(dead).value or b"") == dead
    odd = letter(1, value=bytes(range(256)))
    assert decode(encode(odd).value or b"") == odd


def test_the_record_says_its_cause_and_source_without_its_value() -> None:
    """Key and headers are enough to route and to look it up."""
    produced = encode(letter(5))
    assert produced.key == f"{TOPICS.ingest.name}/0/5".encode()
    assert dict(produced.headers) == {
        "error.class": b"undecodable",
        "error.message": b"broken",
        "source.topic": TOPICS.ingest.name.encode(),
        "source.partition": b"0",
        "source.offset": b"5",
    }


def test_a_detail_with_a_lone_surrogate_can_be_sent() -> None:
    """An error text may quote anything."""
    dead = of_event(logged(1), topic="t", cause="refused_by_database", detail="bad \ud800 text", failed_at=1)
    assert decode(encode(dead).value or b"").detail == "bad ? text"


def test_a_foreign_event_has_no_ingest_position_to_lose() -> None:
    """The negative position of a foreign record is not put in the ledger."""
    foreign = logged(3)
    foreign = type(foreign)(event=foreign.event, ingest=Position(-1, 3), events=foreign.events, value=foreign.value)
    assert of_event(foreign, topic="t", cause="conflict", detail="", failed_at=1).ingest is None


def test_bytes_that_are_no_letter_are_kept_as_one() -> None:
    """Whatever somebody writes into the topic ends in the table with its place."""
    found = read("dead", 0, KafkaRecord(offset=4, value=b"\xff"), failed_at=1)
    assert (found.topic, found.offset, found.value, found.stage) == ("dead", 4, b"\xff", "quarantine")
    assert read("dead", 0, KafkaRecord(offset=5, value=None), failed_at=1).value is None


def test_groups_are_bounded_and_lose_nothing() -> None:
    """By count and by bytes, in order; a letter larger than a group is a group."""
    many = [letter(number) for number in range(2 * GROUP_LETTERS + 1)]
    assert [len(group) for group in grouped(many)] == [GROUP_LETTERS, GROUP_LETTERS, 1]
    large = [letter(number, value=b"x" * (GROUP_BYTES // 2 + 1)) for number in range(3)]
    assert [dead.offset for group in grouped(large) for dead in group] == [0, 1, 2]
    assert [len(group) for group in grouped(large)] == [1, 1, 1]
    assert list(grouped([])) == []
