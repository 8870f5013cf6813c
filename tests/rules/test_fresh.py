"""The short memory for answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from app.views.fresh import LONG, MOST, MOST_BYTES, SETTLE, SHORT, Fresh, Kept
from reading import ManualClock


class World:
    """A memory, its clock, its stream, and how often was asked."""

    def __init__(self) -> None:
        self.clock, self.mark, self.asked = ManualClock(100.0), 0, 0
        self.fresh = Fresh(self.clock, lambda: self.mark)

    def make(self, body: bytes = b"", *, lasting: bool = True) -> Callable[[], Awaitable[Kept]]:
        async def made() -> Kept:
            self.asked += 1
            return Kept(body or str(self.asked).encode(), (), lasting)

        return made

    async def get(self) -> int:
        return int((await self.fresh.get("key", self.make())).body)

    async def settle(self) -> None:
        """Let the stream be silent for long enough."""
        self.clock.at += SETTLE


async def test_an_answer_is_kept_for_a_moment_whatever_moves() -> None:
    """Many pages that ask at once cost one query."""
    world = World()
    assert await world.get() == 1
    world.mark, world.clock.at = 5, world.clock.at + SHORT - 0.01
    assert await world.get() == 1
    world.clock.at += 0.02
    assert await world.get() == 2


async def test_it_is_kept_for_longer_while_the_stream_is_silent() -> None:
    """And not a moment longer once something has moved."""
    world = World()
    await world.settle()
    assert await world.get() == 1
    world.clock.at += LONG - 0.01
    assert await world.get() == 1
    world.mark = 1
    assert await world.get() == 2


async def test_an_answer_made_while_things_move_is_kept_for_a_moment_only() -> None:
    """What has just moved in the stream may not be in the database yet."""
    world = World()
    await world.settle()
    world.mark = 1
    assert await world.get() == 1
    world.clock.at += SHORT
    assert await world.get() == 2


async def test_who_asks_meanwhile_waits_for_the_same_answer() -> None:
    """One question to the database, however many ask; one who goes away takes nobody's answer along."""
    world, gate = World(), asyncio.Event()

    async def slow() -> Kept:
        world.asked += 1
        await gate.wait()
        return Kept(b"7", ())

    waiting = [asyncio.ensure_future(world.fresh.get("key", slow)) for _ in range(20)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    gate.set()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert {one.body for one in found[1:] if isinstance(one, Kept)} == {b"7"}
    assert world.asked == 1


async def test_neither_errors_nor_answers_of_the_stand_in_are_kept() -> None:
    """The next question is asked again."""
    world = World()

    async def broken() -> Kept:
        raise OSError("away")

    with pytest.raises(OSError, match="away"):
        await world.fresh.get("key", broken)
    await world.fresh.get("key", world.make(lasting=False))
    assert await world.get() == 2


async def test_its_size_is_bounded_in_answers_and_bytes() -> None:
    """The ones that nobody asked for lately go."""
    world = World()
    for n in range(MOST + 10):
        await world.fresh.get(n, world.make(b"x"))
    await world.fresh.get(0, world.make(b"x"))
    assert world.asked == MOST + 11
    for n in range(1000, 1003):
        await world.fresh.get(n, world.make(b"x" * (MOST_BYTES // 2 + 1)))
    asked = world.asked
    await world.fresh.get(1000, world.make())
    assert world.asked == asked + 1
