"""Dead letters over HTTP: list, show, replay, and which way each kind goes back."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from app.views import deadletters
from connectors.memory import MemoryIntake, MemoryLog
from connectors.readers.failover import HOLD_DOWN_S, FailoverReader
from connectors.readers.memory import MemoryReader
from reading import NOON, TOPICS, ManualClock, letter_row, serving, uid
from schemas.codec import AvroCodec
from schemas.event import HookEvent, IdOrigin
from schemas.topics import POSITION_HEADER

CODEC = AvroCodec()
EVENT = HookEvent(
    event_id=uid(1),
    fingerprint=b"f" * 16,
    id_origin=IdOrigin.NATURAL,
    session_id="s-1",
    event_type="tool_pre_use",
    occurred_at=NOON,
    received_at=NOON,
    source="claude-code",
    payload='{"a":1}',
)
VALUE = CODEC.encode(EVENT)
PUBLIC, INGEST = TOPICS.events.name, TOPICS.ingest.name
REFUSED = letter_row(3, value=VALUE, event_id=uid(1))
CONFLICT = letter_row(4, value=VALUE, event_id=uid(1), cause="conflict")
GARBAGE = letter_row(5, topic=INGEST, stage="dedupe", cause="undecodable", value=b"\xffjunk", event_id=None)


class Desk:
    """A client with the log, the intake and the letters behind it."""

    def __init__(self) -> None:
        self.reader = MemoryReader("postgres")
        self.log, self.intake, self.clock = MemoryLog(), MemoryIntake(), ManualClock()
        self.client: TestClient[Any, Any]

    async def replay(self, id: str, **wish: Any) -> tuple[int, Any]:
        async with self.client.post(f"/dead-letters/{id}/replay", json=wish) as answer:
            return answer.status, await answer.json()

    async def get(self, path: str) -> tuple[int, Any]:
        async with self.client.get(path) as answer:
            return answer.status, await answer.json()

    def resolved(self, offset: int) -> Any:
        return next(row for row in self.reader.letter_rows if row["offset"] == offset)["resolved_at"]


@asynccontextmanager
async def opened(*, ingest: bool) -> AsyncIterator[Desk]:
    """A desk at a worker with or without the role ingest."""
    made = Desk()
    made.reader.letter_rows += [dict(row) for row in (REFUSED, CONFLICT, GARBAGE)]
    reader = FailoverReader(made.reader, MemoryReader("sqlite"), monotonic=made.clock.monotonic)
    intake = made.intake if ingest else None
    views = deadletters.DeadLetterViews(
        reader=reader, intake=intake, log=made.log, codec=CODEC, topics=TOPICS, clock=made.clock
    )
    async with serving(deadletters.routes(views)) as client:
        made.client = client
        yield made


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    """Three letters: refused by the database, a conflict, and bytes that are no event."""
    async with opened(ingest=True) as made:
        yield made


@pytest.fixture
async def api_desk() -> AsyncIterator[Desk]:
    """The same letters at a worker that takes nothing in."""
    async with opened(ingest=False) as made:
        yield made


async def test_letters_are_listed_and_shown_with_their_bytes(desk: Desk) -> None:
    """The list is narrowed by cause; one letter has key and value in base64."""
    _, page = await desk.get("/dead-letters?cause=conflict")
    assert [item["id"] for item in page["items"]] == [f"{PUBLIC}/0/4"]
    _, first = await desk.get("/dead-letters?limit=1")
    _, second = await desk.get(f"/dead-letters?limit=2&cursor={first['next']}")
    assert [item["offset"] for item in first["items"] + second["items"]] == [5, 4, 3]
    status, letter = await desk.get(f"/dead-letters/{INGEST}/0/5")
    assert (status, letter["value"]) == (200, "/2p1bms=")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/dead-letters?cause=bad", 422),
        ("/dead-letters?open=1", 422),
        (f"/dead-letters/{PUBLIC}/0/99", 404),
        (f"/dead-letters/{PUBLIC}/x/1", 422),
        (f"/dead-letters/{PUBLIC}/0/99999999999999999999", 422),
        (f"/dead-letters/{PUBLIC}/4294967296/1", 422),
    ],
)
async def test_wrong_questions_are_refused(desk: Desk, path: str, status: int) -> None:
    """Numbers no database column could hold included."""
    assert (await desk.get(path))[0] == status


async def test_what_failed_after_dedup_goes_back_to_its_own_position(desk: Desk) -> None:
    """Through the front door the dedup table would drop it: its id is known there."""
    status, body = await desk.replay(f"{PUBLIC}/0/3")
    assert (status, body["via"], body["event_id"], body["resolved"]) == (202, PUBLIC, str(uid(1)), True)
    (record,) = desk.log.records(PUBLIC)
    assert (record.value, record.key, record.partition) == (VALUE, b"s-1", 0)
    assert record.headers == ((POSITION_HEADER, struct.pack(">iq", 0, 10)),)
    assert desk.intake.records == []
    assert desk.resolved(3) is not None


async def test_what_dedup_set_aside_comes_in_again_at_the_front(desk: Desk) -> None:
    """Its bytes as they are: the schema may be known by now."""
    status, body = await desk.replay(f"{INGEST}/0/5")
    assert (status, body["via"], body["event_id"]) == (202, INGEST, None)
    (record,) = desk.intake.records
    assert record.value == b"\xffjunk"
    assert desk.resolved(5) is not None


async def test_a_conflict_needs_a_new_id(desk: Desk) -> None:
    """Its id belongs to the event that came first; the new one is the same for every try."""
    status, body = await desk.replay(f"{PUBLIC}/0/4")
    assert (status, body["code"]) == (409, "needs_new_id")
    assert desk.resolved(4) is None
    status, body = await desk.replay(f"{PUBLIC}/0/4", as_new_id=True, dry_run=True)
    foreseen = body["event_id"]
    assert (status, desk.intake.records, desk.resolved(4)) == (200, [], None)
    status, body = await desk.replay(f"{PUBLIC}/0/4", as_new_id=True)
    assert (status, body["via"], body["event_id"]) == (202, INGEST, foreseen)
    event = CODEC.decode(desk.intake.records[0].value or b"")
    assert (str(event.event_id), event.id_origin, event.payload) == (foreseen, IdOrigin.FRESH, EVENT.payload)
    assert event.event_id != EVENT.event_id


async def test_a_letter_goes_back_once(desk: Desk) -> None:
    """The second try is told when it was dealt with."""
    await desk.replay(f"{PUBLIC}/0/3")
    status, body = await desk.replay(f"{PUBLIC}/0/3")
    assert (status, body["code"]) == (409, "already_resolved")
    assert len(desk.log.records(PUBLIC)) == 1


async def test_bytes_that_cannot_be_decoded_cannot_get_a_new_id(desk: Desk) -> None:
    """There is no event to rename."""
    status, body = await desk.replay(f"{INGEST}/0/5", as_new_id=True)
    assert (status, body["code"]) == (409, "not_replayable")


async def test_a_record_from_elsewhere_cannot_go_back(desk: Desk) -> None:
    """Without a place in the ingest topic nothing could judge it."""
    desk.reader.letter_rows.append(letter_row(8, ingest_partition=None, ingest_offset=None))
    status, body = await desk.replay(f"{PUBLIC}/0/8")
    assert (status, body["code"]) == (409, "not_replayable")


async def test_a_letter_is_not_marked_when_it_was_not_sent(desk: Desk) -> None:
    """Send first, mark afterwards."""
    desk.log.down = desk.intake.down = True
    for id, offset in ((f"{PUBLIC}/0/3", 3), (f"{INGEST}/0/5", 5)):
        assert (await desk.replay(id))[0] == 503
        assert desk.resolved(offset) is None


async def test_a_worker_without_ingest_lists_shows_and_replays_what_passed_dedup(api_desk: Desk) -> None:
    """Those go to the public topic, for which it needs the broker alone."""
    _, page = await api_desk.get("/dead-letters")
    assert len(page["items"]) == 3
    assert (await api_desk.get(f"/dead-letters/{INGEST}/0/5"))[0] == 200
    assert (await api_desk.replay(f"{PUBLIC}/0/3"))[0] == 202
    assert len(api_desk.log.records(PUBLIC)) == 1


@pytest.mark.parametrize("wish", [{}, {"dry_run": True}])
async def test_a_worker_without_ingest_says_who_can_replay_the_rest(api_desk: Desk, wish: dict[str, bool]) -> None:
    """A dry run says so too: it foretells what would be done here."""
    for id, more in ((f"{INGEST}/0/5", {}), (f"{PUBLIC}/0/4", {"as_new_id": True})):
        status, body = await api_desk.replay(id, **wish, **more)
        assert (status, body["code"]) == (503, "no_ingest_role")
        assert "a worker with the role ingest" in body["detail"]
    assert api_desk.log.topics == {}
    assert api_desk.resolved(5) is None


async def test_nothing_is_sent_while_postgres_is_away(desk: Desk) -> None:
    """The mark could not be made, so it is not begun."""
    desk.reader.away = "refused"
    assert (await desk.replay(f"{PUBLIC}/0/3"))[0] == 503
    assert desk.log.records(PUBLIC) == []
    desk.reader.away = None
    desk.clock.at += HOLD_DOWN_S
    assert (await desk.replay(f"{PUBLIC}/0/3"))[0] == 202


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"as_new": true}', b'{"dry_run": "yes"}', b"\xff"])
async def test_a_body_that_is_no_replay_is_refused(desk: Desk, body: bytes) -> None:
    """Also with a field nobody knows: a dry run with a typing mistake must not send."""
    headers = {"Content-Type": "application/json"}
    async with desk.client.post(f"/dead-letters/{PUBLIC}/0/3/replay", data=body, headers=headers) as answer:
        assert answer.status == 422
    assert desk.log.records(PUBLIC) == []


async def test_a_form_of_another_site_cannot_replay(desk: Desk) -> None:
    """A browser sends text and forms anywhere, JSON only with permission."""
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        headers = {"Content-Type": kind}
        async with desk.client.post(f"/dead-letters/{PUBLIC}/0/3/replay", data=b"{}", headers=headers) as answer:
            assert answer.status == 415
    assert desk.log.records(PUBLIC) == []
