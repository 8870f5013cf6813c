"""The hub: who gets what, who is slow, who comes back, and the marks they go on from."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents import broadcast
from agents.broadcast import Hub, Missed, Watcher
from schemas.errors import Refused
from schemas.event import HookEvent, IdOrigin
from schemas.live import LiveEvent, LiveFilter, Marks

PARTITIONS = 2
ALL = LiveFilter()


def event(n: int = 0, **fields: Any) -> HookEvent:
    return HookEvent(
        **{
            "event_id": UUID(int=n),
            "fingerprint": b"f" * 16,
            "id_origin": IdOrigin.FRESH,
            "session_id": "s",
            "event_type": "user_prompt",
            "occurred_at": 5_000,
            "received_at": 5_000,
            "source": "test",
            "payload": '{"prompt":"Hello"}',
            **fields,
        }
    )


class Stream:
    """A hub, and the log it is fed from."""

    def __init__(self) -> None:
        self.hub = Hub()
        self.hub.begin(Marks((0,) * PARTITIONS))

    def publish(self, partition: int = 0, **fields: Any) -> LiveEvent:
        assert self.hub.marks is not None
        offset = self.hub.marks.next[partition]
        live = LiveEvent(event(offset, **fields), partition, offset, self.hub.marks.after(partition, offset))
        self.hub.publish(live)
        return live


@pytest.fixture
def stream() -> Stream:
    return Stream()


async def taken(watcher: Watcher) -> list[LiveEvent | Missed]:
    return await watcher.take(0.001)


async def test_everybody_gets_what_they_asked_for(stream: Stream) -> None:
    """In the order of the stream."""
    everything, tools = stream.hub.watch(ALL), stream.hub.watch(LiveFilter(types=frozenset({"tool_pre_use"})))
    first, second = stream.publish(), stream.publish(1, event_type="tool_pre_use")
    assert await taken(everything) == [first, second]
    assert await taken(tools) == [second]
    assert everything.marks == tools.marks == Marks((1, 1))


async def test_marks_move_on_also_when_nothing_was_wanted(stream: Stream) -> None:
    """Or somebody with a narrow filter would go on from an hour ago."""
    watcher = stream.hub.watch(LiveFilter(session="another"))
    stream.publish()
    assert await taken(watcher) == []
    assert watcher.marks == Marks((1, 0))


async def test_who_is_slow_is_told_how_many_were_missed_and_from_where(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest are kept, and nobody else waits."""
    monkeypatch.setattr(broadcast, "QUEUE_EVENTS", 3)
    slow = stream.hub.watch(ALL)
    first = stream.publish()
    assert await taken(slow) == [first]
    rest = [stream.publish() for _ in range(8)]
    missed, *found = await taken(slow)
    assert isinstance(missed, Missed)
    assert (missed.count, missed.after) == (5, first.marks)
    assert found == rest[5:]
    assert await taken(slow) == []


async def test_large_events_fill_a_queue_as_many_small_ones_do(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is larger than the whole queue still gets through."""
    monkeypatch.setattr(broadcast, "QUEUE_BYTES", 10_000)
    watcher = stream.hub.watch(ALL)
    large = [stream.publish(payload='"' + "x" * 50_000 + '"') for _ in range(3)]
    missed, found = await taken(watcher)
    assert isinstance(missed, Missed)
    assert (missed.count, found) == (2, large[-1])


async def test_a_filter_can_be_changed_while_watching(stream: Stream) -> None:
    """It holds for what comes from then on."""
    watcher = stream.hub.watch(LiveFilter(session="s"))
    stream.publish()
    watcher.filter = LiveFilter(session="t")
    stream.publish()
    other = stream.publish(session_id="t")
    assert [live for live in await taken(watcher) if isinstance(live, LiveEvent)][1:] == [other]


async def test_those_who_want_the_same_are_asked_once(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand who watch one project cost one look at each event."""
    asked = 0
    matches = LiveFilter.matches

    def counted(self: LiveFilter, live: LiveEvent) -> bool:
        nonlocal asked
        asked += 1
        return matches(self, live)

    monkeypatch.setattr(LiveFilter, "matches", counted)
    watchers = [stream.hub.watch(LiveFilter(session="a")) for _ in range(20)]
    other = stream.hub.watch(LiveFilter(session="b"))
    stream.publish(session_id="a")
    assert asked == 2
    assert [len(await taken(one)) for one in (*watchers, other)] == [1] * 20 + [0]
    other.filter = LiveFilter(session="a")
    stream.hub.leave(watchers[0])
    stream.publish(session_id="a")
    assert asked == 3
    assert (len(stream.hub), len(await taken(other)), len(await taken(watchers[0]))) == (20, 1, 0)


async def test_waiting_ends_when_something_comes(stream: Stream) -> None:
    """Not only when the time is over."""
    watcher = stream.hub.watch(ALL)
    waiting = asyncio.create_task(watcher.take(60.0))
    await asyncio.sleep(0)
    live = stream.publish()
    assert await waiting == [live]
    stream.hub.leave(watcher)
    stream.publish()
    assert await taken(watcher) == []
    assert len(stream.hub) == 0


def test_who_was_away_for_a_moment_goes_on_from_the_ring(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far back as it goes; else the log has to be asked."""
    monkeypatch.setattr(broadcast, "RING_EVENTS", 4)
    events = [stream.publish(n % 2) for n in range(6)]
    since = stream.hub.since(events[3].marks)
    assert since is not None
    assert list(since) == events[4:]
    assert stream.hub.since(events[0].marks) is None
    assert list(stream.hub.since(Marks((3, 3))) or ()) == []
    stream.hub.begin(Marks((9, 9)))
    assert stream.hub.since(events[5].marks) is None


@given(st.lists(st.integers(0, PARTITIONS - 1), max_size=60), st.integers(0, 60))
def test_ring_and_stream_together_have_no_gap_and_no_repeat(order: list[int], at: int) -> None:
    """Wherever somebody left."""
    stream = Stream()
    events = [stream.publish(partition) for partition in order]
    at = min(at, len(events))
    marks = events[at - 1].marks if at else Marks((0,) * PARTITIONS)
    assert list(stream.hub.since(marks) or ()) == events[at:]


@pytest.mark.parametrize(
    ("wanted", "matches"),
    [
        (LiveFilter(), True),
        (LiveFilter(session="s", types=frozenset({"a", "user_prompt"})), True),
        (LiveFilter(tools=frozenset({"Bash"})), True),
        (LiveFilter(tools=frozenset({"Edit"})), False),
        (LiveFilter(project="shop"), True),
        (LiveFilter(project="home"), False),
        (LiveFilter(agent="Explore"), True),
        (LiveFilter(agent="a-1"), True),
        (LiveFilter(agent="a-2"), False),
        (LiveFilter(text="hELLO"), True),
        (LiveFilter(text="goodbye"), False),
        (LiveFilter(text="bash"), True),
    ],
)
def test_a_filter_asks_for_all_of_it(wanted: LiveFilter, matches: bool) -> None:
    """What is not named does not matter."""
    given_ = event(tool_name="Bash", cwd="/home/ann/shop", agent_id="a-1", agent_type="Explore")
    assert wanted.matches(LiveEvent(given_, 0, 0, Marks((1, 0)))) is matches


def test_an_event_is_sent_as_json_with_its_payload_as_it_came() -> None:
    """Made once for all who watch."""
    live = LiveEvent(event(cwd="/p/shop", payload='{"a": 1}'), 0, 0, Marks((1, 0)))
    assert live.json is live.json
    found = json.loads(live.json)
    assert (found["payload"], found["project"], found["occurred_at"]) == ({"a": 1}, "shop", 5)


def test_marks_are_read_back_and_nothing_else_is() -> None:
    """They come from a URL or a header."""
    marks = Marks((17, 0))
    assert Marks.decode(marks.encode(), 2) == marks
    assert marks.behind(Marks((17, 1)))
    assert not marks.behind(Marks((16, 0)))
    for text in ("", "17", "17.0.1", "a.b", "-1.0", "1.", f"{1 << 63}.0", "\u0663.0"):
        with pytest.raises(Refused):
            Marks.decode(text, 2)
