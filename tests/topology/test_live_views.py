"""Watching over HTTP: SSE and WebSocket, filters, places to go on from, the slow, the broken, the absent broker."""

from __future__ import annotations

import asyncio
import functools
import json
import operator
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import msgspec
import pytest
import pytest_asyncio
from aiohttp import WSCloseCode, WSMsgType

from agents import broadcast, live_tail
from app.views import live, shapes_live
from app.views.analytics import pulse
from app.views.live import History, LiveViews
from app.views.live_faces import Ws
from fakes_persist import make_event
from live_world import CODEC, PARTITIONS, TOPIC, Plant, Row, Stream
from reading import serving
from schemas.live import LiveEvent, Marks
from schemas.metrics import NullMetrics
from tables.usage_view import Figures


@pytest_asyncio.fixture
async def plant() -> AsyncIterator[Plant]:
    made = Plant()
    async with serving(live.routes(made.views)) as client:
        made.client = client
        yield made
    await made.tail.close()


async def watch(plant: Plant, place: str = "", **params: str) -> Stream:
    """An open stream, behind its hello."""
    headers = {"Last-Event-ID": place} if place else {}
    stream = Stream(await plant.client.get("/sse/events", params=params, headers=headers))
    assert stream.answer.status == 200
    assert await stream.next() == ("hello", {})
    return stream


async def test_events_come_as_they_flow(plant: Plant) -> None:
    """As the API shows them; a payload with line breaks stays one message."""
    stream = await watch(plant)
    event_id = plant.log.add(1, cwd="/home/ann/shop")
    kind, data = await stream.next()
    assert kind == "message"
    assert (data["event_id"], data["project"], data["payload"]) == (event_id, "shop", {"n": 0})
    assert stream.last_id == "0.1"


async def test_only_what_is_asked_for(plant: Plant) -> None:
    """All conditions together."""
    stream = await watch(plant, type="tool_pre_use, tool_post_use", session="s")
    plant.log.add()
    plant.log.add(event_type="tool_pre_use", session_id="t")
    wanted = plant.log.add(event_type="tool_pre_use")
    assert await stream.events(1) == [wanted]


@pytest.mark.parametrize("from_ring", [True, False])
async def test_who_comes_back_gets_what_came_meanwhile(
    plant: Plant, from_ring: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the ring of the process or from the log, and then what comes: no gap, no repeat."""
    if not from_ring:
        monkeypatch.setattr(broadcast, "RING_EVENTS", 1)
    staying, leaving = await watch(plant), await watch(plant)
    first = [plant.log.add(n % 2) for n in range(3)]
    assert await leaving.events(3) == first
    leaving.answer.close()
    meanwhile = [plant.log.add(n % 2) for n in range(4)]
    assert await staying.events(7) == first + meanwhile
    again = await watch(plant, place=leaving.last_id)
    later = plant.log.add()
    found = await again.events(5)
    assert sorted(found) == sorted([*meanwhile, later])
    assert found[-1] == later
    assert (plant.log.scanned == 0) is from_ring


async def test_a_place_from_before_anybody_watched_is_read_from_the_log(plant: Plant) -> None:
    """`after=0.0` is everything that is kept; what cannot be decoded is passed over."""
    before = [plant.log.add(n % 2) for n in range(4)]
    plant.log.add_raw(b"junk")
    stream = await watch(plant, after="0.0")
    assert sorted(await stream.events(4)) == sorted(before)


async def test_a_narrow_filter_does_not_lose_its_place(plant: Plant) -> None:
    """The place is told without an event, too."""
    stream = await watch(plant, session="another")
    plant.log.add()
    plant.figures = {"at": 1}
    while stream.last_id != "1.0":
        await stream.next()


async def test_figures_are_pushed_beside_the_events(plant: Plant) -> None:
    """For the numbers on the page."""
    plant.figures = {"events": 5}
    stream = await watch(plant)
    assert await stream.next() == ("stats", {"events": 5})


async def test_who_does_not_keep_up_is_told(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many, and from where they can be fetched."""
    monkeypatch.setattr(broadcast, "QUEUE_EVENTS", 2)
    stream = await watch(plant)
    ids = [plant.log.add() for _ in range(5)]
    assert await stream.next() == ("missed", {"count": 3, "after": "0.0"})
    assert await stream.events(2) == ids[3:]
    assert plant.metrics.counts["chronicle_live_missed_total",] == 3


async def test_who_watches_is_counted(plant: Plant) -> None:
    """By the way they came, until they are gone."""
    stream = await watch(plant)
    async with plant.client.ws_connect("/ws/events") as socket:
        await socket.receive_str()
        assert [plant.metrics.counts["chronicle_live_clients", name] for name in ("sse", "ws")] == [1, 1]
    stream.answer.close()
    async with asyncio.timeout(10):
        while any(plant.metrics.counts["chronicle_live_clients", name] for name in ("sse", "ws")):
            plant.log.add()  # a write is how the server notices
            await asyncio.sleep(0.01)


async def test_the_log_is_read_only_while_somebody_watches(plant: Plant) -> None:
    """And from its end again for the next one."""
    first = await watch(plant)
    second = await watch(plant)
    assert plant.log.opened == 1
    first.answer.close()
    second.answer.close()
    async with asyncio.timeout(10):
        while plant.hub.marks is not None:
            plant.log.add()  # a write is how the server notices
            await asyncio.sleep(0.01)
    stream = await watch(plant)
    assert plant.log.opened == 2
    assert await stream.events(0) == []
    assert len(plant.hub) == 1


async def test_what_dedup_produced_twice_is_shown_once(plant: Plant) -> None:
    """The place in the ingest log tells."""
    stream = await watch(plant)
    header = (("chronicle-position", (0).to_bytes(4, "big") + (7).to_bytes(8, "big")),)
    plant.log.add()
    value = plant.log.rows[0][0].value
    for offset in (1, 2):
        plant.tail.take(0, Row(offset, b"s", value, header))
    last = plant.log.add(1)
    assert (await stream.events(3))[-1] == last


@pytest.mark.parametrize(
    ("params", "pointer"),
    [
        ({"after": "1"}, "/after"),
        ({"text": "x" * 201}, "/text"),
        ({"type": ",".join(map(str, range(60)))}, "/type"),
        ({"colour": "red"}, "/colour"),
    ],
)
async def test_what_is_wrong_is_named(plant: Plant, params: dict[str, str], pointer: str) -> None:
    """Before the stream begins."""
    for path in ("/sse/events", "/ws/events"):
        answer = await plant.client.get(path, params=params)
        assert (answer.status, (await answer.json())["pointer"]) == (422, pointer)


async def test_without_a_broker_there_is_nothing_to_watch(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    """503, so that a browser tries again."""
    monkeypatch.setattr(live_tail, "BEGIN_S", 0.01)
    plant.log.away = True
    answer = await plant.client.get("/sse/events")
    assert (answer.status, (await answer.json())["code"]) == (503, "unavailable")


async def test_a_websocket_changes_what_it_watches(plant: Plant) -> None:
    """And is told what is wrong without being hung up on."""
    async with plant.client.ws_connect("/ws/events", params={"session": "s"}) as socket:

        async def next_of(*kinds: str) -> dict[str, Any]:
            async with asyncio.timeout(10):
                while (message := await socket.receive_json())["type"] not in kinds:
                    pass
            return dict(message)

        hello = await next_of("hello")
        assert (hello["id"], hello["filter"]["session"]) == ("0.0", "s")
        event_id = plant.log.add()
        found = await next_of("event")
        assert (found["id"], found["event"]["event_id"]) == ("1.0", event_id)
        for wrong, pointer in (
            ("x", ""),
            ("[]", ""),
            ('{"filter":{"colour":"red"}}', "/filter/colour"),
            ('{"filter":{"type":5}}', "/filter/type"),
        ):
            await socket.send_str(wrong)
            assert (await next_of("error"))["pointer"] == pointer
        await socket.send_json({"filter": {"type": "tool_pre_use", "session": None}})
        assert (await next_of("filter"))["filter"]["types"] == ["tool_pre_use"]
        async with asyncio.timeout(10):
            plant.log.add()
            wanted = plant.log.add(event_type="tool_pre_use", session_id="t")
            while (await next_of("event"))["event"]["event_id"] != wanted:
                pass


class Sent:
    """What a WebSocket was given."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    async def send_str(self, text: str) -> None:
        self.texts.append(text)


async def test_the_messages_are_as_the_document_tells(plant: Plant) -> None:
    """Each kind that /asyncapi.json has, with its fields and no other."""
    sent = Sent()
    face = Ws(sent)  # type: ignore[arg-type]
    event = msgspec.structs.replace(make_event(1), suspected_duplicate_of=UUID(int=2))
    await face.hello(Marks((0, 0)))
    await face.send(LiveEvent(event, 0, 0, Marks((1, 0))))
    await face.send(broadcast.Missed(3, Marks((0, 0))))
    await face.stats(msgspec.json.encode(pulse(Figures(), 1.0)))
    await face.place(Marks((1, 0)))
    async with plant.client.ws_connect("/ws/events") as socket:
        await socket.receive_str()
        for text in ("x", msgspec.json.encode(shapes_live.LiveChange(shapes_live.LiveWanted(type="t"))).decode()):
            await socket.send_str(text)
            while json.loads(received := await socket.receive_str(timeout=10))["type"] not in ("error", "filter"):
                pass
            sent.texts.append(received)
    decode = msgspec.json.Decoder(functools.reduce(operator.or_, shapes_live.SENT)).decode
    found = [decode(text) for text in sent.texts]
    assert {type(one) for one in found} == set(shapes_live.SENT)
    assert [json.loads(msgspec.json.encode(one)) for one in found] == [json.loads(text) for text in sent.texts]


async def test_who_only_asks_for_the_head_is_not_kept(plant: Plant) -> None:
    """A monitor's HEAD is answered, has no body, and watches nothing."""
    async with asyncio.timeout(10):
        answer = await plant.client.head("/sse/events")
        assert (answer.status, await answer.read()) == (200, b"")
    assert len(plant.hub) == 0


async def test_a_websocket_that_cannot_go_on_is_closed_with_the_reason(plant: Plant) -> None:
    """Silence would look like a quiet stream."""
    plant.log.add()
    plant.log.unreadable = True
    async with asyncio.timeout(10), plant.client.ws_connect("/ws/events", params={"after": "0.0"}) as socket:
        while (message := await socket.receive()).type is WSMsgType.TEXT:
            pass
    assert message.type is WSMsgType.CLOSE
    assert (message.data, "cannot be read" in str(message.extra)) == (WSCloseCode.TRY_AGAIN_LATER, True)


async def test_figures_are_worked_out_once_for_all_who_watch(plant: Plant) -> None:
    """A thousand pages cost what one costs."""
    asked = 0

    def stats() -> dict[str, Any]:
        nonlocal asked
        asked += 1
        return {"asked": asked}

    views = LiveViews(
        plant.tail, History(plant.log, CODEC, TOPIC), partitions=PARTITIONS, stats=stats, metrics=NullMetrics()
    )
    assert [views._figures(at) for at in (10.0, 10.5, 10.9, 11.0)] == [b'{"asked":1}'] * 3 + [b'{"asked":2}']
