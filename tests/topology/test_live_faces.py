"""What is written to one who watches: as few writes as sizes allow."""

from __future__ import annotations

from agents.broadcast import Missed
from app.views.live_faces import WRITE_BYTES, Sse
from fakes_persist import make_event
from schemas.live import LiveEvent, Marks


class Written:
    """A response that keeps each write."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []

    async def write(self, data: bytes) -> None:
        self.writes.append(data)


def live(number: int, size: int) -> LiveEvent:
    return LiveEvent(make_event(number, payload=f'"{"x" * size}"'), 0, number, Marks((number + 1, 0)))


async def test_events_that_came_together_are_written_together() -> None:
    """A thousand who watch are not a thousand writes for each event; and no write is large, but for a large event."""
    written, sizes = Written(), [100] * 50 + [WRITE_BYTES] + [WRITE_BYTES // 3] * 4
    events = [live(number, size) for number, size in enumerate(sizes)]
    await Sse(written).send_all(events)  # type: ignore[arg-type]
    assert b"".join(written.writes) == b"".join(event.sse for event in events)
    assert [len(write) <= WRITE_BYTES for write in written.writes] == [True, False, True, True]


async def test_what_was_missed_comes_in_its_place() -> None:
    """Before the events that are still there."""
    written = Written()
    await Sse(written).send_all([Missed(3, Marks((0, 0))), live(7, 10)])  # type: ignore[arg-type]
    (write,) = written.writes
    assert write.startswith(b'event: missed\ndata: {"count":3,"after":"0.0"}\n\nid: 8.0\ndata: {')
